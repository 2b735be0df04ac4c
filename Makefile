# Every target sets up what it needs: a local .venv with uv in it, then the hashed lock.
export PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
STAMP := $(VENV)/.installed
CONFIG ?= sieve.yaml
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: install demo test lint format bench quality proto feast-ray-test lock clean

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
	$(BIN)/python -m tests.bench $(ARGS)

quality: install
	$(BIN)/python -m tests.bench.quality

# Feast's Ray engine holds Ray and pyarrow at other versions: an environment of its own.
FEAST_RAY := .venv-feast-ray

$(FEAST_RAY)/.installed: locks/feast-ray.txt pyproject.toml | $(STAMP)
	$(UV) venv --quiet --allow-existing --python $(BIN)/python $(FEAST_RAY)
	$(UV) pip install --quiet --python $(FEAST_RAY)/bin/python --require-hashes -r locks/feast-ray.txt
	$(UV) pip install --quiet --python $(FEAST_RAY)/bin/python --no-deps --editable .
	touch $@

feast-ray-test: $(FEAST_RAY)/.installed
	$(FEAST_RAY)/bin/python -m pytest tests/feast_ray $(ARGS)

PROTOS := serving/api/protos
PROTOC := $(BIN)/python -m grpc_tools.protoc -I $(PROTOS)

proto: install
	$(PROTOC) --python_out=$(PROTOS) --pyi_out=$(PROTOS) sieve/v1/problem.proto sieve/v1/recommend.proto
	$(PROTOC) --grpc_python_out=$(PROTOS) sieve/v1/recommend.proto
	sed -i.orig 's/^from sieve\.v1 import/from serving.api.protos.sieve.v1 import/' $(PROTOS)/sieve/v1/*_pb2*.py*
	rm $(PROTOS)/sieve/v1/*.orig

COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11

lock:
	tools/bootstrap $(VENV)
	$(COMPILE) pyproject.toml --extra training --extra dev --output-file locks/dev.txt
	$(COMPILE) pyproject.toml --extra training --constraint locks/dev.txt --output-file locks/training.txt
	$(COMPILE) pyproject.toml --constraint locks/dev.txt --output-file locks/serving.txt
	$(COMPILE) locks/feast-ray.in --output-file locks/feast-ray.txt

clean:
	rm -rf build var
