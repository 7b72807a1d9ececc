# Every target makes .venv first if it must (deploy/setup.sh): a fresh clone needs nothing else.
.DEFAULT_GOAL := help
.PHONY: help setup demo check test test-all test-long bench docs lock clean

# Tests start thousands of Pythons; each would compile our code anew.
unexport PYTHONDONTWRITEBYTECODE

bin := .venv/bin
PROCESSES ?= 2
pytest := $(bin)/python -m pytest
spread := -n $(PROCESSES) --dist loadgroup --no-loadscope-reorder

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv with the teardown command, and a RabbitMQ where it can be installed
	@deploy/setup.sh

demo: setup ## run the whole catalogue of orderings and print one table
	@$(bin)/teardown demo

check: setup ## lint, format, types and import contracts
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports

test: setup ## the tests that need no container engine and are not slow
	$(pytest) $(spread) -m "not long and not slow and not container"

# Those in containers one after another: a compose stack is as much as two cores carry.
test-all: test ## those, then the slow ones, then those with containers
	$(pytest) $(spread) -m "slow and not long and not container"
	$(pytest) -m "container and not long"

test-long: setup ## the tests that take minutes
	$(pytest) -m long

bench: setup ## the benchmarks
	@$(bin)/teardown bench
	@$(bin)/python benchmarks/explore.py
	@$(bin)/python benchmarks/recovery.py

docs: setup ## write the generated pages of docs/ anew
	@$(bin)/python docs/generate.py
	@$(bin)/python deploy/grafana/generate.py

lock: setup ## resolve the dependencies anew into requirements.lock (UPGRADE=1 for newer versions)
	@deploy/lock.sh $(if $(UPGRADE),--upgrade)

clean: ## remove what the other targets made, .venv included
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
