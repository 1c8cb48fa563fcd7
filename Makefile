# Each target makes .venv when it is missing, or brings it up to date when pyproject.toml or constraints.txt changed.
PYTHON ?= python3
TEST_JOBS ?= 2
BIN := .venv/bin
# without byte-compiling, because most of what is installed is never imported
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt
# one thread per test process: the processes share the cores
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: demo test test-slow check bench docs clean

demo: .venv/installed-demo
	rm -rf build/demo
	$(BIN)/python -m identisim.demo.tour build/demo

test: .venv/installed-dev
	$(PYTEST) -n $(TEST_JOBS)

test-slow: .venv/installed-slow
	$(PYTEST) -m slow

check: .venv/installed-dev
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: .venv/installed-dev
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/world_speed.py
	$(BIN)/python bench/near_identity.py
	$(BIN)/python bench/transport.py --quick
	$(BIN)/python bench/compact_speed.py
	$(BIN)/python bench/backbone_speed.py

docs: .venv/installed-dev
	$(BIN)/zensical build --clean --strict

clean:
	rm -rf build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +

.venv/installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[world]"
	touch $@

# what the demo needs is part of it
.venv/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[dev]"
	touch .venv/installed-demo $@

# too large for everyday
.venv/installed-slow: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[dev,openvino]"
	touch .venv/installed-demo .venv/installed-dev $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'identisim needs Python 3.11 or newer, but "$(PYTHON)" is not; name another: make PYTHON=/path/to/python3.12' >&2; \
	  exit 1; }
	$(PYTHON) -m venv --clear .venv || { \
	  rm -rf .venv; echo 'making .venv failed; on Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }
