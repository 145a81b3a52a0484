"""Which start helps, and does any: `python -m benchmarks.strategies` runs what is missing of report.json.

TRANSFER_TASKS=DIR python -m benchmarks.strategies                    about twenty hours of two cores
python -m benchmarks.strategies --report                              the tables and pictures of what is there
TRANSFER_TASKS=DIR python -m benchmarks.strategies --smoke            a minute
TRANSFER_TASKS=DIR python -m benchmarks.strategies --config FILE      another experiment
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.strategies.command import main

if __name__ == "__main__":
    main(Path(__file__).parent, "report.json", __doc__)
