"""Small, odd inputs for the ops that have GPU kernels; the same for Triton and for CUDA C++."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from pyengine.ops.reference import COLUMNS

EXTRAS = ("d1", "d2", "d3", "base", "noise", "variance")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    """One call of an op by keyword; `rows` names the arguments that hold a row per picture."""

    op: str
    name: str
    build: Callable[[torch.dtype], dict[str, Any]]
    rows: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...] = DTYPES

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"

    def inputs(self, dtype: torch.dtype, draw: int = 0) -> dict[str, Any]:
        """The arguments, the same at every call; others of the same kind for another draw."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sum(map(ord, str(self))) + 10_007 * draw)
            return self.build(dtype)

    def picture(self, inputs: dict[str, Any], i: int) -> dict[str, Any]:
        """The same call for picture i alone."""
        n = inputs[self.rows[0]].shape[0]

        def pick(tensor: Tensor) -> Tensor:
            # With guidance the model's output has two rows for a picture, n apart.
            return tensor[i::n].contiguous()

        return {
            name: pick(value) if name in self.rows and value is not None else value
            for name, value in inputs.items()
        }


def _norm(n, h, w, c, groups, c2=0, mean=0.0, spread=1.0, affine=True, **more):
    def build(dtype):
        def picture(channels):
            return (mean + spread * torch.randn(n, h, w, channels)).to(dtype)

        return {
            "x": picture(c),
            "weight": (1 + 0.2 * torch.randn(c + c2)).to(dtype) if affine else None,
            "bias": torch.randn(c + c2).to(dtype) if affine else None,
            "groups": groups,
            "x2": picture(c2) if c2 else None,
            **more,
        }

    return build


def _layer_norm(*shape, affine=True, mean=0.0, **more):
    def build(dtype):
        weight, bias = torch.randn(2, shape[-1]).to(dtype) if affine else (None, None)
        return {"x": (mean + torch.randn(shape)).to(dtype), "weight": weight, "bias": bias, **more}

    return build


def _rms_norm(*shape, affine=True, spread=1.0, **more):
    def build(dtype):
        weight = torch.randn(shape[-1]).to(dtype) if affine else None
        return {"x": (spread * torch.randn(shape)).to(dtype), "weight": weight, **more}

    return build


