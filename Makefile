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
# make fuzz   10,000 random files, tables, models and messages, half an hour (make test: 500, always the same)
# make audit  known faults of the installed packages (pip-audit), and their list as CycloneDX, into audit/
# make soak   200 reconstructions in one worker, disturbed at random: what it holds at the end is what it held
# make faults every command that writes, on disks that fail, clocks that jump, without memory, and killed 50 times
# make clean  what these made
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

.PHONY: demo slicer-demo test test-nightly sweep gpu-report lint format package coverage mutants reference docs-check fuzz audit soak faults clean

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

mutants: $(VENV)/.coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.mutants $(MUTANTS)
FUZZ ?= 10000
fuzz: $(VENV)/.test
	OMP_NUM_THREADS=1 TONNO_FUZZ=$(FUZZ) $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 8 tests/fuzz

# The tools have an environment of their own, so that they are not among what they look at. Each package is asked for
# by name and version alone; ours is not published, and is left out.
audit: $(VENV)/.demo
	@mkdir -p audit && rm -f audit/faults.json
	@test -x audit/tools/bin/cyclonedx-py || { $(PYTHON) -m venv audit/tools && \
	  audit/tools/bin/python -m pip install --quiet --upgrade pip pip-audit cyclonedx-bom; } || \
	  { rm -rf audit/tools; echo "make audit: its tools could not be installed (pip-audit, cyclonedx-bom); is PyPI within reach?"; exit 1; }
	@audit/tools/bin/cyclonedx-py environment --output-reproducible --of JSON -o audit/bom.json $(BIN)/python
	@echo "audit/bom.json: the installed packages (CycloneDX)"
	@$(BIN)/python -m pip list --format freeze --exclude-editable > audit/packages.txt
	@audit/tools/bin/pip-audit --requirement audit/packages.txt --no-deps --disable-pip --progress-spinner off \
	  --format json --output audit/faults.json > audit/log.txt 2>&1 || true
	@$(BIN)/python -c "$$AUDITED"

# What pip-audit could not look up it passes over, and ends well.
define AUDITED
import json, pathlib, sys
try:
    packages = json.loads(pathlib.Path("audit/faults.json").read_text())["dependencies"]
except (OSError, ValueError, KeyError):
    sys.exit("make audit: nothing could be looked up (audit/log.txt says why); is pypi.org within reach?")
faulty = {f"{each['name']} {each['version']}": each["vulns"] for each in packages if each.get("vulns")}
for name, faults in faulty.items():
    print(name, *(f"{fault['id']} (mended in {', '.join(fault['fix_versions']) or 'no version'})" for fault in faults))
skipped = [each["name"] for each in packages if "skip_reason" in each]
print(f"audit/faults.json: {len(packages) - len(skipped)} packages looked up, {len(faulty)} with known faults")
if skipped:
    print(f"not looked up: {', '.join(skipped[:8])}{', ...' if len(skipped) > 8 else ''} ({len(skipped)} in all)")
if len(skipped) == len(packages):
    sys.exit("make audit: no package could be looked up; is pypi.org within reach, or only a copy of its files?")
sys.exit(1 if faulty else 0)
endef
export AUDITED

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
	rm -rf $(VENV) demo-output slicer-demo gpu-report build dist .coverage* *.egg-info .pytest_cache .mypy_cache .ruff_cache audit

reference: $(VENV)/.test
	$(BIN)/python -m tests.generated_pages

docs-check: $(VENV)/.test
	OMP_NUM_THREADS=1 TONNO_DOCS=1 $(BIN)/python -m pytest -q tests/test_docs.py tests/test_docs_run.py

soak: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.worker.soak

faults: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.run
