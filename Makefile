# make workbook            set up, then execute all six notebooks (PROFILE=demo; full on a GPU)
# make lab                 set up, then open JupyterLab
# make test                set up, then everything that CI checks
# make bench               benchmarks, as ratios
# make sync                write each notebook's .py from its .ipynb

PROFILE ?= $(or $(VQ_PROFILE),demo)
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export VQ_PROFILE := $(PROFILE)
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))

.PHONY: workbook lab test bench sync
.DEFAULT_GOAL := workbook

# Made anew only when the list of packages changes.
$(VENV)/installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the packages into $(VENV) (a few minutes, once)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

workbook: $(VENV)/installed
	@$(BIN)/python -m vq_core workbook --profile $(PROFILE)

lab: $(VENV)/installed
	@$(BIN)/jupyter lab --notebook-dir=notebooks

bench: $(VENV)/installed
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	@$(BIN)/pytest tests/benchmarks -p no:cacheprovider --override-ini=addopts= --override-ini=filterwarnings=default -q -s

sync: $(VENV)/installed
	@$(BIN)/jupytext --quiet --to py:percent $(NOTEBOOKS)

test: $(VENV)/installed
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/pytest -q
	@echo "the six notebooks, in order, at smoke scale"
	@data=$$(mktemp -d) && trap 'rm -rf "$$data"' EXIT && VQ_PROFILE=smoke VQ_DATA="$$data" $(BIN)/python -m pytest -q \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=300 -p tests.nbval_patience -p no:cacheprovider \
		--override-ini=filterwarnings=default $(NOTEBOOKS)
