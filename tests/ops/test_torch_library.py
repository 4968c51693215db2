"""The ops as torch sees them: torch.ops.pyengine, opcheck, torch.compile."""

import subprocess
import sys

import pytest
import torch
import torch._dynamo
from cases import CASES
from gpu_cases import tensors

from pyengine import ops
from pyengine.ops import OPS

#: Two calls of each op: its first case, and one with two inputs or other optional tensors.
FEW = [
    case
    for op in OPS
    for case in [c for c in CASES if c.op == op][:1]
    + [c for c in CASES if c.op == op and c.name.split("-")[0] in ("residual", "two", "everything")]
]


def _call(case):
    """The positional and keyword arguments, as the op's schema wants them."""
    inputs = case.inputs(torch.float32)
    args, kwargs = [], {}
    for argument in OPS[case.op].overload._schema.arguments:
        if argument.name not in inputs:
            if argument.has_default_value() and not argument.kwarg_only:
                args.append(argument.default_value)
        elif argument.kwarg_only:
            kwargs[argument.name] = inputs[argument.name]
        else:
            args.append(inputs[argument.name])
    return tuple(args), kwargs


@pytest.mark.parametrize("case", FEW, ids=str)
def test_opcheck(case):
    args, kwargs = _call(case)
    torch.library.opcheck(OPS[case.op].overload, args, kwargs)


@pytest.mark.parametrize("case", FEW, ids=str)
def test_compiles_to_one_graph_with_the_same_result(case):
    torch._dynamo.reset()
    inputs = case.inputs(torch.float32)
    function = getattr(ops, case.op)
    compiled = torch.compile(lambda inputs: function(**inputs), fullgraph=True, backend="aot_eager")
    for got, want in zip(tensors(compiled(inputs)), tensors(function(**inputs)), strict=True):
        assert torch.equal(got, want)


@pytest.mark.slow
def test_compiles_with_inductor():
    """The one test that waits for a C++ compiler; its neighbours in the graph are fused by it."""
    weight, bias = torch.randn(2, 32)

    @torch.compile(fullgraph=True)
    def block(x):
        return ops.group_norm_silu(x * 2, weight, bias, 8) + x

    x = torch.randn(2, 5, 5, 32)
    expected = ops.group_norm_silu(x * 2, weight, bias, 8) + x
    torch.testing.assert_close(block(x), expected)


def test_shapes_follow_a_dynamic_batch():
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def gated(x):
        return ops.geglu(x)

    for n in (2, 3, 5):
        x = torch.randn(n, 7, 12)
        assert torch.equal(gated(x), ops.geglu(x))


def test_fake_tensors_have_the_real_shapes_and_dtypes():
    from torch._subclasses.fake_tensor import FakeTensorMode

    for case in CASES:
        inputs = case.inputs(case.dtypes[0])
        real = tensors(getattr(ops, case.op)(**inputs))
        with FakeTensorMode() as mode:
            fakes = {
                k: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v
                for k, v in inputs.items()
            }
            fake = tensors(getattr(ops, case.op)(**fakes))
        for a, b in zip(fake, real, strict=True):
            assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride()), str(case)


def test_importing_the_ops_does_not_import_torchs_compiler():
    code = (
        "import sys, torch; from pyengine import ops; ops.geglu(torch.ones(2, 4));"
        "bad = [m for m in sys.modules if m.startswith(('torch._dynamo', 'torch._inductor', "
        "'triton'))]; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
