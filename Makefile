# Every command a user or contributor needs. The first one you run makes .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VIGIL := $(BIN)/vigil

VIDEOS ?= videos
FEATURES ?= features
RUN ?= runs/default
RESULTS ?= results
CONFIG ?= configs/ucf_crime.toml
# Label files, separated by spaces. Without any, a video's folder names its class.
ANNOTATIONS ?=
# More flags for the command: make extract VIDEOS=... ARGS="--views five --precision bf16"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo extract train score evaluate reproduce test test-avx2 test-all check lint types layers format bench chaos fuzz soak clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vigil needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

setup: $(VENV)/ready ## Make .venv and install everything into it

demo: $(VENV)/ready ## Generate videos, extract, train, evaluate and score them
	$(VIGIL) demo $(ARGS)

extract: $(VENV)/ready ## Extract features: VIDEOS=folder FEATURES=folder
	$(VIGIL) extract $(VIDEOS) --out $(FEATURES) $(ARGS)

train: $(VENV)/ready ## Train: FEATURES= RUN= CONFIG= [ANNOTATIONS=]
	$(VIGIL) train $(FEATURES) --out $(RUN) --config $(CONFIG) $(if $(ANNOTATIONS),--annotations $(ANNOTATIONS)) $(ARGS)

evaluate: $(VENV)/ready ## Evaluate: RUN= FEATURES= ANNOTATIONS=
	$(VIGIL) evaluate $(RUN) $(FEATURES) --annotations $(ANNOTATIONS) $(ARGS)

# --features is passed only if FEATURES is given, because FEATURES has a default.
reproduce: $(VENV)/ready ## Reproduce the paper's table: UCF_CRIME=videos or FEATURES=folder [ANNOTATIONS=]
	$(VIGIL) reproduce ucf_crime $(if $(UCF_CRIME),--videos $(UCF_CRIME)) \
	  $(if $(filter file,$(origin FEATURES)),,--features $(FEATURES)) \
	  $(if $(ANNOTATIONS),--annotations $(ANNOTATIONS)) $(ARGS)

# Without RUN, the run that `make train` wrote by default is used, else the starter.
score: $(VENV)/ready ## Label a folder of videos: VIDEOS= RESULTS= [RUN=, or the starter that ships]
	$(VIGIL) score $(VIDEOS) --out $(RESULTS) \
	  $(if $(filter-out file,$(origin RUN))$(wildcard $(RUN)),--checkpoint $(RUN)) $(ARGS)

# One process per core, each with torch on one thread. Each takes up to 2 GB of memory, hence the cap.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test: $(VENV)/ready ## Run the tests except the slow ones
	$(PYTEST) -m "not slow" $(ARGS)

# Any x86-64 CPU behaves like one without AVX-512 under these limits of oneDNN and ATen.
test-avx2: $(VENV)/ready ## Run the tests of networks and models as on a CPU without AVX-512
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PYTEST) -m "not slow" $(ARGS) \
	  $(addprefix tests/test_,$(addsuffix .py, \
	    hardware placement folding i3d fast_i3d c3d networks joint_model joint_plus methods training))

test-all: $(VENV)/ready ## Run every test
	$(PYTEST) $(ARGS)

check: lint types layers ## Check lint, types and layers, which every change must pass besides the tests

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/biome ci --error-on-warnings

types: $(VENV)/ready
	$(BIN)/mypy

layers: $(VENV)/ready
	$(BIN)/lint-imports

format: $(VENV)/ready ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/biome check --write

bench: $(VENV)/ready ## Measure extraction on this machine, as ratios in one run
	$(BIN)/python -m bench $(ARGS)

chaos: $(VENV)/ready ## Kill extraction and training at random moments: [RUNS=100]
	$(BIN)/python -m bench.reliability.chaos $(if $(RUNS),--runs $(RUNS)) $(ARGS)

fuzz: $(VENV)/ready ## Feed damaged files to vigil: VIDEOS=folder [RUNS=2000]
	$(BIN)/python -m bench.reliability.fuzz $(VIDEOS) $(if $(RUNS),--runs $(RUNS)) $(ARGS)

soak: $(VENV)/ready ## Score an hour of video, and plot its memory use; ARGS="--kills 3" also kills it
	$(BIN)/python -m bench.reliability.soak $(ARGS)

clean: ## Remove .venv and caches; keep videos, features and runs
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
