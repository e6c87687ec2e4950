# Two commands for a newcomer:  make demo  and  make test.  The rest is for those who change the code.

VENV   ?= .venv
# The first interpreter that is new enough; a name on PATH may be a shim that starts nothing, so each is tried.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# Test processes: one a core of the smallest machine that CI has; JOBS=0 runs the tests in this one.
JOBS   ?= 2

# Measured serving runs: a folder of validation sets (docs/validation.md).
RUNS   ?= ../shared/validation

.DEFAULT_GOAL := help
.PHONY: help demo test test-lowest test-backends plan-quality plans validate lint types imports check clean calibrate-extra test-closed-loop

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(VENV)/.installed ## install apexsim and search for the best plan on the bundled trace
	$(BIN)/apexsim search --model Llama-3.1-70B --cluster 8xh100-sxm --trace burstgpt-peak --rate 4 \
		--slo ttft=2s,tpot=100ms@0.9 --out results/demo

test: $(VENV)/.installed-dev ## install apexsim and run every test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-lowest: ## run every test on the lowest versions that pyproject.toml allows (Python 3.11)
	$(MAKE) test VENV=.venv-lowest PYTHON=python3.11 CONSTRAINTS=.ci/lowest.txt

validate: $(VENV)/.installed-dev ## errors against measured serving runs, written into docs/validation.md and README.md
	@test -d $(RUNS) || { echo "error: no validation sets in $(RUNS); name them with  make validate RUNS=/path" >&2; exit 1; }
	$(BIN)/python benchmarks/validate.py $(RUNS) --write

# The CPU build where the package index has one; any build will do.
TORCH  ?= torch==2.13.0

calibrate-extra: $(VENV)/.installed-dev ## install PyTorch and transformers, which calibrating a machine needs
	$(PIP) --editable '.[dev,calibrate]' '$(TORCH)'

test-closed-loop: calibrate-extra ## calibrate this CPU, serve with a real engine, replay, compare (about two minutes)
	$(BIN)/python -m pytest tests/test_closed_loop.py tests/test_calibration_run_torch.py

plans: $(VENV)/.installed-dev ## hold the chosen plans of baselines/ against what they were (apexsim check)
	$(BIN)/apexsim check baselines/plan_quality.yaml --workers 1

test-backends: $(VENV)/.installed-dev ## install Ray and Dask, and run searches on them (minutes)
	$(PIP) --editable '.[dev,ray,dask]'
	$(BIN)/python -m pytest tests/test_search_executors.py tests/test_search_backends.py

plan-quality: $(VENV)/.installed-dev ## plans that would be chosen against the measured best, written into benchmarks/plan_quality.md
	@test -d $(RUNS) || { echo "error: no validation sets in $(RUNS); name them with  make plan-quality RUNS=/path" >&2; exit 1; }
	$(BIN)/python benchmarks/plan_quality.py $(RUNS) --write

lint: $(VENV)/.installed-dev ## style and likely mistakes (ruff)
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev ## types (mypy --strict)
	$(BIN)/mypy

imports: $(VENV)/.installed-dev ## the one import direction (import-linter)
	$(BIN)/lint-imports

check: lint types imports ## lint, types and imports

clean: ## remove what was made here
	rm -rf $(VENV) .venv-lowest build dist results .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "error: apexsim needs Python 3.11 or newer, found $$(python3 --version 2>&1 || echo none);" \
			"name one with  make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
		f"error: apexsim needs Python 3.11 or newer, $(PYTHON) is {v.major}.{v.minor}")'
	$(PYTHON) -m venv $(VENV)

# A stamp is newer than pyproject.toml once its install went through, so a second make installs nothing.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(PIP) --editable '.[dev]' $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
	@touch $@ $(VENV)/.installed
