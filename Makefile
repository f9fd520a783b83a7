# The contract commands: a developer's, CI's and the README's. `make help` lists them.
PYTHON := .venv/bin/python
ARGS ?=
# For the whole of the tests. Two at most, each file in one: more, and tests that hold real processes to a time take it from each other.
PROCESSES := -n logical --maxprocesses 2 --dist loadfile --no-loadscope-reorder
IMAGE_ARGS ?=
# Some containers forbid bytecode; then every start compiles the ML stack again, 29 s of CPU in place of 9.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup models demo test up down image image-smoke check format lock refresh bundle audit bench bench-queue chaos simulate clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## the environment in .venv, from the lock files; nothing to do when it is theirs already
	@sh tools/bootstrap.sh

models: setup ## the small models of the demo and the tests, in .local/models
	@$(PYTHON) -m worker.model_files pull --profile test --model-dir .local/models

demo: setup ## sets everything up, transcribes the sample through the API, stops everything
	@$(PYTHON) -m tools.demo $(ARGS)

test: models ## every test that needs no GPU and no Docker; make test ARGS='-k word'
	@$(PYTHON) -m pytest $(or $(ARGS),$(PROCESSES))

up: setup ## the same stack, kept running on loopback; says its address last
	@$(PYTHON) -m tools.local_stack up

down: ## stops what `make up` started
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m tools.local_stack down; else echo "nothing runs: there is no environment yet"; fi

check: setup ## ruff, mypy, import contracts
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports

format: setup ## lets ruff lay out the code
	$(PYTHON) -m ruff format .

image: ## both images; make image IMAGE_ARGS='--build-arg GPU_STACK=none'
	DOCKER_BUILDKIT=1 docker build $(IMAGE_ARGS) --target service --tag spillway-service .
	DOCKER_BUILDKIT=1 docker build $(IMAGE_ARGS) --target worker --tag spillway-worker .

image-smoke: setup ## both images built and run on the CPU, the worker killed in mid-job; needs Docker
	@$(PYTHON) -m tools.image_smoke $(ARGS)

lock: ## moves the hashed locks; make lock UPGRADE=--upgrade for the newest that the pins allow
	UPGRADE='$(UPGRADE)' sh tools/lock.sh

refresh: models ## moves the locks, shows what moved, tests the stack on them; UPGRADE=--upgrade for all, PACKAGE=httpx for one
	@UPGRADE='$(UPGRADE)' PACKAGE='$(PACKAGE)' sh tools/refresh.sh

bundle: setup ## every wheel and the demo models in dist/, for installing without a network; TORCH_INDEX=url for the torch pair's index
	@UV=$$(sh tools/uv.sh) $(PYTHON) -m tools.bundle --torch-index '$(TORCH_INDEX)'

audit: setup ## known advisories against every lock; each finding needs its entry in requirements/audit.toml
	@UV=$$(sh tools/uv.sh) $(PYTHON) -m tools.audit $(ARGS)

bench: models ## speed beside plain WhisperX on the same audio and models
	@$(PYTHON) -m tools.bench $(ARGS)

chaos: models ## everything broken at once, then the proof that no job was lost; ARGS=--short for a minute, --seed=N for the same again
	@$(PYTHON) -m tools.chaos $(ARGS)

simulate: setup ## burst policies on arrival traces: a table, and a plot in .local/burst.svg
	@$(PYTHON) -m tools.simulator $(ARGS)

bench-queue: setup ## the queue at its depth under many clients, beside a plain Celery queue; sizes: ARGS='--depth 1000 --seconds 20'
	@$(PYTHON) -m tools.queue_bench $(ARGS)

clean: down ## what was produced here, save the environment and the models
	find .local -mindepth 1 -maxdepth 1 ! -name models -exec rm -rf {} + 2>/dev/null || true
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
