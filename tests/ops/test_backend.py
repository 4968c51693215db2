"""The table of backends: what is chosen, what can be forced, what is recorded, what is refused."""

import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import torch
from instruction_sets import ISAS

from pyengine import ops
from pyengine.errors import RequestError, UnavailableError
from pyengine.ops import OPS, _backend, reference
from pyengine.ops._core import core


def _python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_the_cpus_kernels_run_unless_the_table_says_otherwise():
    x = torch.randn(2, 8)
    with ops.kernels_used() as used:
        assert ops.geglu(x).dtype == torch.float32
        ops.linear(x, torch.randn(3, 8))
        ops.attention(x[None], x[None], x[None], 2)
    cpu = f"cpu-{ops.isa()}"
    assert used.summary() == {"geglu": cpu, "linear": cpu, "attention": cpu}


def test_float64_and_gradients_go_to_the_specification():
    x = torch.randn(2, 8, requires_grad=True)
    with ops.kernels_used() as used:
        ops.geglu(x.detach().double())
        ops.layer_norm(x, None, None).sum().backward()
        with torch.no_grad():
            ops.sampler_step(x, x, torch.randn(2, len(ops.COLUMNS)))
    assert used.summary() == {
        "geglu": "reference",
        "layer_norm": "reference",
        "sampler_step": f"cpu-{ops.isa()}",
    }
    assert x.grad is not None


def test_integers_are_refused():
    with pytest.raises(RequestError, match="geglu: x: expected a floating-point dtype up to"):
        ops.geglu(torch.ones(2, 2, dtype=torch.int64))


def test_force_holds_for_its_block_and_its_ops():
    x = torch.randn(2, 8)
    with ops.kernels_used() as used:
        with ops.force("reference"):
            assert torch.equal(ops.geglu(x), reference.geglu(x))
            with ops.force("cpu", "layer_norm"):
                ops.layer_norm(x, None, None)
            ops.layer_norm(x, None, None)
        ops.geglu(x)
    assert used.summary() == {
        "geglu": f"reference, cpu-{ops.isa()}",
        "layer_norm": f"cpu-{ops.isa()}, reference",
    }


def test_a_forced_backend_that_is_not_there_is_refused():
    x = torch.randn(2, 8)
    with ops.force("triton"), pytest.raises(UnavailableError, match="geglu: no backend 'triton'"):
        ops.geglu(x)
    with ops.force("cpu"), pytest.raises(UnavailableError, match="float64 on cpu"):
        ops.geglu(x.double())
    with pytest.raises(
        RequestError, match="expected one of cpu, cuda, triton, flash-attention-3, torch, reference"
    ):
        ops.force("avx2").__enter__()


def test_records_nest_and_keep_to_their_thread():
    x = torch.randn(2, 8)
    with ops.kernels_used() as outer:
        with ops.kernels_used() as inner:
            ops.geglu(x)
        thread = threading.Thread(target=lambda: ops.layer_norm(x, None, None))
        thread.start()
        thread.join()
    assert set(inner) == set(outer) == {"geglu"}
    assert dict(inner) == dict(outer)


def test_compiled_code_is_recorded_too():
    torch.compiler.reset()
    compiled = torch.compile(lambda x: ops.geglu(x), backend="aot_eager")
    compiled(torch.randn(2, 8))
    with ops.kernels_used() as used:
        compiled(torch.randn(2, 8))
    assert used.summary() == {"geglu": f"cpu-{ops.isa()}"}


def test_every_device_has_a_row_for_every_op():
    for op in OPS.values():
        for device in ("cpu", "cuda", "mps"):
            assert op.table.get(device) or op.table["any"]
    assert ("geglu", "cuda", "triton") in {row[:3] for row in ops.backends()}
    assert all(why for *_, why in ops.backends())


def test_on_the_meta_device_nothing_is_computed():
    x = torch.empty(2, 8, device="meta")
    with ops.kernels_used() as used:
        assert ops.geglu(x).shape == (2, 4)
    assert used.summary() == {}


