"""Ways of merging, weighting and keeping, on the development targets: what defaults are chosen by.

TRANSFER_TASKS=DIR python -m benchmarks.ensembling            what is missing; about eight hours of two cores
python -m benchmarks.ensembling --report                      the tables and pictures of what is there
TRANSFER_TASKS=DIR python -m benchmarks.ensembling --smoke    a minute
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.strategies.command import main

if __name__ == "__main__":
    main(Path(__file__).parent, "development.json", __doc__)
