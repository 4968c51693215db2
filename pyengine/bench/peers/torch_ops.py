"""Every op written in torch: the reference for results, and the first peer.

Each function takes the arguments of a Shape by keyword. torch convolves channels_last pictures,
which permuted [N, H, W, C] tensors are: the layout that suits oneDNN best.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import SAMPLER_ROW, SAMPLING_ROW

_ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "none": lambda y: y,
    "silu": lambda y: F.silu(y, inplace=True),
    "gelu": F.gelu,
    "quick_gelu": lambda y: y * torch.sigmoid(1.702 * y),
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
    "geglu": lambda y: geglu(y),
}


def group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, x2: Tensor | None = None
) -> Any:
    """Concatenate, normalise, activate; to torch an NHWC tensor is a channels_last picture."""
    if x2 is not None:
        x = torch.cat([x, x2], dim=-1)
    y = F.silu(F.group_norm(x.permute(0, 3, 1, 2), groups, weight, bias))
    return y.permute(0, 2, 3, 1)


def group_norm_scale_shift(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, x2: Tensor | None = None
) -> Any:
    """The statistics alone."""
    if x2 is not None:
        x = torch.cat([x, x2], dim=-1)
    n, h, w, c = x.shape
    var, mean = torch.var_mean(x.view(n, h * w, groups, c // groups), dim=(1, 3), correction=0)
    rstd = torch.rsqrt(var + 1e-5).repeat_interleave(c // groups, dim=1)
    scale = rstd * weight
    return scale, bias - mean.repeat_interleave(c // groups, dim=1) * scale


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
    return F.layer_norm(x, x.shape[-1:], weight, bias)


def geglu(x: Tensor) -> Any:
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


def rms_norm(x: Tensor, weight: Tensor) -> Any:
    return F.rms_norm(x, x.shape[-1:], weight, 1e-6)


def swiglu(x: Tensor) -> Any:
    value, gate = x.chunk(2, dim=-1)
    return value * F.silu(gate)


def rotary(x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor, heads: int) -> Any:
    """As transformers' apply_rotary_pos_emb has it, with halves."""
    cos, sin = (t.to(x.dtype)[positions].repeat(1, 1, 2)[:, :, None] for t in (cosines, sines))
    x = torch.unflatten(x, 2, (heads, -1))
    a, b = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-b, a), dim=-1) * sin).flatten(2)


def rotary_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    heads: int,
    cosines: Tensor,
    sines: Tensor,
) -> Any:
    positions = lengths[:, None] + torch.arange(q.shape[1], device=q.device)
    rows = torch.arange(q.shape[0], device=q.device)[:, None]
    keys[rows, positions] = rotary(k, cosines, sines, positions, heads)
    values[rows, positions] = v
    return rotary(q, cosines, sines, positions, heads)


def decode_attention(q: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, heads: int) -> Any:
    """As over transformers' static cache: all of it, with a mask."""
    width = q.shape[2] // heads
    kv_heads = keys.shape[2] // width
    seen = lengths[:, None] + torch.arange(1, q.shape[1] + 1, device=q.device)
    mask = torch.arange(keys.shape[1], device=q.device) < seen[..., None]
    q, k, v = (torch.unflatten(t, 2, (-1, width)).transpose(1, 2) for t in (q, keys, values))
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask[:, None], enable_gqa=heads != kv_heads
    )
    return y.transpose(1, 2).flatten(2)


