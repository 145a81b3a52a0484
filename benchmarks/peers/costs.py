"""What each peer took to load and merge our modules, and what could not be run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

HEAD = ("peer", "version", "runs", "seconds to load", "seconds to merge", "MiB at most")


def cost_rows(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line for each start that a peer made: means over its runs."""
    lines = []
    for start in dict.fromkeys(row["start"] for row in rows if "peer_version" in row):
        here = [row for row in rows if row["start"] == start and "peer_version" in row]
        load, merge = (float(np.mean([row[f"peer_seconds_{what}"] for row in here])) for what in ("load", "merge"))
        most = max(row["peer_memory_mib"] for row in here)
        lines.append([start, here[-1]["peer_version"], str(len(here)), f"{load:.2f}", f"{merge:.2f}", str(most)])
    return lines
