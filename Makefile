# `make run` does the main job on a fresh clone, `make test` passes the tests; each sets up .venv.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: help run test check bench flow serve sweep clean

help:
	@echo "make run    set up .venv and bring the whole pipeline up to date (dvc repro); QUIET=1"
	@echo "make test   set up .venv and run the tests"
	@echo "make check  lint, format and types"
	@echo "make bench  steps against a plain reference; a W8A8 file against the runtime's own"
	@echo "make flow   the pipeline as a Prefect flow"
	@echo "make serve  Prefect server, worker and nightly schedule on this machine; Ctrl-C ends them"
	@echo "make sweep  the paper's ablation over three seeds, as DVC experiments"
	@echo "make clean  remove .venv, unfinished banks and wall times; DVC keeps its artifacts"

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); set PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check --quiet --progress-bar on -r requirements.lock
	$(PY) -m pip install --disable-pip-version-check --quiet --no-deps -e .
	@touch $@

run: $(READY)
	@$(PY) -m hast run $(if $(QUIET),--quiet)

# One process a core, one thread a process: several processes with several threads each stall.
test: $(READY)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder \
	  -m "not slow and not gpu"

check: $(READY)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

bench: $(READY)
	@$(PY) -m bench.run
	@$(PY) -m bench.integer --networks torchvision:resnet18 --widths w8a8

flow: $(READY)
	@$(PY) -m hast flow

serve: $(READY)
	@$(PY) -m hast serve

sweep: $(READY)
	@$(PY) -m hast sweep

clean:
	rm -rf $(VENV) .partial .timings