def sampler_step(x: Tensor, out: Tensor, coeffs: Tensor, d1: Tensor) -> Any:
    """Guidance and a DPM++ 2M update, with coefficients as Python numbers, as a pipeline with one
    sampler for the batch has them.

    Returns (new x, D); the op writes a third tensor, and takes a row for every picture.
    """
    k = SAMPLER_ROW
    uncond, cond = out.chunk(2)
    m = uncond + k["g"] * (cond - uncond)
    d = k["p"] * x + k["q"] * m
    return k["x_x"] * x + k["x_d"] * d + k["x_d1"] * d1, d


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    padding: tuple[int, ...],
    x2: Tensor | None = None,
    stride: int = 1,
    upsample: bool = False,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    residual: Tensor | None = None,
) -> Any:
    if x2 is not None:
        x = torch.cat([x, x2], dim=-1)
    x = x.permute(0, 3, 1, 2)
    if scale is not None and shift is not None:
        x = torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])
    if silu:
        x = F.silu(x, inplace=scale is not None)
    if upsample:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    y = F.conv2d(x, weight.permute(0, 3, 1, 2), bias, stride, padding[0]).permute(0, 2, 3, 1)
    return y if residual is None else y.add_(residual)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str = "none",
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    weight_scale: Tensor | None = None,
) -> Any:
    if weight_scale is not None:
        weight = (weight * weight_scale[:, None]).to(x.dtype)
    y = _ACTIVATIONS[activation](F.linear(x, weight, bias))
    if gate is not None:
        gate = gate[:, None]
        return y * gate if residual is None else torch.addcmul(residual, y, gate)
    return y if residual is None else y.add_(residual)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Any:
    q, k, v = (torch.unflatten(t, -1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def vq_argmin(x: Tensor, codebook: Tensor) -> Any:
    """In float32: distances rounded to 16 bits would make many entries as near as the nearest."""
    return torch.cdist(x.float(), codebook.float()).argmin(dim=-1)


def vq_decode(
    indices: Tensor, codebook: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> Any:
    y = F.embedding(indices, codebook)
    return y if weight is None else F.linear(y, weight, bias)


def sample_token(logits: Tensor, uniform: Tensor, settings: Tensor) -> Any:
    """The shape's settings as Python numbers, in transformers' order and, as there, in float32."""
    guidance, temperature, top_k, top_p, _ = SAMPLING_ROW
    u, c = logits.float().chunk(2)
    scores = (u + guidance * (c - u)) / temperature
    kth = scores.topk(min(int(top_k), scores.shape[-1])).values[:, -1:]
    scores = scores.masked_fill(scores < kth, -torch.inf)
    ordered, order = scores.sort(dim=-1)
    low = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    low[:, -1] = False
    scores = scores.masked_fill(low.scatter(1, order, low), -torch.inf)
    sums = scores.softmax(dim=-1).double().cumsum(dim=-1)
    return torch.searchsorted(sums, uniform[:, None] * sums[:, -1:], right=True)[:, 0]


def mask_refine(
    logits: Tensor,
    tokens: Tensor,
    noise: Tensor,
    gumbel: Tensor,
    masked: Tensor,
    temperature: Tensor,
    mask_token: int,
) -> Any:
    unknown = tokens == mask_token
    p = logits.float().softmax(dim=-1)
    sums = p.double().cumsum(dim=-1)
    target = noise.double()[..., None] * sums[..., -1:]
    drawn = torch.searchsorted(sums, target, right=True)[..., 0]
    predicted = torch.where(unknown, drawn, tokens)
    certain = p.gather(-1, predicted[..., None])[..., 0]
    noise = -(-gumbel.clamp(1e-20).log()).clamp(1e-20).log()
    confidence = certain.clamp(1e-20).log() + temperature[:, None] * noise
    confidence = torch.where(unknown, confidence, torch.inf)
    count = torch.minimum(unknown.sum(dim=-1) - 1, masked).clamp(min=1)
    cut = confidence.sort(dim=-1).values.gather(-1, count[:, None])
    return torch.where(confidence < cut, mask_token, predicted), predicted


#: op -> its function here; an op of pyengine.ops without one fails a test.
EAGER: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        attention,
        conv2d,
        decode_attention,
        geglu,
        group_norm_scale_shift,
        group_norm_silu,
        layer_norm,
        linear,
        mask_refine,
        rms_norm,
        rotary,
        rotary_cache,
        sample_token,
        sampler_step,
        swiglu,
        vq_argmin,
        vq_decode,
    )
}


def compiled(op: str, device: str) -> Callable[..., Any]:
    """torch.compile's version for one shape, as for a fixed model; the first call compiles.

    On GPUs without CUDA graphs of its own: timing.recorded makes those, for everybody.
    """
    torch.compiler.reset()
    mode = "max-autotune-no-cudagraphs" if device.startswith("cuda") else None
    return torch.compile(EAGER[op], fullgraph=True, dynamic=False, mode=mode)
