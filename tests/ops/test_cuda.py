"""The CUDA module without a GPU: it compiles, imports and refuses; nothing here runs a kernel."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

CSRC = Path(__file__).resolve().parents[2] / "csrc"
SOURCES = sorted(p for p in CSRC.glob("cuda/*/*.cu"))
# As csrc/cuda/CMakeLists.txt has them.
FLAGS = ("-std=c++20", "--fmad=false", f"-I{CSRC / 'cuda'}", f"-I{CSRC / 'core'}")

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
needs_module = pytest.mark.skipif(
    find_spec("pyengine._cuda") is None, reason="pyengine was built without its CUDA module"
)
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is an NVIDIA GPU")


def compile_for(architecture, source, folder):
    """Compiles for one chip; returns [(kernel, registers, spilled bytes, stack bytes)]."""
    command = ["nvcc", "-cubin", f"-arch={architecture}", "-Xptxas=-v", *FLAGS]
    report = subprocess.run(
        [*command, "-o", folder / f"{source.stem}.{architecture}.cubin", source],
        capture_output=True,
        text=True,
    )
    assert report.returncode == 0, report.stderr
    found = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers",
        report.stderr,
        flags=re.DOTALL,
    )
    return [(name, int(r), int(s) + int(q), int(stack)) for name, stack, s, q, r in found]


@needs_nvcc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_compiles_without_spilling(source, architecture, tmp_path):
    kernels = compile_for(architecture, source, tmp_path)
    # Three dtypes, each with and without 16-byte accesses.
    assert len(kernels) == 6
    for name, registers, spilled, stack in kernels:
        assert (spilled, stack) == (0, 0), name
        # Eight blocks of 256 threads would need 32; four keep enough loads in flight.
        assert registers <= 64, name


def run(code):
    """Runs Python in a process without torch; returns what it printed as JSON."""
    source = f"import json\nfrom pyengine import _cuda\n{code}"
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def geglu(dtype=0, **changed):
    """A call, as source."""
    fields = {"x": 4096, "y": 4096, "rows": 2, "width": 8} | changed
    return f"geglu(_cuda.GegluArgs(**{fields}), {dtype}, 0)"


def sampler_step(**changed):
    fields = dict.fromkeys(("x", "out", "coefficients", "x_new", "d", "y"), 4096)
    fields |= {"pictures": 1, "size": 8} | changed
    return f"sampler_step(_cuda.SamplerStepArgs(**{fields}), 0, 0)"


@needs_module
def test_imports_without_torch_or_a_gpu():
    facts = run("print(json.dumps([_cuda.ARCHITECTURES, _cuda.runtime_version()]))")
    assert facts[0] == "80-real, 90a-real, 90-virtual"
    assert facts[1] >= 12000


@needs_module
def test_knows_as_many_coefficients_as_the_specification():
    from pyengine import _cuda
    from pyengine.ops import COLUMNS

    assert len(COLUMNS) == _cuda.SAMPLER_COLUMNS


@needs_module
@no_gpu
def test_without_a_gpu_a_call_says_so():
    calls = ("_cuda.device_count()", f"_cuda.{geglu(y=8192)}")
    for call in calls:
        said = run(
            f"try:\n    {call}\nexcept _cuda.CudaError as error:\n"
            "    print(json.dumps([isinstance(error, RuntimeError), str(error)]))"
        )
        name = call.removeprefix("_cuda.").partition("(")[0]
        assert said[0]
        assert re.match(
            rf"{name}: (this machine has no NVIDIA driver|no CUDA-capable device).*\(cudaError",
            said[1],
        ), said[1]


@needs_nvcc
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_wide_kernels_read_and_write_16_bytes_at_a_time(source, tmp_path):
    triton = pytest.importorskip("triton", reason="cuobjdump comes with Triton")
    compile_for("sm_90a", source, tmp_path)
    cubin = tmp_path / f"{source.stem}.sm_90a.cubin"
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-sass", cubin]
    sass = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # Template arguments in a mangled name: element type, then elements per access (Li1E, 4 or 8).
    kernels = re.findall(r"Function : \S*Li(\d)E\S*(.*?)(?=Function :|\Z)", sass, flags=re.DOTALL)
    assert sorted(n for n, _ in kernels) == ["1", "1", "1", "4", "8", "8"]
    for _, code in (kernel for kernel in kernels if kernel[0] != "1"):
        stores = re.findall(r"\bSTG\S*", code)
        assert stores
        assert all(store.startswith("STG.E.128") for store in stores)
        assert "LDG.E.128" in code


@needs_module
@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (geglu(x=0), "geglu: null pointer"),
        (geglu(width=-8), "geglu: negative size -8"),
        (geglu(rows=2**40, width=2**40), "geglu: sizes overflow"),
        (geglu(width=2**31), "geglu: width of 2^31 or more"),
        (geglu(3), "no dtype 3"),
        (sampler_step(pictures=-1), "sampler_step: negative size -1"),
        (sampler_step(pictures=2**31), "sampler_step: too many elements for one launch"),
        (sampler_step(x=0), "sampler_step: null pointer"),
    ],
)
def test_impossible_arguments_are_refused_before_any_launch(call, complaint):
    said = run(
        f"try:\n    _cuda.{call}\nexcept ValueError as error:\n    print(json.dumps(str(error)))"
    )
    assert said == complaint


@needs_module
def test_nothing_to_do_is_no_launch():
    assert run(f"print(json.dumps(_cuda.{geglu(x=0, y=0, rows=0)}))") is None
