# Everything lives in .venv inside this folder; nothing outside it is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PRESET ?= cpu
SWEEP ?= smoke
MINUTES ?= 12
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup tutorial lab notebook solutions links notebooks sweep study-gpu publish bench docs explorer quick test test-full test-site smoke-avx2 lint clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

# pyproject.toml decides what is installed; the stamps make that happen once. The course needs no test tools.
# Debian without python3-venv leaves an environment without pip.
$(VENV)/.course: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make tutorial PYTHON=python3.12. This is " + sys.version)'
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "No environment could be made. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[notebooks]'
	touch $@

$(VENV)/.dev: $(VENV)/.course
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[notebooks,dev]'
	touch $@

setup: $(VENV)/.course  ## install the course into .venv

tutorial: setup  ## run all notebooks with the preset (PRESET=cpu), results in runs/
	$(BIN)/python -m anchor_utils run $(PRESET)

lab: setup  ## open the notebooks in JupyterLab
	$(BIN)/python -m course.lab

notebook: lab

notebooks: $(VENV)/.dev  ## run the sources in notebooks/src and write the executed notebooks that are committed
	$(BIN)/python -m course.build

# The spec is pyproject.toml's; the rest of the test tools is not needed for this.
solutions: setup  ## write the notebooks with all exercises solved, into the folder solved
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'jupytext>=1.16'
	$(BIN)/python -m course.build --solutions solved

links: setup  ## write another address of the project wherever it stands: REPO=owner/name TAG=v1
	$(BIN)/python -m course.links "$(REPO)" $(if $(TAG),--tag "$(TAG)")

sweep: $(VENV)/.dev  ## run configs/sweeps/SWEEP.yaml, JOBS cells at a time; resumes what was interrupted
	$(BIN)/snakemake --snakefile study/Snakefile --config sweep=$(SWEEP) -j $(JOBS) --keep-going

study-gpu: SWEEP = minutes
study-gpu: setup  ## run what can finish of configs/sweeps/SWEEP.yaml (minutes) in MINUTES on this GPU; goes on where it stopped
	$(BIN)/python -m study.timeboxed $(SWEEP) --minutes $(MINUTES)

publish: $(VENV)/.dev  ## collect the sweeps of the CIFAR-10 study into data/pretrained and write the report
	$(BIN)/python -m study.publish

# Without its dependencies: torchattacks asks for a requests of 2020, and what it needs is here already.
bench: $(VENV)/.dev  ## measure speed and memory beside other libraries; writes benchmarks/results.json and docs/benchmarks.*
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'torchattacks>=3.5'
	$(BIN)/python -m benchmarks.bench

explorer: setup  ## make the embedding explorer, docs/static/explorer.html; trains what has no run yet
	$(BIN)/python -m course.explorer --preset $(PRESET) --methods standard pgd_at supcon_at anchor --images 150 --train \
		--output docs/static/explorer.html

docs: setup  ## the course as a website, in build/site
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(BIN)/sphinx-build -q -W --keep-going -b html -c docs . build/site

# A browser is not installed here: Debian's chromium will do.
test-site: docs $(VENV)/.dev  ## the site in a real browser
	OMP_NUM_THREADS=1 SITE=required $(BIN)/python -m pytest tests/test_site.py

lint: $(VENV)/.dev  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What most changes break: the formulas, the data, the files and the imports. No network is trained.
CORE := attacks config data downloads embeddings imagefolder losses models project

quick: $(VENV)/.dev  ## the tests of the core in under a minute, for use while editing; `make test` decides
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow" $(CORE:%=tests/test_%.py)

# One thread a process: several test processes that each take all cores slow each other down.
test: lint  ## all tests but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-full: test  ## the slow tests too: a run killed twenty times, and the like
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m slow

# oneDNN then computes as on a laptop without AVX-512 and bfloat16.
smoke-avx2: setup  ## all notebooks on the preset smoke, as an older CPU computes them
	ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m anchor_utils run smoke --output build/smoke-avx2

clean:  ## remove the environment, the runs and all caches
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
