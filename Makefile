# Every entry does its own set-up: the virtual environment, the pinned dependencies and, as root on
# Debian or Ubuntu, missing system packages. PYTHON=/path/to/python3.12 chooses the interpreter.

# Simulated devices and PostgreSQL make the tests wait more than compute.
PYTEST_WORKERS ?= 3
# The smaller second run: what speaks SQL, against another release of PostgreSQL.
SECOND_RUN = tests/database tests/executions tests/test_leadership.py \
	tests/inventory/test_synchronisation.py

BIN = .venv/bin

.PHONY: help set-up demo test check format servers bench soak revision lock clean
.DEFAULT_GOAL := help

help: ## List the entries
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

set-up: .venv/.set-up ## Virtual environment, dependencies, system packages

.venv/.set-up: requirements-dev.txt pyproject.toml tools/set-up
	tools/set-up

servers: build/servers/.unpacked ## Unpack the servers that only tests need into build/

build/servers/.unpacked: tools/test-servers
	tools/test-servers

demo: set-up ## A simulated fleet, backed up again and again into PostgreSQL and Git
	$(BIN)/configbackup demo

check: set-up ## Lint, format, types and the floors of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check servers ## Everything that must pass: checks, tests, tests on Debian's PostgreSQL
	$(BIN)/pytest -n $(PYTEST_WORKERS)
	$(BIN)/python tools/debian_postgresql.py $(BIN)/pytest -n $(PYTEST_WORKERS) \
		-m "not embedded" $(SECOND_RUN)

format: set-up ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: set-up ## Rates and costs of the whole way beside bare NAPALM, into build/bench/
	$(BIN)/python -m bench

soak: set-up ## Kill daemon, worker and PostgreSQL at fifty random moments under load
	$(BIN)/python -m bench.soak

revision: set-up ## Write a migration from the models: make revision MESSAGE="add a table"
	$(BIN)/python tools/new_revision.py "$(MESSAGE)"

LOCK = uv pip compile pyproject.toml --universal --python-version 3.11 --no-emit-index-url \
	--generate-hashes --no-header --no-annotate --quiet
lock: ## Pin the dependencies anew (needs uv)
	$(LOCK) --output-file requirements.txt
	$(LOCK) --group pyproject.toml:development --output-file requirements-dev.txt

clean: ## Remove the virtual environment and what was built
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