def test_a_missing_compiled_module_says_how_to_build_it():
    """The error of the import is passed on, not swallowed."""
    done = _python(
        "import sys, torch; sys.modules['pyengine._core'] = None\n"
        "from pyengine import ops, errors\n"
        "with ops.force('reference'): ops.geglu(torch.ones(2, 4))\n"
        "try: ops.geglu(torch.ones(2, 4))\n"
        "except errors.UnavailableError as error: print(error, '|', repr(error.__cause__))"
    )
    assert "pip install" in done.stdout, done.stderr
    assert "_core" in done.stdout
    assert "ModuleNotFoundError" in done.stdout


def test_a_module_built_from_other_sources_is_refused():
    """Not called with arguments that it reads as others."""
    done = _python(
        "import torch; from pyengine import _core, errors, ops\n"
        "_core.INTERFACE -= 1\n"
        "try: ops.geglu(torch.ones(2, 4))\n"
        "except errors.UnavailableError as error: print(error)"
    )
    assert "pyengine._core: expected interface" in done.stdout, done.stderr
    assert "built from other sources" in done.stdout


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa != "wide16"])
def test_the_environment_forces_an_instruction_set(isa):
    done = _python("import torch; from pyengine import ops; print(ops.isa())", PYENGINE_ISA=isa)
    if ops.isas().get(isa) == "":
        assert done.stdout.strip() == isa, done.stderr
    else:
        assert f'PYENGINE_ISA: instruction set "{isa}" needs' in done.stderr


def test_an_unknown_instruction_set_is_refused_with_the_known_ones():
    done = _python("from pyengine import ops; ops.isa()", PYENGINE_ISA="sse9")
    assert 'PYENGINE_ISA: no instruction set "sse9" in this build; it has' in done.stderr
    assert "portable" in done.stderr


@pytest.mark.parametrize("name", ["geglu", "sampler_step"])
def test_cuda_stands_in_for_triton_where_that_is_missing(name, monkeypatch):
    table, takes = OPS[name].table, (name, OPS[name].table, "cuda", torch.float16, False)
    missing = {"triton"}
    monkeypatch.setattr(_backend, "find_spec", lambda module: None if module in missing else module)
    for gone, chosen in (
        ({"triton"}, "cuda"),
        ({"pyengine._cuda"}, "triton"),
        ({"triton", "pyengine._cuda"}, "triton"),  # whose error says what to install
        (set(), "triton"),
    ):
        missing = gone
        _backend.without_triton.cache_clear()
        row = _backend.choose(*takes, lambda row: row.serves is None or row.serves())
        assert row.name == chosen
    _backend.without_triton.cache_clear()
    assert [row.name for row in table["cuda"]] == ["cuda", "triton", "reference"]


def test_cudas_wrappers_give_the_kernel_what_the_cpus_do(monkeypatch):
    """The CPU's module in the other's place: its functions take the same structs."""
    streams = []

    @contextmanager
    def stream_of(x):
        streams.append(x.shape)
        yield 1

    monkeypatch.setattr(_backend, "stream_of", stream_of)
    monkeypatch.setattr(_backend, "import_module", lambda name: {"pyengine._cuda": core()}[name])
    rows = {name: OPS[name].table["cuda"][0].load() for name in ("geglu", "sampler_step")}
    x = torch.randn(3, 10, dtype=torch.bfloat16).T
    assert torch.equal(rows["geglu"](x[:, :2]), ops.geglu(x[:, :2]))
    samples, coefficients = torch.randn(2, 5), torch.rand(2, len(ops.COLUMNS))
    out, noise = torch.randn(4, 5), torch.randn(2, 5)
    for dtype in (torch.float32, torch.float16):  # the samples may be narrower than the output
        given = (samples.to(dtype), out, coefficients)
        got = rows["sampler_step"](*given, noise=noise.to(dtype))
        want = ops.sampler_step(*given, noise=noise.to(dtype))
        assert all(map(torch.equal, got, want))
    assert len(streams) == 3


def test_cuda_that_was_not_built_says_how():
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backend, "import_module", missing)
        with pytest.raises(UnavailableError, match="PYENGINE_CUDA=on"):
            OPS["geglu"].table["cuda"][0].load()
