"""Small, odd inputs for the ops that have GPU kernels; the same for Triton and for CUDA C++."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from pyengine.ops.reference import COLUMNS

EXTRAS = ("d1", "d2", "d3", "base", "noise")
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

    def inputs(self, dtype: torch.dtype) -> dict[str, Any]:
        """The arguments, the same at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sum(map(ord, str(self))))
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


def _norm(n, h, w, c, groups, c2=0, mean=0.0, spread=1.0, **more):
    def build(dtype):
        def picture(channels):
            return (mean + spread * torch.randn(n, h, w, channels)).to(dtype)

        return {
            "x": picture(c),
            "weight": (1 + 0.2 * torch.randn(c + c2)).to(dtype),
            "bias": torch.randn(c + c2).to(dtype),
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


def _step(n, *shape, guided=True, present=("d1", "noise"), limit=None, half_model=False):
    def build(dtype):
        coeffs = torch.randn(n, len(COLUMNS))
        coeffs[:, COLUMNS.index("limit")] = float("inf") if limit is None else limit
        for name in set(EXTRAS) - set(present):
            # The columns of an absent tensor must not count, whatever stands there.
            for column in {f"x_{name}", f"y_{name}"} & set(COLUMNS):
                coeffs[:, COLUMNS.index(column)] = float("nan")
        out = torch.randn(2 * n if guided else n, *shape)
        return {
            "x": torch.randn(n, *shape).to(dtype),
            "out": out.to(torch.float16 if half_model else dtype),
            "coeffs": coeffs,
            **{name: torch.randn(n, *shape).to(dtype) for name in present},
        }

    return build


_ROWS = {
    "group_norm_silu": ("x", "x2"),
    "group_norm_scale_shift": ("x", "x2"),
    "layer_norm": ("x",),
    "geglu": ("x",),
    "sampler_step": ("x", "out", "coeffs", *EXTRAS),
}

CASES = [
    Case(op, name, build, _ROWS[op], DTYPES if name != "many-positions" else DTYPES[:1])
    for op, name, build in [
        ("group_norm_silu", "odd", _norm(3, 9, 11, 30, 3)),
        ("group_norm_silu", "no-silu", _norm(2, 5, 5, 64, 4, silu=False)),
        ("group_norm_silu", "group-in-both-inputs", _norm(3, 7, 5, 70, 5, c2=55)),
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
        ("geglu", "odd", lambda dtype: {"x": (3 * torch.randn(5, 7, 246)).to(dtype)}),
        ("geglu", "narrow", lambda dtype: {"x": torch.randn(3, 2).to(dtype)}),
        ("geglu", "wide", lambda dtype: {"x": torch.randn(2, 3, 2560).to(dtype)}),
        ("sampler_step", "plain", _step(3, 4, 5, 7, guided=False, present=())),
        ("sampler_step", "guided", _step(3, 4, 5, 7, limit=1.5)),
        ("sampler_step", "everything", _step(2, 3, 33, 17, present=EXTRAS)),
        ("sampler_step", "half-precision-model", _step(2, 4, 9, 9, half_model=True)),
        ("sampler_step", "one-picture", _step(1, 4, 3, 3, present=("d2", "base"))),
    ]
]  # fmt: skip

CASES_AND_DTYPES = [
    pytest.param(case, dtype, id=f"{case}-{str(dtype).removeprefix('torch.')}")
    for case in CASES
    for dtype in case.dtypes
]


def widen(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same numbers in float64."""
    return {
        name: value.double() if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }


def tensors(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """An op's result as a tuple, also where it is one tensor."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def error(got: Tensor, exact: Tensor) -> float:
    """Relative L2 error against a float64 tensor."""
    scale = exact.norm().item()
    return (got.cpu().double() - exact).norm().item() / (scale or 1.0)
