# Every target sets up what it needs: a local .venv with uv in it, then the hashed lock.
export PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
STAMP := $(VENV)/.installed
CONFIG ?= sieve.yaml
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: install demo test lint format bench quality lock clean

install: $(STAMP)

$(STAMP): locks/dev.txt pyproject.toml
	tools/bootstrap $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r locks/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: install
	$(BIN)/python tools/demo.py $(if $(ONCE),--once)

test: install
	$(BIN)/python -m pytest $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python -m tests.bench

quality: install
	$(BIN)/python -m tests.bench.quality

COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11

lock:
	tools/bootstrap $(VENV)
	$(COMPILE) pyproject.toml --extra training --extra dev --output-file locks/dev.txt
	$(COMPILE) pyproject.toml --extra training --constraint locks/dev.txt --output-file locks/training.txt
	$(COMPILE) pyproject.toml --constraint locks/dev.txt --output-file locks/serving.txt

clean:
	rm -rf build var
