# Every command does its whole set-up on a fresh Debian 12: virtual environment, Python, Debian and npm packages.
# Without the right to install Debian packages it says which ones are missing.

PY := .venv/bin/python
WORKERS ?= 2

# Thousands of tests start hundreds of interpreters: none is to compile what another has compiled.
export PYTHONDONTWRITEBYTECODE =
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/.cache/bytecode

.DEFAULT_GOAL := help
.PHONY: help demo lint test check bench docs clean

help:
	@echo "make demo    see it work: a directory goes here -> S3 -> GCS -> an SSH host -> back, verified"
	@echo "make test    every test, on real servers"
	@echo "make check   the fast loop: lint, types, the quick tests that need no server"
	@echo "make bench   measure against the peers"
	@echo "make docs    build the site"

.venv/.ready-%: pyproject.toml tools/setup
	@tools/setup $*

demo: .venv/.ready-demo
	@$(PY) tutorials/01_first_steps.py
	@echo "The command is .venv/bin/rh; 'source .venv/bin/activate' makes it rh."

lint: .venv/.ready-test
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --quiet --check .
	@.venv/bin/mypy --no-error-summary

# What fails beside thousands of others on two cores is run once more by itself: a defect fails twice.
test: lint
	@$(PY) -m pytest -q -n $(WORKERS) --dist load || $(PY) -m pytest -q --last-failed --last-failed-no-failures none

# These tests wait, too: one worker more than there are cores.
check: WORKERS = 3
check: lint
	@$(PY) -m pytest -q -n $(WORKERS) --dist load -m "not slow and not servers"

bench: .venv/.ready-bench
	@BENCH_COMMAND="make bench" $(PY) -m benchmarks --docs docs

docs: .venv/.ready-docs
	@.venv/bin/mkdocs build --strict

clean:
	rm -rf .venv .cache site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
