"""Module: a stored delta with its card, its lazily mapped tensors, its signature and its start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.card import Card
from zoo.errors import CardError, FingerprintError, FormatError, PathError, TensorError, UnknownModuleError
from zoo.files import check_file_hash, plain_file
from zoo.names import check_id, check_start, make_id
from zoo.record import SIGNATURE, START, Record
from zoo.shapes import check_shapes
from zoo.signature import Signature

if TYPE_CHECKING:
    import torch

# (path, inode, size, time, hash) of files whose checksum was right: each is read for that once in a process.
_VERIFIED: set[tuple[str, int, int, int, str]] = set()


class Module:
    """A delta with its card. `Module.new` makes one in memory; `zoo.get`, `zoo.find`, `Module.load` give stored ones.

    Nothing but the card is read until it is asked for, so thousands of modules can be held at once. Pickles small.
    """

    def __init__(
        self,
        module_id: str,
        *,
        card: Card | None = None,
        tensors: Mapping[str, torch.Tensor] | None = None,
        signature: Signature | None = None,
        start: Mapping[str, torch.Tensor] | None = None,
        folder: Path | None = None,
        zoo: Path | None = None,
        text: str | None = None,
    ) -> None:
        self.id = check_id(module_id)
        self.folder = folder  # None for a module in memory
        self._zoo = zoo  # root of the zoo that it lies in, with `starts/` and `signatures/`
        self._card, self._tensors, self._signature, self._start = card, tensors, signature, start
        self._text = text  # of card.json, where the catalogue has it: parsed when the card is asked for
        self._record: Record | None = None

    @classmethod
    def new(
        cls,
        card: Card,
        tensors: Mapping[str, torch.Tensor],
        signature: Signature | None = None,
        start: Mapping[str, torch.Tensor] | None = None,
    ) -> Module:
        """A module in memory, ready for `zoo.add`.

        Args:
            card: What it says of itself.
            tensors: Canonical name -> tensor; kept in the dtype they have.
            signature: By which it will be compared.
            start: The tensors that it was trained from, if they are known and not in the zoo yet.
        Returns:
            A module whose id is `<task>-<method>-<8 hex digits of the tensors' sha256>`.
        Raises:
            TensorError: a tensor is not finite, or names and shapes are not those of the card's settings.
            CardError: the settings do not say what shapes there are.
        """
        from zoo.tensors import check_values, digest

        check_values(tensors)
        check_shapes(card.method, card.settings, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        module_id = make_id(card.task, card.method, digest(tensors))
        return cls(module_id, card=card, tensors=dict(tensors), signature=signature, start=start)

    @classmethod
    def load(cls, folder: Path | str) -> Module:
        """A module from a folder that `zoo.export` made, or from the inside of a zoo.

        Raises:
            UnknownModuleError: there is no `card.json`; a plain PEFT folder is read by `zoo.formats`.
            CardError: the card is not valid.
        """
        folder = Path(folder)
        record = Record.from_folder(folder)
        zoo = folder.parent.parent if folder.parent.name == "modules" else None
        module = cls(record.id, folder=folder, zoo=zoo)
        module._record = record
        return module

    @property
    def record(self) -> Record:
        """What `card.json` says; for a module in memory it has no files."""
        if self._record is None:
            if self.folder is None:
                assert self._card is not None
                self._record = Record(id=self.id, card=self._card)
            elif self._text is not None:
                self._record, self._text = Record.from_text(self._text, self.id), None
            else:
                self._record = Record.from_folder(self.folder, self.id)
        return self._record

    @property
    def card(self) -> Card:
        """What the module says of itself; CardError if a stored card is not valid."""
        return self.record.card

    def tensors(self, dtype: torch.dtype | None = None, check: bool = True) -> Mapping[str, torch.Tensor]:
        """Canonical name -> tensor, each mapped from the file when it is asked for.

        Args:
            dtype: What they are cast to; None gives them as they are stored.
            check: Read the files once in this process to see that their checksums are right.
        Raises:
            ChecksumError: a file is not the one that was stored.
            TensorError: the file cannot be read; on access, also if a tensor is not finite.
            UnknownModuleError: the module has been removed.
        """
        if self.folder is None:
            assert self._tensors is not None
            found = dict(self._tensors)
            return found if dtype is None else {name: tensor.to(dtype) for name, tensor in found.items()}
        try:
            return self._open_tensors(self.folder, dtype, check)
        except (OSError, FormatError, TensorError):
            if self.folder.exists():
                raise
            raise self._gone(self.folder) from None

    @property
    def signature(self) -> Signature:
        """The arrays by which it is compared: its own, and its task's. Empty where it has none.

        Raises:
            ChecksumError: a file is not the one that was stored.
        """
        if self._signature is None:
            self._signature = Signature() if self.folder is None else self._read_signature(self.folder)
        return self._signature

    def start(self, dtype: torch.dtype | None = None) -> Mapping[str, torch.Tensor] | None:
        """The tensors that it was trained from, or None if they are not known.

        Args:
            dtype: What they are cast to; None is fp32, since differences are taken from them.
        Raises:
            UnknownModuleError: the card names a start that is not in the zoo.
            ChecksumError: the start is not the one that was stored.
        """
        import torch

        dtype = dtype or torch.float32
        if self._start is not None:
            return {name: tensor.to(dtype) for name, tensor in self._start.items()}
        if self.folder is not None and START in self.record.files:
            from zoo.tensors import FileTensors

            self._check_file(self.folder / START, self.record.files[START])
            return FileTensors(self.folder / START, dtype)
        if self.card.start is None or self._zoo is None:
            return None
        from zoo.starts import read_start

        return read_start(self._zoo, check_start(self.card.start), dtype)

    @property
    def holds_no_start(self) -> bool:
        """True for one in memory that was made without tensors of a start; the card may name one all the same."""
        return self.folder is None and self._start is None

    def fits(self, fingerprint: str) -> bool:
        """True if it was trained on the backbone with this fingerprint."""
        return self.card.fingerprint == fingerprint

    def check_fits(self, fingerprint: str, backbone_name: str, force: bool = False) -> None:
        """Refuse a foreign backbone.

        Args:
            fingerprint: Of the backbone at hand.
            backbone_name: Of the same, for the message.
            force: Let it pass.
        Raises:
            FingerprintError: the module was trained on another backbone.
        """
        if force or self.fits(fingerprint):
            return
        raise FingerprintError(
            f"module {self.id!r} was not trained on the backbone {backbone_name!r}",
            found=f"it was trained on {self.card.backbone!r} with fingerprint {self.card.fingerprint[:8]}, "
            f"this one has {fingerprint[:8]}",
            hint="load the backbone it was trained on, or use --force if you know that the weights agree",
        )

    def signature_path(self) -> Path | None:
        """The file in `signatures/` that it shares with the other modules of its task, whether there or not."""
        if self._zoo is None:
            return None
        return signature_path(self._zoo, self.card.task, self.card.fingerprint)

    def _read_signature(self, folder: Path) -> Signature:
        record, own = self.record, Signature()
        if SIGNATURE in record.files:
            own = Signature.from_bytes(self._read(folder / SIGNATURE, record.files[SIGNATURE]))
        shared = self.signature_path()
        if record.task_signature is None or shared is None:
            return own
        return own.merge(Signature.from_bytes(self._read(shared, record.task_signature)).task_part())

    def _open_tensors(self, folder: Path, dtype: torch.dtype | None, check: bool) -> Mapping[str, torch.Tensor]:
        from zoo.formats import stored

        if check:
            for name, expected in self.record.files.items():
                if name != SIGNATURE:
                    self._check_file(folder / name, expected)
        card = self.card
        tensors: Mapping[str, torch.Tensor] = stored(folder).open_tensors(folder, card.method, card.settings, dtype)
        return tensors

    def _gone(self, path: Path) -> UnknownModuleError:
        return UnknownModuleError(
            f"module {self.id!r} has lost {path.name}",
            found=f"{path} is not there",
            hint="it was removed meanwhile, or transfer zoo verify tells more",
        )

    def _read(self, path: Path, expected: str) -> bytes:
        self._check_file(path, expected)
        return path.read_bytes()

    def _check_file(self, path: Path, expected: str) -> None:
        try:
            state = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            raise self._gone(path) from None
        key = (str(path), state.st_ino, state.st_size, state.st_mtime_ns, expected)
        if key not in _VERIFIED:
            check_file_hash(plain_file(path), expected)
            _VERIFIED.add(key)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Module):
            return NotImplemented
        return self.id == other.id and self.card == other.card

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Module({self.id!r}{'' if self.folder else ', in memory'})"

    def __getstate__(self) -> dict[str, Any]:
        # What a stored module read can be read again on the other side.
        keep = self.__dict__.copy()
        if self.folder is not None:
            keep["_signature"] = None
        return keep


def signature_path(zoo: Path, task: str, fingerprint: str) -> Path:
    """Where a zoo keeps what all modules of one task and backbone share."""
    return zoo / "signatures" / f"{task}-{fingerprint[:8]}.safetensors"


def check_folder(folder: Path) -> Path:
    """The folder of a module, once it is sure that it is one and no link; PathError if it is."""
    if folder.is_symlink():
        raise PathError(f"{folder} is a link; a zoo holds plain folders only")
    if not folder.is_dir():
        raise UnknownModuleError(f"no module in {folder}")
    return folder


def check_content(module: Module) -> None:
    """Hold a stored module's tensors against its card and its id, reading everything.

    Raises:
        ZooError: of the kind that says what is wrong.
    """
    from zoo.tensors import check_values, digest

    tensors = dict(module.tensors())
    check_values(tensors)
    check_shapes(module.card.method, module.card.settings, {n: tuple(t.shape) for n, t in tensors.items()})
    expected = digest(tensors)[:8]
    if not module.id.endswith(f"-{expected}"):
        raise CardError(f"the tensors of {module.id!r} are not its own", found=f"their hash begins with {expected}")
