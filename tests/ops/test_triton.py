"""The Triton kernels' three promises, in Triton's interpreter on the CPU.

That shows the algorithm to be right, not that a GPU runs it: test_triton_compile.py builds the
machine code, test_cuda_device.py runs it where there is a GPU.
"""

from functools import cache

import pytest
import torch
from cases import CASES, TORCHS_OWN
from errors_beside_torch import DRAWS, Errors
from gpu_cases import tensors, widen
from interpreted import linear_on_sm_80, quantize_rows

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.ops import OPS, SAMPLING_COLUMNS, _pack, reference

pytest.importorskip("triton", reason="Triton is not installed")

#: What is left out: wider heads than attention's kernel takes, and what takes the interpreter long
#: and shows nothing that another case does not.
LEFT_OUT = {
    *("group_norm_silu-one-pixel", "attention-head-512", "attention-head-513"),
    *("attention-one-query", "attention-one-channel", "attention-slices", "attention-head-160"),
    *("linear-many-passes", "linear-many-blocks", "linear-blocks-and-passes"),
    *("linear-a-few-rows-of-768", "linear-a-few-rows-of-320", "linear-one-deep-pass"),
    *("linear-two-passes", "linear-one-row-deep", "linear-int8-many-rows"),
    "linear-gate-many-rows",
    # Whole numbers are multiplied on CPUs alone; a GPU runs the specification.
    *("linear-int8-rows", "linear-int8-rows-geglu", "linear-int8-rows-deep"),
}
#: Of the ops with a Triton kernel.
RUNS = [
    pytest.param(case, dtype, id=f"{case}-{str(dtype)[6:]}")
    for case in CASES
    if "triton" in {row.name for row in OPS[case.op].table.get("cuda", ())}
    for dtype in case.dtypes
    if not case.name.startswith("large") and str(case) not in LEFT_OUT
]

#: Of conv2d, whose convolution is torch's: what our kernels do before and after it. In 16 bits the
#: sum is rounded in between, as by torch on GPUs, but not on CPUs.
AROUND = [
    pytest.param(case, torch.float32, id=f"{case}-float32")
    for case in CASES
    if case.op == "conv2d"
    and case.name in ("plain", "residual-block", "packed", "down", "up-with-all", "one-row")
]


@pytest.fixture(scope="module")
def first_run(interpreted):
    """The result of a case's first run, kept for the tests that compare with it."""
    return cache(lambda case, dtype: tensors(interpreted(case.op, **case.inputs(dtype))))


def test_rows_times_whole_numbers_are_refused(interpreted):
    x, scale = torch.ones(1, 2, 8), torch.ones(4)
    with pytest.raises(ValueError, match=r"weight: expected torch.float8_e4m3fn beside quantize_x"):
        interpreted(
            "linear", x, torch.ones(4, 8, dtype=torch.int8), weight_scale=scale, quantize_x=True
        )


@pytest.mark.parametrize(("case", "dtype"), [*RUNS, *AROUND])
def test_error_is_at_most_twice_torchs(first_run, interpreted, case, dtype):
    """As test_promises.py has it of the CPU's kernels: over several draws where torch's own error
    on one is small by luck.
    """
    errors = _errors(case, dtype, first_run(case, dtype))
    if not all(one.within(0.0) for one in errors):
        more = [
            _errors(case, dtype, tensors(interpreted(case.op, **case.inputs(dtype, draw))), draw)
            for draw in range(1, DRAWS)
        ]
        errors = [Errors.of_all(same) for same in zip(errors, *more, strict=True)]
    for one in errors:
        assert one.within(0.0), one


def _errors(case, dtype, results, draw=0):
    """Errors of each result, whose dtype and shape are seen to be as specified."""
    inputs = case.inputs(dtype, draw)
    exact = tensors(getattr(reference, case.op)(**widen(inputs)))
    specified = tensors(getattr(reference, case.op)(**inputs))
    torchs = tensors(TORCHS_OWN[case.op](**inputs))
    found = []
    for got, own, like, want in zip(results, torchs, specified, exact, strict=True):
        assert (got.dtype, got.shape) == (like.dtype, like.shape)
        found.append(Errors.between(got, own, want))
    return found


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "names",
    [
        (),
        ("bias",),
        ("channel_add", "residual"),
        ("bias", "residual"),
        ("slopes",),
        ("bias", "slopes", "residual"),
    ],
)
def test_an_epilogue_is_added_in_float32_and_rounded_once(interpreted, names, dtype):
    sizes = {"bias": (70,), "channel_add": (2, 70), "slopes": (70,), "residual": (2, 3, 5, 70)}
    given = {name: torch.randn(sizes[name]).to(dtype) for name in names}
    y = torch.randn(2, 3, 5, 70).to(dtype)
    want = y.float().clone()
    for name, part in given.items():
        if name == "slopes":
            want = torch.where(want > 0, want, want * part)
        else:
            want += part[:, None, None] if name == "channel_add" else part
    assert torch.equal(interpreted("add_epilogue", y, **given), want.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scale_and_shift_of_16_bits_before_a_convolution(interpreted, dtype):
    x, x2 = torch.randn(2, 3, 5, 70).to(dtype), torch.randn(2, 3, 5, 20).to(dtype)
    scale, shift = torch.randn(2, 2, 90).to(dtype)
    exact = torch.cat([x, x2], dim=-1).double() * scale[:, None, None] + shift[:, None, None]
    activated = {
        "silu": exact * exact.sigmoid(),
        "gelu": torch.nn.functional.gelu(exact),
        "relu": exact.relu(),
    }
    for name, want in activated.items():
        got = interpreted("apply_scale_shift", x, scale, shift, name, x2)
        rounding = (want.to(dtype).double() - want).abs().max()
        assert (got.double() - want).abs().max() <= 1.01 * rounding


@pytest.mark.parametrize("shape", [(), (6,), (5, 1), (3, 1, 1), (2, 1, 1, 6), (2, 3, 5, 6)])
def test_masks_broadcast(interpreted, shape):
    q, k, v = torch.randn(2, 5, 12), torch.randn(2, 6, 12), torch.randn(2, 6, 12)
    inputs = {"q": q, "k": k, "v": v, "heads": 3, "mask": torch.randn(shape)}
    want = reference.attention(**inputs)
    torch.testing.assert_close(interpreted("attention", **inputs), want)


@pytest.mark.parametrize("low", [-torch.inf, torch.finfo(torch.float32).min])
def test_a_row_that_sees_no_key_is_nan_and_one_of_equal_keys_their_mean(interpreted, low):
    q, k, v = (torch.randn(1, rows, 16) for rows in (9, 70, 70))
    mask = torch.zeros(9, 70)
    mask[:, :64] = low  # a whole block
    mask[7] = low
    got = interpreted("attention", q, k, v, 2, mask=mask)
    want = reference.attention(q.double(), k.double(), v.double(), 2, mask=mask).float()
    torch.testing.assert_close(got, want, equal_nan=True)
    assert got[0, 7].isnan().all() == (low == -torch.inf)
    assert not got[0, 8].isnan().any()


def test_attention_reads_slices_in_place_and_copies_what_it_cannot_read(interpreted):
    q, k, v = torch.randn(2, 9, 3 * 24).chunk(3, dim=-1)
    want = interpreted("attention", q.contiguous(), k.contiguous(), v.contiguous(), 3)
    columns = q.mT.contiguous().mT  # its last dimension is not contiguous
    assert torch.equal(interpreted("attention", q, k, v, 3), want)
    assert torch.equal(interpreted("attention", columns, k, v, 3), want)
    repeated = k[:1].expand(2, -1, -1)
    want = interpreted("attention", q, repeated.contiguous(), v, 3)
    assert torch.equal(interpreted("attention", q, repeated, v, 3), want)


@pytest.mark.parametrize("turned", [True, False])
def test_a_cache_is_written_and_read_in_place(interpreted, turned):
    """q, k and v of one fused projection; some tokens of a longer cache, which the child shares."""
    q, k, v = torch.randn(2, 3, 5 * 8).split((24, 8, 8), dim=-1)
    tables = torch.randn(2, 9, 4) if turned else (None, None)
    lengths = torch.tensor([4, 6])
    caches = torch.randn(2, 2, 12, 8)
    want = caches.clone()
    expected = reference.rotary_cache(q, k, v, *want[:, :, :9], lengths, 3, *tables)
    got = interpreted("rotary_cache", q, k, v, *caches[:, :, :9], lengths, 3, *tables)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(caches, want)
    expected = reference.decode_attention(got, *caches[:, :, :9], lengths, 3)
    got = interpreted("decode_attention", got, *caches[:, :, :9], lengths, 3)
    torch.testing.assert_close(got, expected)


def test_every_float16_becomes_the_e4m3_number_that_torch_makes_of_it(interpreted):
    """The scale is 1 where the largest magnitude is 448."""
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    values = every[every.abs() <= 448]
    rows = torch.nn.functional.pad(values, (0, -len(values) % 511)).view(-1, 511)
    rows = torch.nn.functional.pad(rows, (0, 1), value=448.0)
    numbers, scales = interpreted.run(quantize_rows, rows)
    assert (scales == 1).all()
    assert torch.equal(numbers.view(torch.uint8), rows.to(torch.float8_e4m3fn).view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("depth", [1, 37, 700])
def test_rows_are_rounded_as_specified(interpreted, dtype, depth):
    # Of bfloat16 no subnormal numbers, which the interpreter widens to others.
    low, high = {torch.float16: (-7, 4), torch.bfloat16: (-34, 38), torch.float32: (-44, 38)}[dtype]
    x = torch.randn(21, depth).clamp(-3, 3) * torch.logspace(low, high, 21)[:, None]
    x = torch.where(x.abs() < 2e-38, 0, x).to(dtype) if low == -34 else x.to(dtype)
    x[5], x[6, 0] = 0, 1
    numbers, scales = interpreted.run(quantize_rows, x)
    want, want_scales = _pack.quantize_rows(x, torch.float8_e4m3fn)
    assert torch.equal(scales, want_scales)
    assert torch.equal(numbers.view(torch.uint8), want.view(torch.uint8))


def test_nan_and_infinity_come_through_rounded_rows(interpreted):
    case = next(case for case in CASES if str(case) == "linear-fp8-rows")
    inputs = case.inputs(torch.bfloat16)
    want = interpreted("linear", **inputs)
    inputs["x"][0, 3, 7], inputs["x"][1, 5, 300] = float("nan"), -float("inf")
    got = interpreted("linear", **inputs)
    odd = got.isnan().all(-1)
    assert odd.nonzero().tolist() == [[0, 3], [1, 5]]
    assert torch.equal(got[~odd], want[~odd])


def test_the_prologues_result_is_what_is_rounded(interpreted):
    """Of numbers that no step rounds before."""
    case = next(case for case in CASES if str(case) == "linear-fp8-rows-two-inputs")
    inputs = case.inputs(torch.float16)
    x, x2 = (torch.randint(-9, 9, inputs[name].shape).half() for name in ("x", "x2"))
    scale, shift = 2.0 ** torch.randint(-2, 3, (2, 79)), torch.randint(-9, 9, (2, 79)).float()
    around = {"x": x, "x2": x2, "scale": scale, "shift": shift}
    plain = torch.cat([x, x2], dim=-1) * scale[:, None] + shift[:, None]
    want = interpreted("linear", **{**inputs, "x": plain.half(), "x2": None})
    assert torch.equal(interpreted("linear", **{**inputs, **around}), want)


@pytest.mark.parametrize("name", ["fp8-rows", "fp8-rows-geglu", "fp8-rows-many-tiles"])
def test_fp8_products_have_the_same_bits_where_tensor_cores_take_16(interpreted, first_run, name):
    """Both are exact, and the interpreter adds them up in one order."""
    case = next(case for case in CASES if str(case) == f"linear-{name}")
    got = interpreted.run(linear_on_sm_80, case.inputs(torch.float16))
    assert torch.equal(got, first_run(case, torch.float16)[0])


def test_more_tokens_than_a_block(interpreted):
    """Of each kind of limit; 5000 are two blocks, the second not full."""
    logits = 3 * torch.randn(10, 5000)
    logits[:, 4000:4800] = -torch.inf
    rows = {
        "temperature": (1, 0.7, 0, 1, 1),
        "top_k": (0, 60, 0, 0, 4500),
        "top_p": (1, 1, 1, 0.3, 1),
    }
    settings = ops.sampling_settings(5, guidance=2.0)
    for name, values in rows.items():
        settings[:, SAMPLING_COLUMNS.index(name)] = torch.tensor(values)
    for seed in range(3):
        uniform = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        want = reference.sample_token(logits.double(), uniform, settings.double())
        assert torch.equal(interpreted("sample_token", logits, uniform, settings), want)


def test_wide_heads_are_refused(interpreted):
    q = torch.zeros(1, 2, 257)
    with pytest.raises(RequestError, match="q: expected heads of at most 256 channels, got 257"):
        interpreted("attention", q, q, q, 1)


def test_float64_is_refused(interpreted):
    with pytest.raises(RequestError, match="x: expected float32, bfloat16 or float16"):
        interpreted("geglu", torch.zeros(2, 4, dtype=torch.float64))
