"""Copies and means between the kernels: the bits of plain torch."""

import pytest
import torch
from torch.nn.functional import interpolate, pad

from pyengine.ops import _moves
from pyengine.ops._core import core

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

#: Fields of the kernels' structs without memory.
HALVED = {
    "pictures": 1, "height": 4, "width": 4, "channels": 3, "height_out": 2, "width_out": 2,
}  # fmt: skip
JOINED = {
    "pictures": 1, "first_rows": 2, "second_rows": 3, "bytes": 16, "first_picture": 0,
    "first_row": 0, "second_picture": 0, "second_row": 0,
}  # fmt: skip


def draw(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("n", "a", "b", "width"), [(1, 1, 1, 1), (3, 7, 20, 5), (2, 77, 256, 96)])
def test_rows_behind_one_another(n, a, b, width, threads, dtype, use_threads):
    use_threads(threads)
    first, second = draw(n, a, width, dtype=dtype), draw(n, b, width, dtype=dtype)
    assert torch.equal(_moves.joined(first, second), torch.cat([first, second], dim=1))
    wide = draw(n, b, 3 * width, dtype=dtype)  # a part of a fused projection
    part = wide[..., width : 2 * width]
    assert torch.equal(_moves.joined(first, part), torch.cat([first, part], dim=1))
    turned = draw(n, width, b, dtype=dtype).transpose(1, 2)
    assert torch.equal(_moves.joined(turned, first), torch.cat([turned, first], dim=1))


@pytest.mark.parametrize("shape", [(5,), (2, 3, 7), (2, 5, 4, 33)])
def test_beside_ones(shape):
    x = draw(*shape)
    assert torch.equal(_moves.beside_ones(x), torch.cat([torch.ones_like(x), x], dim=-1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 2, 2, 1), (2, 5, 9, 3), (3, 16, 12, 40), (1, 1, 4, 2)])
def test_the_mean_of_four_pixels(shape, dtype):
    x = draw(*shape, dtype=dtype)
    got = _moves.halved(x)
    want = _moves.halved(x.double())
    assert got.dtype == dtype
    assert got.shape == (shape[0], shape[1] // 2, shape[2] // 2, shape[3])
    atol = {torch.float32: 1e-6}.get(dtype, 2e-2)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=atol)
    with torch.enable_grad():  # torch's way
        plain = _moves.halved(x.clone().requires_grad_(True)).detach()
    assert torch.equal(got, plain)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(10, 14), (9, 13), (5, 7), (1, 1), (23, 8)])
def test_each_pixel_is_that_which_it_falls_into(size, dtype):
    x = draw(2, 5, 7, 6, dtype=dtype)
    want = interpolate(x.permute(0, 3, 1, 2).float(), size=size, mode="nearest-exact")
    exact = all(new % old == 0 for new, old in zip(size, (5, 7), strict=True))
    got = _moves.enlarged(x, size)
    if exact:
        assert torch.equal(got, want.permute(0, 2, 3, 1).to(dtype))
    with torch.enable_grad():
        plain = _moves.enlarged(x.clone().requires_grad_(True), size).detach()
    assert torch.equal(got, plain)


def test_a_norm_scaled_and_shifted_by_a_time():
    scale, shift, by = draw(3, 37), draw(3, 37) + 2, draw(3, 74)
    s, t = by.chunk(2, dim=1)
    got = _moves.modulated(scale, shift, by)
    assert torch.equal(got[0], scale * (1 + s))
    assert torch.equal(got[1], shift * (1 + s) + t)
    wide = _moves.modulated(scale, shift, by.to(torch.bfloat16))
    torch.testing.assert_close(wide[0], got[0], rtol=2e-2, atol=2e-2)


def test_masks_are_padded():
    mask = draw(3, 5)
    assert torch.equal(_moves.padded(mask, 9), pad(mask, (0, 4)))


@pytest.mark.parametrize("by", [1 / 0.7071, 3.0])
def test_divided(by):
    x = draw(2, 40, 33, 17)
    want = x / by
    assert _moves.divide_(x, by) is x
    assert torch.equal(x, want)


def test_gradients_go_through():
    with torch.enable_grad():
        x = draw(1, 4, 6, 3).requires_grad_(True)
        y = _moves.joined(_moves.halved(x).flatten(1, 2), _moves.enlarged(x, (5, 7)).flatten(1, 2))
        (y.sum() + _moves.beside_ones(x).sum()).backward()
    assert x.grad is not None
    assert float(x.grad.sum()) == 6 * 3 + 5 * 7 * 3 + 4 * 6 * 3


@pytest.mark.parametrize(
    ("kernel", "change", "others"),
    [
        ("halve", {}, (1,)),
        ("halve", {"height_out": 4, "width_out": 4}, (1,)),
        ("halve", {"channels": -3}, (1,)),
        ("enlarge", {"height_out": 8, "width_out": 8}, (4, 1)),
        ("enlarge", {"pictures": 2**62}, (4, 1)),
        ("join_rows", {}, (1,)),
        ("join_rows", {"first_row": -4}, (1,)),
        ("modulate", {}, ()),
    ],
)
def test_what_kernels_refuse(kernel, change, others):
    made, fields = {
        "join_rows": (core().JoinArgs, JOINED),
        "modulate": (core().ModulateArgs, {"pictures": 2, "channels": 3}),
    }.get(kernel, (core().ResizeArgs, HALVED))
    with pytest.raises(ValueError, match=f"{kernel}: "):
        getattr(core(), kernel)(made(**fields | change), *others)


@pytest.mark.parametrize("count", [5, -5])
def test_divide_refuses_null_pointers_and_negative_sizes(count):
    with pytest.raises(ValueError, match="divide: "):
        core().divide(0, 2.0, count, 1)
