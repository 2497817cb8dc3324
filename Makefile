# make workbook            set up, then execute all six notebooks (PROFILE=full, quick, demo; if not given, what suits the machine)
# make lab                 set up, then open JupyterLab
# make test                set up, then everything that CI checks
# make bench               benchmarks, as ratios
# make bench-gpu           speed and memory of full's training steps on this machine's GPU, into data/gpu
# make screenshots         the same browser tests at demo scale, which take the README's pictures of JupyterLab
# make sync                write each notebook's .py from its .ipynb
# make format              format and lint, mending what can be mended
# make test-lowest        the tests that are not slow, with the lowest versions that pyproject.toml allows (in .venv-lowest)
# make pretrained         the finished demo run on the built-in avatars (RUN=phase2-demo-…) as the model that comes with the package
# make constraints         write down the versions that are installed (constraints.txt); after a make test that passed
#
# The packages are those of constraints.txt, so that figures mean the same next month; UPGRADE=1 takes the newest instead.

PROFILE ?= $(VQ_PROFILE)
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export VQ_PROFILE := $(PROFILE)
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))

FIND_BROWSER := command -v chromium || command -v chromium-browser || command -v google-chrome || command -v chrome
BROWSER_TESTS := $(BIN)/pytest tests/browser --override-ini=addopts=-ra -p no:cacheprovider -q

.PHONY: workbook lab test test-lowest bench bench-gpu pretrained screenshots sync format constraints upgrade
.DEFAULT_GOAL := workbook

VERSIONS := $(if $(UPGRADE),--upgrade --upgrade-strategy eager,--constraint constraints.txt)
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check $(VERSIONS)

# Made anew only when the list of packages changes.
$(VENV)/installed: pyproject.toml constraints.txt $(if $(UPGRADE),upgrade)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the packages into $(VENV) (a few minutes, once)"
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@

constraints: $(VENV)/installed
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/pip freeze --exclude-editable --disable-pip-version-check | \
		sed 's/$$/ ; python_version >= "3.11"/'; } > constraints.part && mv constraints.part constraints.txt

test-lowest: $(VENV)/installed
	@$(PIP_INSTALL) uv
	@$(BIN)/uv venv --quiet --clear --python $(PYTHON) .venv-lowest
	@$(BIN)/uv pip install --quiet --python .venv-lowest --resolution lowest-direct -e '.[dev]'
	@.venv-lowest/bin/python -m pytest -q -m "not slow" -p no:cacheprovider --override-ini=filterwarnings=default

pretrained: $(VENV)/installed
	@rm -rf vq_core/pretrained/demo-avatars
	@$(BIN)/python -m vq_core export $(RUN) --out vq_core/pretrained/demo-avatars --priors --half --licence mit

format: $(VENV)/installed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

workbook: $(VENV)/installed
	@$(BIN)/python -m vq_core workbook $(if $(PROFILE),--profile $(PROFILE))

lab: $(VENV)/installed
	@$(BIN)/jupyter lab --ip=127.0.0.1 --notebook-dir=notebooks

bench: $(VENV)/installed
	@$(PIP_INSTALL) -e '.[dev,bench]'
	@$(BIN)/pytest tests/benchmarks -p no:cacheprovider --override-ini=addopts= --override-ini=filterwarnings=default -q -s

bench-gpu: $(VENV)/installed
	@VQ_DATA=$(CURDIR)/data/gpu/data $(BIN)/python tests/benchmarks/gpu.py --part steps --out data/gpu

sync: $(VENV)/installed
	@for notebook in $(NOTEBOOKS); do \
		$(BIN)/jupytext --to py:percent --output - $$notebook > $${notebook%.ipynb}.py; done

test: $(VENV)/installed
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/pytest -q
	@echo "the six notebooks, in order, at smoke scale"
	@data=$$(mktemp -d) && trap 'rm -rf "$$data"' EXIT && VQ_PROFILE=smoke VQ_DATA="$$data" PYTHONPATH=tests $(BIN)/python -m pytest -q \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=300 -p nbval_patience -p no:cacheprovider \
		--override-ini=filterwarnings=default $(NOTEBOOKS)
	@echo "the six notebooks in JupyterLab, in a browser, at smoke scale"
	@$(FIND_BROWSER) || $(BIN)/playwright install chromium || \
		echo "=== NO BROWSER: the notebooks were NOT tried in JupyterLab. Install Chromium, then make test again. ==="
	@VQ_PROFILE=smoke $(BROWSER_TESTS)

screenshots: $(VENV)/installed
	@VQ_PROFILE=demo VQ_SCREENSHOTS=$(CURDIR)/notebooks/pictures $(BROWSER_TESTS)
