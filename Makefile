# `make help` is the menu. Needs git, make and Python 3.11 or newer; the first target that needs more sets .venv up.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PORT ?= 8000
DATA_DIR ?= squeezer-data
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test fuzz lint types contracts check format requirements clean

help: ## Show this menu
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Set .venv up (the other targets do it by themselves)

demo: $(STAMP) ## Send a real job through the whole service and show what comes back
	@$(BIN)/squeezer demo

serve: $(STAMP) ## Run the service on 127.0.0.1 (PORT=8000 DATA_DIR=squeezer-data)
	@$(BIN)/squeezer serve --port $(PORT) --data-dir $(DATA_DIR)

test: $(STAMP) ## Run the whole test suite against real PostgreSQL and Redis (ARGS="-k word")
	$(BIN)/pytest $(ARGS)

fuzz: $(STAMP) ## Damage .sqz files and decode them between guard pages, for ten minutes (ARGS="--mutations 100000")
	$(BIN)/python -m tests.fuzz $(or $(ARGS),--seconds 600)

lint: $(STAMP) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## Check the type annotations
	$(BIN)/mypy

contracts: $(STAMP) ## Check which package may import which
	$(BIN)/lint-imports --no-cache

check: ## All that CI checks, from a clean checkout
	@.ci/run

format: $(STAMP) ## Format the code and repair what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A new environment takes the newest releases that pyproject.toml allows; torch's release is kept.
requirements: ## Pin the newest releases of everything anew in requirements.txt
	rm -rf build/requirements && mkdir -p build/requirements
	$(FIND_PYTHON) && $$python -m venv build/requirements/venv
	grep '^torch==' requirements.txt > build/requirements/constraints.txt
	build/requirements/venv/bin/pip install --constraint build/requirements/constraints.txt '.[torch,service,dev]'
	grep '^#' requirements.txt > build/requirements/new.txt
	build/requirements/venv/bin/pip freeze --exclude squeezer \
	  | grep -Ev '^(nvidia-|cuda-|triton==)' | sed 's/+[a-z0-9.]*$$//' >> build/requirements/new.txt
	mv build/requirements/new.txt requirements.txt

clean: ## Remove .venv, caches and build leftovers
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Sets the shell's $python to an interpreter that is new enough.
FIND_PYTHON = for python in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3 none; do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	done; \
	if [ $$python = none ]; then \
	  echo 'Squeezer needs Python 3.11 or newer; install it, or name it: make PYTHON=/path/to/python3.11' >&2; exit 1; \
	fi

# Some distributions split `venv` from Python; where they left pip, pip fills the environment.
$(STAMP): requirements.txt pyproject.toml
	@$(FIND_PYTHON); echo "Setting up $(VENV) with $$($$python --version); this happens once and takes some minutes."; \
	$$python -m venv $(VENV) 2>/dev/null \
	  || { $$python -m venv --without-pip $(VENV) && $$python -m pip --python $(VENV) install pip; } \
	  || { echo "$$python cannot make virtual environments; install its venv module (Debian: python3-venv)" >&2; exit 1; }
	$(BIN)/pip install --requirement requirements.txt
	$(BIN)/pip install --no-deps --editable .
	@touch $@
