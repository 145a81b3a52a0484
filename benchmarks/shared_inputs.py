"""Which tasks share sentences: a module trained on a target's own test sentences must not be among its sources.

    TRANSFER_TASKS=DIR python -m benchmarks.shared_inputs        writes shared_inputs.json

A sentence is what stands between field marks, full stops, exclamation and question marks, in lower case, without
punctuation, at least five words long. Sentences that stand in more than one row in a hundred of a task are wording of
the task and do not count. The share of a pair is that of the target's test rows with a sentence that the source was
trained or chosen on (train, dev). Pairs of one in a hundred and more are left out together.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.targets import RELATED

FILE = Path(__file__).parent / "shared_inputs.json"
MARK = re.compile(r"(?:^|\s)[a-z_]+:\s", re.IGNORECASE)
END = re.compile(r"[.!?\n]+")
OTHER = re.compile(r"[^a-z0-9 ]+")
LEAST_WORDS = 5
LEAST_SHARE = 0.01
MOST_ROWS = 0.01  # of a task's rows: what stands in more of them is its wording


def sentences(text: str) -> set[str]:
    """The sentences of an input, in the form in which they are compared."""
    found = set()
    for part in MARK.split(text):
        for piece in END.split(part):
            words = OTHER.sub(" ", piece.lower()).split()
            if len(words) >= LEAST_WORDS:
                found.add(" ".join(words))
    return found


def rows_of(folder: Path, splits: Iterable[str]) -> list[set[str]]:
    """For each row of the splits its sentences, without the wording of the task."""
    rows = []
    for split in splits:
        with (folder / f"{split}.jsonl").open(encoding="utf-8") as file:
            rows += [sentences(json.loads(line)["input"]) for line in file if line.strip()]
    counts = Counter(sentence for row in rows for sentence in row)
    wording = {sentence for sentence, n in counts.items() if n > max(2, MOST_ROWS * len(rows))}
    return [row - wording for row in rows]


def shares(tasks: Path) -> dict[str, dict[str, float]]:
    """target -> source -> share of the target's test rows, where it is at least one in a hundred."""
    names = sorted(path.parent.name for path in tasks.glob("*/task.json") if (path.parent / "test.jsonl").is_file())
    names = [name for name in names if json.loads((tasks / name / "task.json").read_text())["kind"] != "generation"]
    seen = {name: set().union(*rows_of(tasks / name, ("train", "dev"))) for name in names}
    found: dict[str, dict[str, float]] = {}
    for target in names:
        test = rows_of(tasks / target, ("test",))
        pairs = {source: sum(bool(row & seen[source]) for row in test) / len(test) for source in names}
        kept = {s: round(share, 4) for s, share in pairs.items() if s != target and share >= LEAST_SHARE}
        if kept:
            found[target] = kept
    return found


def related(target: str) -> list[str]:
    """The target's own task, what is written down as related to it, and what shares sentences with it either way."""
    pairs = json.loads(FILE.read_text(encoding="utf-8"))["shares"]
    names = {target, *(name for group in RELATED if target in group for name in group), *pairs.get(target, {})}
    return sorted(names | {other for other, sources in pairs.items() if target in sources})


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", type=Path, default=os.environ.get("TRANSFER_TASKS"))
    options = parser.parse_args()
    if options.tasks is None:
        raise SystemExit("where are the tasks? --tasks DIR or TRANSFER_TASKS")
    found = shares(Path(options.tasks))
    text = {"what": "share of the target's test rows with a sentence of the source", "shares": found}
    FILE.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    for target, sources in found.items():
        print(target, ", ".join(f"{name} {share:.1%}" for name, share in sources.items()))


if __name__ == "__main__":
    main()
