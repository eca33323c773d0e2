# `make report` and `make test` do everything; `make help` lists the rest.
EXPERIMENT ?= quick
CORES ?= all
DEVICE ?= auto
OUTPUT := runs
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# Every program of the environment is found first, by Snakemake's jobs too.
ifndef WHEELS
export PATH := $(BIN):$(PATH)
endif

.PHONY: help report test test-fast wheel-test lint batch paper wheels book bench notebooks canaries verify reference clean

help:
	@echo "make report      install, run the experiment 'quick' on embedded real data, build the book"
	@echo "make test        install, run the tests"
	@echo "make test-fast   the same without the slow ones, which run whole batches and build the book"
	@echo "make wheel-test  the wheel with the core's packages alone, in an environment and a folder of their own"
	@echo "make lint        ruff, mypy and the order of the rooms"
	@echo "make batch EXPERIMENT=mnist [CORES=2] [DEVICE=auto]   run an experiment; resumes after any interruption"
	@echo "make paper MINUTES=12 [REHEARSE=1]   the paper's networks on a GPU: as much as the time allows, the most valuable first"
	@echo "make wheels HAVE=freeze.txt   collect what a machine without network lacks; there: make paper WHEELS=wheels"
	@echo "make book        build the book from what is there"
	@echo "make notebooks   write notebooks/*.ipynb for papermill and Jupyter"
	@echo "make bench EXPERIMENT=quick [OFFICIAL=path]   time the solvers; OFFICIAL is a clone of the authors' repository"
	@echo "make canaries    run every section in seconds: does a change of the code move any number?"
	@echo "make verify [EXPERIMENT=quick] [EMULATE=1]   run the experiment from scratch, compare every number with the committed reference"
	@echo "make reference EXPERIMENT=mnist   promote records from runs/ to results/"
	@echo "make clean       delete the built book"

report: batch
	@$(MAKE) --no-print-directory book

# One process for each core, each with one thread; the tests of a file together, so that its fixtures are made once.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: $(VENV)/test.stamp
	$(PYTEST)

test-fast: $(VENV)/test.stamp
	$(PYTEST) -m "not slow"

wheel-test: $(VENV)/python.stamp
	tests/wheel/run $(BIN)/python

lint: $(VENV)/test.stamp
	ruff check .
	ruff format --check .
	mypy
	lint-imports

batch: $(VENV)/report.stamp
	cdu batch "$(EXPERIMENT)" --output "$(OUTPUT)" --device $(DEVICE) --cores $(CORES)

# Where there is no network: `make wheels HAVE=freeze.txt` elsewhere, with what that machine's Python has, then here `make paper WHEELS=wheels`.
ifdef WHEELS
export PYTHONPATH := $(CURDIR)/src:$(CURDIR)/$(VENV)/site$(if $(PYTHONPATH),:$(PYTHONPATH))
READY := $(VENV)/site.stamp
CDU := $(or $(PYTHON),python3) -m cdu
else
READY := $(VENV)/report.stamp
CDU := cdu
endif

MINUTES ?= 12
paper: $(READY)
	$(CDU) paper --minutes $(MINUTES) --device $(DEVICE) $(if $(REHEARSE),--rehearse --cores $(CORES)) \
		$(if $(RESULTS),--results "$(RESULTS)") $(if $(EARLIER),--earlier "$(EARLIER)")

wheels: $(VENV)/report.stamp
	python workflow/wheels.py "$(HAVE)" wheels

book: $(VENV)/report.stamp
	jupyter-book build book/ $(BOOK_OPTIONS)
	@echo
	@echo "The report: $(CURDIR)/_build/html/index.html"

bench: $(VENV)/bench.stamp
	cdu bench "$(EXPERIMENT)" --device $(DEVICE) $(if $(OFFICIAL),--official "$(OFFICIAL)")

notebooks: $(VENV)/report.stamp
	cdu notebooks

canaries: $(VENV)/test.stamp
	cdu canaries

# Libraries round as on an older kind of processor: one without AVX-512 where this one has it, else one without AVX.
ifdef EMULATE
ifneq ($(shell grep -om1 avx512f /proc/cpuinfo 2>/dev/null),)
export ATEN_CPU_CAPABILITY := avx2
export MKL_CBWR := AVX2
export ONEDNN_MAX_CPU_ISA := AVX2
export OPENBLAS_CORETYPE := Haswell
else
export ATEN_CPU_CAPABILITY := default
export MKL_CBWR := COMPATIBLE
export ONEDNN_MAX_CPU_ISA := SSE41
export OPENBLAS_CORETYPE := Prescott
endif
endif

# An interrupted one resumes. Nothing of another commit, and nothing that was compared already, is found there.
FRESH = runs/verify/$(shell git describe --always --dirty 2>/dev/null || echo unknown)$(if $(EMULATE),-emulated)

verify: $(VENV)/report.stamp
	@case "$(FRESH)" in *-dirty*|*unknown*) rm -rf "$(FRESH)";; esac
	@if [ -e "$(FRESH)/compared" ]; then rm -rf "$(FRESH)"; fi
	@$(MAKE) --no-print-directory batch OUTPUT="$(FRESH)"
	@touch "$(FRESH)/compared"
	cdu verify "$(EXPERIMENT)" --runs "$(FRESH)"

reference: $(VENV)/report.stamp
	cdu reference "$(EXPERIMENT)"

clean:
	rm -rf _build book/_generated book/runs book/api

$(VENV)/python.stamp:
	@found=; for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then echo "Python 3.11 or newer is needed; install it, or say where: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 1; fi; \
	$$found -m venv $(VENV)
	@touch $@

$(VENV)/site.stamp: $(wildcard $(WHEELS)/*.whl)
	$(or $(PYTHON),python3) -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target $(VENV)/site $(WHEELS)/*.whl
	@touch $@

# The lock is a constraint: pip installs what the package needs, at exactly the locked versions.
$(VENV)/report.stamp: $(VENV)/python.stamp requirements.lock pyproject.toml
	pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[report]'
	@touch $@

$(VENV)/bench.stamp: $(VENV)/report.stamp requirements.lock pyproject.toml
	pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[bench]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/report.stamp requirements.lock pyproject.toml
	pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[test]'
	@touch $@
