# make demo: set up with PyTorch alone and run the main job.  make test: set up with everything and pass all tests.
# make check: lint, format and types.      make bench: speed here, to docs/benchmarks.md.
# make floors: the lowest versions allowed. make mutate: what no test notices (MODULES="metrics report").
# make fuzz: damaged files and stopped commands, up to two hours, to docs/reliability.md.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := $(VENV)/.demo
PIP := $(BIN)/python -m pip install --quiet

.PHONY: demo test check bench fuzz floors mutate clean

demo: $(DEMO)
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
	$(MAKE_VENV)
	$(PIP) --editable ".[dev]"
	touch $(READY) $(DEMO)

$(DEMO): pyproject.toml
	$(MAKE_VENV)
	$(PIP) --editable ".[pytorch]"
	touch $(DEMO)

define MAKE_VENV
$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'keylite needs Python 3.11 or newer: make PYTHON=python3.11 ...')"
$(PYTHON) -m venv $(VENV)
$(PIP) --upgrade pip
endef

clean:
	rm -rf $(VENV) .venv-peers .venv-floors demo .pytest_cache .ruff_cache fuzz-failures
