# Two commands: `make demo` and `make test`. Each sets up all it needs, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Compiled once, wherever Python was told otherwise: tests start thousands of commands.
export PYTHONDONTWRITEBYTECODE :=
PACKAGES := schema ledger providers worker server cli

.PHONY: demo test lint types install simulate mutants crash exhaustion bench conformance emulators clean

demo: install
	@$(BIN)/drawdown demo

test: lint types
	$(BIN)/pytest -n 2 --dist loadgroup

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy $(PACKAGES) tests

# Seeded, repeatable, on all cores: make simulate SEEDS=1000 TICKS=200 START=0 AT_LEAST=1000
SEEDS ?= 200
TICKS ?= 30
START ?= 0
AT_LEAST ?= 0
simulate: install
	$(BIN)/python -m tests.simulation.run --seeds $(SEEDS) --ticks $(TICKS) --start $(START) --at-least $(AT_LEAST) \
		$(if $(JOBS),--jobs $(JOBS)) $(if $(INTENSITY),--intensity $(INTENSITY)) $(if $(SHOW),--show)

mutants: install
	$(BIN)/python -m tests.simulation.mutants

# Real processes and a real PostgreSQL, killed: make crash KILLS=1000 SERVER_KILLS=50
KILLS ?= 60
SERVER_KILLS ?= 6
SEED ?= 1
crash: install
	$(BIN)/python -m tests.crash.run --kills $(KILLS) --server-kills $(SERVER_KILLS) --seed $(SEED)

# How long after its last credit an organisation's cells had stopped, with a watch and without: 2,000 on 50 cells.
exhaustion: install
	@said=$$(DRAWDOWN_TEST_EXHAUSTION=1 $(BIN)/pytest -n 2 -rP -q tests/acceptance/test_exhaustion.py); status=$$?; \
		echo "$$said" | grep -E "watched:|^E  | passed| failed"; exit $$status

bench: install
	$(BIN)/python -m tests.benchmarks.run

# The suite that every provider has to pass, run on all there are, a third party's among them.
conformance: install
	$(BIN)/pytest tests/contract

# "Autumn", "Stripe" and a cell on this machine, to try Drawdown against; prints the settings to use.
emulators: install
	@$(BIN)/python -m tests.emulators.serve

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Drawdown needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "This Python cannot make virtual environments; install its venv package (Debian: python3-venv)" >&2; \
		  rm -rf $(VENV); exit 1; }

# Each time: a strict editable install knows only the files that were there when it was made. The import packages
# stand at the top level, and only in this mode do both pytest and the type checker find them.
install: $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' \
		--config-settings editable_mode=strict

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis drawdown-demo.db*
