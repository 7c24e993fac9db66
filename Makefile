# Every target makes what it needs: on a machine with only Python, `make demo` and `make test` work as they stand.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
# Tests start dozens of processes, each of which would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check every-test lint docs slow bench oracles clean

demo: .venv/.installed
	$(BIN)/protoat demo

test: .venv/.developer
	OMP_NUM_THREADS=1 $(PYTEST) -m "not slow"

# Two at a time: once the checks of types are through, all tests run beside what is left of the site.
check:
	$(MAKE) -j 2 docs lint every-test

every-test: .venv/.developer
	OMP_NUM_THREADS=1 $(PYTEST)

lint: .venv/.developer
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The site in docs/_build/html. `make docs GALLERY=run` also runs the examples, and shows what they print.
docs: .venv/.developer
	GALLERY=$(GALLERY) OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -q -W --keep-going -j 2 -d docs/_build/doctrees docs docs/_build/html
	$(BIN)/python -m tools.docs_site.check docs/_build/html

slow: .venv/.developer
	OMP_NUM_THREADS=1 $(PYTEST) -m slow

bench: .venv/.developer
	$(BIN)/python -m benchmarks

# Other attack libraries, to be measured against. Two of them pin old packages that nothing here needs.
oracles: .venv/.developer
	$(BIN)/python -m pip install --quiet foolbox pyautoattack six
	$(BIN)/python -m pip install --quiet --no-deps torchattacks==3.5.1 adv-lib adversarial-robustness-toolbox

clean:
	rm -rf .venv docs/_build docs/api docs/gallery docs/project .mypy_cache .pytest_cache .ruff_cache

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.developer: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch .venv/.installed $@
