"""The numerical promises of docs/numerics.md, for every op and every backend that runs here.

Triton's backends have theirs in test_triton.py (interpreted) and test_cuda_device.py (on a GPU).
"""

from contextlib import contextmanager
from functools import cache

import pytest
import torch
from cases import CASES, TORCHS_OWN
from errors_beside_torch import DRAWS, Errors
from gpu_cases import tensors, widen
from instruction_sets import ISAS

from pyengine import ops
from pyengine.ops import OPS, reference
from pyengine.ops.conv2d import algorithm_of

#: Largest error of Winograd's convolution in float32, in standard deviations of the result.
WINOGRAD_BOUND = 2e-5


def _backends(op):
    """The CPU's backends of an op; C++ once per instruction set. The reference is the measure."""
    for row in OPS[op].table.get("cpu") or OPS[op].table["any"]:
        if row.name == "cpu":
            yield from ((row, isa) for isa in ISAS)
        elif row.name != "reference":
            yield row, None


RUNS = [
    pytest.param(case, dtype, row, isa, id=f"{case}-{str(dtype)[6:]}-{isa or row.name}")
    for case in CASES
    for dtype in case.dtypes
    for row, isa in _backends(case.op)
]
each_run = pytest.mark.parametrize(("case", "dtype", "row", "isa"), RUNS)
invariant = pytest.mark.parametrize(
    ("case", "dtype", "row", "isa"), [run for run in RUNS if run.values[2].batch_invariant]
)


@contextmanager
def _only(row):
    """Forces a backend, and sees that it ran."""
    with ops.force(row.name), ops.kernels_used() as used:
        yield
    assert {label for labels in used.values() for label in labels} == {row.label}


def _run(case, row, inputs):
    with _only(row):
        return tensors(getattr(ops, case.op)(**inputs))


def _same(a, b):
    """Equal bits, but for the payload of a NaN."""
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a[~a.isnan()], b[~b.isnan()])


@cache
def _expected(case, dtype, draw=0):
    """(what is exact, what torch makes of it, what the specification does) per result."""
    inputs = case.inputs(dtype, draw)
    specification = getattr(reference, case.op)
    exact, torchs = specification(**widen(inputs)), TORCHS_OWN[case.op](**inputs)
    return list(zip(*map(tensors, (exact, torchs, specification(**inputs))), strict=True))


def _by_winograd(case, inputs):
    return case.op == "conv2d" and algorithm_of(**inputs).startswith("winograd")


def test_every_op_has_cases():
    assert {case.op for case in CASES} == set(OPS)
    assert set(TORCHS_OWN) == set(OPS)


def _errors(case, dtype, row, draw=0):
    """Errors of each result, whose dtype, shape and layout are seen to be as specified."""
    results = _run(case, row, case.inputs(dtype, draw))
    found = []
    for got, (exact, own, specified) in zip(results, _expected(case, dtype, draw), strict=True):
        assert (got.dtype, got.shape) == (specified.dtype, specified.shape)
        assert got.is_contiguous()
        found.append(Errors.between(got, own, exact))
    return found


@each_run
def test_error_is_at_most_twice_torchs(case, dtype, row, isa, use_isa):
    """Largest and root-mean-square error against float64; dtype and layout as specified.

    Torch's own error is at least that of rounding the exact result to the dtype: on a tensor of few
    numbers it can be less by luck, which no promise can be made of. Winograd's convolution has a
    bound of its own.
    """
    if isa:
        use_isa(isa)
    declared = WINOGRAD_BOUND if isa and _by_winograd(case, case.inputs(dtype)) else 0.0
    errors = _errors(case, dtype, row)
    if not all(one.within(declared) for one in errors):
        more = [_errors(case, dtype, row, draw) for draw in range(1, DRAWS)]
        errors = [Errors.of_all(same) for same in zip(errors, *more, strict=True)]
    for one in errors:
        assert one.within(declared), one


@invariant
def test_bits_are_the_same_every_run_and_for_any_number_of_threads(
    case, dtype, row, isa, use_isa, use_threads
):
    if isa:
        use_isa(isa)
    inputs = case.inputs(dtype)
    use_threads(1)
    first = _run(case, row, inputs)
    for threads in (1, 2, 3):
        use_threads(threads)
        for a, b in zip(first, _run(case, row, inputs), strict=True):
            assert _same(a, b), f"{threads} threads"


@invariant
def test_bits_are_the_same_alone_and_at_any_slot_of_a_batch(case, dtype, row, isa, use_isa):
    if isa:
        use_isa(isa)
    inputs = case.inputs(dtype)
    if inputs[case.rows[0]].dim() == 1:
        return  # a single row has no neighbours
    together = _run(case, row, inputs)
    for i in range(together[0].shape[0]):
        alone = _run(case, row, case.picture(inputs, i))
        for one, many in zip(alone, together, strict=True):
            assert _same(one[0], many[i]), f"picture {i}"


@pytest.mark.parametrize("op", sorted(OPS))
def test_the_torch_backed_ops_repeat_their_bits(op):
    """All that is promised of them: torch chooses its algorithms by shape and threads."""
    for case in (case for case in CASES if case.op == op):
        inputs = case.inputs(torch.float32)
        first, again = (tensors(getattr(ops, op)(**inputs)) for _ in range(2))
        assert all(_same(a, b) for a, b in zip(first, again, strict=True))
