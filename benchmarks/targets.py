"""The targets of all benchmarks: which may choose defaults, which are reported, and what is left out with what."""

import json
from pathlib import Path
from typing import Any

_READ: dict[str, Any] = json.loads((Path(__file__).parent / "targets.json").read_text(encoding="utf-8"))

TARGETS: dict[str, list[str]] = {kind: _READ[kind] for kind in ("development", "report")}
RELATED: list[list[str]] = _READ["related_groups"]  # tasks that are left out together
LEARNABLE: list[str] = _READ["learnable"]  # see there for the rule
