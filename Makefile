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

.PHONY: demo test page lint fix bench bench-train test-faults test-interop clean

demo: $(READY)           ## the whole way on sample files, offline, in two minutes
	$(BIN)/dcmark demo --out demo

test: $(READY)           ## the default test suite
	$(BIN)/python -m pytest

test-faults: $(READY)    ## the long fault tests: kills, full disks, mutated files, flipped bytes
	$(BIN)/python -m pytest -m "long" tests/faults tests/scale tests/deid tests/arrival

# Programs of others: apt installs them where it may; what is absent is skipped, and said. OHIF goes into build/viewers.
test-interop: $(READY)   ## programs of others against the server: dicomweb-client, Orthanc, OHIF in Chromium
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq; \
	  for one in orthanc orthanc-dicomweb dcmtk chromium npm; do \
	    dpkg -s $$one >/dev/null 2>&1 || apt-get install -y -qq --no-install-recommends $$one >/dev/null || echo "no $$one"; \
	  done; \
	fi
	$(BIN)/pip install --quiet --constraint constraints.txt dicomweb-client
	DCMARK_FETCH=1 $(BIN)/python -m pytest -m "long" tests/interop

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

bench-train: $(READY)    ## what training costs, by preset, into docs/benchmarks.md; on CUDA too where it is
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[train]" --group bench
	$(BIN)/python -m benchmarks --only training

page:                    ## the page, from frontend/ into src/dcmark/web/static; needs Node 20.19 or newer
	cd frontend && npm ci --no-audit --no-fund && npm test && npm run build

clean:
	rm -rf $(VENV) demo dist

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]" --group dev
	@touch $(READY)
