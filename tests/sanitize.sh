#!/bin/sh
# Builds the C++ core with AddressSanitizer and UndefinedBehaviorSanitizer, in a folder of its own
# (build/sanitize), and runs the op tests on it. Needs gcc and the test environment's Python.
# Further arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
site=build/sanitize
cxx=${CXX:-g++}

PYENGINE_CUDA=off PYENGINE_SANITIZE=address,undefined \
    python setup.py -q build --build-lib "$site" --build-temp build/sanitize-temp

# The sanitizers' runtimes have to be there before anything else is loaded. Leaks are not looked
# for: Python and torch keep much until the end. Triton, CUDA and compiled graphs load code of other
# compilers, and none of ours.
export LD_PRELOAD="$($cxx -print-file-name=libasan.so) $($cxx -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1
cd "$site"  # where `import pyengine` finds the sanitized one
python - <<'PYTHON'
import torch  # noqa: F401
from pyengine import _core
assert _core.SANITIZERS == "address,undefined", _core.__file__
print("sanitized:", _core.__file__)
PYTHON
tests=../../tests/ops
exec python -m pytest -c ../../pyproject.toml --rootdir=../.. "$tests" -q \
    --ignore-glob="$tests/*triton*" --ignore-glob="$tests/*cuda*" \
    --ignore-glob="$tests/*benchmarks*" --ignore-glob="$tests/*torch_library*" \
    -p no:cacheprovider --capture=sys "$@"
