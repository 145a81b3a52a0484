"""Looking a whole zoo over: every file against its checksum, every tensor against its card."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import ZooError
from zoo.files import check_file_hash
from zoo.module import Module, check_content, check_folder
from zoo.names import check_start
from zoo.record import FILE
from zoo.starts import FOLDER as STARTS
from zoo.starts import read_start
from zoo.tensors import check_values

if TYPE_CHECKING:
    from zoo.store import Zoo


@dataclass(frozen=True)
class Problem:
    """Something wrong in a zoo: where, relative to its folder, and what."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def find_problems(zoo: Zoo) -> list[Problem]:
    """All problems, sorted by place. A module that is removed meanwhile is none."""
    found = [*_starts(zoo.path)]
    folder = zoo.path / "modules"
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        found += _module(zoo, folder / name)
    return sorted(found, key=lambda problem: problem.where)


def _module(zoo: Zoo, folder: Path) -> Iterator[Problem]:
    where = f"modules/{folder.name}"
    try:
        check_folder(folder)
        module = zoo.get(folder.name)
        listed = {FILE, *module.record.files}
        for name in sorted(os.listdir(folder)):
            if name not in listed:
                yield Problem(f"{where}/{name}", "is no part of the module")
        for name, expected in module.record.files.items():
            if not os.path.lexists(folder / name):
                yield Problem(f"{where}/{name}", "is missing")
                return
            check_file_hash(folder / name, expected)
        check_content(module)
        yield from _signature(module, where)
        start = module.start()
        if start is not None:
            yield from _start_shapes(module, {name: tuple(start[name].shape) for name in start}, where)
    except ZooError as error:
        if folder.is_dir():
            yield Problem(where, str(error).replace("\n", "; "))
    except OSError as error:
        if folder.is_dir():
            yield Problem(where, f"cannot be read: {error}")


def _signature(module: Module, where: str) -> Iterator[Problem]:
    shared = module.signature_path()
    if module.record.task_signature is not None and shared is not None:
        if not shared.is_file():
            yield Problem(where, f"its task's signature {shared.name} is missing")
            return
        check_file_hash(shared, module.record.task_signature)
    holds = module.signature.holds
    if set(holds) != set(module.record.holds):
        yield Problem(where, f"the signature holds {', '.join(holds) or 'nothing'}, the card says otherwise")


def _start_shapes(module: Module, shapes: dict[str, tuple[int, ...]], where: str) -> Iterator[Problem]:
    own = {name: tuple(tensor.shape) for name, tensor in module.tensors().items()}
    if own != shapes:
        yield Problem(where, f"the start {module.card.start} has other names or shapes than the module")


def _starts(zoo: Path) -> Iterator[Problem]:
    folder = zoo / STARTS
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        if name.startswith("."):
            continue
        try:
            tensors = read_start(zoo, check_start(name.removesuffix(".safetensors")), again=True)
            check_values(tensors)
        except ZooError as error:
            yield Problem(f"{STARTS}/{name}", str(error).replace("\n", "; "))
