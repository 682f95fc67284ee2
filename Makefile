# Only Python 3.11+, make and a package index are needed; everything else is set up here.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv lives in its own small environment, so that nothing is installed into the system's Python.
UV_HOME := .uv
UV := $(shell command -v uv 2>/dev/null || echo $(UV_HOME)/bin/uv)
STAMP := $(VENV)/.synced
NATIVE := $(VENV)/.native
WORKERS ?= 2
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo down test contracts servers pythons fuzz quick lint bench deploy clean

setup: $(STAMP) $(NATIVE)

$(UV_HOME)/bin/uv:
	@echo "setup: uv from the package index"
	@$(PYTHON) -m venv $(UV_HOME) && $(UV_HOME)/bin/pip install -q --disable-pip-version-check uv

$(STAMP): pyproject.toml uv.lock $(if $(findstring $(UV_HOME),$(UV)),$(UV_HOME)/bin/uv)
	@echo "setup: the locked environment"
	@$(UV) sync --locked --quiet --all-extras --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')"
	@touch $@

# The coders of weights in Rust, where there is cargo. Without, numpy does the same: nothing fails. After each sync, for
# uv takes away what its lock does not name; built with the maturin of the environment, into the environment.
$(NATIVE): $(STAMP) $(wildcard native/*.toml native/Cargo.lock native/src/*.rs)
	@if ! command -v cargo >/dev/null 2>&1; then \
		echo "setup: no cargo here, so weights are coded by numpy: the same bytes, several times slower"; \
	elif PATH="$(CURDIR)/$(BIN):$$PATH" CARGO_TARGET_DIR="$(CURDIR)/$(VENV)/native-target" CARGO_NET_RETRY=1 \
		$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --reinstall ./native \
		>$(VENV)/native.log 2>&1; then \
		echo "setup: the coders of weights in Rust"; \
	else \
		echo "setup: the coders in Rust were not built ($(VENV)/native.log says why): numpy codes weights, slower"; \
	fi
	@touch $@

# KEEP=1 leaves everything running; SABOTAGE=flip-byte|drop-pack|stale-index|no-fence|lost-feature breaks one thing.
demo: setup
	@$(BIN)/python -m sandbox.demo $(if $(KEEP),--keep) $(if $(SABOTAGE),--sabotage $(SABOTAGE))

down:
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m sandbox.demo --down; fi

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: setup lint
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile

# The same contracts over servers that nobody here wrote; Go, Java and Maven are needed, the first time for some minutes.
# A server that cannot be had is a skip with its reason, or a failure with REQUIRE_SERVERS=1.
contracts: setup
	@$(BIN)/python -m sandbox.servers run -- $(BIN)/pytest -n $(WORKERS) --dist loadfile --real-servers -rfEs tests/contracts

# Start them and let them run: make servers; make servers VERB=status, stop or reset.
servers: setup
	@$(BIN)/python -m sandbox.servers $(or $(VERB),start)

# The quick tests on Python 3.11, 3.12 and 3.13, and a plain pip install of each; one that is not here is named.
pythons: setup
	@UV="$(UV)" $(BIN)/python -m tests.pythons $(VERSIONS)

# Coverage-guided, by hand: make fuzz SECONDS_EACH=600
fuzz: setup
	@$(BIN)/python -m tests.fuzz.run $(or $(SECONDS_EACH),60)

quick: setup
	@$(BIN)/ruff check -q .
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow and not prefect" tests/unit tests/house

bench: setup
	@$(BIN)/python -m bench.artifacts
	@$(BIN)/python -m bench.vectors
	@$(BIN)/python -m bench.features
	@$(BIN)/python -m bench.failover
	@$(BIN)/python -m bench.hydrate

# Needs PREFECT_API_URL and UNDERSTUDY_CONFIG; may be run again at any time.
deploy: setup
	@$(BIN)/python -m deployments.deploy

clean: down
	@rm -rf $(VENV) .sandbox .servers .bench .pythons
