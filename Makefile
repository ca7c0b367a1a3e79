# demo   the main job on the embedded model          test   the test suite, default tier: about four minutes on 2 cores
# slow   the tests that take about a second or more, minutes on 2 cores; before a merge both tiers pass
# bench  the benchmarks                              lint   style, types, direction of imports
# nightly  thousands of bad inputs, runs that are killed, every example of every help: an hour
# docs   the documentation site, into build/site: runs every command and notebook it shows, then checks all pages
# answers  the sweeps of recipes/sweeps and recipes/codesign.py (minutes each on one core) and docs/sweeps.md
#          with their results
# reproduction  docs/reproduction.md: every figure and table of the paper beside ours, from docs/results
# wheels  sdist and wheels in dist/, their contents checked, installed and tried in fresh environments (docs/releasing.md)
# sanitize  the tests of the compiled attention, built with address and undefined-behaviour sanitizers, and with
#           emulated tiles (AMX)
# clean  removes .venv, build and the caches of the tools; results in runs/ stay
#
# Everything is installed into .venv, once: a stamp per set of extras is renewed when pyproject.toml changes.
# PYTHON chooses the interpreter, 3.11 or newer:  make demo PYTHON=python3.12

PYTHON ?= python3
PYTEST_ARGS ?=
WORKERS ?= 1
BIN := .venv/bin
BASE := .venv/.gaincell-base
DEV := .venv/.gaincell-dev
DOCS := .venv/.gaincell-docs

.PHONY: demo test slow nightly lint bench docs answers reproduction wheels sanitize clean

demo: $(BASE)
	$(BIN)/gaincell map tiny --budget 49152 --out runs/demo
	@echo
	@echo "Next:  . $(BIN)/activate     (or call $(BIN)/gaincell)"
	@echo '  gaincell generate runs/demo --prompt "It was a dark night"   the result writes'
	@echo "  gaincell report runs/demo --out report.html                  one page of results and figures"
	@echo "  gaincell cost runs/demo                                      energy, latency and area of a token"
	@echo "  docs/quickstart.md goes on from here; gaincell --help lists the commands"

test: $(DEV)
	$(BIN)/python -m pytest -n auto --dist worksteal --durations=40 $(PYTEST_ARGS)

slow: $(DEV)
	$(BIN)/python -m pytest -n auto --dist worksteal --durations=40 -m "slow and not gpu and not network" $(PYTEST_ARGS)

nightly: $(DEV)
	$(BIN)/python -m pytest -n 0 -m nightly $(PYTEST_ARGS)

lint: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(BASE)
	mkdir -p benchmarks/results
	set -e; for script in $(filter-out benchmarks/published_eager.py benchmarks/evaluation.py benchmarks/memory.py benchmarks/conversion.py,$(wildcard benchmarks/*.py)); do \
		echo "== $$script"; $(BIN)/python -m benchmarks.$$(basename $$script .py); \
	done

docs: $(DOCS)
	$(BIN)/python -m sphinx --builder html --fresh-env --jobs auto --fail-on-warning --keep-going --quiet \
		--doctree-dir build/doctrees docs build/site
	$(BIN)/python -m pytest -q -n 0 -m site tests/site

answers: $(DEV)
	set -e; for file in recipes/sweeps/*.toml; do \
		name=$$(basename $$file .toml); echo "== $$name"; \
		$(BIN)/gaincell sweep $$file --workers $(WORKERS) --json docs/results/sweeps/$$name.json; \
	done
	$(BIN)/python recipes/codesign.py
	$(BIN)/python docs/readme.py

reproduction: $(BASE)
	$(BIN)/python docs/readme.py

wheels:
	$(PYTHON) .ci/wheels.py

# torch itself is not instrumented and leaks at exit; python needs the sanitizer's library first; GCC 12 misaligns vectors
# of 64 bytes on the stack that it checks for use after return (GCC bug 110027)
SANITIZED = test_native.py or draws_of_the_compiled or (native_equals and (everything or jitter or spread))
sanitize: $(DEV)
	GAINCELL_SANITIZE=1 GAINCELL_EMULATE_AMX=1 $(BIN)/python setup.py --quiet build_ext --build-lib build/sanitized --build-temp build/sanitized/objects
	test -n "$$(find build/sanitized/gaincell/native -name '_native*')"
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 \
		GAINCELL_NATIVE=build/sanitized/gaincell/native $(BIN)/python -m pytest -q -n auto --dist worksteal -m "not nightly" tests/ops/test_native.py tests/ops/test_draws.py \
		tests/ops/test_nonideal.py -k "$(SANITIZED)"

clean:
	rm -rf .venv build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); gaincell needs Python 3.11 or newer: make ... PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

$(BASE): pyproject.toml | $(BIN)/python
	@echo "installing into .venv (a few minutes the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(DEV): pyproject.toml | $(BIN)/python
	@echo "installing into .venv, with the tools for tests (a few minutes the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,train,eval,sweep,serve,rtl]"
	touch $@

$(DOCS): pyproject.toml | $(BIN)/python
	@echo "installing into .venv, with the tools for tests and documentation (a few minutes the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,train,eval,sweep,serve,rtl,docs]"
	touch $@
