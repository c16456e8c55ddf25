# Two commands: `make demo` and `make test`. Each sets up all it needs, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Compiled once, wherever Python was told otherwise: tests start thousands of commands.
export PYTHONDONTWRITEBYTECODE :=
# Types are checked beside the tests.
MAKEFLAGS += --jobs=2

.PHONY: demo test test-quick test-times test-whole lint types pytest install simulate regressions mutants counts style coverage mutation fuzz interleave crash cluster autumn trace door topups exhaustion \
	bench conformance browser screenshots docs docs-site emulators lock lowest sbom release release-tools clean

# The product alone: tests need much more.
demo: $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@$(BIN)/drawdown demo

test: lint types pytest
test-quick: lint types pytest
test-whole: lint types pytest

# Some files of `make test` on SQLite, for while you work.
test-quick: TESTS := -k 'not on_postgres' tests/unit tests/integration/test_tick.py tests/integration/test_replay.py tests/integration/test_ledger.py \
	tests/integration/test_status.py tests/contract/test_conformance_embedded.py tests/server/test_gate.py

# Every test on both databases, and each long table whole: the real traces, 2,000 organisations, lives of 200 ticks. Hours.
test-whole: export DRAWDOWN_TEST_WHOLE := 1

# One process a core. The MAKEFLAGS of this make must not reach the tests.
pytest: install
	@MAKEFLAGS= $(BIN)/pytest -n auto --dist loadgroup --no-loadscope-reorder $(TESTS)

