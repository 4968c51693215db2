"""Inputs for every op in the registry: the one list that the tests of the promises go through."""

from unittest.mock import patch

import torch
import torch.nn.functional as F
from gpu_cases import (
    _SETTINGS,
    DTYPES,
    Case,
    _decode_attention,
    _layer_norm,
    _mask_refine,
    _norm,
    _rms_norm,
    _rotary,
    _rotary_cache,
    _sample_token,
    _step,
    _vq_argmin,
    _vq_decode,
)
from gpu_cases import CASES as KERNEL_CASES

from pyengine import ops
from pyengine.ops import OPS, pack_weight, reference
from pyengine.ops.reference.linear import ACTIVATIONS, GATED

FLOAT32 = (torch.float32,)


def _conv(
    n,
    h,
    w,
    c,
    cout,
    k=3,
    *,
    c2=0,
    norm=False,
    epilogue=False,
    hw=None,
    packed=False,
    leaky=False,
    **more,
):
    height, width = k if isinstance(k, tuple) else (k, k)

    def build(dtype):
        def random(*shape):
            return torch.randn(shape).to(dtype)

        total = c + c2
        fan_in = height * width * total
        inputs = {
            "x": random(n, h, w, c),
            "weight": (torch.randn(cout, height, width, total) / fan_in**0.5).to(dtype),
            "bias": random(cout),
            "x2": random(n, h, w, c2) if c2 else None,
            **more,
        }
        if norm:
            inputs |= {"scale": torch.randn(n, total), "shift": torch.randn(n, total)}
        if epilogue:
            inputs |= {"channel_add": random(n, cout), "residual": random(n, *hw, cout)}
        if leaky:
            inputs["slopes"] = torch.rand(cout) * 1.5 - 0.5
        if packed:
            inputs |= {"weight": pack_weight(inputs["weight"]), "out_channels": cout}
        return inputs

    return build


