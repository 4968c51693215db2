"""The Triton kernels' three promises, in Triton's interpreter on the CPU.

That shows the algorithm to be right, not that a GPU runs it: test_triton_compile.py builds the
machine code, test_cuda_device.py runs it where there is a GPU.
"""

from functools import cache

import pytest
import torch
from cases import CASES, TORCHS_OWN
from gpu_cases import tensors, widen
from interpreted import Interpreter

from pyengine.errors import RequestError
from pyengine.ops import OPS, reference

pytest.importorskip("triton", reason="Triton is not installed")

#: Of the ops with a Triton kernel, without those that take the interpreter too long: many elements
#: or, with 160 groups, many programs.
RUNS = [
    pytest.param(case, dtype, id=f"{case}-{str(dtype)[6:]}")
    for case in CASES
    if "triton" in {row.name for row in OPS[case.op].table.get("cuda", ())}
    for dtype in case.dtypes
    if not case.name.startswith("large") and case.name != "one-pixel"
]


@pytest.fixture(scope="module")
def interpreted():
    interpreter = Interpreter()
    yield interpreter
    interpreter.close()


@pytest.fixture(scope="module")
def first_run(interpreted):
    """The result of a case's first run, kept for the tests that compare with it."""
    return cache(lambda case, dtype: tensors(interpreted(case.op, **case.inputs(dtype))))


@pytest.mark.parametrize(("case", "dtype"), RUNS)
def test_error_is_at_most_twice_torchs(first_run, case, dtype):
    """As test_promises.py has it of the CPU's kernels."""
    inputs = case.inputs(dtype)
    exact = tensors(getattr(reference, case.op)(**widen(inputs)))
    specified = tensors(getattr(reference, case.op)(**inputs))
    torchs = tensors(TORCHS_OWN[case.op](**inputs))
    runs = zip(first_run(case, dtype), torchs, specified, exact, strict=True)
    for got, own, like, want in runs:
        assert (got.dtype, got.shape) == (like.dtype, like.shape)
        rounding = (want.to(got.dtype).double() - want).abs()
        error, torchs_error = (got.double() - want).abs(), (own.double() - want).abs()
        assert error.isfinite().all()
        assert error.max() <= 2 * max(torchs_error.max(), rounding.max())
        assert error.norm() <= 2 * max(torchs_error.norm(), rounding.norm())


@pytest.mark.parametrize(
    # float16 is read and written as bfloat16 is.
    ("case", "dtype"),
    [run for run in RUNS if run.values[1] != torch.float16],
)
def test_bits_are_the_same_each_run_and_alone_or_in_a_batch(interpreted, first_run, case, dtype):
    inputs = case.inputs(dtype)
    together = tensors(interpreted(case.op, **inputs))
    for first, again in zip(first_run(case, dtype), together, strict=True):
        assert torch.equal(first, again)
    if inputs[case.rows[0]].dim() == 1:
        return  # a single row has no neighbours
    for i in range(inputs[case.rows[0]].shape[0]):
        alone = tensors(interpreted(case.op, **case.picture(inputs, i)))
        for one, many in zip(alone, together, strict=True):
            assert torch.equal(one[0], many[i])


def test_nan_comes_through_the_clip(interpreted):
    case = next(case for case in CASES if str(case) == "sampler_step-guided")
    inputs = case.inputs(torch.float32)
    inputs["out"][0, 1, 2, 3] = float("nan")
    for result in interpreted("sampler_step", **inputs):
        assert result.isnan().nonzero().tolist() == [[0, 1, 2, 3]]


def test_an_empty_batch_is_no_launch(interpreted):
    assert interpreted("geglu", torch.empty(0, 8)).shape == (0, 4)


def test_strided_tensors_are_copied(interpreted):
    x = torch.randn(6, 4).T
    assert torch.equal(interpreted("geglu", x), interpreted("geglu", x.contiguous()))


def test_float64_is_refused(interpreted):
    with pytest.raises(RequestError, match="x: expected float32, bfloat16 or float16"):
        interpreted("geglu", torch.zeros(2, 4, dtype=torch.float64))
