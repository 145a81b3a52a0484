"""Does the start help? `python -m benchmarks.strategies` runs what is missing, with --report it prints the table."""

from __future__ import annotations

import sys

from benchmarks.strategies import run, table

if "--report" in sys.argv:
    sys.argv.remove("--report")
    table.main()
else:
    run.main()
