# make demo   the main job on a real brain, into demo-output/
# make slicer-demo   the Slicer module at work: pictures of its panel and of Slicer's views, into slicer-demo/
# make test   style, types and all tests
# make test-nightly   what takes hours: 300 random sequences of a user's actions in the Slicer module
# make sweep  what takes an hour: maps of one network of every module of timm against plain hooks in float64
# make gpu-report   every figure of docs/benchmarks.md that needs a GPU, beside an earlier build's, in six minutes
# make lint, make format   style and types alone; the engine's files as ruff lays them out
# make package  wheel and source archive for PyPI, into dist/, checked
# make coverage  which lines of the engine the tests run, by folder
# make mutants  which changed signs and numbers in the core the tests notice
# make reference   docs/commands.md and docs/api.md, from the help and the docstrings
# make docs-check  what the documents show, really run on toy data, in some minutes
# make clean  what these made
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

.PHONY: demo slicer-demo test test-nightly sweep gpu-report lint format package coverage mutants reference docs-check clean

demo: $(VENV)/.demo
	$(BIN)/tonno demo --output demo-output --overwrite

slicer-demo: $(VENV)/.test
	$(BIN)/python ToNNOSlicer/Testing/Python/pictures.py --output slicer-demo

test: $(VENV)/.test
	$(BIN)/ruff check tonno_core tests benchmarks ToNNOSlicer
	@echo "mypy, beside the tests"; $(BIN)/mypy >$(VENV)/types.txt & types=$$!; \
	  OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=10 --numprocesses auto --maxprocesses 8 \
	    --dist loadfile --no-loadscope-reorder; tests=$$?; \
	  wait $$types; types=$$?; cat $(VENV)/types.txt; exit $$((tests + types))

test-nightly: $(VENV)/.test
	OMP_NUM_THREADS=1 TONNO_SEQUENCES=300 $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 8 \
	  ToNNOSlicer/Testing/Python/test_sequences.py

sweep: $(VENV)/.test
	OMP_NUM_THREADS=1 TONNO_SWEEP=1 $(BIN)/python -m pytest -q -rs --numprocesses auto --maxprocesses 8 \
	  tests/encoding/test_stages.py

gpu-report: $(VENV)/.demo
	$(BIN)/python benchmarks/gpu_report.py --output gpu-report

lint: $(VENV)/.test
	$(BIN)/ruff check tonno_core tests benchmarks ToNNOSlicer
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff format tonno_core tests benchmarks

# The wheel is built from the source archive, so that this one is whole.
package: $(VENV)/.package
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

coverage: $(VENV)/.coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -q --numprocesses auto --maxprocesses 8 --dist loadfile $(TESTS)
	$(BIN)/python -m coverage combine --quiet
	@for part in $(dir $(wildcard tonno_core/*/__init__.py)) tonno_core/; do \
	  printf '%4s %%  %s\n' "$$($(BIN)/python -m coverage report --format=total --include="$$part*")" "$$part"; \
	done
	@echo "$$($(BIN)/python -m coverage report --format=total) % in all"

mutants: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.mutants $(MUTANTS)

# One environment: the engine (editable) with what its demo needs, and for the tests more.
$(VENV)/.demo: pyproject.toml | $(VENV)/pyvenv.cfg
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

# OpenGL without a screen too, where root can have it from Debian; else the tests of pictures say what they lack.
$(VENV)/.test: pyproject.toml | $(VENV)/pyvenv.cfg
	@ldconfig -p 2>/dev/null | grep -q libEGL.so.1 || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq libegl1 libegl-mesa0 libgl1; } || true
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.package: pyproject.toml | $(VENV)/pyvenv.cfg
	$(BIN)/python -m pip install --quiet 'build>=1.2' 'twine>=6'
	@touch $@

$(VENV)/.coverage: $(VENV)/.test
	$(BIN)/python -m pip install --quiet 'coverage>=7.10'
	@touch $@

# Not the interpreter itself, which is python.exe on Windows.
$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is too old: Python 3.10 or newer is needed; make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); \
	  else echo "Python's venv module is missing: install the package python3-venv"; exit 1; fi; }
	$(BIN)/python -m pip install --quiet --upgrade pip

clean:
	rm -rf $(VENV) demo-output slicer-demo gpu-report build dist .coverage* *.egg-info .pytest_cache .mypy_cache .ruff_cache

reference: $(VENV)/.test
	$(BIN)/python -m tests.generated_pages

docs-check: $(VENV)/.test
	OMP_NUM_THREADS=1 TONNO_DOCS=1 $(BIN)/python -m pytest -q tests/test_docs.py tests/test_docs_run.py
