# Everything runs from .venv, which `make setup`, or any target that needs it, makes.
PYTHON ?= python3
# Warnings are errors where the compiler is known: newer ones find more.
WERROR ?= OFF
PYTEST_ARGS ?=
DEMO_ARGS ?=
# How long to fuzz: seconds, or minutes as in 30m.
TIME ?= 60

VENV := .venv
BIN := $(VENV)/bin
STEP := .ci/step
STUB := native_loader/pilotlight/native_loader/_native.pyi
CPP := $(shell find native_loader/src native_loader/include native_loader/tests native_loader/fuzz \
	-name '*.[ch]pp')

export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test check-all format lint types imports proto proto-drift stub-drift \
	unit integration slow test-gpu native ctest sanitize fuzz fuzz-short docs wheel clean distclean FORCE

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(VENV)/packages $(VENV)/native ## Make .venv with all that development needs

# A virtual environment holds absolute paths, and so do CMake's caches: in a
# checkout that was moved or copied they are made anew.
ifneq ($(shell cat $(VENV)/checkout 2>/dev/null),$(CURDIR))
$(VENV)/checkout: FORCE
endif
$(VENV)/checkout:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
	    "Pilotlight needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	rm -rf $(VENV) build
	$(PYTHON) -m venv $(VENV)
	@echo "$(CURDIR)" > $@

$(VENV)/packages: $(VENV)/checkout pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt cmake nanobind ninja scikit-build-core
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@ $(VENV)/native

# Python is used from where it lies; only C++ is to be built again.
$(VENV)/native: $(VENV)/packages native_loader/CMakeLists.txt $(CPP)
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .
	@touch $@

demo: setup ## Show it all on made-up models (DEMO_ARGS="--json FILE")
	@$(BIN)/pilotlight demo $(DEMO_ARGS)

# One after another, the quick ones first; the first that fails ends it.
test: setup lint types imports proto-drift stub-drift unit integration ctest ## Check all, in minutes

check-all: test slow sanitize fuzz-short ## Check all, the long forms too

format: setup ## Format Python and C++
	ruff check --fix-only -q .
	ruff format .
	clang-format -i $(CPP)

lint: setup ## Check style and spelling
	@$(STEP) "ruff check" ruff check .
	@$(STEP) "ruff format" ruff format --check .
	@$(STEP) "clang-format" clang-format --dry-run -Werror $(CPP)
	@$(STEP) "codespell" codespell

types: setup ## Check types with mypy and pyright
	@$(STEP) "mypy" mypy
	@$(STEP) "pyright" pyright

imports: setup ## Check which component imports which
	@$(STEP) "import-linter" lint-imports

unit: setup ## Run the unit and property tests
	@$(STEP) "unit tests" pytest -q -m "not integration" $(PYTEST_ARGS)

integration: setup ## Run the tests with processes, sockets and databases
	@$(STEP) "integration tests" pytest -q -m integration $(PYTEST_ARGS)

slow: setup ## Run the tests that take long
	@$(STEP) "slow tests" pytest -q --slow -m slow $(PYTEST_ARGS)

test-gpu: setup ## Run the tests that need an NVIDIA GPU
	@$(STEP) "GPU tests" pytest -q --slow -m gpu $(PYTEST_ARGS)

native: setup ## Build the native loader into .venv

ctest: setup ## Build and run the native loader's own tests
	@$(STEP) "C++ build" .ci/build-native build/native -DPILOTLIGHT_WARNINGS_AS_ERRORS=$(WERROR)
	@$(STEP) "ctest" ctest --test-dir build/native --output-on-failure

sanitize: setup ## Run them under the sanitizers
	@$(STEP) "C++ build (asan)" .ci/build-native build/asan -DPILOTLIGHT_SANITIZE=address,undefined
	@$(STEP) "ctest (asan)" ctest --test-dir build/asan --output-on-failure
	@$(STEP) "C++ build (tsan)" .ci/build-native build/tsan -DPILOTLIGHT_SANITIZE=thread
	@$(STEP) "ctest (tsan)" ctest --test-dir build/tsan --output-on-failure

fuzz: setup ## Fuzz the native loader (TIME=90, TIME=30m)
	@$(STEP) "fuzz" .ci/fuzz build/fuzz $(TIME)

fuzz-short: setup
	@$(STEP) "fuzz, short" .ci/fuzz build/fuzz 20 optional

proto: setup ## Generate the protocol code
	.ci/generate-protocols .

proto-drift: setup
	@$(STEP) "protocol drift" .ci/protocol-drift build/protocols

# The build writes the stub into the tree, so it must be as it was committed.
stub-drift: setup
	@$(STEP) "stub drift" .ci/stub-drift $(STUB)

docs: setup ## Build the documentation in docs/_build/html
	sphinx-build -q -W -b html docs docs/_build/html

wheel: setup ## Build a wheel in dist/
	python -m build --wheel --no-isolation

clean: ## Remove what was built, but not .venv
	rm -rf build dist docs/_build .*_cache .hypothesis
	rm -f $(VENV)/native

distclean: clean ## Remove .venv and the demo's checkpoints too
	rm -rf $(VENV) .demo
