"""One name of `where=` or `exclude=` taken apart: what it matches, and which layers it leaves."""

from __future__ import annotations

import re
from dataclasses import dataclass

from transfer.errors import DeltaError

EXPRESSION = "re:"
_BRACKETS = re.compile(r"(?P<front>[^\[\]]+)\[(?P<layers>[^\[\]]*)\](?P<rest>[^\[\]]*)")
_DASHED = re.compile(r"(?P<front>.*\.)(?P<layers>\d+-\d+)(?P<rest>\..*|)")
_SLICE = re.compile(r"(-?\d+)?\s*:\s*(-?\d+)?\s*(?::\s*(-?\d+)?)?")
_RANGE = re.compile(r"(\d+)\s*-\s*(\d+)")
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Asked:
    """A name, or an expression, and the text that chooses layers.

    Args:
        text: As it was given.
        name: What is compared with names, with a star where layers stood inside it.
        expression: What `re:` brought, compiled.
        layers: `0:3`, `0-2`, `-1` or several with commas in between; None for all.
    """

    text: str
    name: str
    expression: re.Pattern[str] | None = None
    layers: str | None = None

    @classmethod
    def parse(cls, text: str) -> Asked:
        """Take a name apart.

        Raises:
            DeltaError: what stands behind `re:` is no regular expression.
        """
        if text.startswith(EXPRESSION):
            own = text.removeprefix(EXPRESSION)
            try:
                return cls(text, text, re.compile(rf"(?:.*\.)?(?:{own})"))
            except re.error as error:
                raise DeltaError(
                    f"{own!r} is no regular expression", found=str(error), hint=r"where=('re:layer\.[0-3]\..*query',)"
                ) from error
        brackets = _BRACKETS.fullmatch(text)
        if brackets:  # `block[0:3].attn.q`: the numbers stand where the brackets do
            rest = f".*{brackets['rest']}" if brackets["rest"] else ""
            return cls(text, brackets["front"] + rest, layers=brackets["layers"])
        dashed = _DASHED.fullmatch(text)
        if dashed:
            return cls(text, f"{dashed['front']}*{dashed['rest']}", layers=dashed["layers"])
        return cls(text, text)

    def matches(self, full: str) -> bool:
        """True if the name means what is called `full`, whatever its layer."""
        return self.expression.fullmatch(full) is not None if self.expression else matches_end(full, self.name)

    def chosen(self, n: int) -> set[int]:
        """Numbers of the layers asked for, of `n` there are; those beyond are left out, as a slice does.

        Raises:
            DeltaError: the text in the brackets cannot be read.
        """
        found: set[int] = set()
        for item in (self.layers or "").split(","):
            found |= self._item(item.strip(), n)
        return found

    def _item(self, item: str, n: int) -> set[int]:
        if _NUMBER.fullmatch(item):
            number = int(item)
            return {number % n} if -n <= number < n else set()
        dashed, sliced = _RANGE.fullmatch(item), _SLICE.fullmatch(item)
        if dashed and int(dashed[1]) <= int(dashed[2]):
            return set(range(n)[int(dashed[1]) : int(dashed[2]) + 1])
        parts = [None if part is None else int(part) for part in sliced.groups()] if sliced else []
        if not sliced or parts[2] == 0:
            raise DeltaError(
                f"cannot read the layers in {self.text!r}",
                hint=f"'{self.name}[0:3]' for the first three, '{self.name}[0-2]' for the same, "
                f"'{self.name}[-1]' for the last",
            )
        return set(range(n)[slice(*parts)])


def matches_end(full: str, name: str) -> bool:
    """True if `full` ends with `name` at a dot or as a whole; `*` in `name` stands for one part.

    >>> matches_end("encoder.layer.0.output.dense", "output.dense"), matches_end("layer.input", "put")
    (True, False)
    >>> matches_end("encoder.layer.0.output.dense", "encoder.layer.*.output.dense")
    True
    """
    if "*" not in name:
        return full == name or full.endswith(f".{name}")
    return re.fullmatch(r"(?:.*\.)?" + re.escape(name).replace(r"\*", r"[^.]+"), full) is not None
