# Two commands matter: `make run` and `make test`. Both set up everything they need, on a machine with
# Python, make and a C compiler. `make help` lists the rest.
#
#   make test PYTHON=/path/to/python3.13     another interpreter gets a venv of its own, .venv-3.13

PYTHON := python3
ARGS   :=

UV_VERSION := 0.13.9
# The interpreter is the caller's choice: never let a tool download one.
export UV_PYTHON_DOWNLOADS := never
# Where the environment forbids bytecode, each of the processes that tests start would compile all anew.
export PYTHONDONTWRITEBYTECODE :=

ifeq ($(PYTHON),python3)
VENV := .venv
else
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
BIN      := $(VENV)/bin
SYNCED   := $(VENV)/.synced
UV       := .venv-uv/bin/uv
UV_READY := .venv-uv/.ready-$(UV_VERSION)

PACKAGES := $(wildcard schema runtime delivery conn_server logic_server job_worker standalone clients bench deploy)
IMAGE    := schema/proto/image.binpb

# A process per core, of which one that has nothing left takes tests from the others.  Tests that are named
# run in one, where -s and --pdb work.
ON_ALL_CORES := --numprocesses auto --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help run demo bench chaos soak ingest cluster setup test unit fuzz lint format types arch proto proto-check proto-image lock wheel clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

run: $(SYNCED)  ## start all three services in one process and print where to go
	$(BIN)/python -m standalone $(ARGS)

demo: $(SYNCED)  ## let three clients chat in two rooms and print who got what
	$(BIN)/python -m standalone.demo $(ARGS)

cluster: $(SYNCED)  ## start the services as separate processes with nsqd and etcd from PATH
	$(BIN)/python -m deploy.cluster

chaos: $(SYNCED)  ## hurt a cluster in random order under load; ARGS="--seconds 600 --seed 7"
	$(BIN)/python -m tests.integration.chaos $(ARGS)

soak: $(SYNCED)  ## load a cluster evenly and see that nothing grows; ARGS="--seconds 3600"
	$(BIN)/python -m tests.integration.soak $(ARGS)

ingest: $(SYNCED)  ## CPU per accepted message over all services, with nsqd and etcd from PATH
	$(BIN)/python -m deploy.cluster.ingest $(ARGS)

bench: $(SYNCED)  ## our server beside others, on two cores, in under ten minutes; ARGS="--servers ours,floor"
	$(BIN)/python -m bench compare --minutes 9.5 --duration 2 --client-version 0 $(ARGS)

setup: $(SYNCED)  ## make the virtual environment from the locks

test: lint types arch proto-check unit  ## everything a change must pass

unit: $(SYNCED)  ## pytest alone, on all cores; ARGS="tests/conn_server -k outbox" in one process
	$(BIN)/python -m pytest $(or $(ARGS),$(ON_ALL_CORES))

fuzz: $(SYNCED)  ## our WebSocket connection against plain wsproto; ARGS="--seconds 600 --seed 1"
	$(BIN)/python -m tests.conn_server.fuzz $(ARGS)

lint: $(SYNCED)  ## ruff: rules and layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(SYNCED)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(SYNCED)  ## mypy --strict
	$(BIN)/mypy $(PACKAGES) tests

arch: $(SYNCED)  ## import-linter: who may import whom
	$(BIN)/lint-imports

proto: $(SYNCED)  ## generate schema/proto/*_pb2.py, *_pb2.pyi and *_grpc.py
	$(BIN)/python -m schema.proto.generate

proto-check: $(SYNCED)  ## the generated code is what the protos say; no field number was reused
	$(BIN)/python -m schema.proto.generate --check
	$(BIN)/buf breaking --against $(IMAGE)
	@$(BIN)/buf build --exclude-source-info -o -#format=binpb | cmp --silent - $(IMAGE) \
	  || { echo 'the protos have grown: `make proto-image` puts the new fields under guard' >&2; exit 1; }

proto-image: $(SYNCED)  ## accept the protos as they are: what is in the image never changes again
	$(BIN)/buf build --exclude-source-info -o $(IMAGE)

lock: $(UV_READY)  ## resolve pyproject.toml anew into the two locks; ARGS=--upgrade takes new versions
	$(UV) pip compile $(LOCK_OPTIONS) $(ARGS) pyproject.toml -o requirements.lock
	$(UV) pip compile $(LOCK_OPTIONS) $(ARGS) --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock

wheel: $(SYNCED)  ## build dist/roomcast-*.whl, to be installed beside requirements.lock (docs/install.md)
	rm -rf build dist
	$(UV) build --quiet --wheel --no-build-isolation --python $(BIN)/python --out-dir dist

clean:  ## remove everything that is not in git
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage build dist *.egg-info
	find $(PACKAGES) tests -name __pycache__ -prune -exec rm -rf {} +

# One lock for Python 3.11 to 3.13, with no host name inside; plain `pip install --require-hashes` takes it too.
LOCK_OPTIONS := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
                --custom-compile-command "make lock"

$(UV_READY):
	$(PYTHON) -m venv --clear .venv-uv
	.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo 'Roomcast needs Python 3.11 to 3.13: make $(MAKECMDGOALS) PYTHON=/path/to/python3.x' >&2; exit 1; }
	$(PYTHON) -m venv --without-pip $(VENV)

$(SYNCED): requirements-dev.lock $(UV_READY) | $(BIN)/python
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements-dev.lock
	touch $@
