# Every target works right after a clone: it makes .venv and gets the real models when they are missing.
# ARGS is passed on:  make app ARGS="--port 8502"   make test ARGS="-k export"   make bench ARGS="--rounds 3"

PYTHON ?= python3
ARGS ?=
MODELS := smollm2-135m minilm-l6

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
DOCS_INSTALLED := $(VENV)/docs-installed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Where each model's folder is: in WORKBENCH_CACHE where that is set, else where a link in .venv leads. Looking there
# costs nothing; asking the workbench would import torch. A link to a cache that was deleted leads nowhere.
MODEL_FOLDERS := $(if $(WORKBENCH_CACHE),$(WORKBENCH_CACHE)/models,$(VENV))

# Threads that wait for each other sleep: on a machine that others use too, spinning costs ten times the time.
OMP_WAIT_POLICY ?= passive
export OMP_WAIT_POLICY

CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
NO_CHROMIUM = No Chromium found, so the browser tests are left out. To run them: apt-get install chromium \
	(Debian), or say where it is: make test CHROMIUM=/path/to/chromium

.PHONY: help app test lint bench notebooks zoo docs clean model
.DELETE_ON_ERROR:

help:
	@echo "make app        open the workbench in the browser"
	@echo "make test       run the tests"
	@echo "make lint       ruff, mypy, import-linter"
	@echo "make bench      time the workbench against its peers; JSON goes to benchmarks/results"
	@echo "make notebooks  run the notebooks"
	@echo "make zoo        train the bundled models and programs again; they replace those in the package"
	@echo "make docs       build the documentation into build/docs"
	@echo "make clean      delete caches and what was built; .venv stays"

app: $(INSTALLED) model
	$(BIN)/workbench app $(ARGS)

test: $(INSTALLED) model
	@if [ -z "$(CHROMIUM)" ]; then \
		echo "$(strip $(NO_CHROMIUM))"; \
		exec $(BIN)/python -m pytest -m "not browser" $(ARGS); \
	fi; \
	if [ ! -x "$(CHROMIUM)" ]; then echo "CHROMIUM='$(CHROMIUM)' is not a program."; exit 1; fi; \
	CHROMIUM="$(CHROMIUM)" exec $(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED) model
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED) model
	@for file in $(filter-out benchmarks/common.py benchmarks/__init__.py,$(wildcard benchmarks/*.py)); do \
		echo "== $$file"; $(BIN)/python "$$file" $(ARGS) || exit 1; \
	done

notebooks: $(INSTALLED) model
	@for file in notebooks/*.ipynb; do \
		echo "== $$file"; $(BIN)/jupyter-execute --timeout=900 "$$file" $(ARGS) || exit 1; \
	done

# One thread, whatever the machine has: sums come out alike then. About an hour and a half.
zoo: $(INSTALLED)
	$(BIN)/python -m workbench.models.zoo $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m workbench.circuits.known.siit)
	$(if $(ARGS),,$(BIN)/python -m workbench.circuits.known.programs)

docs: $(DOCS_INSTALLED)
	$(BIN)/python -m mkdocs build --quiet --strict --site-dir build/docs
	@echo "The documentation is in build/docs/index.html"

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis test-artifacts
	find workbench tests benchmarks notebooks \
		\( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "The workbench needs Python 3.11 or newer; say where it is: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing into $(VENV); the first time this takes some minutes."
	$(PIP_INSTALL) -e ".[dev]"
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(PIP_INSTALL) -e ".[docs]"
	@touch $@

model: $(INSTALLED)
	@for key in $(MODELS); do \
		test -f "$(MODEL_FOLDERS)/$$key/workbench.json" && continue; \
		answer=$$($(BIN)/workbench models get $$key --json) && \
		folder=$$(printf '%s' "$$answer" | $(BIN)/python -c 'import json, sys; print(json.load(sys.stdin)["folder"])') && \
		{ test -n "$(WORKBENCH_CACHE)" || ln -sfn "$$folder" "$(MODEL_FOLDERS)/$$key"; } || exit 1; \
	done
