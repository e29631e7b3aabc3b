# make demo: set up and run the main job.  make test: set up and pass all tests.
# make check: lint, format and types.      make bench: speed here, to docs/benchmarks.md.
# make floors: the lowest versions allowed. make mutate: what no test notices (MODULES="metrics report").
# make fuzz: damaged files and stopped commands, up to two hours, to docs/reliability.md.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check bench fuzz floors mutate clean

demo: $(READY)
	$(BIN)/python examples/gauge_demo.py --out demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(READY)
	$(BIN)/python benchmarks/bench.py

floors: $(READY)
	$(BIN)/python tests/floors.py

mutate: $(READY)
	$(BIN)/python tests/mutate.py $(MODULES)

fuzz: $(READY)
	$(BIN)/python tests/fuzz/run.py --write

$(READY): pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'keylite needs Python 3.11 or newer: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) .venv-peers .venv-floors demo .pytest_cache .ruff_cache fuzz-failures
