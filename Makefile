# `make demo` and `make test` are all that a user needs; all of these install what they need.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
	--no-loadscope-reorder

.PHONY: demo quick test lint

demo: .venv/installed
	$(BIN)/declip-pipe demo -o demo-output

# Tests without a mark: what to run while working.
quick: .venv/installed
	$(PYTEST) -m 'not slow and not cluster'

test: .venv/installed
	$(PYTEST) --durations 25

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
