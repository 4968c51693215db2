"""The benchmarks run and are complete; how fast anything is decides no test."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pyengine import ops
from pyengine.bench.operations import check, inputs_for, packed
from pyengine.bench.peers.torch_ops import EAGER
from pyengine.bench.shapes import SHAPES, TINY, attention, conv2d, geglu, linear
from pyengine.ops import OPS
from pyengine.ops.reference.linear import ACTIVATIONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("op", sorted(OPS))
def test_every_op_has_shapes_and_a_peer(op):
    assert SHAPES[op]
    assert TINY[op]
    assert callable(EAGER[op])


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_labels_tell_shapes_apart(shapes):
    assert len({str(shape) for shape in shapes}) == len(shapes)


KINDS = [
    conv2d(6, 8, 8, stride=2),
    conv2d(6, 8, 4, upsample=True),
    conv2d(6, 8, 4, kernel=1, batch=1),
    conv2d(6, 8, 8, block=True),
    linear(5, 8, 6, bias=False),
    linear(5, 8, 6, "gelu"),
    linear(5, 8, 6, "quick_gelu", residual=True),
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
