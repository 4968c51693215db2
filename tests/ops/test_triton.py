"""The Triton kernels' three promises, in Triton's interpreter on the CPU.

That shows the algorithm to be right, not that a GPU runs it: test_triton_compile.py builds the
machine code, test_cuda_device.py runs it where there is a GPU.
"""

from functools import cache

import pytest
import torch
from gpu_cases import CASES, CASES_AND_DTYPES, error, tensors, widen
from interpreted import Interpreter

from pyengine.errors import RequestError
from pyengine.ops import reference

pytest.importorskip("triton", reason="Triton is not installed")

each_case = pytest.mark.parametrize(("case", "dtype"), CASES_AND_DTYPES)


@pytest.fixture(scope="module")
def interpreted():
    interpreter = Interpreter()
    yield interpreter
    interpreter.close()


@pytest.fixture(scope="module")
def first_run(interpreted):
    """The result of a case's first run, kept for the tests that compare with it."""
    return cache(lambda case, dtype: tensors(interpreted(case.op, **case.inputs(dtype))))


@each_case
def test_error_is_at_most_twice_torchs(first_run, case, dtype):
    inputs = case.inputs(dtype)
    exact = tensors(getattr(reference, case.op)(**widen(inputs)))
    plain = tensors(getattr(reference, case.op)(**inputs))
    ours = first_run(case, dtype)
    for got, torchs, want in zip(ours, plain, exact, strict=True):
        assert got.dtype == torchs.dtype
        assert got.shape == want.shape
        assert error(got, want) <= 2 * error(torchs, want) + 1e-12


@each_case
def test_bits_are_the_same_each_run_and_alone_or_in_a_batch(interpreted, first_run, case, dtype):
    inputs = case.inputs(dtype)
    together = tensors(interpreted(case.op, **inputs))
    for first, again in zip(first_run(case, dtype), together, strict=True):
        assert torch.equal(first, again)
    for i in range(inputs["x"].shape[0]):
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


def test_a_row_too_wide_for_registers_is_refused(interpreted):
    with pytest.raises(RequestError, match="at most 16384 columns, got 16385"):
        interpreted("layer_norm", torch.zeros(1, 16385), None, None)
