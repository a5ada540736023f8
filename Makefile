# Every target does its own set-up; a fresh machine needs python3 (3.11 or later) and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What development and CI run on; the package itself takes a range.
TORCH := torch==2.13.0 torchvision==0.28.0

SOURCES := $(wildcard csrc/*.cpp csrc/*.h csrc/cpu/* csrc/cuda/*)

.PHONY: setup demo test lint format bench bench-full bench-ops quality gpu-check example trust image image-check deploy-lint clean

setup: $(VENV)/.done

# uv installs torch's CUDA build in seconds where pip takes minutes.
# Not isolated: the operators are compiled against the torch that will run them.
$(VENV)/.done: pyproject.toml setup.py proto/intarsia/v1/style_transfer.proto $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(TORCH) -r pyproject.toml --extra server --extra plot --extra dev
	PATH="$(BIN):$$PATH" $(BIN)/uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps -e .
	touch $@

demo: setup
	$(BIN)/intarsia demo -o demo

# One thread to each of the processes: two of them on busy cores are several times slower than one.
TESTERS ?= auto
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TESTERS) --maxprocesses 4 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(SOURCES) csrc/tests/*
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES) csrc/tests/*
	$(BIN)/buf format --write

# A quarter of an hour on two quiet cores; PARTS names some of it: make bench PARTS="attempt3 step".
PARTS ?=
bench: setup
	$(BIN)/python -m bench $(PARTS)

# The same, with both sides run to their ends: hours.
bench-full: setup
	$(BIN)/python -m bench --full $(PARTS)

bench-ops: setup
	$(BIN)/python -m bench.ops

# Every method on every set; paintings from PICTURES are used where they are there.
PICTURES ?= ../shared/data
quality: setup
	$(BIN)/python -m bench.quality --pictures $(PICTURES)

# Faults, rubbish and overload; PARTS names some of it.
trust: setup
	$(BIN)/python -m bench.trust $(PARTS)

# Needs a GPU, nvcc and torch, and no network: the interpreter is the one given, or the set-up's, or python3.
gpu-check:
	$(if $(filter file,$(origin PYTHON)),$(or $(wildcard $(BIN)/python),$(PYTHON)),$(PYTHON)) -m bench.gpu_check

# DEVICE is gpu or cpu; BUILDER an engine that takes a Dockerfile: docker, podman.
DEVICE ?= gpu
BUILDER ?= docker
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
image:
	$(BUILDER) build --target $(DEVICE) --tag intarsia:$(DEVICE)-$(VERSION) --tag intarsia:$(DEVICE) \
		--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) .

# Builds the CPU image without an engine, and runs it: as root on Debian, with buildah and debootstrap.
image-check: setup
	$(BIN)/python deploy/check_image.py

# The Dockerfile by hadolint, the chart by Helm itself and Kubernetes' schemas.
deploy-lint: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[deploy]"
	$(BIN)/python deploy/lint.py

# Draws the example's pictures anew.
example: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[example]"
	$(BIN)/python -m examples.art

clean:
	rm -rf $(VENV) build dist server/intarsia_server/ops/_native*.so *.egg-info .mypy_cache .ruff_cache .pytest_cache demo bench/out
