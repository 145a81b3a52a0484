"""What the page of `transfer inspect --web` asks for: the tree, the places of a method, and what a choice costs."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from transfer.deltas import METHODS, structure
from transfer.deltas.method import DeltaMethod
from transfer.deltas.modules import embedding_features, named_modules
from transfer.deltas.parallel_adapter import ParallelAdapter
from transfer.deltas.tree import plan
from transfer.deltas.tree_rows import Row, rows_of
from transfer.deltas.tree_text import share, sizes, tied
from transfer.errors import ConfigError, TransferError
from transfer.inspecting.choosing import choose, fitting, sizes_of, told_settings, with_pairs
from transfer.inspecting.naming import naming_settings

LARGEST_SIZE = 1_000_000  # of a rank or a length; larger numbers of values cannot be counted


class Pages:
    """Answers about one model; each is plain data for JSON. Nothing is attached, so it can be asked from many threads.

    Args:
        model: Any model, also one without weights.
        name: What the user calls it.
        method: What is chosen at first; LoRA with its own places by default.
    """

    def __init__(self, model: nn.Module, name: str, method: DeltaMethod | None = None) -> None:
        self.model, self.name = model, name
        self.tree = structure(model).tree
        self.first = method if method is not None else choose("lora")

    def begin(self) -> dict[str, Any]:
        """The model, its tree, all methods with their sizes, and what is chosen at first."""
        try:
            chosen = self.first.places(self.model)
        except TransferError:  # a model without attention: nothing is chosen, and all can be
            chosen = []
        values = {f.name: getattr(self.first, f.name) for f in dataclasses.fields(self.first)}
        return {
            "model": self.name,
            "kind": self.tree.kind,
            "parameters": self.tree.counts.backbone,
            "tree": self._row(rows_of(self.tree)),
            "methods": {name: sizes_of(name) for name in METHODS.names()},
            "chosen": {
                "method": self.first.method,
                "settings": {name: values[name] for name in sizes_of(self.first.method)},
                "places": chosen,
            },
        }

    def places(self, method: str) -> dict[str, Any]:
        """Where a method can go, why not elsewhere, and where it goes by itself.

        Raises:
            UnknownNameError: no such method.
        """
        chosen = choose(method)
        fits, refused = fitting(with_pairs(chosen, self.first, self.model), self.model)
        try:
            own = chosen.places(self.model)
        except TransferError:
            own = []
        modules = named_modules(self.model)
        # A click on a part of the model means its layers; an embedding is chosen by a click of its own.
        layers = [place for place in fits if embedding_features(modules[place]) is None]
        return {"fits": list(fits), "layers": layers, "refused": refused, "own": own}

    def count(self, method: str, settings: Mapping[str, int], places: Sequence[str]) -> dict[str, Any]:
        """What a delta at these places would be: its parameters, its share, and the ways to write it down.

        `inputs` are the partners of `where` for a method on pairs of places; None where nothing has to be said of them.

        Raises:
            TransferError: no such method or setting, or a place that is not there or cannot take it.
        """
        chosen = choose(method, settings={name: str(value) for name, value in settings.items()})
        if not places:
            nothing = {"parameters": 0, "share": share(0, 1), "places": 0, "python": "", "command": ""}
            return {**nothing, "where": [], "inputs": None}
        made = self._asked(method, settings, places)
        if made is None:
            named: dict[str, Any] = naming_settings(with_pairs(chosen, self.first, self.model), self.model, places)
            begin = self._first_with(settings) if method == self.first.method else chosen
            made = dataclasses.replace(begin, exclude=(), **named)
        n = sum(laid.size for laid in plan(made, self.model).values())
        inputs = getattr(made, "inputs", None)
        if inputs == getattr(chosen, "inputs", None):
            inputs = None  # the method's own, so they need not be said
        told, unsaid = told_settings(made)
        words = ["transfer", "inspect", self.name, "--delta", method]
        words += [word for name in made.where for word in ("--where", name)]
        words += [word for name in made.exclude for word in ("--exclude", name)]
        words += [] if inputs is None else ["--set", f"inputs={','.join(inputs)}"]
        words += [word for name, text in told.items() for word in ("--set", f"{name}={text}")]
        keywords = [*(f"{name}={getattr(made, name)!r}" for name in (*told, *unsaid)), f"where={made.where!r}"]
        keywords += [f"exclude={made.exclude!r}"] if made.exclude else []
        keywords += [] if inputs is None else [f"inputs={inputs!r}"]
        python_alone = f"  # {', '.join(unsaid)}: in Python alone" if unsaid else ""
        return {
            "parameters": n,
            "share": share(n, self.tree.counts.everything + n),
            "places": len(places),
            "where": list(made.where),
            "inputs": None if inputs is None else list(inputs),
            "python": f"{type(made).__name__}({', '.join(keywords)})",
            "command": shlex.join(words) + python_alone,
        }

    def _first_with(self, settings: Mapping[str, int]) -> DeltaMethod:
        """What was chosen at first, with other sizes, its places to be looked up."""
        changes: dict[str, Any] = {**settings, "at": None, "parts": {}}
        if isinstance(self.first, ParallelAdapter):
            changes["input_places"] = None
        return dataclasses.replace(self.first, **changes)

    def _asked(self, method: str, settings: Mapping[str, int], places: Sequence[str]) -> DeltaMethod | None:
        """What was chosen at first, in its own names, where the places are still the same; else None.

        A name may mean a part of a fused layer, which the places do not tell.
        """
        if method != self.first.method:
            return None
        made = self._first_with(settings)
        try:
            here, first = made.fixed(self.model), self.first.fixed(self.model)
        except TransferError:  # of a model without attention, say
            return None
        return made if set(here.at or ()) == set(places) and (here.at, here.parts) == (first.at, first.parts) else None

    def answer(self, question: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to what the page sends; each field is checked, since anything may send it.

        Raises:
            TransferError: as the methods above, and a field that is missing or of another kind.
        """
        method = asked.get("method")
        if not isinstance(method, str):
            raise ConfigError("method has to be the name of one")
        if question == "places":
            return self.places(method)
        settings, places = asked.get("settings", {}), asked.get("places", [])
        if not isinstance(settings, dict) or not all(type(value) is int for value in settings.values()):
            raise ConfigError("settings have to be whole numbers by name")
        if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
            raise ConfigError("places have to be a list of names")
        huge = next((name for name, value in settings.items() if value > LARGEST_SIZE), None)
        if huge is not None:
            raise ConfigError(f"{huge} must be at most {LARGEST_SIZE:,}, got {settings[huge]}")
        unknown = sorted(set(settings) - set(sizes_of(method)))
        if unknown:
            raise ConfigError(f"{method} has no size named {unknown[0]!r}")
        return self.count(method, settings, places)

    def _row(self, row: Row) -> dict[str, Any]:
        node = row.first
        return {
            "label": row.label or node.kind,
            "places": [alike.name for alike in row.nodes],
            "kind": " ".join(filter(None, (node.kind if row.label else "", sizes(node)))),
            "tied": tied(node),
            "common": row.common,
            "parameters": row.counts.backbone,
            "children": [self._row(child) for child in row.children],
        }
