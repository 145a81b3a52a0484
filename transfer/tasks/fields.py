"""The `name:` marks that joined inputs are made of: found in the data, and used to take an input apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# A mark stands at the start or after a space, is one to three short words and is followed by a colon and a space
# (or the end). "can a tree have more than one trunk context: ..." shows why the words cannot be read off one row:
# only what every row has in common tells that the mark is "context" and not "one trunk context".
_COLON = re.compile(r":(?=\s|$)")
_WORD = re.compile(r"[^\W_][\w-]*")
_LONGEST = 3
_REACH = 240  # characters before a colon in which its mark is looked for


# Names that are known to be marks. When every input happens to have the same word before one of them ("is 3 even
# context: ...") these say where the mark begins.
KNOWN = {
    "answer", "candidate answer", "claim", "concepts", "context", "dialogue", "document", "evidence", "goal",
    "headline", "hypothesis", "passage", "premise", "prompt", "query", "question", "question 1", "question 2",
    "sentence", "sentence 1", "sentence 2", "speaker", "statement", "statement 1", "statement 2", "subject", "target",
    "text", "text 1", "text 2", "title", "topic", "word",
}  # fmt: skip


def find_fields(inputs: Sequence[str], known: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of the marks that every input has, in the order of the inputs.

    The first mark has to open every input; without one there are no fields.

    Args:
        known: Names that are marks, besides the usual ones: those of the template that the inputs were built with.

    >>> find_fields(["question: is it wet context: Rain fell.", "question: who won context: A tie."])
    ('question', 'context')
    >>> find_fields(["no marks here", "note: one mark"])
    ()
    """
    common: set[str] = set()
    first: str | None = None
    for row, text in enumerate(inputs):
        marks, opening = _marks(text)
        if row == 0:
            common, first = marks, opening
        common &= marks
        if opening is None or opening != first or not common:
            return ()
    if first is None:
        return ()
    # "Speaker 1:" inside a "dialogue:" is not a field of the task: marks are written the way the first one is.
    told = set(known)
    alike = {name for name in common if name in told or name[0].isupper() == first[0].isupper()}
    # Where every row has "candidate answer:", it has "answer:" too; the longest known name is the mark, or the longest.
    marks = {name.lower() for name in told} | KNOWN
    best: dict[str, str] = {}
    for name in alike:
        last = name.rpartition(" ")[2]
        best[last] = max(best.get(last, ""), name, key=lambda one: (one.lower() in marks, len(one)))
    ordered = sorted(best.values(), key=lambda name: _position(inputs[0], name))
    kept = [first, *(name for name in ordered if name != first)]
    # A row that has them in another order cannot be taken apart: such a name is chance, not a mark.
    for text in inputs:
        kept = _in_order(text, kept)
    return tuple(kept)


def split_fields(text: str, fields: Sequence[str]) -> list[tuple[str, str]]:
    """Take an input apart into its fields: (name, value) in order; joining `name: value` with spaces gives it back.

    Args:
        text: An input that has every one of `fields`, in their order.
        fields: Names from `find_fields`; empty gives one nameless field.

    >>> split_fields("question: is it wet context: Rain fell.", ("question", "context"))
    [('question', 'is it wet'), ('context', 'Rain fell.')]
    >>> split_fields("just text", ())
    [('', 'just text')]
    """
    spans: list[tuple[str, int, int]] = []  # name, where the mark starts, where its value starts
    after = 0
    for name in fields:
        start = _position(text, name, after)
        if start < 0:
            continue
        spans.append((name, start, start + len(name) + 1))
        after = start + len(name) + 1
    if not spans or text[: spans[0][1]].strip():
        return [("", text)]
    ends = [start for _, start, _ in spans[1:]] + [len(text)]
    return [(name, text[begin:end].strip()) for (name, _, begin), end in zip(spans, ends, strict=True)]


def _marks(text: str) -> tuple[set[str], str | None]:
    """All names that could be a mark of `text`, and the one that opens it."""
    marks: set[str] = set()
    first: str | None = None
    for colon in _COLON.finditer(text):
        name, end = "", colon.start()
        begin = max(0, end - _REACH)
        for _ in range(_LONGEST):
            start = end - sum(map(len, text[begin:end].rsplit(maxsplit=1)[-1:]))  # of the last word
            if not _WORD.fullmatch(text, start, end) or (start > 0 and not text[start - 1].isspace()):
                break
            name = f"{text[start:end]} {name}".rstrip()
            if name[0].isalpha():
                marks.add(name)
            if start == 0:
                first = first or (name if name[0].isalpha() else None)
                break
            if text[start - 1] != " ":
                break
            end = start - 1
    return marks, first


def _position(text: str, name: str, after: int = 0) -> int:
    """Where the mark `name:` starts in `text` at or after `after`; -1 if nowhere."""
    start = text.find(f"{name}:", after)
    while start >= 0:
        end = start + len(name) + 1
        if (start == 0 or text[start - 1].isspace()) and (end == len(text) or text[end].isspace()):
            return start
        start = text.find(f"{name}:", start + 1)
    return -1


def _in_order(text: str, names: list[str]) -> list[str]:
    kept, after = [], 0
    for name in names:
        start = _position(text, name, after)
        if start >= 0:
            kept.append(name)
            after = start + len(name) + 1
    return kept