# The CPU and time of each folder, file and test: make test-times TESTS=tests/server
test-times: install
	@MAKEFLAGS= $(BIN)/python -m pytest -p tests.times -n 2 --dist loadgroup --no-loadscope-reorder $(TESTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy drawdown tests client/drawdown_client

# Seeded, repeatable, on all cores: make simulate SEEDS=1000 TICKS=200 START=0 AT_LEAST=1000
SEEDS ?= 200
TICKS ?= 30
START ?= 0
AT_LEAST ?= 0
simulate: install
	$(BIN)/python -m tests.simulation.run --seeds $(SEEDS) --ticks $(TICKS) --start $(START) --at-least $(AT_LEAST) \
		$(if $(JOBS),--jobs $(JOBS)) $(if $(INTENSITY),--intensity $(INTENSITY)) $(if $(SHOW),--show)

# Every seed that once failed, long lives too; `make test` lives a share of the short ones.
regressions: install
	DRAWDOWN_TEST_WHOLE=1 $(BIN)/pytest -n 2 tests/simulation/test_simulation.py -k once_failed

# Every planted bug of every judge: simulated lives, state machines, the explorer, sieges. `make test` plants one of each.
mutants: install
	$(BIN)/python -m tests.simulation.mutants
	$(BIN)/python -m tests.simulation.planting
	DRAWDOWN_TEST_WHOLE=1 MAKEFLAGS= $(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder -k planted tests \
		--ignore tests/simulation/guarding --ignore tests/simulation/backfilling --ignore tests/simulation/door

# How the project's English reads, as counts for each 1,000 words.
style: install
	@$(BIN)/python -m tests.style

# How large each room is: files, lines, files with one importer, pieces of SQL, imports from room to room.
counts: install
	@$(BIN)/python -m tests.counts

# Lines and branches of the program that tests run, by package: make coverage TESTS=tests/unit
coverage: install
	@$(PIP) --group coverage
	@rm -rf build/coverage && mkdir -p build/coverage
	@MAKEFLAGS= $(BIN)/coverage run -m pytest -n 2 --dist loadgroup --no-loadscope-reorder $(TESTS)
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report && $(BIN)/coverage html --quiet

# One change of the code after another, each of which a test has to notice, in a copy of this tree: make mutation MODULE=decide
mutation: install
	@$(PIP) --group mutation
	@$(BIN)/python -m tests.mutation $(MODULE)

# Every operation of /openapi.json, asked by Schemathesis with what its description allows, and a client that is generated from it.
# They have a venv of their own: they need other versions of the libraries than the tests.
FUZZ := $(CURDIR)/build/fuzz
fuzz: install
	@$(BIN)/python -m venv $(FUZZ) && $(FUZZ)/bin/python -m pip install --quiet 'pip>=25.1' && \
		$(FUZZ)/bin/python -m pip install --quiet --group fuzz
	SCHEMATHESIS=$(FUZZ)/bin/schemathesis OPENAPI_PYTHON_CLIENT=$(FUZZ)/bin/openapi-python-client MAKEFLAGS= \
		$(BIN)/pytest -rP tests/server/test_generated_clients.py

# Every ordered pair of transactions on a real PostgreSQL, the first held after each of its statements: make interleave JOBS=2
# FIRST=seal SECOND=cli.nouns.orgs narrow it down; LOST=1 cuts the connection at each statement instead.
interleave: install
	$(BIN)/python -W ignore -m tests.interleave.run $(if $(JOBS),--jobs $(JOBS)) $(if $(LOST),--lost) \
		$(if $(FIRST),--first "$(FIRST)") $(if $(SECOND),--second "$(SECOND)")

# Real processes and a real PostgreSQL, killed: make crash KILLS=1000 SERVER_KILLS=50
KILLS ?= 60
SERVER_KILLS ?= 6
SEED ?= 1
crash: install
	$(BIN)/python -m tests.crash.run --kills $(KILLS) --server-kills $(SERVER_KILLS) --seed $(SEED)
	DRAWDOWN_TEST_WHOLE=1 MAKEFLAGS= $(BIN)/pytest -n 2 -k "not planted" tests/crash --ignore tests/crash/autumn \
		--ignore tests/crash/door

# GenTD26 as runs on credit, by eight clients that are killed every second, metered meanwhile; each wallet exact:
# make trace DATABASE=sqlite REQUESTS=2000
trace: install
	$(BIN)/python -W ignore -m tests.crash.credit.run --seed $(SEED) $(if $(DATABASE),--database $(DATABASE)) \
		$(if $(REQUESTS),--requests $(REQUESTS))

# Real usage sent over HTTP by eight clients, a third of all connections cut, clients and server killed; each exact:
# make door DATABASE=sqlite TRACE=gentd26 SENT=events ROWS=2000
door: install
	$(BIN)/python -W ignore -m tests.crash.door.run --seed $(SEED) $(if $(DATABASE),--database $(DATABASE)) \
		$(if $(TRACE),--trace $(TRACE)) $(if $(SENT),--as $(SENT)) $(if $(ROWS),--rows $(ROWS))

# Two processes of `drawdown worker` that bill at an emulated Autumn and Stripe, which fail, and are killed; their own
# totals are the judge:
# make cluster KILLS=200
cluster: install
	$(BIN)/python -W ignore -m tests.crash.workers --kills $(KILLS) --seed $(SEED)

# Autumn as its users run it, with a credit system: two workers and a reconcile are killed while a third of all calls is
# struck in every way the emulated Autumn knows, and it loses balances. Each balance is samples times cost in the end, or a
# person was told the difference: make autumn PUSHES=20000 KILLS=50 SEED=1 DATABASE=sqlite
PUSHES ?= 20000
autumn: install
	$(BIN)/python -W ignore -m tests.crash.autumn.run --pushes $(PUSHES) --kills $(KILLS) --seed $(SEED) \
		$(if $(DATABASE),--database $(DATABASE))

# Automatic top-ups at a payment service that fails a third of all calls, with kills; its own books are the judge.
EPISODES ?= 100000
topups: install
	$(BIN)/python -W ignore -m tests.integration.topup_run --episodes $(EPISODES) $(if $(JOBS),--jobs $(JOBS)) --seed $(START)

# How long after its last credit an organisation's cells had stopped, with a watch and without: 2,000 on 50 cells.
exhaustion: install
	@said=$$(DRAWDOWN_TEST_WHOLE=1 $(BIN)/pytest -n 2 -rP -q tests/acceptance/test_exhaustion.py); status=$$?; \
		echo "$$said" | grep -E "watched:|^E  | passed| failed"; exit $$status

# The pages that are generated from the code: settings, commands, metrics, findings, operations, bounds.
docs: install
	$(BIN)/python -m tests.reference

# The documentation as a site in build/site; a dead link is an error.
docs-site: install
	@$(PIP) --group docs
	$(BIN)/python .ci/site.py build/site-src
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file build/site-src/mkdocs.yml --site-dir ../site

bench: install
	$(BIN)/python -m tests.benchmarks.run

# The suite that every provider has to pass, run on all there are, a third party's among them, with all of its seeds.
conformance: install
	DRAWDOWN_TEST_WHOLE=1 $(BIN)/pytest tests/contract

# The console in a real Chromium, each page in each state, role, width and theme; `make test` looks at four of them.
browser: install
	DRAWDOWN_TEST_WHOLE=1 $(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder tests/browser

# The pictures of docs/console.md, anew, of the demo's month.
screenshots: install
	$(BIN)/python -m tests.browser.screenshots docs/screenshots

# "Autumn", "Stripe" and a cell on this machine, to try Drawdown against; prints the settings to use.
emulators: install
	@$(BIN)/python -m tests.emulators.serve $(if $(PORT),--port $(PORT))

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Drawdown needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "This Python cannot make virtual environments; install its venv package (Debian: python3-venv)" >&2; \
		  rm -rf $(VENV); exit 1; }

# Dependency groups need pip 25.1; the demo does not.
install: $(BIN)/python
	@$(PIP) 'pip>=25.1'
	@$(PIP) --group test --group client/pyproject.toml:test --editable . --editable ./client

# What the image installs: exact versions with their hashes. Kept as they are unless told: make lock UPGRADE=1
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)
BUILD_REQUIRES := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")
lock: release-tools
	$(LOCK) --extra oidc --extra cluster --extra columnar --extra s3 pyproject.toml --output-file ops/deploy/requirements.lock
	$(BIN)/python -c '$(BUILD_REQUIRES)' | $(LOCK) - --output-file ops/deploy/build.lock

# What is in the image, as CycloneDX: build/sbom.json
sbom: release-tools
	mkdir -p build
	$(BIN)/cyclonedx-py requirements ops/deploy/requirements.lock --pyproject pyproject.toml --output-file build/sbom.json

# The demo, its proof and every module with the lowest version of each dependency that pyproject.toml allows.
LOWEST := build/lowest
lowest: release-tools
	@rm -rf $(LOWEST) && $(BIN)/python -m venv $(LOWEST)/venv
	@$(BIN)/uv pip install --quiet --python $(LOWEST)/venv/bin/python --resolution lowest-direct \
		'.[oidc,cluster,columnar,s3,plugin,privacy]'
	@cd $(LOWEST) && venv/bin/drawdown demo && DRAWDOWN_DATABASE_URL=sqlite:///drawdown-demo.db venv/bin/drawdown verify
	@cd $(LOWEST) && venv/bin/python -c "import importlib, pkgutil, drawdown; print(sum(1 for found in \
		pkgutil.walk_packages(drawdown.__path__, 'drawdown.') if '.migrations.' not in found.name and not \
		found.name.endswith('__main__') and importlib.import_module(found.name)), 'modules imported')"

release-tools: install
	@$(PIP) --group release

# A release of the version in pyproject.toml: builds, checks, lists what is in it, writes the changelog's part, tags. It uploads
# nothing: docs/release.md.
release: release-tools
	@$(BIN)/python .ci/release.py $(if $(DRY_RUN),--dry-run)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis drawdown-demo.db*
