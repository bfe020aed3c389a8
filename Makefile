# One file for every daily task; `make` alone lists them. Each target brings .venv up to date first.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# Written last by a complete installation: .venv is rebuilt only when the requirements change.
STAMP := $(VENV)/installed

# A version manager's shim can be on PATH and not run, so each candidate is asked to make an environment's parts.
RUNS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(shell for python in python3.12 python3.11 python3; do \
	if "$$python" -c '$(RUNS)' >/dev/null 2>&1; then echo "$$python"; break; fi; done)

# Extra package index for torch, such as one that offers CPU builds: make venv TORCH_INDEX=URL
TORCH_INDEX ?=
# More overrides for the demo, or arguments for the benchmark: make demo ARGS="run.cycles=5"
ARGS ?=
# Folder with rivals of `make bench` that are no dependencies (benchmarks/rivals.txt): make bench RIVALS=DIR
RIVALS ?=
# How long a storm is, and its seed: make chaos CHAOS="--minutes 10 --seed 7"
CHAOS ?= --minutes 3 --seed 7

# Where the environment forbids bytecode, each of the many processes that tests start would compile the package. Three files
# at a time on two cores: one of them often waits for processes that it has started. tests/conftest.py orders the files.
PYTEST = env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 10

.PHONY: help venv demo test test-wide schedules cluster-demo lint format types layers check pretrain bench bench-memory bench-profile bench-gpu chaos monitoring clean

help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## Make .venv with the pinned packages (PYTHON=..., TORCH_INDEX=...)

$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "make: no working Python 3.11 or 3.12 found; give one: make venv PYTHON=/path/to/python3.11" >&2; exit 2; fi
	@if ! $(BIN)/python -c '$(RUNS)' >/dev/null 2>&1; then \
		echo "making $(VENV) with $$($(PYTHON) --version)"; "$(PYTHON)" -m venv --clear $(VENV); fi
	@echo "installing the pinned packages into $(VENV) (some minutes the first time)"
# The pip that Python brings takes three times as long to find out what is needed.
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt pip
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		-c constraints.txt -e '.[dev]'
# pip compiles file after file, this on every core. A file of newer syntax is left, as pip leaves it; so is what few import.
	@$(BIN)/python -m compileall -qq -j 0 -x '/(tests?|transformers/models|diffusers/pipelines)/' "$(CURDIR)/$(VENV)/lib" || true
	@touch $@

demo: $(STAMP) ## Train the 4-step digits student on this machine into runs/demo (an earlier one is kept aside)
	@$(BIN)/python -m advdmd_ray.run --config configs/digits.yaml --fresh run.name=demo $(ARGS)

pretrain: $(STAMP) ## Train the small digits teacher again, into runs/teacher
	@$(BIN)/advdmd pretrain --config configs/pretrain/digits.yaml

bench: $(STAMP) ## Time the data path on this machine against its rivals, in turns, into runs/bench (RIVALS=DIR)
	@PYTHONPATH="$(CURDIR)$(if $(RIVALS),:$(abspath $(RIVALS)))" $(BIN)/python -m benchmarks.host $(ARGS)

bench-memory: $(STAMP) ## Run 20,000 tiny groups and say how memory, handles and threads of each process grow (ARGS="--minutes 60": a soak)
	@$(BIN)/python -m benchmarks.endurance $(ARGS)

bench-profile: $(STAMP) ## Say and draw which functions the processes of a run are busy with (2 minutes; ARGS="--config shapes")
	@$(BIN)/python -m benchmarks.profile $(ARGS)

bench-gpu: $(STAMP) ## Time rollouts, transfers, weights and learner of every family on a GPU, into runs/bench; without one it says so
	@$(BIN)/python -m benchmarks $(ARGS)

chaos: $(STAMP) ## Kill and stop a run's processes and nodes one after another, and judge what it made of it (CHAOS="--minutes 3 --seed 7")
	@$(BIN)/python -m benchmarks.endurance.storm $(CHAOS)

cluster-demo: $(STAMP) ## Scale, stop and resume a run on a Ray cluster here and draw its reward from Prometheus (ARGS="--cycles 5 --more 5")
	@$(BIN)/python -m deploy.demo $(ARGS)

monitoring: $(STAMP) ## Write Grafana's dashboard and the operator's alerts again (deploy/monitoring/, deploy/alerts.yml)
	@$(BIN)/python -m deploy.monitoring

test: $(STAMP) ## Run the test suite, three files at a time; the ten slowest tests are named
	@$(PYTEST)

test-wide: $(STAMP) ## Run the same laws on further families, seeds and sizes, which the suite leaves out
	@$(PYTEST) -m wide

schedules: $(STAMP) ## Run the controller through 10,000 random schedules of faults (minutes; ARGS="--schedules 500 --seed 8")
	@PYTHONPATH="$(CURDIR)/tests/support" $(BIN)/python -m schedules $(ARGS)

lint: $(STAMP) ## Check style with ruff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(STAMP) ## Format and fix what ruff can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

types: $(STAMP) ## Check types with pyright
	@$(BIN)/pyright

layers: $(STAMP) ## Check that imports point downwards
	@$(BIN)/lint-imports

# Two at a time: pyright has one core for a minute, and the tests begin on the other.
check: $(STAMP) ## All of lint, types, layers and test
	@$(MAKE) --no-print-directory -j 2 lint types layers test

clean: ## Remove caches and build products; runs/ and .venv stay
	@rm -rf build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find advdmd_ray tests -name __pycache__ -type d -prune -exec rm -rf {} +