def _rotary(n, rows, heads, d, places=50):
    def build(dtype):
        angles = 6 * torch.randn(places, d // 2)
        return {
            "x": torch.randn(n, rows, heads * d).to(dtype),
            "cosines": angles.cos(),
            "sines": angles.sin(),
            "positions": torch.randint(0, places, (n, rows)),
            "heads": heads,
        }

    return build


def _lengths(n, rows, most):
    """The first row's is 0, the last's as many as fit."""
    return torch.arange(n) * (most - rows) // max(n - 1, 1)


def _slots(n):
    """(how many rows a cache has, which of them are whose): more than there are, in no order."""
    return n + 2, {"slots": torch.arange(n).flip(0) + 1}


def _rotary_cache(n, rows, heads, kv_heads, d, most, turned=True, cache=None, slots=False):
    """cache: its dtype, q's where it is None. slots: whether the cache has other rows than q."""

    def build(dtype):
        angles = 6 * torch.randn(most, d // 2)
        cache_rows, more = _slots(n) if slots else (n, {})
        q, k, v = (
            torch.randn(n, rows, (heads + 2 * kv_heads) * d)
            .to(dtype)
            .split((heads * d, kv_heads * d, kv_heads * d), dim=-1)
        )
        inputs = {"q": q, "k": k, "v": v}
        for name in ("keys", "values"):
            inputs[name] = torch.randn(cache_rows, most, kv_heads * d).to(cache or dtype)
        inputs |= {"lengths": _lengths(n, rows, most), "heads": heads, **more}
        if turned:
            inputs |= {"cosines": angles.cos(), "sines": angles.sin()}
        return inputs

    return build


def _decode_attention(n, rows, heads, kv_heads, d, most, cache=None, slots=False, **more):
    def build(dtype):
        cache_rows, placed = _slots(n) if slots else (n, {})
        inputs = {"q": 1.5 * torch.randn(n, rows, heads * d).to(dtype)}
        for name in ("keys", "values"):
            inputs[name] = torch.randn(cache_rows, most, kv_heads * d).to(cache or dtype)
        inputs |= {"lengths": _lengths(n, rows, most), "heads": heads}
        return {**inputs, **placed, **more}

    return build


def _step(n, *shape, guided=True, present=("d1", "noise"), limit=None, half_model=False):
    def build(dtype):
        coeffs = torch.randn(n, len(COLUMNS))
        coeffs[:, COLUMNS.index("limit")] = float("inf") if limit is None else limit
        for name in set(EXTRAS) - set(present):
            # The columns of an absent tensor must not count, whatever stands there.
            own = {"v_1", "v_v"} if name == "variance" else {f"x_{name}", f"y_{name}"}
            for column in own & set(COLUMNS):
                coeffs[:, COLUMNS.index(column)] = float("nan")
        out = torch.randn(2 * n if guided else n, *shape)
        return {
            "x": torch.randn(n, *shape).to(dtype),
            "out": out.to(torch.float16 if half_model else dtype),
            "coeffs": coeffs,
            **{name: torch.randn(n, *shape).to(dtype) for name in present},
        }

    return build


def _vq_argmin(*shape, book, offset=0.0, **more):
    """Rows [*shape] against a codebook [*book], both about `offset`."""

    def build(dtype):
        return {
            "x": (offset + torch.randn(shape)).to(dtype),
            "codebook": (offset + torch.randn(book)).to(dtype),
            **more,
        }

    return build


def _vq_decode(*shape, book, outputs=None, **more):
    def build(dtype):
        inputs = book[-1] if len(book) == 2 or more.get("residual") else book[0] * book[2]
        weight = (torch.randn(outputs, inputs) / inputs**0.5).to(dtype) if outputs else None
        return {
            "indices": torch.randint(0, book[-2], shape),
            "codebook": torch.randn(book).to(dtype),
            "weight": weight,
            "bias": torch.randn(outputs).to(dtype) if outputs else None,
            **more,
        }

    return build


def _sample_token(size, rows, guided=False):
    """rows: settings after guidance, each a picture's."""

    def build(dtype):
        n = len(rows)
        logits = 2 * torch.randn(2 * n if guided else n, size)
        logits[:, 1::7] = -torch.inf
        return {
            "logits": logits.to(dtype),
            "uniform": torch.rand(n, dtype=torch.float64),
            "settings": torch.tensor([(1.75, *row) for row in rows]),
        }

    return build


def _mask_refine(n, places, size, race=False, guided=False):
    def build(dtype):
        shape = (n, places)
        hidden = torch.rand(shape) < 0.7
        race_noise = torch.empty(*shape, size).exponential_()
        return {
            "logits": (2 * torch.randn(2 * n if guided else n, places, size)).to(dtype),
            "tokens": torch.where(hidden, size, torch.randint(0, size, shape)),
            "noise": race_noise if race else torch.rand(shape),
            "gumbel": torch.rand(shape),
            "masked": torch.arange(n) * places // max(n - 1, 1),
            "temperature": torch.linspace(2, 0, n),
            "mask_token": size,
            "guidance": torch.linspace(1, 3, n) if guided else None,
        }

    return build


#: Temperature, top-k, top-p, min-p: each alone, then all together.
_SETTINGS = [
    (0.0, 0, 1.0, 0.0), (1.0, 0, 1.0, 0.0), (0.7, 5, 1.0, 0.0), (1.3, 0, 0.6, 0.0),
    (1.0, 0, 1.0, 0.1), (0.9, 20, 0.8, 0.05), (2.0, 1, 0.0, 1.0),
]  # fmt: skip

#: Of a case with slots: they say whose the cache's rows are.
_SLOT_ROWS = {
    "rotary_cache": ("q", "k", "v", "lengths", "slots"),
    "decode_attention": ("q", "lengths", "slots"),
}

_ROWS = {
    "group_norm_silu": ("x", "x2"),
    "group_norm_scale_shift": ("x", "x2"),
    "layer_norm": ("x",),
    "rms_norm": ("x",),
    "geglu": ("x",),
    "swiglu": ("x",),
    "rotary": ("x", "positions"),
    "rotary_cache": ("q", "k", "v", "keys", "values", "lengths"),
    "decode_attention": ("q", "keys", "values", "lengths"),
    "sampler_step": ("x", "out", "coeffs", *EXTRAS),
    "vq_argmin": ("x",),
    "vq_decode": ("indices",),
    "sample_token": ("settings", "logits", "uniform"),
    "mask_refine": (*("tokens", "logits", "noise", "gumbel", "masked", "temperature", "guidance"),),
}

CASES = [
    Case(
        op,
        name,
        build,
        (_SLOT_ROWS if name == "slots" else _ROWS)[op],
        DTYPES if name != "many-positions" else DTYPES[:1],
    )
    for op, name, build in [
        ("group_norm_silu", "odd", _norm(3, 9, 11, 30, 3)),
        ("group_norm_silu", "no-silu", _norm(2, 5, 5, 64, 4, silu=False)),
        ("group_norm_silu", "group-in-both-inputs", _norm(3, 7, 5, 70, 5, c2=55)),
        ("group_norm_silu", "no-weight", _norm(2, 5, 7, 30, 5, c2=15, affine=False)),
        ("group_norm_silu", "one-group", _norm(2, 3, 3, 130, 1, eps=1e-6)),
        ("group_norm_silu", "one-position", _norm(2, 1, 1, 12, 3)),
        ("group_norm_silu", "constant", _norm(1, 8, 8, 8, 2, spread=0.0, mean=3.0)),
        ("group_norm_silu", "far-from-zero", _norm(2, 16, 16, 20, 2, mean=100.0)),
        ("group_norm_silu", "many-positions", _norm(2, 91, 93, 6, 2)),
        ("group_norm_scale_shift", "odd", _norm(3, 9, 11, 30, 2)),
        ("group_norm_scale_shift", "two-inputs", _norm(2, 7, 5, 12, 4, c2=8, mean=2.0)),
        ("layer_norm", "odd", _layer_norm(5, 7, 123)),
        ("layer_norm", "plain", _layer_norm(3, 5, 320, affine=False, eps=1e-6)),
        ("layer_norm", "wide", _layer_norm(3, 5000)),
        ("layer_norm", "far-from-zero", _layer_norm(2, 3, 77, mean=50.0)),
        ("layer_norm", "one-column", _layer_norm(4, 1)),
        ("rms_norm", "odd", _rms_norm(5, 7, 123)),
        ("rms_norm", "plain", _rms_norm(3, 5, 320, affine=False, eps=1e-5)),
        ("rms_norm", "wide", _rms_norm(3, 5000)),
        ("rms_norm", "one-column", _rms_norm(4, 1)),
        ("swiglu", "odd", lambda dtype: {"x": (3 * torch.randn(5, 7, 246)).to(dtype)}),
        ("swiglu", "narrow", lambda dtype: {"x": torch.randn(3, 2).to(dtype)}),
        ("rotary", "odd", _rotary(3, 5, 3, 14)),
        ("rotary", "narrow", _rotary(2, 1, 1, 2)),
        ("rotary", "wide", _rotary(2, 3, 2, 160)),
        ("rotary_cache", "odd", _rotary_cache(3, 2, 3, 3, 10, 9)),
        ("rotary_cache", "grouped", _rotary_cache(3, 1, 6, 2, 16, 8)),
        ("rotary_cache", "not-turned", _rotary_cache(2, 3, 2, 1, 7, 5, turned=False)),
        ("rotary_cache", "slots", _rotary_cache(3, 2, 6, 2, 10, 9, slots=True)),
        ("rotary_cache", "half-cache", _rotary_cache(2, 2, 2, 2, 8, 4, cache=torch.float16)),
        ("decode_attention", "odd", _decode_attention(3, 2, 3, 3, 10, 150)),
        ("decode_attention", "grouped", _decode_attention(3, 1, 6, 2, 16, 70)),
        ("decode_attention", "slots", _decode_attention(3, 2, 6, 2, 20, 150, slots=True)),
        ("decode_attention", "one-channel", _decode_attention(2, 3, 2, 1, 1, 5)),
        ("decode_attention", "one-key", _decode_attention(3, 1, 2, 2, 64, 1)),
        ("decode_attention", "half-cache",
         _decode_attention(2, 3, 2, 1, 64, 66, cache=torch.float16, scale=0.3)),
        ("geglu", "odd", lambda dtype: {"x": (3 * torch.randn(5, 7, 246)).to(dtype)}),
        ("geglu", "narrow", lambda dtype: {"x": torch.randn(3, 2).to(dtype)}),
        ("geglu", "wide", lambda dtype: {"x": torch.randn(2, 3, 2560).to(dtype)}),
        ("sampler_step", "plain", _step(3, 4, 5, 7, guided=False, present=())),
        ("sampler_step", "guided", _step(3, 4, 5, 7, limit=1.5)),
        ("sampler_step", "everything", _step(2, 3, 33, 17, present=EXTRAS)),
        ("sampler_step", "half-precision-model", _step(2, 4, 9, 9, half_model=True)),
        ("sampler_step", "variance", _step(3, 4, 5, 7, present=("noise", "variance"))),
        ("sampler_step", "one-picture", _step(1, 4, 3, 3, present=("d2", "base"))),
        ("vq_argmin", "odd", _vq_argmin(3, 5, 7, book=(133, 7), return_distances=True)),
        ("vq_argmin", "residual", _vq_argmin(7, 6, book=(3, 20, 6), residual=True)),
        ("vq_argmin", "product", _vq_argmin(7, 12, book=(3, 70, 4), return_distances=True)),
        ("vq_argmin", "cosine", _vq_argmin(9, 20, book=(33, 20), metric="cosine")),
        ("vq_argmin", "far-from-zero", _vq_argmin(4, 3, 8, book=(65, 8), offset=100.0)),
        ("vq_argmin", "one-entry", _vq_argmin(2, 1, book=(1, 1), return_distances=True)),
        ("vq_decode", "plain", _vq_decode(3, 5, 2, book=(17, 10))),
        ("vq_decode", "residual", _vq_decode(2, 5, 3, book=(3, 9, 7), residual=True)),
        ("vq_decode", "product", _vq_decode(2, 4, 3, book=(3, 9, 5), outputs=21)),
        ("vq_decode", "folded", _vq_decode(4, 6, book=(19, 34), outputs=70)),
        ("sample_token", "plain", _sample_token(50, _SETTINGS)),
        ("sample_token", "everything", _sample_token(37, _SETTINGS, guided=True)),
        ("mask_refine", "plain", _mask_refine(3, 10, 23)),
        ("mask_refine", "everything", _mask_refine(3, 9, 20, race=True, guided=True)),
    ]
]  # fmt: skip

CASES_AND_DTYPES = [
    pytest.param(case, dtype, id=f"{case}-{str(dtype).removeprefix('torch.')}")
    for case in CASES
    for dtype in case.dtypes
]


def widen(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same numbers in float64; indices and numbers of 8 bits stay as they are."""
    return {
        name: value.double()
        if isinstance(value, Tensor) and value.is_floating_point() and value.itemsize > 1
        else value
        for name, value in inputs.items()
    }


def tensors(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """An op's result as a tuple, also where it is one tensor."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def error(got: Tensor, exact: Tensor) -> float:
    """Relative L2 error against a float64 tensor."""
    scale = exact.norm().item()
    return (got.cpu().double() - exact).norm().item() / (scale or 1.0)
