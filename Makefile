# Everything sets itself up: a bare clone, Python 3.11 or newer and make are enough.
PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
READY := $(VENV)/.ready
# Extras to install: make test EXTRAS=all,train runs the tests of training too (PyTorch is large).
EXTRAS ?= all

.PHONY: demo test page lint fix bench test-faults clean

demo: $(READY)           ## the whole way on sample files, offline, in two minutes
	$(BIN)/dcmark demo --out demo

test: $(READY)           ## the default test suite
	$(BIN)/python -m pytest

test-faults: $(READY)    ## the long fault tests: kills, full disks, mutated files, flipped bytes
	$(BIN)/python -m pytest -m "long" tests/faults tests/scale tests/deid tests/arrival

lint: $(READY)           ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(READY)            ## repair style where a machine can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)          ## speed beside peers, into docs/benchmarks.md
	$(BIN)/pip install --quiet --constraint constraints.txt --group bench
	$(BIN)/python -m benchmarks

page:                    ## the page, from frontend/ into src/dcmark/web/static; needs Node 20.19 or newer
	cd frontend && npm ci --no-audit --no-fund && npm test && npm run build

clean:
	rm -rf $(VENV) demo dist

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]" --group dev
	@touch $(READY)
