# Every target does its own set-up; a fresh machine needs python3 (3.11 or later) and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What development and CI run on; the package itself takes a range.
TORCH := torch==2.13.0 torchvision==0.28.0

.PHONY: setup demo test lint format bench example clean

setup: $(VENV)/.done

# uv installs torch's CUDA build in seconds where pip takes minutes.
$(VENV)/.done: pyproject.toml setup.py proto/intarsia/v1/style_transfer.proto
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(TORCH) -e ".[server,plot,dev]"
	touch $@

demo: setup
	$(BIN)/intarsia demo -o demo

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format --write

bench: setup
	$(BIN)/python -m bench.step

# Draws the example's pictures anew.
example: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[example]"
	$(BIN)/python -m examples.art

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache demo bench/out
