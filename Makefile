# Two commands do everything on a machine with Python (3.11 or later), make and a package index:
#   make demo    fit a steer, turn the dial, write demo/report.html
#   make test    run the tests
# Each makes its own environment in .venv and installs what it needs, in the versions of constraints.txt.
# To let pip choose the versions instead (for a torch with CUDA, say): make demo CONSTRAINTS=

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

.PHONY: demo test check format clean

demo: $(VENV)/installed
	$(BIN)/lmsteer demo

# One thread a worker: two workers whose torch threads spin on the same cores are many times slower.
test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf $(VENV) build src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing lmsteer into $(VENV) ..."
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing lmsteer with its development tools into $(VENV) ..."
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/installed
