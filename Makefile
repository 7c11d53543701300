# make demo   trains LeNet-5 on handwritten digits and says where the report is
# make test   the tests; make test-release adds the slow ones and a release's figures
# make lint   style and types;  make docs  the pages;  make clean
# make bench  what is missing of the tables that docs/speed_results.py writes; SINCE=2026-11-30: what is older, too;
#             AGAIN=1: all. DATA=... holds the pictures, ONLY=... is a pattern of cells of speed; make bench-inspection
#             runs one file of benchmarks/ with ARGS=...
# Everything happens in $(VENV), which the first command makes. PYTHON=... chooses the interpreter.

VENV ?= .venv
BIN := $(VENV)/bin
NEW_ENOUGH := import sys; raise SystemExit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c '$(NEW_ENOUGH)' 2>/dev/null && { echo "$$python"; break; }; done)
PYTEST := $(BIN)/python -m pytest -q

.PHONY: demo test test-release lint bench docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.test
	@rm -rf runs/demo
	$(BIN)/convatlas train digits --model lenet5 --out runs/demo
	$(BIN)/convatlas eval runs/demo

test: $(VENV)/.test
	$(PYTEST) -m "not slow"

test-release: $(VENV)/.test
	CONVATLAS_RELIABILITY=release $(PYTEST) --timeout=14400

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.bench  # the pages are written also where a cell is missing
	@status=0; \
	$(BIN)/python benchmarks/$(if $(ONLY),speed.py --only '$(ONLY)',every.py) $(if $(DATA),--data '$(DATA)') $(if $(SINCE),--since '$(SINCE)') $(if $(AGAIN),--again) \
	|| status=$$?; $(BIN)/python docs/speed_results.py || status=$$?; exit $$status

bench-%: $(VENV)/.bench
	$(BIN)/python benchmarks/$*.py $(ARGS)

docs: $(VENV)/.docs
	$(BIN)/python docs/tables.py --check
	$(BIN)/python docs/diagrams.py --check
	$(BIN)/python docs/charts.py --check
	$(BIN)/python docs/arithmetic.py --check
	$(BIN)/python docs/speed_results.py --check
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf $(VENV) docs/_build build dist .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment; a stamp per set of extras, so that nothing is installed twice.
$(VENV)/bin/python:
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null || { \
		echo "convatlas needs Python 3.11 or newer, and '$(or $(PYTHON),python3)' is not." >&2; \
		echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@
