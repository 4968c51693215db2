"""Kernels by themselves, against torch: the same numbers, then the time of each.

pytest examples/bench_kernels.py
pytest examples/bench_kernels.py --benchmark-disable      # the numbers alone
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyengine import ops

Case = tuple[Callable[[], Tensor], Callable[[], Tensor]]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def linear() -> Case:
    """gelu(x W + b): [N, L, C]."""
    x, weight, bias = random(2, 256, 320), random(640, 320) / 18, random(640)
    packed = ops.pack_weight(weight)  # arranged once, as a model does when it is loaded
    return (
        lambda: ops.linear(x, packed, bias, activation="gelu"),
        lambda: F.gelu(F.linear(x, weight, bias)),
    )


def group_norm_silu() -> Case:
    """Pictures are [N, H, W, C] here."""
    x, weight, bias = random(2, 32, 32, 320), random(320), random(320)
    nchw = x.permute(0, 3, 1, 2)
    return (
        lambda: ops.group_norm_silu(x, weight, bias, 32),
        lambda: F.silu(F.group_norm(nchw, 32, weight, bias)).permute(0, 2, 3, 1),
    )


def attention() -> Case:
    """Eight heads side by side in the last dimension."""
    q, k, v = random(2, 256, 320), random(2, 77, 320), random(2, 77, 320)
    parts = [t.unflatten(2, (8, 40)).transpose(1, 2) for t in (q, k, v)]
    return (
        lambda: ops.attention(q, k, v, 8),
        lambda: F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2),
    )


@pytest.mark.parametrize("whose", ["pyengine", "torch"])
@pytest.mark.parametrize(
    "case", [linear, group_norm_silu, attention], ids=lambda case: case.__name__
)
def test_kernel(benchmark: Any, case: Callable[[], Case], whose: str) -> None:
    ours, theirs = case()
    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-4)
    benchmark(ours if whose == "pyengine" else theirs)
