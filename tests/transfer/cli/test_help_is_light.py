"""The help of every command: no heavy import, and quick."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "transformers", "datasets", "faiss", "sklearn", "scipy", "numpy", "pandas", "accelerate", "peft"}

# Typed by a user each is a process of its own, so the import of the command line is added to every one of them.
SCRIPT = """
import contextlib, io, json, sys, time
from typer.main import get_command
from transfer.cli.app import app, main
imported = time.process_time()

def walk(command, words):
    yield words
    for name, part in getattr(command, "commands", {}).items():
        yield from walk(part, [*words, name])

found = []
for words in walk(get_command(app), []):
    begun = time.process_time()
    sys.argv = ["transfer", *words, "--help"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            main()
        except SystemExit as end:
            code = end.code
    seconds = imported + time.process_time() - begun
    loaded = sorted({name.partition(".")[0] for name in sys.modules})
    found.append([" ".join(words), code, loaded, seconds, "Usage: transfer" in said.getvalue()])
print(json.dumps(found))
"""


def test_no_help_imports_torch_or_takes_a_second():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {"", "init", "finetune", "compare", "tasks ls", "zoo build"} <= {name for name, *_ in found}
    for name, code, loaded, seconds, usage in found:
        assert (code, HEAVY & set(loaded), usage) == (0, set(), True), name
        assert seconds < 1, f"{name}: {seconds:.2f} s of CPU"  # CPU time, so that a busy machine does not count
