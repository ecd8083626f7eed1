# make demo   the main job on a real brain, into demo-output/
# make slicer-demo   the Slicer module at work: pictures of its panel and of Slicer's views, into slicer-demo/
# make test   style, types and all tests
# make test-nightly   what takes hours: 300 random sequences of a user's actions in the Slicer module
# make sweep  what takes an hour: maps of one network of every module of timm against plain hooks in float64
# make gpu-report   every figure of docs/benchmarks.md that needs a GPU, beside an earlier build's, in six minutes
# make soak   200 reconstructions in one worker, disturbed at random: what it holds at the end is what it held
# make faults every command that writes, on disks that fail, clocks that jump, without memory, and killed 50 times
# make clean  what these made
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo slicer-demo test test-nightly sweep gpu-report soak faults clean

demo: $(VENV)/.demo
	$(BIN)/tonno demo --output demo-output --overwrite

slicer-demo: $(VENV)/.test
	$(BIN)/python ToNNOSlicer/Testing/Python/pictures.py --output slicer-demo

test: $(VENV)/.test
	$(BIN)/ruff check tonno_core tests benchmarks ToNNOSlicer
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=10 --numprocesses auto --maxprocesses 8 --dist loadfile

test-nightly: $(VENV)/.test
	OMP_NUM_THREADS=1 TONNO_SEQUENCES=300 $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 8 \
	  ToNNOSlicer/Testing/Python/test_sequences.py

sweep: $(VENV)/.test
	OMP_NUM_THREADS=1 TONNO_SWEEP=1 $(BIN)/python -m pytest -q -rs --numprocesses auto --maxprocesses 8 \
	  tests/encoding/test_stages.py

gpu-report: $(VENV)/.demo
	$(BIN)/python benchmarks/gpu_report.py --output gpu-report

# One environment: the engine (editable) with what its demo needs, and for the tests more.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

# OpenGL without a screen too, where root can have it from Debian; else the tests of pictures say what they lack.
$(VENV)/.test: pyproject.toml | $(BIN)/python
	@ldconfig -p 2>/dev/null | grep -q libEGL.so.1 || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq libegl1 libegl-mesa0 libgl1; } || true
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is too old: Python 3.10 or newer is needed; make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); \
	  else echo "Python's venv module is missing: install the package python3-venv"; exit 1; fi; }
	$(BIN)/python -m pip install --quiet --upgrade pip

clean:
	rm -rf $(VENV) demo-output slicer-demo gpu-report build *.egg-info .pytest_cache .mypy_cache .ruff_cache

soak: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.worker.soak

faults: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.run
