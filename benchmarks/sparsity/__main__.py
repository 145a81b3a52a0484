"""Accuracy against parameters kept: SoRA, LoRA of its first rank, LoRA of its last size.

TRANSFER_TASKS=DIR python -m benchmarks.sparsity            what is missing; about two hours of two cores
python -m benchmarks.sparsity --report                      the tables, and the picture, of what is there
TRANSFER_TASKS=DIR python -m benchmarks.sparsity --smoke    a minute
"""

from __future__ import annotations

import sys

from benchmarks.sparsity import run, table

if "--report" in sys.argv:
    sys.argv.remove("--report")
    table.main()
else:
    run.main()
