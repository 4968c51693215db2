"""sample_token in Triton: a program per row, and no sort.

weigh  guidance, the largest logit, the weights exp((logit - largest) / temperature)
_draw  the limits of top-k and top-p by halving the range of float32's bits, then the draw: each
       step reads a row that lies in the L2
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyengine.ops.reference import SAMPLING_COLUMNS

from ._launch import Launch, power_of_2, prepare, readable

#: Tokens that a program reads at a time: 4 for each of 1024 threads, since the search for a limit
#: reads a row some 70 times, one after the other.
MAX_BLOCK = 4096

GUIDANCE, TEMPERATURE, TOP_K, TOP_P, MIN_P = (
    tl.constexpr(SAMPLING_COLUMNS.index(name))
    for name in ("guidance", "temperature", "top_k", "top_p", "min_p")
)
WIDTH = tl.constexpr(len(SAMPLING_COLUMNS))


@triton.jit
def _guided(logits, unconditional, start, token, inside, g):
    """Logits with guidance, masked ones minus infinity, and whether one is no number."""
    v = tl.load(logits + start + token, mask=inside, other=float("-inf")).to(tl.float32)
    bad = (v != v) | (v == float("inf"))
    if unconditional is not None:
        u = tl.load(unconditional + start + token, mask=inside, other=float("-inf"))
        u = u.to(tl.float32)
        bad |= (u != u) | (u == float("inf"))
        masked = (v == float("-inf")) | (u == float("-inf"))
        v = tl.where(masked, float("-inf"), u + g * (tl.where(masked, 0.0, v) - u))
        bad |= (v != v) | (v == float("inf"))
    return v + 0.0, bad  # -0 becomes 0: their bits are compared


@triton.jit(do_not_specialize=["rows"])
def weigh(
    logits,
    unconditional,
    guidance,
    temperature,
    guided,
    weights,
    tops,
    rows,
    places,
    stride,
    size,
    GUIDANCE_AT: tl.constexpr,
    TEMPERATURE_AT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """guided and weights [rows, size]; tops [rows], NaN where a logit is no number.

    guidance and temperature (None for 1) have an element for each `places` rows, `stride` apart,
    from the elements GUIDANCE_AT and TEMPERATURE_AT on.
    """
    row = tl.program_id(0).to(tl.int64)
    start = row * size
    g = 1.0
    if unconditional is not None:
        g = tl.load(guidance + row // places * stride + GUIDANCE_AT).to(tl.float32)
    most = tl.full([BLOCK], float("-inf"), tl.float32)
    fault = tl.zeros([BLOCK], tl.int32)
    for first in range(0, size, BLOCK):
        token = first + tl.arange(0, BLOCK)
        v, bad = _guided(logits, unconditional, start, token, token < size, g)
        most = tl.maximum(most, tl.where(bad, float("-inf"), v))
        fault |= bad.to(tl.int32)
    top = tl.max(most, axis=0)
    t = 1.0
    if temperature is not None:
        t = tl.load(temperature + row // places * stride + TEMPERATURE_AT).to(tl.float32)
    for first in range(0, size, BLOCK):
        token = first + tl.arange(0, BLOCK)
        inside = token < size
        v, bad = _guided(logits, unconditional, start, token, inside, g)
        below = tl.where(v == top, 0.0, v - top)
        weight = tl.exp(below.to(tl.float64) / tl.where(t > 0, t, 1.0)).to(tl.float32)
        weight = tl.where((v == float("-inf")) | bad, 0.0, weight)
        tl.store(guided + start + token, v, mask=inside)
        tl.store(weights + start + token, weight, mask=inside)
    tl.store(tops + row, tl.where(tl.max(fault, axis=0) > 0, float("nan"), top))


@triton.jit
def _keys(guided, start, token, inside):
    """Integers in the order of the logits; below all of them where there is none."""
    v = tl.load(guided + start + token, mask=inside, other=float("-inf"))
    bits = v.to(tl.int32, bitcast=True)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(inside, key.to(tl.int64), -(1 << 40))


@triton.jit
def draw(guided, weights, start, size, share, threshold, limit, last, least, BLOCK: tl.constexpr):
    """The first token at which the weights of those kept sum to more than share of all.

    Kept are keys of at least `threshold`, beyond `limit` or equal to it up to the token `last`,
    with weights of at least `least`.
    """
    total = tl.zeros([BLOCK], tl.float64)
    for first in range(0, size, BLOCK):
        token = first + tl.arange(0, BLOCK)
        key = _keys(guided, start, token, token < size)
        w = tl.load(weights + start + token, mask=token < size, other=0.0)
        kept = (key >= threshold) & ((key > limit) | ((key == limit) & (token <= last)))
        total += tl.where(kept & (w >= least), w, 0.0)
    target = share * tl.sum(total, axis=0)
    before = tl.full([], 0.0, tl.float64)
    found = tl.full([], 2147483647, tl.int32)
    final = tl.full([], -1, tl.int32)
    for first in range(0, size, BLOCK):
        token = first + tl.arange(0, BLOCK)
        key = _keys(guided, start, token, token < size)
        w = tl.load(weights + start + token, mask=token < size, other=0.0)
        kept = (key >= threshold) & ((key > limit) | ((key == limit) & (token <= last)))
        kept = kept & (w >= least) & (w > 0)
        sums = before + tl.cumsum(tl.where(kept, w, 0.0).to(tl.float64), axis=0)
        found = tl.minimum(
            found, tl.min(tl.where(kept & (sums > target), token, 2147483647), axis=0)
        )
        final = tl.maximum(final, tl.max(tl.where(kept, token, -1), axis=0))
        before += tl.sum(tl.where(kept, w, 0.0).to(tl.float64), axis=0)
    return tl.where(found < 2147483647, found, final)


@triton.jit
def _count(guided, start, size, key, BLOCK: tl.constexpr):
    """How many tokens have at least this key."""
    total = tl.zeros([BLOCK], tl.int32)
    for first in range(0, size, BLOCK):
        token = first + tl.arange(0, BLOCK)
        total += (_keys(guided, start, token, token < size) >= key).to(tl.int32)
    return tl.sum(total, axis=0)


@triton.jit
def _mass(guided, weights, start, size, key, BLOCK: tl.constexpr):
    """The weight of the tokens of at least this key."""
    total = tl.zeros([BLOCK], tl.float64)
    for first in range(0, size, BLOCK):
        token = first + tl.arange(0, BLOCK)
        keys = _keys(guided, start, token, token < size)
        w = tl.load(weights + start + token, mask=token < size, other=0.0)
        total += tl.where(keys >= key, w, 0.0)
    return tl.sum(total, axis=0)


@triton.jit(do_not_specialize=["rows"])
def _draw(guided, weights, tops, uniform, settings, tokens, rows, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    start = row * size
    top = tl.load(tops + row)
    share = tl.load(uniform + row)
    s = settings + row * WIDTH
    g = tl.load(s + GUIDANCE)
    temperature = tl.load(s + TEMPERATURE)
    top_k = tl.load(s + TOP_K)
    top_p = tl.load(s + TOP_P)
    min_p = tl.load(s + MIN_P)

    bits = top.to(tl.int32, bitcast=True)
    top_key = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
    lowest = tl.full([], -(1 << 32), tl.int64)

    # The largest key that k tokens have at least.
    threshold = lowest
    if (top_k >= 1) & (top_k < size):
        high = top_key
        for _ in range(34):
            middle = threshold + (high - threshold + 1) // 2
            enough = _count(guided, start, size, middle, BLOCK) >= top_k.to(tl.int32)
            threshold = tl.where(enough, middle, threshold)
            high = tl.where(enough, high, middle - 1)

    # Likewise the largest key down to which the weights suffice, and how many that have it do.
    limit = lowest
    last = tl.full([], 2147483647, tl.int32)
    if top_p < 1:
        kept = _mass(guided, weights, start, size, threshold, BLOCK)
        wanted = top_p.to(tl.float64) * kept
        limit = threshold
        high = top_key
        for _ in range(34):
            middle = limit + (high - limit + 1) // 2
            enough = _mass(guided, weights, start, size, middle, BLOCK) >= wanted
            limit = tl.where(enough, middle, limit)
            high = tl.where(enough, high, middle - 1)
        ahead = _mass(guided, weights, start, size, limit + 1, BLOCK)
        last = tl.full([], -1, tl.int32)
        for first in range(0, size, BLOCK):
            token = first + tl.arange(0, BLOCK)
            equal = _keys(guided, start, token, token < size) == limit
            w = tl.load(weights + start + token, mask=token < size, other=0.0)
            w = tl.where(equal, w, 0.0).to(tl.float64)
            sums = ahead + tl.cumsum(w, axis=0) - w
            fits = equal & ((sums < wanted) | (sums == 0))
            last = tl.maximum(last, tl.max(tl.where(fits, token, -1), axis=0))
            ahead += tl.sum(w, axis=0)

    token = draw(guided, weights, start, size, share, threshold, limit, last, min_p, BLOCK)
    if temperature == 0:
        token = tl.full([], 2147483647, tl.int32)
        for first in range(0, size, BLOCK):
            every = first + tl.arange(0, BLOCK)
            largest = _keys(guided, start, every, every < size) == top_key
            token = tl.minimum(token, tl.min(tl.where(largest, every, 2147483647), axis=0))

    # The faults of csrc/core/token/sample_token.h, the first of them last.
    token = tl.where(top == float("-inf"), -2, token)
    token = tl.where(top != top, -1, token)
    token = tl.where((share >= 0) & (share < 1), token, -4)
    fine = (g - g == 0) & (temperature >= 0) & (temperature - temperature == 0)
    fine = fine & (top_k >= 0) & (top_k < 2147483648.0)
    fine = fine & (top_p >= 0) & (top_p <= 1) & (min_p >= 0) & (min_p <= 1)
    token = tl.where(fine, token, -3)
    tl.store(tokens + row, token.to(tl.int64))


def weigh_launch(
    logits: Tensor,
    unconditional: Tensor | None,
    guidance: Tensor | None,
    temperature: Tensor | None,
    places: int,
    stride: int = 1,
    at: tuple[int, int] = (0, 0),
) -> tuple[Launch, tuple[Tensor, Tensor, Tensor]]:
    """weigh for logits [rows, size]; and the tensors it fills: guided, weights, tops."""
    rows, size = logits.shape
    guided, weights = (torch.empty_like(logits, dtype=torch.float32) for _ in range(2))
    tops = torch.empty(rows, dtype=torch.float32, device=logits.device)
    launch = Launch(
        weigh,
        (rows,),
        {"logits": logits, "unconditional": unconditional}
        | {"guidance": guidance, "temperature": temperature}
        | {"guided": guided, "weights": weights, "tops": tops}
        | {"rows": rows, "places": places, "stride": stride, "size": size},
        {"GUIDANCE_AT": at[0], "TEMPERATURE_AT": at[1], "BLOCK": block_of(size)},
        num_warps=warps_of(size),
    )
    return launch, (guided, weights, tops)


def block_of(size: int) -> int:
    """Tokens that a program reads at a time."""
    return max(16, min(MAX_BLOCK, power_of_2(size)))


def warps_of(size: int) -> int:
    """4 tokens a thread."""
    return max(block_of(size) // 128, 1)


def plan(logits: Tensor, uniform: Tensor, settings: Tensor) -> tuple[list[Launch], Tensor]:
    """The launches that compute sample_token(...), and the tensor they fill."""
    logits, settings = prepare("sample_token", logits, settings.float())
    uniform = readable(uniform.double())
    n, size = uniform.shape[0], logits.shape[1]
    unconditional = None
    if logits.shape[0] == 2 * n and n:
        unconditional, logits = (readable(part) for part in logits.chunk(2))
    at = SAMPLING_COLUMNS.index("guidance"), SAMPLING_COLUMNS.index("temperature")
    launch, (guided, weights, tops) = weigh_launch(
        logits, unconditional, settings, settings, 1, len(SAMPLING_COLUMNS), at
    )
    tokens = torch.empty(n, dtype=torch.int64, device=logits.device)
    draw_launch = Launch(
        _draw,
        (n,),
        {"guided": guided, "weights": weights, "tops": tops, "uniform": uniform}
        | {"settings": settings, "tokens": tokens, "rows": n, "size": size},
        {"BLOCK": block_of(size)},
        num_warps=warps_of(size),
    )
    return [launch, draw_launch], tokens


def sample_token(logits: Tensor, uniform: Tensor, settings: Tensor) -> Tensor:
    """A token per row: guidance, temperature, top-k, top-p, min-p, and the draw.

    Arguments as pyengine.ops.sample_token's, on one GPU, logits float32 | bfloat16 | float16.
    Returns [N] int64; a negative one says what was wrong (csrc/core/token/sample_token.h).
    """
    launches, tokens = plan(logits, uniform, settings)
    for launch in launches:
        launch.run()
    return tokens
