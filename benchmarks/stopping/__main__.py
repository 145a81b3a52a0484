"""What should choose the step and the learning rate, on few dev examples.

TRANSFER_TASKS=DIR python -m benchmarks.stopping             what is missing; about an hour and a half of one core
python -m benchmarks.stopping --report                       the table of what is there
"""

from __future__ import annotations

import sys

from benchmarks.markdown import markdown
from benchmarks.rows import Rows
from benchmarks.stopping import run, table

if "--report" in sys.argv:
    print(markdown(table.HEAD, table.table_rows(Rows(run.HERE / "results.jsonl", run.KEY).rows)))
else:
    run.main()
