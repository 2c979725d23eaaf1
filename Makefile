# Everything a person does with this repository, by name. `make` alone prints the list.
# Needs Python 3.11 or newer and make; nothing is installed outside .venv and no command needs root.

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# The first Python on the path that is new enough; `make setup PYTHON=/path/to/python` chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
# A machine with an NVIDIA GPU takes PyTorch as it comes, with CUDA; any other takes the pinned CPU build.
FLAVOUR := $(shell nvidia-smi -L 2>/dev/null | grep -q '^GPU' && echo gpu || echo cpu)
CONSTRAINT := $(if $(filter cpu,$(FLAVOUR)),-c constraints/cpu.txt,)
# Extra words for pip, such as another index: make setup PIP_ARGS="--extra-index-url ..."
PIP_ARGS ?=
# Extra words for the command a target runs: make test ARGS="tests/client -x"
ARGS ?=
INSTALLED := $(VENV)/.installed-$(FLAVOUR)

.PHONY: help setup demo test slow faults check bench thin up clean

help: ## This list
	@echo "Telepatch: make <target>"
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '  %-8s %s\n' "$$name" "$$text"; done

setup: $(INSTALLED) ## Create .venv and install everything into it (once; again when pyproject.toml changes)

$(INSTALLED): pyproject.toml constraints/cpu.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "Telepatch needs Python 3.11 or newer, and none was found (python3 is: $$(python3 --version 2>&1))."; \
		echo "Install one, or name it: make setup PYTHON=/path/to/python3.12"; exit 1; fi
	@if ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "Telepatch needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)."; exit 1; fi
	@if [ ! -x $(BIN)/python ]; then \
		if ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then \
			echo "$(PYTHON) has no venv module (or no ensurepip). On Debian and Ubuntu: apt install python3-venv."; \
			echo "Without root, use any other Python 3.11+ build: make setup PYTHON=/path/to/python"; exit 1; fi; \
		echo "Creating $(VENV) with $$($(PYTHON) --version 2>&1)"; "$(PYTHON)" -m venv $(VENV) || exit 1; fi
	@echo "Installing for $(FLAVOUR); PyTorch is large, so the first time takes some minutes."
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_ARGS) $(CONSTRAINT) -e '.[all,dev]'
	@rm -f $(VENV)/.installed-*; touch $@
	@echo "Installed. Activate it with: . $(BIN)/activate"

demo: setup ## Start everything on free ports, run two studies on a real model, write tables and pictures to out/
	$(BIN)/telepatch demo $(ARGS)

test: setup ## The test suite, in some ten minutes
	$(BIN)/python -m pytest $(ARGS)

slow: setup ## What takes long beside it: whole programs and long experiments
	$(BIN)/python -m pytest -m slow $(ARGS)

faults: setup ## Kill, hold up and starve parts of a service that runs: no job is lost, and each ends once
	$(BIN)/python -m pytest -m faults tests/faults $(ARGS)

check: setup ## Lint, format, types, import contracts, deployment files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/shellcheck .ci/run deploy/slurm/worker.sbatch
	@if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint --config deploy/docker/hadolint.yaml deploy/docker/Dockerfile.*; \
		else echo "hadolint has no build for this machine; the Dockerfile checks of make test still run"; fi

thin: setup ## Install the bare wheel into an empty environment and prove that it is light
	$(BIN)/python tests/system/thin_check.py

bench: setup ## Measure what it costs beside the bare model, in some tens of minutes; a table, JSON and plots in bench/results/
	$(BIN)/python -m bench $(ARGS)

up: setup ## Start the service here: embedded Valkey, gateway and worker; Ctrl-C ends all of it
	$(BIN)/telepatch up $(ARGS)

clean: ## Remove the environment and every cache and result
	rm -rf $(VENV) out dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
