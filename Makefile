# Tapeline: `make run` starts the desk, `make test` runs the tests. Both install what they need into .venv first.
#
# Settings are given as `make run MODE=shadow UNIVERSE=lean_us LEAN_DATA=/data/lean`: every NAME=value on the command line
# becomes the setting TAPELINE_NAME (docs/settings.md). Variables of the shell are not taken for settings this way.

SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
MAKEFLAGS += --no-print-directory

quote = '$(subst ','\'',$(1))'
names := $(foreach word,$(MAKEOVERRIDES),$(if $(findstring =,$(word)),$(firstword $(subst =, ,$(word)))))
settings = $(foreach name,$(names),TAPELINE_$(name)=$(call quote,$($(name))))

.PHONY: help install install-dev run test check bench torture ingest-torture clean

help:
	@echo 'make run                 start Tapeline (first time: installs, loads the sample, trains, replays a live day on paper)'
	@echo 'make run MODE=shadow     the same with a setting; see docs/settings.md'
	@echo 'make test                run the tests'
	@echo 'make check               ruff, mypy, import-linter'
	@echo 'make bench NAME=lake     run one benchmark: backtest lake resample features latency rl'
	@echo 'make torture N=20        kill processes N times and check that nothing is lost or sent twice'
	@echo 'make ingest-torture N=200  kill the ingest N times and check that the lake equals an uninterrupted one'
	@echo 'make clean               remove .venv and caches; data/ stays'

install:
	@./install.sh runtime

install-dev:
	@./install.sh dev

run: install
	@exec env $(settings) $(PYTHON) -m pipelines.supervisor

# Whole installations are started last and alone: they want both cores for themselves.
test: install-dev
ifdef ARGS
	@exec $(PYTHON) -m pytest $(ARGS)
else
	@$(PYTHON) -m pytest -n 2 --dist loadscope --ignore tests/e2e
	@exec $(PYTHON) -m pytest tests/e2e
endif

check: install-dev
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports

bench: install-dev
	@exec $(PYTHON) -m bench $(NAME) --json

torture: install-dev
	@exec $(PYTHON) -m tests.faults.torture $(or $(N),20)

ingest-torture: install-dev
	@exec $(PYTHON) -m tests.faults.ingest_torture --kills $(or $(N),200)

clean:
	@rm -rf .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +
