# make demo    set-up and a first picture      make demo PROMPT="a red heart"
# make test    set-up, style checks, all tests, one process a core
# make help    the other targets
PYTHON ?= python3
PROMPT ?= a red heart
# Processes of the tests: auto is one a core, eight at most; 0 runs them in pytest's own.
JOBS ?= auto
# Passed to pytest and to pyengine bench: make test ARGS="-k vae", make bench ARGS="--op linear"
ARGS ?=

VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
NATIVE := $(shell find csrc -type f) CMakeLists.txt setup.py pyproject.toml constraints.txt

# setuptools' advice on editable installs is not for who types `make demo`.
export PYTHONWARNINGS := ignore::UserWarning
# Build isolation reads constraints from the environment, not from -c.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-gpu gpu-table lint format bench bench-gpu sanitize sanitize-gpu fuzz grid docs sdist-check clean

help:
	@sed -n 's/^# make /make /p' Makefile
	@printf '%s\n' \
	  'make test-quick   of every test function a few of its parameter sets (of n half the root, two' \
	  '                  at least), none marked slow: some of everything, in under three minutes on two cores' \
	  'make lint         ruff, mypy --strict and clang-format, no changes made' \
	  'make format       the same, changing files' \
	  'make bench        the ops against torch, torch.compile and ncnn (pyengine bench --help: more)' \
	  'make sanitize     op tests under ASan and UBSan' \
	  'make fuzz         random damage to checkpoints and headers, for FUZZ_SECONDS' \
	  'make test-gpu     the tests that need an NVIDIA GPU' \
	  'make gpu-table    the table of Triton kernels in docs/gpu-kernels.md (needs no GPU)' \
	  'make bench-gpu    all that an NVIDIA GPU has to show (docs/gpu.md), beside diffusers and torch.compile' \
	  'make sanitize-gpu the kernels under compute-sanitizer, on an NVIDIA GPU' \
	  'make docs         the site of docs/ and of the docstrings, in build/site' \
	  'make sdist-check  build an sdist, install it elsewhere, run its tests' \
	  'make clean        remove .venv and everything built'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("pyengine needs Python 3.10 or newer, this is " + sys.version.split()[0] + "; set PYTHON=" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -U pip

# What pyengine needs to run, and pyengine itself, built from here and editable.
$(VENV)/run.stamp: $(BIN)/python $(NATIVE)
	$(PIP) install -q -e .
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp
	$(PIP) install -q -e ".[train,test,dev]"
	@touch $@

demo: $(VENV)/run.stamp
	@$(BIN)/pyengine generate "$(PROMPT)"

# Processes take tests from each other as they run out, a stretch of neighbours at a time: of a module's
# tests most stay together, with what its fixtures made.
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test: lint
	$(PYTEST) $(ARGS)

test-quick: $(VENV)/test.stamp
	$(PYTEST) --quick $(ARGS)

test-gpu: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m gpu $(ARGS)

gpu-table: $(VENV)/test.stamp
	PYTHONPATH=tests/ops $(BIN)/python docs/gpu_table.py

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find csrc -name '*.cc' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inc' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc -name '*.cc' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inc' | xargs $(BIN)/clang-format -i

# Twenty prompts to each model that ships: the README's pictures.
grid: $(VENV)/run.stamp
	$(BIN)/python docs/grid.py

$(VENV)/docs.stamp: $(VENV)/run.stamp
	$(PIP) install -q -e ".[docs]"
	@touch $@

docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	$(BIN)/python docs/check_site.py build/site

$(VENV)/bench.stamp: $(VENV)/run.stamp
	$(PIP) install -q -e ".[bench]"
	@touch $@

bench: $(VENV)/bench.stamp
	$(BIN)/pyengine bench ops --peers $(ARGS)

$(VENV)/bench-gpu.stamp: $(VENV)/run.stamp
	$(PIP) install -q -e ".[bench-gpu]"
	@touch $@

# The table in docs/gpu.md, line by line; what fails keeps nothing else from being measured.
bench-gpu: $(VENV)/bench-gpu.stamp
	@status=0; \
	run() { echo "pyengine bench $$*"; $(BIN)/pyengine bench "$$@" || status=1; }; \
	gpu() { run "$$@" --device cuda --peers $(ARGS); }; \
	net() { gpu "$$@" --keep build/bench-gpu; }; \
	run agreement --device cuda; \
	net unet --dtype bfloat16 --latents 64; \
	net unet --model sdxl --dtype bfloat16 --latents 128; \
	net unet --model sdxl --dtype bfloat16 --latents 128 --weights fp8; \
	net vae --dtype bfloat16 --latents 128; \
	net token --only token --model-size xl --dtype bfloat16; \
	gpu ops --dtype bfloat16 --op group_norm_silu --op sampler_step --op geglu; \
	gpu ops --op vq_argmin --shape '36864 x 16384 x 8'; \
	exit $$status

# Rebuilds _core with AddressSanitizer and UBSan in a folder of its own and runs the op tests.
sanitize: $(VENV)/test.stamp
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/sanitize.sh

# Out-of-bounds and uninitialised reads; the kernels' own tests are the workload.
sanitize-gpu: $(VENV)/test.stamp
	for tool in memcheck initcheck racecheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 \
	    $(BIN)/python -m pytest -m gpu tests/ops/test_cuda_device.py $(ARGS) || exit 1; \
	done

FUZZ_SECONDS ?= 60
fuzz: $(VENV)/test.stamp
	$(BIN)/python fuzz/checkpoint.py --seconds $(FUZZ_SECONDS)

# An sdist must hold all that building, installing and testing need.
sdist-check: $(VENV)/test.stamp
	rm -rf build/sdist && mkdir -p build/sdist
	$(BIN)/python -m build --sdist --outdir build/sdist
	cd build/sdist && tar xf *.tar.gz && rm *.tar.gz && cd * && $(MAKE) test

clean:
	rm -rf $(VENV) build dist out *.egg-info pyengine/*.so
