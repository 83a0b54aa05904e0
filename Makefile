# Two commands do everything on a fresh machine: `make run` (recipe tiny, whole lifecycle) and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
RECIPE ?= tiny
SITE ?= laptop
CLUSTER ?= /tmp/test-cluster
CONFIG = --config recipe=$(RECIPE) site=$(SITE)
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
	&& echo $$p && break; done)
TAG = $(shell $(PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])')

.PHONY: help install install-dev run demo test test-unit lint lock cluster clean

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 14

# A stamp named after the lock's own content: a changed lock installs again, an unchanged one costs nothing.
STAMP = $(VENV)/.$(1)-$(shell cat envs/torch-cpu.txt envs/$(1)-*.lock pyproject.toml | cksum | cut -d' ' -f1)

install: python-found ## venv with the pinned CPU environment
	@test -e $(call STAMP,cpu) || $(MAKE) --no-print-directory LOCK=cpu install-lock

install-dev: python-found ## the same and what tests and lint need
	@test -e $(call STAMP,dev) || $(MAKE) --no-print-directory LOCK=dev install-lock

.PHONY: python-found install-lock
python-found:
	@test -n "$(PYTHON)" || { echo "Athanor needs Python 3.11 or 3.12 with venv; none found on PATH (set PYTHON=/path/to/python3.11)" >&2; exit 1; }

install-lock:
	@echo "installing the pinned environment $(LOCK)-$(TAG) into $(VENV): about 4 minutes, torch first"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --disable-pip-version-check --no-deps --retries 1 -r envs/torch-cpu.txt $(TORCH_INDEX)
	$(BIN)/pip install -qq --disable-pip-version-check --no-deps --require-hashes -r envs/$(LOCK)-$(TAG).lock
	@error=$$($(BIN)/python -c 'import torch' 2>&1) || { echo "$$error" | tail -n 1 >&2; \
		echo "The torch that pip found does not load: without an index of CPU wheels it takes the CUDA build. Name one and try again:" >&2; \
		echo "  make install TORCH_INDEX='--index-url https://download.pytorch.org/whl/cpu'   or, with a wheel in a folder, '--find-links FOLDER'" >&2; $(BIN)/pip uninstall -qq -y torch; exit 1; }
	$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(call STAMP,cpu) $(call STAMP,$(LOCK))

# pip's own index has the CUDA build of torch: where the machine has no wheel of its own for this line, take the CPU one.
TORCH_INDEX ?= --extra-index-url https://download.pytorch.org/whl/cpu

run: install ## recipe tiny (or RECIPE=…) from raw corpora to the report
	exec env ATHANOR_SUMMARY=later $(BIN)/snakemake $(CONFIG)
	@$(BIN)/athanor report --recipe $(RECIPE) --site $(SITE) >/dev/null
	@$(BIN)/athanor summary --recipe $(RECIPE) --site $(SITE)

demo: install ## a larger recipe for a workstation
	$(MAKE) --no-print-directory run RECIPE=demo

test: install-dev ## everything; with CI or SERVERS=1, as root on Debian, it installs the servers the tests need
	@sh tests/servers.sh
	@failed=0; \
	$(BIN)/python -m pytest tests -n 2 --dist loadfile --durations=20 --durations-min=5 -m "not trains" || failed=1; \
	$(BIN)/python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder --durations=60 --durations-min=10 -m trains || failed=1; \
	exit $$failed

test-unit: install-dev ## the fast tests alone
	$(BIN)/python -m pytest tests -n 2 -m "not slow and not slurm and not browser and not gpu"

lint: install-dev ## ruff, mypy, import-linter, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy workflow/athanor workflow/snakemake_executor_plugin_submitit
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

lock: ## resolve the environments anew (needs uv)
	sh envs/lock.sh

cluster: install-dev ## a throw-away Slurm to try the product on, and to break: docs/cluster.md (CLUSTER=FOLDER)
	@$(BIN)/python -m tests.cluster start $(CLUSTER)

clean: ## remove the virtual environment and Snakemake's own state; never the store
	rm -rf $(VENV) .snakemake
