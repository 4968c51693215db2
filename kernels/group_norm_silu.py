"""group_norm_silu and group_norm_scale_shift in Triton.  Wu & He 2018, arXiv:1803.08494.

A group's channels lie C apart from one position to the next, in pieces of 8 to 160 bytes, and with
two inputs a group may begin in one and end in the other. So statistics are taken per channel, over
tiles as wide as a cache line, and joined into groups afterwards:

    _moments     mean and sum of squared differences per channel, for each chunk of positions
    _scale_shift chunks and channels of a group joined (Chan et al. 1979), then scale and shift
    _apply       (x - mean) * scale + shift, and SiLU: with a mean far from zero, x * scale and the
                 shift would cancel each other's digits. Without the mean where it is in the shift

Chunks depend on the number of positions alone; each is summed, and they are joined, in one order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import Launch, cdiv, power_of_2, prepare
from .geglu import gelu

# A tile is 64 positions x 64 channels: 128-byte lines in half precision, 32 values per thread.
ROWS = 64
BLOCK = 64
MAX_CHUNKS = 128


@triton.jit
def _source(x, x2, channels, channels2, BLOCK: tl.constexpr):
    """This program's block of channels: the input that holds it, that input's width, the block's
    channels there, and how many channels lie before that input."""
    block = tl.program_id(0)
    source = x
    width = channels
    before = 0
    if x2 is not None:
        first = tl.cdiv(channels, BLOCK)
        if block >= first:
            source = x2
            width = channels2
            before = channels
            block -= first
    return source, width, block * BLOCK + tl.arange(0, BLOCK), before


@triton.jit
def _moments(
    x,
    x2,
    mean,
    squares,
    positions,
    channels,
    channels2,
    tiles,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    source, width, column, before = _source(x, x2, channels, channels2, BLOCK)
    chunk = tl.program_id(1)
    picture = tl.program_id(2).to(tl.int64)
    inside = column < width
    line = tl.arange(0, ROWS)
    offset = line[:, None] * width + column[None, :]

    count = 0.0
    mu = tl.zeros([BLOCK], tl.float32)
    ssd = tl.zeros([BLOCK], tl.float32)
    for tile in range(tiles):
        row = (chunk * tiles + tile) * ROWS
        mask = (row + line < positions)[:, None] & inside[None, :]
        start = source + (picture * positions + row) * width
        v = tl.load(start + offset, mask=mask, other=0.0).to(tl.float32)
        n = tl.maximum(tl.minimum(positions - row, ROWS), 0).to(tl.float32)
        tile_mu = tl.sum(v, axis=0) / tl.maximum(n, 1.0)
        v = tl.where(mask, v - tile_mu[None, :], 0.0)
        delta = tile_mu - mu
        share = n / tl.maximum(count + n, 1.0)
        mu += delta * share
        ssd += tl.sum(v * v, axis=0) + delta * delta * count * share
        count += n

    total = channels + channels2
    target = (picture * tl.num_programs(1) + chunk) * total + before + column
    tl.store(mean + target, mu, mask=inside)
    tl.store(squares + target, ssd, mask=inside)


@triton.jit
def _scale_shift(
    mean,
    squares,
    weight,
    bias,
    scale,
    shift,
    centre,
    positions,
    channels,
    chunks,
    chunk_rows,
    size,
    eps,
    CHUNKS: tl.constexpr,
    GROUP: tl.constexpr,
):
    group = tl.program_id(0)
    picture = tl.program_id(1).to(tl.int64)
    inside = tl.arange(0, GROUP) < size
    channel = group * size + tl.arange(0, GROUP)
    line = tl.arange(0, CHUNKS)
    source = picture * chunks * channels + line[:, None] * channels + channel[None, :]

    total = tl.zeros([GROUP], tl.float32)
    for first in range(0, chunks, CHUNKS):
        mask = (first + line < chunks)[:, None] & inside[None, :]
        rows = tl.minimum(positions - (first + line) * chunk_rows, chunk_rows).to(tl.float32)
        mu = tl.load(mean + source + first * channels, mask=mask, other=0.0)
        total += tl.sum(mu * rows[:, None], axis=0)
    group_mu = tl.sum(total, axis=0) / positions / size

    total = tl.zeros([GROUP], tl.float32)
    for first in range(0, chunks, CHUNKS):
        mask = (first + line < chunks)[:, None] & inside[None, :]
        rows = tl.minimum(positions - (first + line) * chunk_rows, chunk_rows).to(tl.float32)
        mu = tl.load(mean + source + first * channels, mask=mask, other=0.0)
        ssd = tl.load(squares + source + first * channels, mask=mask, other=0.0)
        delta = tl.where(mask, mu - group_mu, 0.0)
        total += tl.sum(ssd + rows[:, None] * delta * delta, axis=0)
    variance = tl.sum(total, axis=0) / positions / size

    a = tl.zeros([GROUP], tl.float32) + 1.0
    if weight is not None:
        a = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    a *= 1.0 / tl.sqrt_rn(variance + eps)
    b = tl.zeros([GROUP], tl.float32)
    if bias is not None:
        b = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    target = picture * channels + channel
    if centre is None:
        b -= group_mu * a
    else:
        tl.store(centre + target, tl.zeros([GROUP], tl.float32) + group_mu, mask=inside)
    tl.store(scale + target, a, mask=inside)
    tl.store(shift + target, b, mask=inside)


@triton.jit
def _apply(
    x,
    x2,
    scale,
    shift,
    centre,
    y,
    positions,
    channels,
    channels2,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    source, width, column, before = _source(x, x2, channels, channels2, BLOCK)
    row = tl.program_id(1) * ROWS
    picture = tl.program_id(2).to(tl.int64)
    total = channels + channels2
    inside = column < width
    line = tl.arange(0, ROWS)
    mask = (row + line < positions)[:, None] & inside[None, :]
    first = picture * positions + row
    offset = line[:, None] * width + column[None, :]
    v = tl.load(source + first * width + offset, mask=mask, other=0.0).to(tl.float32)
    coefficient = picture * total + before + column
    a = tl.load(scale + coefficient, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(shift + coefficient, mask=inside, other=0.0).to(tl.float32)
    if centre is not None:
        v -= tl.load(centre + coefficient, mask=inside, other=0.0)[None, :]
    v = v * a[None, :] + b[None, :]
    if ACTIVATION == "silu":
        v *= tl.sigmoid(v)
    if ACTIVATION == "gelu":
        v = gelu(v)
    if ACTIVATION == "relu":
        v = tl.where(v < 0.0, 0.0, v)
    target = y + first * total + before + line[:, None] * total + column[None, :]
    tl.store(target, v.to(y.dtype.element_ty), mask=mask)


def _empty(x: Tensor, *shape: int) -> Tensor:
    # Never a part of a larger tensor: where that begins, and how Triton reads it, would depend on
    # the number of pictures.
    return torch.empty(shape, dtype=torch.float32, device=x.device)


def _plan_statistics(x, weight, bias, groups, eps, x2, centred: bool):
    """The launches, and scale, shift, centre: [N, C + C2] each; centre is None if not centred."""
    pictures, positions = x.shape[0], x.shape[1] * x.shape[2]
    channels, channels2 = x.shape[3], 0 if x2 is None else x2.shape[3]
    total = channels + channels2
    tiles = cdiv(cdiv(positions, ROWS), MAX_CHUNKS)
    chunks = cdiv(positions, tiles * ROWS)
    mean, squares = (_empty(x, pictures, chunks, total) for _ in range(2))
    scale, shift = (_empty(x, pictures, total) for _ in range(2))
    centre = _empty(x, pictures, total) if centred else None
    blocks = cdiv(channels, BLOCK) + cdiv(channels2, BLOCK)
    widths = {"channels": channels, "channels2": channels2}
    moments = Launch(
        _moments,
        (blocks, chunks, pictures),
        {"x": x, "x2": x2, "mean": mean, "squares": squares}
        | {"positions": positions, **widths, "tiles": tiles},
        {"ROWS": ROWS, "BLOCK": BLOCK},
    )
    size = total // groups
    group = power_of_2(size)
    finish = Launch(
        _scale_shift,
        (groups, pictures),
        {"mean": mean, "squares": squares, "weight": weight, "bias": bias}
        | {"scale": scale, "shift": shift, "centre": centre}
        | {"positions": positions, "channels": total}
        | {"chunks": chunks, "chunk_rows": tiles * ROWS, "size": size, "eps": float(eps)},
        {"CHUNKS": min(power_of_2(chunks), max(1, 2048 // group)), "GROUP": group},
    )
    return [moments, finish], scale, shift, centre


def plan(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float = 1e-5,
    x2: Tensor | None = None,
    silu: bool = True,
) -> tuple[list[Launch], Tensor]:
    """The launches that compute group_norm_silu(...), and the tensor they fill."""
    x, weight, bias, x2 = prepare("group_norm_silu", x, weight, bias, x2)
    launches, scale, shift, centre = _plan_statistics(x, weight, bias, groups, eps, x2, True)
    apply, y = _plan_apply(x, x2, scale, shift, centre, "silu" if silu else "none")
    return [*launches, apply], y


def _plan_apply(x, x2, scale, shift, centre, activation: str) -> tuple[Launch, Tensor]:
    positions, channels2 = x.shape[1] * x.shape[2], 0 if x2 is None else x2.shape[3]
    y = x.new_empty(*x.shape[:3], x.shape[3] + channels2)
    blocks = cdiv(x.shape[3], BLOCK) + cdiv(channels2, BLOCK)
    launch = Launch(
        _apply,
        (blocks, cdiv(positions, ROWS), x.shape[0]),
        {"x": x, "x2": x2, "scale": scale, "shift": shift, "centre": centre, "y": y}
        | {"positions": positions, "channels": x.shape[3], "channels2": channels2},
        {"ACTIVATION": activation, "ROWS": ROWS, "BLOCK": BLOCK},
    )
    return launch, y


def plan_apply(
    x: Tensor, scale: Tensor, shift: Tensor, activation: str, x2: Tensor | None = None
) -> tuple[list[Launch], Tensor]:
    """The launches that compute apply_scale_shift(...), and the tensor they fill."""
    x, x2, scale, shift = prepare("apply_scale_shift", x, x2, scale, shift)
    launch, y = _plan_apply(x, x2, scale, shift, None, activation)
    return [launch], y


def plan_scale_shift(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float = 1e-5,
    x2: Tensor | None = None,
) -> tuple[list[Launch], tuple[Tensor, Tensor]]:
    """The launches that compute group_norm_scale_shift(...), and the tensors they fill."""
    x, weight, bias, x2 = prepare("group_norm_scale_shift", x, weight, bias, x2)
    launches, scale, shift, _ = _plan_statistics(x, weight, bias, groups, eps, x2, False)
    return launches, (scale, shift)


def group_norm_silu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float = 1e-5,
    x2: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """SiLU(group_norm(x)), or group_norm(x) alone with silu=False.

    x: [N, H, W, C]; x2: [N, H, W, C2] or None, side by side with x in C; weight, bias: [C + C2] or
    None.  On one GPU, float32 | bfloat16 | float16, x and x2 alike; copied if not contiguous.
    Returns [N, H, W, C + C2] in x's dtype, computed in float32.
    """
    launches, y = plan(x, weight, bias, groups, eps, x2, silu)
    for launch in launches:
        launch.run()
    return y


def group_norm_scale_shift(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float = 1e-5,
    x2: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The (scale, shift) with which group_norm(x) = x * scale + shift, per picture and channel.

    Arguments as group_norm_silu's.  Returns two [N, C + C2] float32 tensors.
    """
    launches, results = plan_scale_shift(x, weight, bias, groups, eps, x2)
    for launch in launches:
        launch.run()
    return results


def apply_scale_shift(
    x: Tensor, scale: Tensor, shift: Tensor, activation: str, x2: Tensor | None = None
) -> Tensor:
    """x * scale + shift, then the activation ("none", "silu", "gelu" or "relu"): group_norm from
    group_norm_scale_shift's result, and what is before a convolution.

    x, x2: as group_norm_silu's; scale, shift: [N, C + C2] of any floating-point dtype.
    Returns [N, H, W, C + C2] in x's dtype.
    """
    launches, y = plan_apply(x, scale, shift, activation, x2)
    for launch in launches:
        launch.run()
    return y