def _linear(
    *shape,
    cout,
    c2=0,
    bias=True,
    residual=False,
    norm=False,
    packed=False,
    weight=None,
    addend=False,
    gate=False,
    **more,
):
    """weight: its dtype, x's where it is None."""
    whole = weight in (torch.int8, torch.float8_e4m3fn)

    def build(dtype):
        total, gated = shape[-1] + c2, more.get("activation") in GATED
        matrix = torch.randn(cout, total) / total**0.5
        if whole:
            panels, scale = ops.quantize_weight(matrix, weight)
            matrix, more["weight_scale"] = ops.unpack_weight(panels, cout), scale
        matrix = matrix.to(weight or dtype)
        result = (*shape[:-1], cout // 2 if gated else cout)
        return {
            "x": torch.randn(shape).to(dtype),
            "weight": ops.pack_weight(matrix) if packed else matrix,
            "bias": torch.randn(cout).to(dtype) if bias else None,
            "x2": torch.randn(*shape[:-1], c2).to(dtype) if c2 else None,
            "residual": torch.randn(result).to(dtype) if residual else None,
            "addend": torch.randn(*shape[:-1], cout).to(dtype) if addend else None,
            "gate": torch.randn(shape[0], result[-1]) if gate else None,
            "scale": torch.randn(shape[0], total) if norm else None,
            "shift": torch.randn(shape[0], total) if norm else None,
            **({"out_features": cout} if packed and not bias and not whole else {}),
            **more,
        }

    return build


def _attention(n, lq, lk, heads, d, dv=None, mask=None, fused=False, **more):
    """fused: q, k and v are slices of one tensor."""

    def build(dtype):
        q = torch.randn(n, lq, heads * d).to(dtype)
        k = torch.randn(n, lk, heads * d).to(dtype)
        v = torch.randn(n, lk, heads * (dv or d)).to(dtype)
        if fused:
            q, k, v = torch.cat([q, k, v], dim=-1).tensor_split(3, dim=-1)
        return {
            "q": q,
            "k": k,
            "v": v,
            "heads": heads,
            "mask": None if mask is None else torch.randn(mask),
            **more,
        }

    return build


_ROWS = {case.op: case.rows for case in KERNEL_CASES if case.name != "slots"} | {
    "conv2d": ("x", "x2", "scale", "shift", "channel_add", "residual"),
    "linear": ("x", "x2", "addend", "gate", "residual", "scale", "shift"),
    "attention": ("q", "k", "v", "mask"),
}

CASES = [
    *KERNEL_CASES,
    *(
        Case(op, name, build, _ROWS[op], dtypes)
        for op, name, build, dtypes in [
            ("group_norm_silu", "one-pixel", _norm(5, 1, 1, 32, 32), DTYPES),
            ("group_norm_silu", "two-strips", _norm(2, 9, 8, 48, 3, c2=17 * 3), DTYPES),
            ("group_norm_silu", "large", _norm(2, 40, 40, 96, 32), DTYPES),
            ("group_norm_silu", "large-two-inputs", _norm(2, 24, 24, 100, 10, c2=60), FLOAT32),
            ("group_norm_silu", "mean-10000", _norm(2, 13, 13, 24, 4, mean=1e4), FLOAT32),
            ("group_norm_silu", "tiny-values", _norm(2, 7, 7, 16, 4, spread=1e-6), FLOAT32),
            ("group_norm_silu", "large-values", _norm(2, 7, 7, 16, 4, spread=1e8), FLOAT32),
            ("group_norm_scale_shift", "large", _norm(2, 40, 40, 96, 32), DTYPES),
            ("layer_norm", "large", _layer_norm(2, 300, 320), DTYPES),
            ("layer_norm", "very-wide", _layer_norm(2, 70001), FLOAT32),
            ("layer_norm", "mean-10000", _layer_norm(3, 5, 320, mean=1e4), FLOAT32),
            ("layer_norm", "one-row", _layer_norm(17), FLOAT32),
            ("rms_norm", "large", _rms_norm(2, 300, 320), DTYPES),
            ("rms_norm", "very-wide", _rms_norm(2, 70001), FLOAT32),
            ("rms_norm", "large-values", _rms_norm(3, 5, 320, spread=1e8), FLOAT32),
            ("rms_norm", "one-row", _rms_norm(17), FLOAT32),
            ("swiglu", "large", lambda dtype: {"x": 3 * torch.randn(4, 50, 640).to(dtype)}, DTYPES),
            ("rotary", "large", _rotary(3, 200, 12, 64), DTYPES),
            ("rotary_cache", "large", _rotary_cache(3, 70, 12, 4, 64, 200), DTYPES),
            ("decode_attention", "large", _decode_attention(4, 1, 12, 12, 64, 577), DTYPES),
            ("decode_attention", "large-text", _decode_attention(2, 40, 6, 2, 40, 90), DTYPES),
            ("decode_attention", "large-heads", _decode_attention(3, 9, 4, 2, 300, 200), FLOAT32),
            ("geglu", "large", lambda dtype: {"x": 3 * torch.randn(4, 50, 640).to(dtype)}, DTYPES),
            ("geglu", "tail", lambda dtype: {"x": torch.linspace(-15, 15, 802).to(dtype)}, DTYPES),
            ("sampler_step", "large", _step(2, 4, 96, 97), DTYPES),
            ("sampler_step", "negative-limit", _step(2, 3, 5, 7, limit=-0.5), DTYPES),
            ("vq_argmin", "large", _vq_argmin(3, 40, 8, book=(5000, 8)), DTYPES),
            ("vq_argmin", "large-deep", _vq_argmin(2, 60, 70, book=(300, 70)), DTYPES),
            ("vq_decode", "large", _vq_decode(3, 200, book=(100, 32), outputs=64), DTYPES),
            ("sample_token", "large", _sample_token(3000, _SETTINGS, guided=True), DTYPES),
            ("mask_refine", "large", _mask_refine(4, 60, 500), DTYPES),
            ("conv2d", "plain", _conv(3, 9, 7, 5, 6, padding=(1, 1, 1, 1)), DTYPES),
            ("conv2d", "one-pixel", _conv(2, 1, 1, 8, 4, k=1), DTYPES),
            (
                "conv2d", "residual-block",
                _conv(2, 8, 9, 12, 16, c2=4, norm=True, silu=True, epilogue=True, hw=(8, 9),
                      padding=(1, 1, 1, 1)),
                DTYPES,
            ),
            ("conv2d", "up", _conv(2, 5, 4, 8, 8, upsample=True, padding=(1, 1, 1, 1)), DTYPES),
            ("conv2d", "down", _conv(2, 8, 6, 8, 8, stride=2, padding=(0, 1, 0, 1)), DTYPES),
            (
                "conv2d", "packed",
                _conv(3, 9, 11, 24, 37, c2=8, norm=True, silu=True, epilogue=True, hw=(9, 11),
                      packed=True, padding=(1, 1, 1, 1)),
                DTYPES,
            ),
            ("conv2d", "many-blocks", _conv(3, 17, 18, 20, 24, padding=(1, 1, 1, 1)), DTYPES),
            ("conv2d", "many-channels", _conv(2, 4, 4, 380, 70, padding=(1, 1, 1, 1)), FLOAT32),
            ("conv2d", "many-pictures", _conv(300, 1, 1, 9, 17, k=1, stride=2), FLOAT32),
            ("conv2d", "few-outputs", _conv(2, 13, 12, 37, 3, padding=(1, 1, 1, 1)), DTYPES),
            (
                "conv2d", "few-outputs-of-few",
                _conv(2, 5, 3, 4, 4, k=1, norm=True, epilogue=True, hw=(5, 3)),
                DTYPES,
            ),
            (
                "conv2d", "up-with-all",
                _conv(3, 5, 7, 36, 30, c2=4, norm=True, silu=True, epilogue=True, hw=(10, 14),
                      upsample=True, padding=(1, 1, 1, 1)),
                DTYPES,
            ),
            (
                "conv2d", "up-uneven",
                _conv(2, 5, 4, 8, 8, upsample=True, padding=(0, 2, 1, 1)),
                DTYPES,
            ),
            (
                "conv2d", "two-by-five",
                _conv(2, 9, 8, 6, 20, k=(2, 5), padding=(1, 0, 2, 5)),
                DTYPES,
            ),
            ("conv2d", "stride-3", _conv(2, 10, 11, 33, 20, k=2, stride=3), DTYPES),
            ("conv2d", "one-row", _conv(2, 1, 40, 16, 16, padding=(1, 1, 1, 1)), DTYPES),
            ("conv2d", "one-column", _conv(2, 40, 1, 16, 16, padding=(1, 1, 1, 1)), DTYPES),
            (
                "conv2d", "winograd",
                _conv(3, 11, 9, 40, 36, c2=8, norm=True, silu=True, epilogue=True, hw=(11, 9),
                      padding=(1, 1, 1, 1)),
                DTYPES,
            ),
            (
                "conv2d", "tiles",
                _conv(2, 9, 16, 32, 37, c2=64, norm=True, silu=True, epilogue=True, hw=(9, 16),
                      leaky=True, packed=True, padding=(1, 1, 1, 1)),
                DTYPES,
            ),
            ("conv2d", "tiles-copied", _conv(3, 7, 9, 160, 48, padding=(1, 1, 1, 1)), DTYPES),
            (
                "conv2d", "tiles-down",
                _conv(2, 9, 35, 64, 20, stride=2, padding=(0, 1, 0, 1)),
                DTYPES,
            ),
            (
                "conv2d", "tiles-up",
                _conv(2, 5, 8, 32, 16, norm=True, input_activation="gelu", epilogue=True,
                      hw=(10, 16), upsample=True, padding=(1, 1, 1, 1)),
                DTYPES,
            ),
            (
                "conv2d", "tiles-up-uneven",
                _conv(2, 5, 4, 32, 18, upsample=True, padding=(0, 2, 1, 2)),
                DTYPES,
            ),
            ("conv2d", "silu-alone", _conv(1, 6, 6, 4, 8, silu=True), DTYPES),
            (
                "conv2d", "gelu",
                _conv(2, 9, 7, 20, 24, c2=3, norm=True, input_activation="gelu", epilogue=True,
                      hw=(9, 7), packed=True, padding=(1, 1, 1, 1)),
                DTYPES,
            ),
            ("conv2d", "gelu-direct", _conv(2, 5, 7, 9, 5, k=2, input_activation="gelu"), DTYPES),
            (
                "conv2d", "relu-and-slopes",
                _conv(2, 12, 10, 36, 21, norm=True, input_activation="relu", leaky=True,
                      epilogue=True, hw=(12, 10), packed=True, padding=(1, 1, 1, 1)),
                DTYPES,
            ),
            (
                "conv2d", "slopes-up",
                _conv(2, 5, 4, 8, 18, leaky=True, upsample=True, padding=(1, 1, 1, 1)),
                DTYPES,
            ),
            (
                "conv2d", "transposed",
                _conv(3, 5, 7, 36, 35, k=4, leaky=True, stride=2, padding=(1, 1, 1, 1),
                      transposed=True, packed=True),
                DTYPES,
            ),
            (
                "conv2d", "transposed-with-all",
                _conv(2, 4, 3, 9, 18, k=4, c2=4, norm=True, input_activation="silu", epilogue=True,
                      hw=(8, 6), stride=2, padding=(1, 1, 1, 1), transposed=True),
                DTYPES,
            ),
            (
                "conv2d", "transposed-few-outputs",
                _conv(2, 4, 3, 9, 3, k=4, stride=2, padding=(1, 1, 1, 1), transposed=True),
                DTYPES,
            ),
            (
                "conv2d", "transposed-few-with-all",
                _conv(3, 5, 4, 21, 4, k=4, c2=4, norm=True, input_activation="relu", leaky=True,
                      epilogue=True, hw=(10, 8), stride=2, padding=(1, 1, 1, 1), transposed=True,
                      packed=True),
                DTYPES,
            ),
            ("conv2d", "slopes-few-outputs", _conv(2, 7, 5, 9, 3, leaky=True), DTYPES),
            ("linear", "plain", _linear(5, 7, 33, cout=20), DTYPES),
            ("linear", "one-row", _linear(16, cout=4, bias=False), DTYPES),
            ("linear", "two-inputs", _linear(3, 7, 20, cout=12, c2=9, residual=True), DTYPES),
            ("linear", "silu", _linear(3, 8, cout=24, activation="silu"), DTYPES),
            ("linear", "gelu", _linear(3, 8, cout=24, activation="gelu"), DTYPES),
            ("linear", "quick-gelu", _linear(3, 8, cout=24, activation="quick_gelu"), DTYPES),
            ("linear", "geglu", _linear(3, 8, cout=48, activation="geglu"), DTYPES),
            ("linear", "geglu-odd", _linear(2, 5, 8, cout=38, activation="geglu"), DTYPES),
            ("linear", "gelu-tanh", _linear(3, 8, cout=24, activation="gelu_tanh"), DTYPES),
            ("linear", "geglu-tanh", _linear(2, 5, 8, cout=38, activation="geglu_tanh"), DTYPES),
            ("linear", "addend", _linear(3, 5, 20, cout=37, addend=True, activation="silu",
                                         residual=True), DTYPES),
            ("linear", "addend-geglu", _linear(3, 5, 20, cout=38, addend=True, packed=True,
                                               activation="geglu", weight=torch.float16), DTYPES),
            ("linear", "gate", _linear(3, 5, 20, cout=37, gate=True, residual=True), DTYPES),
            ("linear", "gate-many-rows", _linear(3, 130, 330, cout=70, gate=True, addend=True,
                                                 activation="gelu_tanh"), DTYPES),
            ("linear", "gate-geglu-int8", _linear(2, 37, 90, cout=70, gate=True, addend=True,
                                                  activation="geglu_tanh", weight=torch.int8,
                                                  residual=True), DTYPES),
            ("linear", "addend-fp8-rows", _linear(2, 19, 70, cout=20, addend=True, gate=True,
                                                  weight=torch.float8_e4m3fn, quantize_x=True),
             DTYPES),
            ("linear", "packed", _linear(2, 9, 33, cout=20, packed=True, bias=False), DTYPES),
            ("linear", "packed-geglu", _linear(7, 8, cout=40, packed=True, activation="geglu",
                                               residual=True), DTYPES),
            ("linear", "norm", _linear(3, 5, 20, cout=12, c2=9, norm=True, silu=True,
                                       residual=True), DTYPES),
            ("linear", "silu-alone", _linear(3, 20, cout=12, silu=True), DTYPES),
            ("linear", "half-weight", _linear(3, 7, 40, cout=50, weight=torch.float16), DTYPES),
            ("linear", "bfloat16-weight", _linear(3, 20, cout=50, weight=torch.bfloat16), DTYPES),
            ("linear", "two-int8", _linear(2, 7, 40, cout=50, weight=torch.int8), DTYPES),
            ("linear", "int8-few-rows", _linear(2, 1, 700, cout=200, weight=torch.int8,
                                                packed=True, bias=False), DTYPES),
            ("linear", "int8-many-rows", _linear(2, 130, 330, c2=9, cout=70, weight=torch.int8,
                                                 residual=True), DTYPES),
            ("linear", "int8-geglu-odd", _linear(2, 5, 40, cout=38, activation="geglu",
                                                 weight=torch.int8), DTYPES),
            ("linear", "int8-norm", _linear(3, 5, 20, cout=44, norm=True, silu=True, packed=True,
                                            activation="gelu", weight=torch.int8), DTYPES),
            ("linear", "fp8", _linear(2, 1, 330, cout=50, weight=torch.float8_e4m3fn), DTYPES),
            ("linear", "fp8-geglu", _linear(2, 5, 40, cout=38, activation="geglu", packed=True,
                                            weight=torch.float8_e4m3fn), DTYPES),
            ("linear", "fp8-many-rows", _linear(2, 19, 330, cout=50, weight=torch.float8_e4m3fn,
                                                activation="silu", residual=True), DTYPES),
            ("linear", "fp8-rows", _linear(2, 19, 330, cout=50, weight=torch.float8_e4m3fn,
                                           quantize_x=True), DTYPES),
            ("linear", "fp8-rows-geglu", _linear(3, 2, 72, cout=38, activation="geglu", packed=True,
                                                 weight=torch.float8_e4m3fn, quantize_x=True),
             DTYPES),
            ("linear", "fp8-rows-many-tiles", _linear(1, 1030, 140, cout=150, quantize_x=True,
                                                      weight=torch.float8_e4m3fn, residual=True),
             DTYPES),
            ("linear", "int8-tiles", _linear(2, 37, 90, cout=70, weight=torch.int8), DTYPES),
            ("linear", "int8-rows", _linear(2, 19, 330, cout=50, weight=torch.int8,
                                            quantize_x=True), DTYPES),
            ("linear", "int8-rows-geglu", _linear(3, 2, 72, cout=38, activation="geglu",
                                                  packed=True, weight=torch.int8, residual=True,
                                                  quantize_x=True), DTYPES),
            ("linear", "int8-rows-deep", _linear(2, 130, 1400, c2=9, cout=70, weight=torch.int8,
                                                 gate=True, addend=True, quantize_x=True), DTYPES),
            ("linear", "fp8-rows-two-inputs", _linear(2, 7, 70, c2=9, cout=20, residual=True,
                                                      activation="gelu", bias=False,
                                                      weight=torch.float8_e4m3fn, quantize_x=True),
             DTYPES),
            ("linear", "one-deep-pass", _linear(2, 50, 320, cout=64), DTYPES),
            ("linear", "two-passes", _linear(2, 41, 321, cout=70), DTYPES),
            ("linear", "one-row-deep", _linear(2, 1, 1280, cout=320, packed=True), DTYPES),
            ("linear", "a-few-rows-of-320", _linear(2, 1, 320, cout=1000, packed=True), FLOAT32),
            ("linear", "a-few-rows-of-768", _linear(2, 768, cout=1000, packed=True), FLOAT32),
            ("linear", "many-passes", _linear(2, 26, 2300, cout=33, c2=20), DTYPES),
            ("linear", "many-blocks", _linear(2, 530, 18, cout=40, residual=True), DTYPES),
            ("linear", "blocks-and-passes", _linear(2, 130, 2000, cout=20), DTYPES),
            ("attention", "self", _attention(3, 33, 33, 4, 8), DTYPES),
            ("attention", "cross", _attention(2, 20, 7, 2, 16, dv=8), DTYPES),
            ("attention", "causal", _attention(2, 11, 11, 2, 8, causal=True), DTYPES),
            ("attention", "scaled", _attention(1, 5, 6, 1, 4, scale=0.3), DTYPES),
            ("attention", "masked", _attention(2, 5, 6, 3, 8, mask=(2, 1, 1, 6)), FLOAT32),
            (
                "attention", "masked-causal",
                _attention(2, 6, 6, 3, 8, mask=(2, 1, 6, 6), causal=True),
                FLOAT32,
            ),
            # The shipped head sizes and others; keys of one block, of a full one and of several.
            ("attention", "text", _attention(2, 50, 77, 2, 40), DTYPES),
            ("attention", "several-blocks", _attention(2, 70, 257, 2, 40), DTYPES),
            ("attention", "one-key", _attention(3, 19, 1, 2, 72, dv=9), DTYPES),
            ("attention", "one-query", _attention(3, 1, 257, 2, 64), DTYPES),
            ("attention", "one-channel", _attention(2, 35, 130, 3, 1), DTYPES),
            ("attention", "seven-channels", _attention(2, 35, 121, 3, 7), DTYPES),
            ("attention", "slices", _attention(2, 65, 65, 2, 80, fused=True), DTYPES),
            ("attention", "head-160", _attention(2, 40, 125, 2, 160), FLOAT32),
            ("attention", "head-512", _attention(2, 70, 100, 1, 512), DTYPES),
            ("attention", "head-513", _attention(1, 20, 49, 1, 513, dv=600), FLOAT32),
            ("attention", "causal-text", _attention(2, 77, 77, 3, 64, causal=True), DTYPES),
            ("attention", "causal-short", _attention(2, 30, 140, 2, 40, causal=True), FLOAT32),
            ("attention", "causal-long", _attention(2, 140, 30, 2, 40, causal=True), FLOAT32),
            (
                "attention", "masked-blocks",
                _attention(2, 37, 257, 2, 40, mask=(2, 2, 37, 257), causal=True),
                FLOAT32,
            ),
        ]
    ),
]  # fmt: skip


# --- what torch itself makes of it ---------------------------------------------------------------


def _torch_group_norm(x, weight, bias, groups, eps=1e-5, x2=None, silu=True):
    x = x if x2 is None else torch.cat([x, x2], dim=-1)
    y = F.group_norm(x.permute(0, 3, 1, 2), groups, weight, bias, eps)
    return (F.silu(y) if silu else y).permute(0, 2, 3, 1)


def _torch_scale_shift(x, weight, bias, groups, eps=1e-5, x2=None):
    x = (x if x2 is None else torch.cat([x, x2], dim=-1)).float().permute(0, 3, 1, 2).contiguous()
    n, c, h, w = x.shape
    _, mean, rstd = torch.native_group_norm(
        x, weight.float(), bias.float(), n, c, h * w, groups, eps
    )
    scale = rstd.repeat_interleave(c // groups, dim=1) * weight.float()
    return scale, bias.float() - mean.repeat_interleave(c // groups, dim=1) * scale


def _torch_geglu(x):
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


def _torch_gelu_tanh(x):
    return F.gelu(x, approximate="tanh")


def _torch_geglu_tanh(x):
    value, gate = x.chunk(2, dim=-1)
    return value * _torch_gelu_tanh(gate)


def _torch_swiglu(x):
    value, gate = x.chunk(2, dim=-1)
    return value * F.silu(gate)


def _torch_linear(*args, **kwargs):
    """The specification with torch's activations."""
    own = {"silu": F.silu, "gelu": F.gelu, "geglu": _torch_geglu}
    own |= {"gelu_tanh": _torch_gelu_tanh, "geglu_tanh": _torch_geglu_tanh}
    with patch.dict(ACTIVATIONS, own):
        return reference.linear(*args, **kwargs)


#: op -> the same from torch's own functions; sampler_step is its reference's elementwise chain, and
#: the ops with torch behind them are compared with their references.
TORCHS_OWN = {
    "group_norm_silu": _torch_group_norm,
    "group_norm_scale_shift": _torch_scale_shift,
    "layer_norm": lambda x, weight, bias, eps=1e-5: F.layer_norm(
        x, x.shape[-1:], weight, bias, eps
    ),
    "geglu": _torch_geglu,
    "rms_norm": lambda x, weight=None, eps=1e-6: F.rms_norm(x, x.shape[-1:], weight, eps),
    "swiglu": _torch_swiglu,
    "linear": _torch_linear,
}
TORCHS_OWN |= {op: getattr(reference, op) for op in OPS if op not in TORCHS_OWN}
