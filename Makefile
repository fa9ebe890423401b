.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
export UV_LINK_MODE ?= copy

.PHONY: help install demo test test-slow test-slurm check format lint types wheel clean-cache

help: ## explain each target
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/.installed ## create .venv and install everything from the lock file

.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, found " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: install ## install, train and test on rendered zippers, say where the report is
	$(BIN)/python train.py model=cpcae data=zipper

test: install ## what every change must pass, with doctests
	$(BIN)/python -m pytest -m "not slow and not gpu and not slurm"

test-slow: install ## accuracy floors on real photographs, and whatever is too long for every change
	$(BIN)/python -m pytest -m "slow" --timeout 3600

test-slurm: install ## sweeps on a Slurm of one node, started here; needs root and its packages, or Debian's apt-get
	$(BIN)/python -m pytest tests/slurm

check: format lint types test ## format, lint, types and test

format: install ## is everything formatted?
	$(BIN)/ruff format --check .

lint: install ## is everything lint-free?
	$(BIN)/ruff check .

types: install ## do the types agree?
	$(BIN)/mypy

wheel: install ## build the wheel into dist/
	$(BIN)/python -m build --wheel --installer uv

clean-cache: ## remove the stages that runs share, and say how much it frees
	@du -sh outputs/.stages 2>/dev/null || echo "nothing to remove"
	@rm -rf outputs/.stages
