# Tapeline: `make run` starts the desk, `make test` runs the tests. Both install what they need into .venv first.
#
# Settings are given as `make run MODE=shadow UNIVERSE=lean_us LEAN_DATA=/data/lean`: every NAME=value on the command line
# becomes the setting TAPELINE_NAME (docs/settings.md). Variables of the shell are not taken for settings this way.

SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
MAKEFLAGS += --no-print-directory
# Told to keep no byte code, each process would compile its libraries anew.
unexport PYTHONDONTWRITEBYTECODE

quote = '$(subst ','\'',$(1))'
names := $(foreach word,$(MAKEOVERRIDES),$(if $(findstring =,$(word)),$(firstword $(subst =, ,$(word)))))
settings = $(foreach name,$(names),TAPELINE_$(name)=$(call quote,$($(name))))

.PHONY: help install install-dev run test check bench torture torture-matrix risk-million router-machine ingest-torture month api-contract clean

help:
	@echo 'make run                 start Tapeline (first time: installs, loads the sample, trains, replays a live day on paper)'
	@echo 'make run MODE=shadow     the same with a setting; see docs/settings.md'
	@echo 'make test                run the tests'
	@echo 'make check               ruff, mypy, import-linter'
	@echo 'make bench NAME=lake     run one benchmark: backtest lake resample features latency paced exits event_log rl'
	@echo 'make torture N=20        kill the desk N times over a misbehaving broker: nothing lost, nothing sent twice'
	@echo 'make torture-matrix      every boundary with every fault of the broker'
	@echo 'make risk-million        a million random intents against random limits'
	@echo 'make router-machine      router and order states under a state machine, 100,000 transitions'
	@echo 'make api-contract N=100    send the control API of a desk of its own N made-up requests a call'
	@echo 'make ingest-torture N=200  kill the ingest N times and check that the lake equals an uninterrupted one'
	@echo 'make month                a month of paper trading at high speed: ledger = broker = backtest, flat memory'
	@echo 'make clean               remove .venv and caches; data/ stays'

install:
	@./install.sh runtime

install-dev:
	@./install.sh dev

run: install
	@exec env $(settings) $(PYTHON) -m pipelines.supervisor

# Each file goes to one of two workers whole, so that what its tests share is made once; tests/conftest.py says in which order.
test: install-dev
ifdef ARGS
	@exec $(PYTHON) -m pytest $(ARGS)
else
	@exec $(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20
endif

check: install-dev
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports

bench: install-dev
	@exec $(PYTHON) -m bench $(NAME) --json

torture: install-dev
	@exec $(PYTHON) -m tests.faults.torture $(or $(N),20) $(if $(SEED),--seed $(SEED)) $(if $(JOURNAL),--journal $(JOURNAL))

torture-matrix: install-dev
	@exec $(PYTHON) -m tests.faults.torture $(or $(N),1) --matrix $(if $(SEED),--seed $(SEED)) $(if $(JOURNAL),--journal $(JOURNAL))

risk-million: install-dev
	@exec $(PYTHON) -m tests.faults.risk_million --intents $(or $(N),1000000) --router 2000

router-machine: install-dev
	@exec $(PYTHON) -m tests.faults.router_machine --transitions $(or $(N),100000)

api-contract: install-dev
	@TAPELINE_TEST_API_EXAMPLES=$(or $(N),100) $(PYTHON) -m pytest tests/desk/test_api_control.py -q -s -n0 -k description

ingest-torture: install-dev
	@exec $(PYTHON) -m tests.faults.ingest_torture --kills $(or $(N),200)

month: install-dev
	@exec $(PYTHON) -m tests.soak.month $(if $(MINUTES),--minutes) $(if $(SESSIONS),--sessions $(SESSIONS))

clean:
	@rm -rf .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +
