"""Winograd's convolution by itself, whichever layers the table gives to it."""

import importlib.util
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from pyengine import ops
from pyengine.ops import reference
from pyengine.ops._core import core
from pyengine.ops.conv2d import INPUT_ACTIVATIONS

CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
ISAS = [isa for isa, missing in ops.isas().items() if not missing]
#: Largest error in standard deviations of the result, as docs/numerics.md promises.
BOUND = 2e-5

# Sides that are no multiple of a tile, channels of no vector or panel, more than one slab of 320
# channels, more than one segment of 16 tiles, more than one block of 256.
SHAPES = [
    (1, 1, 1, 3, 4),
    (2, 4, 4, 16, 16),
    (2, 7, 9, 20, 21),
    (1, 13, 70, 330, 100),
    (3, 5, 3, 700, 40),
    (2, 66, 63, 12, 18),
    (1, 2, 300, 17, 5),
]


def winograd(
    x,
    weight,
    bias=None,
    *,
    tile=4,
    threads=2,
    padding=(1, 1, 1, 1),
    x2=None,
    scale=None,
    shift=None,
    silu=False,
    channel_add=None,
    residual=None,
    upsample=False,
    out=None,
    input_activation="none",
    slopes=None,
):
    n, h, w, c = x.shape
    top, bottom, left, right = padding
    repeat = 2 if upsample else 1
    packed = ops.pack_weight(weight)
    shape = (n, h * repeat + top + bottom - 2, w * repeat + left + right - 2, weight.shape[0])
    y = torch.full(shape, float("nan"), dtype=x.dtype) if out is None else out
    tensors = {
        "x": x, "x2": x2, "weight": packed, "bias": bias, "scale": scale, "shift": shift,
        "channel_add": channel_add, "slopes": slopes, "residual": residual, "y": y,
    }  # fmt: skip
    args = core().Conv2dArgs(
        **{name: 0 if t is None else t.data_ptr() for name, t in tensors.items()},
        pictures=n,
        height=h,
        width=w,
        channels=c,
        channels2=0 if x2 is None else x2.shape[3],
        height_out=shape[1],
        width_out=shape[2],
        channels_out=shape[3],
        kernel_height=3,
        kernel_width=3,
        stride=1,
        top=top,
        left=left,
        activation=INPUT_ACTIVATIONS.index("silu" if silu else input_activation),
        upsample=upsample,
        dtype=CODES[x.dtype],
        weight_dtype=CODES[weight.dtype],
    )
    core().conv2d(args, threads, f"winograd{tile}")
    return y


def _inputs(n, h, w, c, cout, c2=0, seed=3):
    generator = torch.Generator().manual_seed(seed)

    def random(*size):
        return torch.randn(size, generator=generator)

    weight = random(cout, 3, 3, c + c2) / (3 * (c + c2) ** 0.5)
    return random(n, h, w, c), weight, random(cout)


def _block(n, h, w, c, c2, cout, out, dtype=torch.float32):
    """A residual block's second convolution: everything around it at once."""
    generator = torch.Generator().manual_seed(5)

    def random(*size):
        return torch.randn(size, generator=generator)

    x, weight, bias = _inputs(n, h, w, c, cout, c2)
    return (x.to(dtype), weight, bias), {
        "x2": random(n, h, w, c2).to(dtype) if c2 else None,
        "scale": random(n, c + c2),
        "shift": random(n, c + c2),
        "silu": True,
        "channel_add": random(n, cout).to(dtype),
        "residual": random(n, *out, cout).to(dtype),
    }


def _exact(x, weight, bias=None, padding=(1, 1, 1, 1), **more):
    double = {k: v.double() if torch.is_tensor(v) else v for k, v in more.items()}
    bias = None if bias is None else bias.double()
    return reference.conv2d(x.double(), weight.double(), bias, padding=padding, **double)


def _error(got, exact):
    return float((got - exact).abs().max() / exact.std(correction=0))


@pytest.fixture(params=ISAS)
def isa(request, use_isa):
    use_isa(request.param)
    return request.param


@pytest.mark.parametrize("tile", [4, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_the_declared_bound(isa, shape, tile):
    x, weight, bias = _inputs(*shape)
    exact = _exact(x, weight, bias)
    assert _error(winograd(x, weight, bias, tile=tile), exact) <= BOUND


@pytest.mark.parametrize("tile", [4, 2])
@pytest.mark.parametrize("silu", [False, True])
def test_the_declared_bound_over_many_outputs(isa, tile, silu):
    """200,000 of them, over 1280 channels; after SiLU, whose results have a mean."""
    x, weight, _ = _inputs(1, 56, 56, 1280, 64)
    got = winograd(x, weight, tile=tile, silu=silu)
    assert _error(got, _exact(x, weight, silu=silu)) <= BOUND


def test_f2_is_as_exact_as_the_direct_sum(isa):
    x, weight, bias = _inputs(2, 20, 20, 640, 32)
    exact = _exact(x, weight, bias)
    assert _error(winograd(x, weight, bias, tile=2), exact) <= 4e-6


@pytest.mark.parametrize("tile", [4, 2])
@pytest.mark.parametrize("in_place", [False, True])
def test_prologue_and_epilogue(isa, tile, in_place):
    arguments, more = _block(3, 9, 14, 37, 28, 50, (9, 14))
    exact = _exact(*arguments, **more)
    out = more["residual"] if in_place else None
    got = winograd(*arguments, tile=tile, out=out, **more)
    assert _error(got, exact) <= BOUND


@pytest.mark.parametrize("tile", [4, 2])
@pytest.mark.parametrize(
    "padding", [(1, 1, 1, 1), (0, 0, 0, 0), (0, 1, 0, 1), (3, 0, 1, 7), (9, 9, 9, 9)]
)
@pytest.mark.parametrize("upsample", [False, True])
def test_padding_and_enlargement(isa, tile, padding, upsample):
    x, weight, bias = _inputs(2, 5, 6, 19, 8)
    exact = _exact(x, weight, bias, padding=padding, upsample=upsample)
    got = winograd(x, weight, bias, tile=tile, padding=padding, upsample=upsample)
    assert _error(got, exact) <= BOUND


@pytest.mark.parametrize("tile", [4, 2])
@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16])
def test_16_bit_weights_under_float32(isa, tile, weights):
    """As exact as float32 weights of the same values: they are widened before anything else."""
    x, weight, bias = _inputs(2, 6, 11, 40, 24)
    weight = weight.to(weights)
    wide = winograd(x, weight.float(), bias, tile=tile)
    assert torch.equal(winograd(x, weight, bias, tile=tile), wide)
    assert _error(wide, _exact(x, weight, bias)) <= BOUND


@pytest.mark.parametrize("tile", [4, 2])
@pytest.mark.parametrize(("dtype", "unit"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_16_bit_activations(isa, tile, dtype, unit):
    """Rounded once, at the end: the prologue's result stays float32 on its way in."""
    (x, weight, bias), more = _block(2, 10, 7, 24, 20, 33, (10, 7), dtype)
    weight = weight.to(dtype)
    got = winograd(x, weight, bias, tile=tile, **more)
    # float64 inputs keep the reference from rounding the prologue.
    exact = _exact(x, weight, bias, **more)
    assert ((got - exact).abs() <= unit * exact.abs() + BOUND * exact.std()).all()


@pytest.mark.parametrize("tile", [4, 2])
@pytest.mark.parametrize(
    "shape", [(3, 34, 50, 20, 40), (2, 66, 70, 330, 20), (3, 4, 4, 400, 80), (5, 8, 9, 16, 3)]
)
def test_bits_do_not_depend_on_threads_batch_or_slot(isa, tile, shape):
    n, h, w, c, cout = shape
    (x, weight, bias), more = _block(n, h, w, c, 8, cout, (h, w))
    whole = winograd(x, weight, bias, tile=tile, threads=1, **more)
    # Up to 8 threads have tiles of their own where there are many, in one block or several.
    for threads in (2, 3, 8, 16):
        got = winograd(x, weight, bias, tile=tile, threads=threads, **more)
        assert torch.equal(got, whole)
    per_picture = ("x2", "scale", "shift", "channel_add", "residual")
    for slot in range(n):
        alone = {k: v[slot : slot + 1].clone() if k in per_picture else v for k, v in more.items()}
        got = winograd(x[slot : slot + 1].clone(), weight, bias, tile=tile, **alone)
        assert torch.equal(got[0], whole[slot])


@pytest.mark.parametrize("tile", [4, 2])
def test_nothing_is_written_beside_the_result(isa, tile):
    x, weight, bias = _inputs(2, 5, 7, 16, 21)
    memory = torch.full((2 * 5 * 7 * 21 + 128,), 7.0)
    y = memory[64:-64].view(2, 5, 7, 21)
    winograd(x, weight, bias, tile=tile, out=y)
    assert torch.equal(y, winograd(x, weight, bias, tile=tile))
    assert (memory[:64] == 7).all()
    assert (memory[-64:] == 7).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_value_spoils_its_tiles_and_no_others(value):
    x, weight, bias = _inputs(2, 12, 12, 16, 16)
    x[1, 5, 5, 3] = value
    got = winograd(x, weight, bias)
    assert not got[1, 4:8, 4:8].isfinite().all()
    got[1, 4:8, 4:8] = 0  # the pixel is under the inner 4x4 of that tile's 6x6 alone
    assert got.isfinite().all()


def test_scratch_of_a_large_call_is_used_again_by_a_small_one():
    large, small = _inputs(1, 40, 40, 64, 64), _inputs(1, 5, 5, 7, 7)
    first = winograd(*small)
    winograd(*large)
    assert torch.equal(winograd(*small), first)


def test_no_pictures():
    weight = torch.randn(4, 3, 3, 5)
    assert winograd(torch.empty(0, 6, 6, 5), weight).shape == (0, 6, 6, 4)


SIZES = {
    "pictures": 1, "height": 4, "width": 4, "channels": 3, "channels2": 3, "height_out": 4,
    "width_out": 4, "channels_out": 3,
}  # fmt: skip


def _convolve(**changed):
    memory = torch.zeros(4096)
    good = dict.fromkeys(("x", "x2", "weight", "bias", "y"), memory.data_ptr()) | SIZES
    good |= dict.fromkeys(("kernel_height", "kernel_width"), 3)
    good |= dict.fromkeys(("stride", "top", "left"), 1)
    good |= dict.fromkeys(("activation", "dtype", "weight_dtype"), 0)
    core().conv2d(core().Conv2dArgs(**good | changed), 1, "winograd4")


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("bad", [-1, 2**62, 2**63 - 1, -(2**63)])
def test_impossible_sizes_raise(name, bad):
    _convolve()
    with pytest.raises((ValueError, MemoryError)):
        _convolve(**{name: bad})


@pytest.mark.parametrize("name", ["x", "x2", "weight", "y"])
def test_a_null_pointer_raises(name):
    with pytest.raises(ValueError, match="null pointer"):
        _convolve(**{name: 0})


def _cook_toom():
    path = Path(__file__).parents[2] / "csrc/core/conv/cook_toom.py"
    spec = importlib.util.spec_from_file_location("cook_toom", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("m", [2, 4])
def test_the_derived_matrices_filter_exactly(m):
    """In fractions: every pair of unit input and unit tap."""
    module = _cook_toom()
    a, g, b, divisors = module.cook_toom(module.POINTS[m], m)
    n = m + 2
    for tap in range(3):
        for position in range(n):
            for output in range(m):
                y = sum(a[output][i] * g[i][tap] * b[i][position] / divisors[i] for i in range(n))
                assert y == Fraction(int(position == output + tap))
