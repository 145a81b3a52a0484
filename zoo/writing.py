"""Writing a module's folder: files first, the card with their checksums last."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from zoo import starts
from zoo.card import Card
from zoo.errors import PathError, TensorError, UnknownModuleError, ZooError
from zoo.files import check_file_hash, plain_file, sha256, sync, write_through, write_whole
from zoo.folders import check_replaceable, whole_folder
from zoo.formats import format_for
from zoo.module import Module, signature_path
from zoo.names import make_id
from zoo.record import FILE, SIGNATURE, START, Record
from zoo.shapes import check_shapes
from zoo.signature import Signature
from zoo.tensors import check_values, digest, write_tensors


def write_module(folder: Path, module: Module) -> Record:
    """Write the checkpoint into a folder that is there, everything checked and flushed to the disk.

    Returns:
        The record so far: the signature and the start are still to come.
    Raises:
        TensorError: tensors are not finite, not those of the settings, or not those that the id was made from.
    """
    card, tensors = module.card, dict(module.tensors())
    check_values(tensors)
    check_shapes(card.method, card.settings, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    _check_id(module, digest(tensors))
    format_ = format_for(card.method, card.settings, tensors)
    kind, base = card.provenance.get("kind"), card.provenance.get("base_model")
    names = format_.write(
        folder,
        card.method,
        card.settings,
        tensors,
        base if isinstance(base, str) else card.backbone,
        kind if isinstance(kind, str) else None,
    )
    for name in names:
        sync(folder / name)
    return Record(id=module.id, card=card, files={name: sha256(folder / name) for name in names})


def _check_id(module: Module, found: str) -> None:
    expected = make_id(module.card.task, module.card.method, found)
    if module.id != expected:
        raise PathError(f"module {module.id!r} must be named {expected!r} after its tensors", hint="use Module.new")


def share_signature(zoo: Path, folder: Path, draft: Record, module: Module, start: str | None) -> None:
    """Write the signature and then `card.json`; the zoo's lock is held.

    The task's part goes into `signatures/` once. If another is there already, from another sample of the same task
    for example, this module keeps its own beside its tensors.
    """
    whole, own, shared_hash = module.signature, module.signature, None
    if task := whole.task_part():
        path = signature_path(zoo, module.card.task, module.card.fingerprint)
        content = task.to_bytes()
        if not path.exists():
            write_whole(path, content)
        if not path.is_symlink() and path.read_bytes() == content:
            own, shared_hash = whole.module_part(), sha256(path)
    card = draft.card if draft.card.start == start else draft.card.changed(start=start)
    _finish(folder, dataclasses.replace(draft, card=card, task_signature=shared_hash), own, whole)


def export_module(module: Module, folder: Path, signature: bool) -> Path:
    """See `Zoo.export`; a module in memory is written as `save_module` does."""
    with whole_folder(folder, (), FILE) as part:
        draft = write_module(part, module) if module.folder is None else _copied(part, module, module.folder)
        whole = module.signature if signature else module.signature.without_data()
        card = draft.card if signature else _said(draft.card)
        _finish_alone(part, dataclasses.replace(draft, card=card), module, whole)
    return folder


def _copied(folder: Path, module: Module, source: Path) -> Record:
    """The checkpoint as it is stored."""
    files = {name: known for name, known in module.record.files.items() if name not in (SIGNATURE, START)}
    for name, known in files.items():
        check_file_hash(source / name, known)
        shutil.copyfile(plain_file(source / name), folder / name)
    return Record(id=module.id, card=module.card, files=files)


def save_module(module: Module, folder: Path, replace: bool = False) -> Path:
    """Write a module in memory as a folder by itself, whole or not at all; `Module.load` reads it.

    Args:
        module: Made by `Module.new`.
        folder: Must not be there, or be empty, unless `replace` is True.
        replace: Put it in the place of a module that was saved there before, and of nothing else.
    Raises:
        PathError: something is in the folder, or with `replace` something other than a saved module.
        TensorError: tensors are not finite, or not those of the settings.
    """
    with whole_folder(folder, _saved_names(folder) if replace else (), FILE) as part:
        _finish_alone(part, write_module(part, module), module, module.signature)
    return folder


def check_can_save(folder: Path, replace: bool = False) -> None:
    """What `save_module` holds against the folder, before the work whose result it shall get; PathError as there."""
    check_replaceable(folder, _saved_names(folder) if replace else (), FILE)


def _saved_names(folder: Path) -> tuple[str, ...]:
    """Names of the files that the module in this folder is made of; none if no module can be read there."""
    try:
        return (FILE, SIGNATURE, START, *Record.from_folder(folder).files)
    except ZooError:
        return ()


def _finish_alone(folder: Path, record: Record, module: Module, signature: Signature) -> None:
    """Signature, start and card of a folder that has no zoo around it."""
    card, start = record.card, module.start()
    files = dict(record.files)
    if start is not None:
        write_tensors(folder / START, starts.halved(start))
        files[START] = sha256(folder / START)
    elif card.start is not None:
        card = card.changed(start=None)  # a name that leads nowhere from here
    _finish(folder, dataclasses.replace(record, card=card, files=files), signature, signature)


def _said(card: Card) -> Card:
    told = "what was computed from training examples was left out on export: centroid, variance, example embeddings, "
    return card.changed(provenance={**card.provenance, "signature": told + "gradient sketch"})


def _finish(folder: Path, record: Record, own: Signature, whole: Signature) -> None:
    files = dict(record.files)
    if own:
        write_through(folder / SIGNATURE, own.to_bytes())
        files[SIGNATURE] = sha256(folder / SIGNATURE)
    record = dataclasses.replace(record, files=files, holds=whole.holds)
    write_through(folder / FILE, record.to_text().encode())


def settle_start(zoo: Path, module: Module, start: Mapping[str, torch.Tensor] | str | None) -> str | None:
    """Name of the module's start in the zoo, once it is there; None if it is unknown. The lock is held."""
    card = module.card
    if isinstance(start, str):
        if not starts.has_start(zoo, start):
            raise UnknownModuleError(f"no start named {start!r} in {zoo}", hint="give its tensors")
        return start
    if start is None and card.start is not None and module.holds_no_start and starts.has_start(zoo, card.start):
        return card.start
    tensors = module.start() if start is None else start
    if tensors is not None:
        _check_start(module, tensors)
    if tensors is None:
        if card.start is not None:
            raise UnknownModuleError(
                f"module {module.id!r} was trained from {card.start!r}, which is not in {zoo}",
                hint="zoo.add(module, start=tensors), or a card with start=None",
            )
        return None
    name = card.start or starts.start_name(card.method, starts.shape_settings(card.method, tensors), card.fingerprint)
    return starts.write_start_beside(zoo, name, tensors)


def _check_start(module: Module, start: Mapping[str, torch.Tensor]) -> None:
    own = {name: tuple(tensor.shape) for name, tensor in module.tensors().items()}
    other = {name: tuple(tensor.shape) for name, tensor in start.items()}
    if own != other:
        name = next(name for name in sorted({*own, *other}) if own.get(name) != other.get(name))
        raise TensorError(
            f"module {module.id!r} was not trained from this start",
            found=f"{name} is {own.get(name, 'missing')} in the module, {other.get(name, 'missing')} in the start",
        )
