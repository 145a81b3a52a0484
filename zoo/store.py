"""Zoo: a folder of modules. Safe for several processes writing at once and for a kill at any moment.

    modules/<id>/            card.json, the checkpoint's files, signature.safetensors
    starts/                  shared starts, each once
    signatures/              what the modules of one task and backbone share, once
    catalog.sqlite           a cache, built again at any time
    .lock, .incoming/        one writer at a time; modules on their way in

A module is written into a hidden folder, flushed to the disk and renamed to its place: it is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import starts
from zoo.card import differing_setting
from zoo.catalog import Catalog, Entry, cached_path
from zoo.errors import CardError, PathError, UnknownModuleError, ZooError
from zoo.files import sync
from zoo.locking import writing
from zoo.module import Module, check_folder, signature_path
from zoo.names import check_id
from zoo.reading import ReadableZoo
from zoo.record import Record

if TYPE_CHECKING:
    import torch

    from zoo.verify import Problem

MODULES, SIGNATURES, INCOMING, CATALOG = "modules", "signatures", ".incoming", "catalog.sqlite"
_ABANDONED_SECONDS = 3600.0  # what has been on its way in for so long was left there by a kill


class Zoo(ReadableZoo):
    """Modules in a folder.

    Args:
        path: Of the folder. It need not be there: it reads as empty and is made by the first `add`.
        read_only: Write nothing in it; the catalogue is then kept in the platform's cache folder.
    Raises:
        PathError: there is a file at `path`.
    """

    def __init__(self, path: Path | str, read_only: bool = False) -> None:
        self.path = Path(path).expanduser()
        if self.path.exists() and not self.path.is_dir():
            raise PathError(f"the zoo {self.path} is a file, not a folder", hint="name the folder, with --zoo FOLDER")
        self.read_only = read_only
        self._modules = self.path / MODULES
        self._catalog = Catalog(self._modules, self._catalog_path())

    @classmethod
    def starter(cls) -> Zoo:
        """The modules shipped with the package, for the embedded backbone; read-only."""
        return cls(Path(__file__).parent / "starter", read_only=True)

    @classmethod
    def default(cls) -> Zoo:
        """The user's zoo: `$TRANSFER_ZOO`, else a folder in the platform's place for data."""
        import platformdirs

        named = os.environ.get("TRANSFER_ZOO")
        return cls(named if named else Path(platformdirs.user_data_dir("transfer", appauthor=False)) / "zoo")

    # Reading ----------------------------------------------------------------------------------------------------

    def entries(
        self,
        task: str | None = None,
        method: str | None = None,
        backbone: str | None = None,
        category: str | None = None,
        fingerprint: str | None = None,
    ) -> list[Entry]:
        return self._catalog.entries(
            task=task, method=method, backbone=backbone, category=category, fingerprint=fingerprint
        )

    def find(
        self,
        task: str | None = None,
        method: str | None = None,
        backbone: str | None = None,
        category: str | None = None,
        fingerprint: str | None = None,
    ) -> list[Module]:
        found = self.entries(task=task, method=method, backbone=backbone, category=category, fingerprint=fingerprint)
        return [Module(entry.id, folder=self._modules / entry.id, zoo=self.path, text=entry.text) for entry in found]

    def ids(self) -> list[str]:
        return self._catalog.ids()

    def get(self, module_id: str) -> Module:
        folder = self.check_there(module_id)
        module = Module(module_id, folder=check_folder(folder), zoo=self.path)
        try:
            module.record  # noqa: B018 - read now, so that a card that is not valid is refused here
        except UnknownModuleError:
            if folder.is_dir():
                raise
            raise self._unknown(module_id, str(self.path)) from None
        return module

    def find_start(self, method: str, settings: Mapping[str, Any], fingerprint: str) -> str | None:
        name = starts.start_name(method, settings, fingerprint)
        return name if self.has_start(name) else None

    def get_start(self, name: str, dtype: torch.dtype | None = None) -> Mapping[str, torch.Tensor]:
        import torch

        return starts.read_start(self.path, name, dtype or torch.float32)

    def has_start(self, name: str) -> bool:
        return starts.has_start(self.path, name)

    def verify(self) -> list[Problem]:
        """Read every file and hold it against its checksum, its card and its id; an empty list means all is well."""
        from zoo.verify import find_problems

        self.rebuild()
        return find_problems(self)

    def unreadable(self) -> dict[str, str]:
        """Name of each folder whose card cannot be read -> why; they are in no listing."""
        return self._catalog.problems()

    def rebuild(self) -> None:
        """Build the catalogue again from the module folders, as after editing a card by hand."""
        self._catalog.clear()
        self._catalog.refresh()

    # Writing ----------------------------------------------------------------------------------------------------

    def add(self, module: Module, start: Mapping[str, torch.Tensor] | str | None = None) -> Module:
        """Store a module; if it is there already, with the same settings, nothing changes.

        Args:
            module: Made by `Module.new`, loaded from a folder, or of another zoo.
            start: What it was trained from: tensors, which are stored once, or the name of a start in this zoo. None
                takes it from the module, where it has one.
        Returns:
            The stored module.
        Raises:
            ZooError: the zoo is read-only, or the card names a start that is nowhere.
            TensorError: tensors are not finite or not those of the card's settings.
            CardError: the same tensors are there with other settings or for another backbone.
            ChecksumError: a module of a folder is not what was stored there.
        """
        # Imported here: writing needs torch, and listing must not wait for it.
        from zoo.writing import settle_start, share_signature, write_module

        self._check_writable()
        folder = self._modules / module.id
        if folder.exists():
            return self._there(module)
        self._make_folders()
        self._sweep()
        with self._incoming(module.id) as part:
            draft = write_module(part, module)
            with writing(self.path):
                if folder.exists():
                    return self._there(module)
                name = settle_start(self.path, module, start)
                share_signature(self.path, part, draft, module, name)
                sync(part)
                os.rename(part, folder)
                sync(self._modules)
        self._catalog.refresh()
        return self.get(module.id)

    def add_start(
        self, method: str, settings: Mapping[str, Any], fingerprint: str, tensors: Mapping[str, torch.Tensor]
    ) -> str:
        """Store a shared start, once, and give back its name, for `Card(start=...)`.

        Args:
            method: "lora", ...
            settings: What decides its names and shapes, as JSON; `find_start` takes the same.
            fingerprint: Of the backbone.
            tensors: Canonical name -> tensor; stored in fp16 if that holds them exactly.
        Raises:
            TensorError: they are not finite, or the zoo has another start for these settings.
        """
        self._check_writable()
        self._make_folders()
        with writing(self.path):
            return starts.write_start(self.path, starts.start_name(method, settings, fingerprint), tensors)

    def check_there(self, module_id: str) -> Path:
        """The folder of a module, whether it can be read or not.

        Raises:
            UnknownModuleError: there is no such module.
            PathError: it is no id.
        """
        folder = self._modules / check_id(module_id)
        if not os.path.lexists(folder):
            raise self._unknown(module_id, str(self.path))
        return folder

    def remove(self, module_id: str) -> None:
        """Take a module out of the zoo. Its start stays; its task's signature goes with the last of its modules.

        Raises:
            UnknownModuleError: there is no such module.
            PathError: it is no id.
        """
        self._check_writable()
        folder = self.check_there(module_id)
        self._make_folders()
        with self._incoming(f"removed-{module_id}") as part, writing(self.path):
            try:
                card = Record.from_folder(folder, module_id).card
            except ZooError:
                card = None  # a module that cannot be read must be removable all the same
            try:
                os.rename(folder, part / module_id)
            except FileNotFoundError:
                raise self._unknown(module_id, str(self.path)) from None
            sync(self._modules)
            if card is not None:
                shared = signature_path(self.path, card.task, card.fingerprint)
                others = self.entries(task=card.task)
                if shared not in [signature_path(self.path, other.task, other.fingerprint) for other in others]:
                    shared.unlink(missing_ok=True)
        self._catalog.refresh()

    def export(self, module_id: str, folder: Path | str, signature: bool = True) -> Path:
        """Copy a module out: a folder by itself, which `peft` loads if it knows the method and `Module.load` always.

        Args:
            module_id: Of the module.
            folder: Where to; it must not be there, or be empty.
            signature: False leaves out everything that was computed from training examples, which can tell about
                them; the card says so.
        Returns:
            The folder.
        Raises:
            UnknownModuleError: there is no such module.
            PathError: something is in the folder.
        """
        from zoo.writing import export_module

        return export_module(self.get(module_id), Path(folder).expanduser(), signature)

    # ------------------------------------------------------------------------------------------------------------

    def _there(self, module: Module) -> Module:
        """The stored module of an id, once it is sure that it is the one given: the id is made of the tensors alone."""
        stored = self.get(module.id)
        ours, theirs = module.card, stored.card
        name = differing_setting(ours, theirs)
        here, there = (str(card.settings.get(name or ""))[:80] for card in (ours, theirs))
        if ours.fingerprint != theirs.fingerprint:  # of other weights the same tensors are another module
            name = "backbone"
            here, there = (f"{card.backbone} ({card.fingerprint[:8]})" for card in (ours, theirs))
        if name is not None:
            raise CardError(
                f"module {module.id!r} is in {self.path} with another {name}",
                found=f"{there} there, {here} here",
                hint=f"transfer zoo rm {module.id} --zoo {shlex.quote(str(self.path))} first, or another --zoo",
            )
        return stored

    def _catalog_path(self) -> Path:
        return cached_path(self.path) if self._catalog_elsewhere() else self.path / CATALOG

    def _catalog_elsewhere(self) -> bool:
        """A zoo that must not or cannot be written to, or is not there, has its catalogue in the cache folder."""
        return self.read_only or not os.access(self.path, os.W_OK)

    def _check_writable(self) -> None:
        if self.read_only:
            raise ZooError(
                f"the zoo {self.path} is read-only", hint="add to your own with --zoo FOLDER or $TRANSFER_ZOO"
            )
        if self.path.exists() and not os.access(self.path, os.W_OK):
            raise ZooError(f"the zoo {self.path} may not be written to", hint="--zoo FOLDER names another")

    def _make_folders(self) -> None:
        for name in (MODULES, SIGNATURES, starts.FOLDER, INCOMING):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        self._catalog.path = self._catalog_path()

    @contextlib.contextmanager
    def _incoming(self, name: str) -> Iterator[Path]:
        """A hidden folder of one's own on the zoo's disk, gone afterwards whatever happens."""
        part = Path(tempfile.mkdtemp(dir=self.path / INCOMING, prefix=f"{name}."))
        part.chmod(0o755)  # it becomes the module's folder, and a zoo may be shared
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _sweep(self) -> None:
        """Delete what killed writers left on its way in."""
        with os.scandir(self.path / INCOMING) as found:
            for item in found:
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - item.stat(follow_symlinks=False).st_mtime > _ABANDONED_SECONDS:
                        shutil.rmtree(item.path, ignore_errors=True)

    def __repr__(self) -> str:
        return f"Zoo({str(self.path)!r}{', read_only=True' if self.read_only else ''})"
