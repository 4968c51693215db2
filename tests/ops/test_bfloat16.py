"""Kernels that multiply bfloat16: their activations, and weights in pairs."""

from importlib import import_module

import pytest
import tiny
import torch
import torch.nn.functional as F

import pyengine
from pyengine import ops
from pyengine.layers import Conv2d, Linear
from pyengine.ops import _core
from pyengine.ops._pack import is_paired, pair_weight

ISAS = ("avx512_bf16", "amx_bf16")
PADDED = (1, 1, 1, 1)

EXACT = {
    "silu": lambda x: x * torch.sigmoid(x),
    "gelu": lambda x: x * torch.special.ndtr(x),
    "gelu_tanh": lambda x: x * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


@pytest.fixture(params=ISAS)
def isa(request, use_isa):
    use_isa(request.param)
    return request.param


def all_finite():
    """Every finite number of bfloat16 that is not subnormal."""
    bits = torch.arange(1 << 16).to(torch.int32).to(torch.int16)
    x = bits.view(torch.bfloat16)
    return x[x.isfinite() & (x.abs() >= 2.0**-126)]


@pytest.mark.parametrize("activation", EXACT)
def test_activations_of_every_number(activation, isa):
    """Within 2^-12 before the result is rounded, or 3e-37; GELU below -5.6 within 2e-9."""
    x = all_finite()
    one = torch.ones(1, 1, dtype=torch.bfloat16)
    got = ops.linear(x[:, None], one, activation=activation)[:, 0]
    wide = x.double()
    exact = torch.where(wide < -2000, -0.0, EXACT[activation](wide.clamp(min=-2000)))
    error = (got.double() - exact).abs()
    allowed = exact.abs() * (2.0**-8 + 2.0**-12) + 3e-37
    if activation == "gelu":
        allowed[wide < -5.6] += 2e-9
    assert (error <= allowed).all(), x[(error > allowed)]
    usual = wide > -5.6
    assert (got != exact.bfloat16())[usual].double().mean() < 0.02


@pytest.mark.parametrize("activation", EXACT)
def test_activations_of_what_is_no_number(activation, isa):
    x = torch.tensor([[float("nan")], [float("inf")], [3e38], [-3e38], [0.0]]).bfloat16()
    got = ops.linear(x, torch.ones(1, 1).bfloat16(), activation=activation)[:, 0]
    assert got[0].isnan()
    assert got[1] == float("inf")
    assert got[2] == x[2, 0]
    assert (got[3:] == 0).all()


def test_the_prologues_silu_is_the_same(isa):
    x = all_finite()
    x = x[: len(x) // 32 * 32].view(-1, 32)
    eye = torch.eye(32).bfloat16()
    want = EXACT["silu"](x.double().clamp(min=-2000))
    finite, within = x.clamp(-1e30, 1e30), x.abs() <= 1e30
    found = [ops.linear(finite, eye, silu=True)]
    if isa == "amx_bf16":
        filters = F.pad(eye[:, None, None], (0, 0, 1, 1, 1, 1))
        found += ops.conv2d(finite[None, None], filters, padding=PADDED, silu=True)[0]
    for got in found:
        error = (got.double() - want).abs()
        assert (error <= want.abs() * (2.0**-8 + 2.0**-12) + 3e-37)[within].all()


@pytest.mark.parametrize("outputs", [16, 33, 70])
def test_weights_in_pairs_give_the_bits_of_plain_ones(outputs, isa):
    for k in (32, 96, 1312, 2624):
        weight, x = torch.randn(outputs, k).bfloat16(), torch.randn(45, k).bfloat16()
        pairs = pair_weight(weight)
        assert pairs.shape == (-(-outputs // 16), k // 2, 32)
        assert torch.equal(ops.unpack_weight(pairs), weight)
        for rows in (1, 16, 17, 45):
            want = ops.linear(x[:rows], weight, activation="silu")
            assert torch.equal(ops.linear(x[:rows], pairs, activation="silu"), want), (k, rows)
    weight, x = torch.randn(2 * outputs, 64).bfloat16(), torch.randn(40, 64).bfloat16()
    want = ops.linear(x, weight, activation="geglu")
    assert torch.equal(ops.linear(x, pair_weight(weight), activation="geglu"), want)


@pytest.mark.parametrize("size", [4, 16])
def test_filters_in_pairs_give_the_bits_of_plain_ones(size, use_isa):
    use_isa("amx_bf16")
    x, x2 = (torch.randn(2, size, size, c).bfloat16() for c in (64, 32))
    weight = torch.randn(40, 3, 3, 96).bfloat16()
    pairs = pair_weight(weight)
    assert pairs.shape == (3, 3, 3, 48, 32)
    assert torch.equal(ops.unpack_weight(pairs), weight)
    for more in ({}, {"stride": 2}, {"upsample": True}):
        want = ops.conv2d(x, weight, x2=x2, padding=PADDED, **more)
        assert torch.equal(ops.conv2d(x, pairs, x2=x2, padding=PADDED, **more), want)


def test_what_does_not_multiply_pairs_takes_them_apart(use_isa):
    weight, x = torch.randn(40, 64).bfloat16(), torch.randn(5, 64).bfloat16()
    filters, picture = torch.randn(40, 3, 3, 32).bfloat16(), torch.randn(1, 5, 5, 32).bfloat16()
    pairs, filter_pairs = pair_weight(weight), pair_weight(filters)
    for name, missing in ops.isas().items():
        if missing:
            continue
        use_isa(name)
        for dtype in (torch.bfloat16, torch.float32):
            a, b = x.to(dtype), picture.to(dtype)
            assert torch.equal(ops.linear(a, pairs), ops.linear(a, weight)), (name, dtype)
            want = ops.conv2d(b, filters, padding=PADDED)
            assert torch.equal(ops.conv2d(b, filter_pairs, padding=PADDED), want), (name, dtype)
    with ops.force("torch"):
        assert torch.equal(ops.linear(x, pairs), ops.linear(x, weight))
    with pytest.raises(pyengine.errors.RequestError, match="weight"):
        ops.linear(x[:, :32], pairs)


def test_kernels_refuse_pairs_that_they_do_not_multiply(use_isa, monkeypatch):
    use_isa("avx512")
    linear, conv2d = (import_module(f"pyengine.ops.{name}") for name in ("linear", "conv2d"))
    monkeypatch.setattr(linear, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(conv2d, "multiplies_tiles", lambda: True)
    with pytest.raises(ValueError, match="weights in pairs are for bfloat16"):
        ops.linear(torch.randn(2, 32).bfloat16(), pair_weight(torch.randn(16, 32).bfloat16()))
    filters = pair_weight(torch.randn(16, 3, 3, 32).bfloat16())
    with pytest.raises(ValueError, match="weights in pairs are for direct_bf16"):
        ops.conv2d(torch.randn(1, 4, 4, 32).bfloat16(), filters, padding=PADDED)


def layers_in_pairs(model):
    return [m for m in model.modules() if isinstance(m, Linear | Conv2d) and is_paired(m.weight)]


def test_a_model_in_bfloat16_is_loaded_in_pairs(tmp_path, use_isa):
    """The same picture as of a model that was loaded where nothing multiplies bfloat16."""
    folder = tiny.write_sd1(tmp_path / "model", unet={"layers_per_block": 1})
    pictures = []
    for loads in ("avx512", "amx_bf16"):
        use_isa(loads)
        pipe = pyengine.from_pretrained(folder, device="cpu", dtype=torch.bfloat16)
        assert bool(layers_in_pairs(pipe.unet)) == (loads == "amx_bf16")
        use_isa("amx_bf16")
        pictures.append(pipe("a cat", seed=1, num_inference_steps=2, output_type="np").images)
    assert (pictures[0] == pictures[1]).all()
    whole = pyengine.from_pretrained(folder, device="cpu", dtype=torch.float32)
    assert not layers_in_pairs(whole.unet)


def test_instruction_sets_that_multiply(use_isa):
    for name, missing in ops.isas().items():
        if not missing:
            use_isa(name)
            assert _core.multiplies_bfloat16() == (name in ISAS)
            assert _core.multiplies_tiles() == (name == "amx_bf16")
