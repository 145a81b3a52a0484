"""Options of a benchmark from a file: --config FILE, a JSON object; what stands on the command line goes before it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path


def parsed(parser: argparse.ArgumentParser, words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line, with defaults from the file that it may name.

    Raises:
        SystemExit: the file cannot be read, or names an option that there is not.
    """
    parser.add_argument("--config", type=Path, help="a JSON object of these options")
    path = parser.parse_known_args(words)[0].config
    if path is not None:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            parser.error(f"--config {path}: {error}")
        known = {action.dest: action for action in parser._actions}
        odd = sorted(set(found) - set(known))
        if odd:
            parser.error(f"--config {path}: no option named {odd[0]!r}; known: {', '.join(sorted(known))}")
        # As on the command line, where several values are joined by commas.
        texts = {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in found.items()}
        parser.set_defaults(**{name: _typed(known[name], value) for name, value in texts.items()})
    return parser.parse_args(words)


def _typed(action: argparse.Action, value: object) -> object:
    return action.type(str(value)) if callable(action.type) else value
