"""Many modules on one backbone at once: each row of a batch is answered by a module of its own, or by none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from transfer.backbones.backbone import Backbone, Example
from transfer.backbones.encoding import Encoded
from transfer.deltas.mixed import Mixed
from transfer.errors import ConfigError, UnknownNameError

Named = Sequence[str | int | None]


class Server:
    """Answers rows by modules, as `Backbone` does by the one that is attached; made by `backbone.serve`.

    Wherever `modules` is asked for it names one for each row: by its key where a mapping was served, by its `id` where
    it is a stored module, always by its number; None is the bare backbone. Rows of different modules share a forward
    pass, and each is answered as if it were alone.

    Args:
        backbone: Without other deltas; those would act on every row.
        modules: What `Backbone.use` takes, several of them, in a sequence or by names.
    Raises:
        FingerprintError: one says that it was made for another backbone.
        DeltaError: one does not fit the model, or its method cannot be mixed with others.
        ConfigError: two have the same name.
    """

    def __init__(self, backbone: Backbone, modules: Sequence[Any] | Mapping[str, Any]) -> None:
        self.backbone = backbone
        if isinstance(modules, Mapping):
            self.names, things = list(modules), list(modules.values())
        else:
            things = list(modules)
            self.names = [getattr(thing, "id", None) or str(number) for number, thing in enumerate(things)]
        self._numbers = {name: number for number, name in enumerate(self.names)}
        if len(self._numbers) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ConfigError(f"two modules are named {twice!r}", hint="serve a module once, and name it in many rows")
        self.mixed = Mixed(backbone, things).attach()

    def numbers(self, modules: Named, n_rows: int) -> list[int]:
        """The number of each named module, -1 for None.

        Raises:
            ConfigError: not one for each row, or there is no module of such a number.
            UnknownNameError: there is no module of such a name.
        """
        if len(modules) != n_rows:
            raise ConfigError(f"{len(modules)} modules are named for {n_rows} rows", hint="name one for each, or None")
        return [self._number(name) for name in modules]

    def outputs(
        self, examples: Iterable[Example] | Sequence[Encoded], modules: Named, fields: Sequence[str] = ()
    ) -> tuple[Tensor, Tensor]:
        """See `Backbone.outputs`."""
        rows: Any = list(examples)
        return self.backbone.outputs(rows, fields, self.numbers(modules, len(rows)))

    def choice_logits(
        self, examples: Iterable[Example] | Sequence[Encoded], modules: Named, fields: Sequence[str] = ()
    ) -> Tensor:
        """See `Backbone.choice_logits`."""
        return self.outputs(examples, modules, fields)[0]

    def loss(
        self, examples: Iterable[Example] | Sequence[Encoded], modules: Named, fields: Sequence[str] = ()
    ) -> Tensor:
        """See `Backbone.loss`."""
        return self.outputs(examples, modules, fields)[1]

    def embed(self, texts: Sequence[str], modules: Named, fields: Sequence[str] = ()) -> Tensor:
        """See `Backbone.embed`."""
        return self.backbone.embed(texts, fields, self.numbers(modules, len(texts)))

    def generate(
        self, examples: Iterable[Example], modules: Named, fields: Sequence[str] = (), max_new_tokens: int = 64
    ) -> list[str]:
        """See `Backbone.generate`."""
        rows = list(examples)
        return self.backbone.generate(rows, fields, max_new_tokens, self.numbers(modules, len(rows)))

    def _number(self, name: str | int | None) -> int:
        if name is None:
            return -1
        if isinstance(name, str):
            if name not in self._numbers:
                raise UnknownNameError(
                    f"no module named {name!r} is served", found=", ".join(self.names[:6]), hint="None is no module"
                )
            return self._numbers[name]
        if not 0 <= name < len(self.names):
            raise ConfigError(f"no module has the number {name}", found=f"{len(self.names)} modules, from 0 on")
        return int(name)
