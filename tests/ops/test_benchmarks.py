"""The benchmarks run and are complete; how fast anything is decides no test."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pyengine import ops
from pyengine.bench import operations, timing
from pyengine.bench.arguments import attention, conv2d, geglu, linear, vq_argmin
from pyengine.bench.contest import Contest
from pyengine.bench.operations import check, compared, inputs_for, packed
from pyengine.bench.peers.torch_ops import EAGER
from pyengine.bench.results import OURS, Result, Row, ceilings
from pyengine.bench.shapes import GPU_SHAPES, SHAPES, TINY
from pyengine.ops import OPS
from pyengine.ops.reference.linear import ACTIVATIONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("op", sorted(OPS))
def test_every_op_has_shapes_and_a_peer(op):
    assert SHAPES[op]
    assert TINY[op]
    assert callable(EAGER[op])


@pytest.mark.parametrize("op", SHAPES)
def test_labels_tell_shapes_apart(op):
    shapes = [*SHAPES[op], *GPU_SHAPES.get(op, ())]
    assert len({str(shape) for shape in shapes}) == len(shapes)
    assert all(shape.op == op for shape in shapes)


def test_shapes_of_gpus_are_found_on_a_cpu_where_no_other_is():
    def labels(*given, on_gpu=False):
        return [shape.label for shape in operations.shapes(*given, False, on_gpu)]

    assert "2 x 4 x 64^2" in labels(["sampler_step"], [])
    assert "64 x 4 x 128^2" not in labels(["sampler_step"], ["128^2"])
    assert labels(["sampler_step"], ["64 x 4"]) == ["64 x 4 x 128^2"]
    assert "64 x 4 x 128^2" in labels(["sampler_step"], [], on_gpu=True)
    assert labels(["vq_argmin"], ["36864 x 16384 x 8"]) == ["36864 x 16384 x 8"]


def test_as_near_an_entry_will_do():
    codebook = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    inputs = {"x": torch.tensor([[0.9, 0.1]]), "codebook": codebook}

    def distances(entry):
        return compared("vq_argmin", inputs, torch.tensor([entry]))

    check("ours", distances(2), distances(1), 2e-5)
    with pytest.raises(RuntimeError, match="ours is"):
        check("ours", distances(3), distances(1), 2e-5)


def quick_rows(shape, peers):
    missing = {}
    limits = timing.LimitsOfThisMinute(torch.float32, "cpu", quick=True)
    contest = Contest(peers, 1, 2, limits, say=print, folder=Path(), quick=True)
    return operations.rows(contest, shape, missing), missing


def test_flash_kmeans_is_a_peer(monkeypatch):
    """A stand-in of the same signature: [1, N, D], [1, K, D] and squared norms, [1, N] int32."""

    def assign(x, centroids, x_sq, out=None, c_sq=None):
        distances = x_sq[..., None] - 2 * x @ centroids.transpose(1, 2) + c_sq[:, None]
        return distances.argmin(dim=-1).int()

    shape = vq_argmin(9, 40, 6)
    monkeypatch.setitem(sys.modules, "flash_kmeans", ModuleType("flash_kmeans"))
    module = ModuleType("flash_kmeans.assign_euclid_triton")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.euclid_assign_triton = assign
    rows, missing = quick_rows(shape, ("flash-kmeans",))
    assert not missing
    assert all(set(row.times) == {"flash-kmeans", OURS} for row in rows)
    module.euclid_assign_triton = lambda **given: 39 - assign(**given)
    with pytest.raises(RuntimeError, match=r"vq_argmin 9 x 40 x 6: flash-kmeans is .* away"):
        quick_rows(shape, ("flash-kmeans",))


def test_flash_kmeans_that_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_kmeans", None)
    rows, missing = quick_rows(vq_argmin(9, 40, 6), ("flash-kmeans",))
    assert "pyengine[bench-gpu]" in missing["flash-kmeans"]
    assert all(set(row.times) == {OURS} for row in rows)


def test_calls_on_a_gpu_are_one_graph(monkeypatch):
    """A recorder and a clock stand in: every set of arguments comes in turn, values unseen."""
    seen, turns = [], []

    def run(x):
        seen.append(float(x))
        assert not ops._check.visible(x)
        return x

    def record(function, changing, kept):
        result = function(changing, kept)
        return lambda: turns.append(1), result

    def seconds(replay, chosen, device):
        assert device == "cuda"
        for arguments in chosen:
            replay(**arguments)
        return 7.0

    monkeypatch.setattr(timing, "_cuda_seconds", seconds)
    inputs = [{"x": torch.tensor(float(i))} for i in range(3)]
    sample = timing.recorded(run, inputs, "cuda", record)
    calls = 3 * -(-timing.LAUNCHES // 3)
    assert seen == [0.0, 1.0, 2.0] * (calls // 3)
    assert sample(calls + 1) == 7.0 / (2 * calls)
    assert len(turns) == 2


KINDS = [
    conv2d(6, 8, 8, stride=2),
    conv2d(6, 8, 4, upsample=True),
    conv2d(6, 8, 4, kernel=1, batch=1),
    conv2d(6, 8, 8, block=True),
    linear(5, 8, 6, bias=False),
    linear(5, 8, 6, "gelu"),
    linear(5, 8, 6, "quick_gelu", residual=True),
    linear(5, 8, 6, "gelu_tanh", residual=True, gate=True),
    attention(7, 5, 2, 8, batch=1),
]
if "geglu" in ACTIVATIONS:
    KINDS.append(linear(5, 8, 6, "geglu"))


@pytest.mark.parametrize("shape", KINDS, ids=str)
def test_every_kind_of_shape_agrees_with_torch_and_counts_its_operations(shape):
    torch.manual_seed(0)
    inputs = shape.build(torch.float32, "cpu")
    ours, expected = getattr(ops, shape.op), EAGER[shape.op](**inputs)
    check(str(shape), ours(**packed(shape.op, inputs)), expected, 2e-5)
    with ops.force("reference"), FlopCounterMode(display=False) as counter:
        ours(**inputs)
    assert shape.flops == counter.get_total_flops()


def test_every_benchmark_runs_and_agrees_with_torch():
    command = [sys.executable, "-m", "pytest", "bench/ops", "--tiny", "--no-compile"]
    command += ["--benchmark-disable", "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert set(TINY) == set(OPS)
    assert f"{2 * sum(map(len, TINY.values()))} passed" in result.stdout


@pytest.mark.slow
def test_the_benchmark_of_slots_runs_and_copies_no_row():
    command = [sys.executable, "-m", "pytest", "bench/bench_cache_slots.py", "--tiny"]
    command += ["--benchmark-disable", "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "6 passed" in result.stdout


def test_a_wrong_result_stops_a_benchmark():
    x = torch.ones(8)
    check("ours", x * (1 + 1e-6), x, 2e-5)
    with pytest.raises(RuntimeError, match=r"ours is 1\.0e-03 away"):
        check("ours", x * 1.001, x, 2e-5)
    with pytest.raises(RuntimeError, match="ours is nan away"):
        check("ours", x * torch.nan, x, 2e-5)


def test_cold_inputs_outgrow_the_cache():
    """Weights where an op has them; what a convolution works on was written a moment ago."""
    sets = inputs_for(conv2d(5, 16, 16), torch.float32, "cpu", cold=True, most=1 << 16)
    assert sum(one["weight"].nbytes for one in sets) > 0.9 * (1 << 16)
    assert len({one["weight"].data_ptr() for one in sets}) == len(sets)
    assert len({one["x"].data_ptr() for one in sets}) == 1
    sets = inputs_for(geglu(7, 20), torch.float32, "cpu", cold=True, most=1 << 16)
    assert len({one["x"].data_ptr() for one in sets}) == len(sets) > 50
    assert len(inputs_for(geglu(7, 20), torch.float32, "cpu", cold=False)) == 1


def test_the_peak_is_the_higher_of_two_rates(monkeypatch):
    """And the report names the one."""
    for gemm, fma, expected in ((5.0, 3.0, (5.0, "GEMM")), (3.0, 5.0, (5.0, "FMA"))):
        monkeypatch.setattr(timing, "gemm_peak", lambda *_, gemm=gemm: gemm)
        monkeypatch.setattr(timing, "fma_peak", lambda *_, fma=fma: fma)
        found = timing.LimitsOfThisMinute(torch.float32, "cpu", quick=True)()
        assert (found.peak, found.computed) == expected
        row = Row("ops", "x", "", "", 10**12, 8, found, {OURS: timing.Times((20.0, 20.0))})
        assert ceilings(Result([row])).startswith(f"{expected[1]} 5e-09 GFLOP/s; copy ")


def test_multiply_adds_are_timed():
    assert 0 < timing.fma_peak(timing.QUICK_SECONDS) < float("inf")
