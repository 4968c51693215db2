"""mask_refine in Triton: weights and draw per place, then who is masked again, by counting.

Chang et al. 2022, arXiv:2202.04200; the formulas are pyengine.ops.reference.mask_refine's.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import Launch, cdiv, power_of_2, prepare, readable
from .sample_token import block_of, draw, warps_of, weigh_launch

PLACES = 32


@triton.jit
def _race(weights, race, start, size, BLOCK: tl.constexpr):
    """The first token of the largest weight / race; -1 where no weight is above zero."""
    best = tl.full([], 0.0, tl.float32)
    winner = tl.full([], -1, tl.int32)
    for first in range(0, size, BLOCK):
        token = first + tl.arange(0, BLOCK)
        inside = token < size
        w = tl.load(weights + start + token, mask=inside, other=0.0)
        time = tl.where(
            inside, tl.fdiv(w, tl.load(race + start + token, mask=inside, other=1.0)), 0.0
        )
        time = tl.where(time == time, time, 0.0)
        most = tl.max(time, axis=0)
        lowest = tl.min(tl.where(time == most, token, 2147483647), axis=0)
        winner = tl.where(most > best, lowest, winner)
        best = tl.maximum(best, most)
    return winner


@triton.jit(do_not_specialize=["rows"])
def _predict(
    guided,
    weights,
    tops,
    uniform,
    race,
    gumbel,
    temperature,
    tokens,
    predicted,
    confidence,
    rows,
    places,
    size,
    mask_token,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = row * size
    known = tl.load(tokens + row)
    if known != mask_token:
        tl.store(predicted + row, known)
        tl.store(confidence + row, tl.full([], float("inf"), tl.float64))
    else:
        top = tl.load(tops + row)
        u = tl.load(gumbel + row)
        fine = (u >= 0) & (u < 1)
        lowest = tl.full([], -(1 << 32), tl.int64)
        if uniform is not None:
            share = tl.load(uniform + row)
            fine = fine & (share >= 0) & (share < 1)
            token = draw(guided, weights, start, size, share, lowest, lowest, 0, 0.0, BLOCK)
        else:
            token = _race(weights, race, start, size, BLOCK)
            fine = fine & (token >= 0)
        total = tl.full([], 0.0, tl.float64)
        for first in range(0, size, BLOCK):
            every = first + tl.arange(0, BLOCK)
            w = tl.load(weights + start + every, mask=every < size, other=0.0)
            total += tl.sum(w.to(tl.float64), axis=0)
        own = tl.load(weights + start + tl.maximum(token, 0)).to(tl.float64)
        p = tl.maximum(own / tl.where(total > 0, total, 1.0), 1e-20)
        noise = tl.maximum(-tl.log(tl.maximum(u, 1e-20)), 1e-20)
        heat = tl.load(temperature + row // places).to(tl.float64)
        token = tl.where(fine, token, -4)
        token = tl.where(top == float("-inf"), -2, token)
        token = tl.where(top != top, -1, token)
        tl.store(predicted + row, token.to(tl.int64))
        tl.store(confidence + row, tl.log(p) - heat * tl.log(noise))


@triton.jit
def _choose(
    tokens, predicted, confidence, masked, following, places, mask_token, PLACES: tl.constexpr
):
    picture = tl.program_id(0).to(tl.int64)
    start = picture * places
    place = tl.program_id(1) * PLACES + tl.arange(0, PLACES)
    inside = place < places
    own = tl.load(confidence + start + place, mask=inside, other=float("inf"))
    known = tl.load(tokens + start + place, mask=inside, other=0)
    unknown = tl.full([], 0, tl.int64)
    as_low = tl.zeros([PLACES], tl.int64)
    for first in range(0, places, PLACES):
        other = first + tl.arange(0, PLACES)
        there = other < places
        hidden = tl.load(tokens + start + other, mask=there, other=0) == mask_token
        hidden = hidden & there
        c = tl.load(confidence + start + other, mask=there, other=float("inf"))
        unknown += tl.sum(hidden.to(tl.int64), axis=0)
        lower = hidden[None, :] & (c[None, :] <= own[:, None])
        as_low += tl.sum(lower.to(tl.int64), axis=1)
    wanted = tl.load(masked + picture)
    count = tl.maximum(tl.minimum(unknown - 1, wanted), 1)
    again = (known == mask_token) & (wanted > 0) & (as_low <= count)
    drawn = tl.load(predicted + start + place, mask=inside, other=0)
    tl.store(following + start + place, tl.where(again, mask_token, drawn), mask=inside)


def plan(
    logits: Tensor,
    tokens: Tensor,
    noise: Tensor,
    gumbel: Tensor,
    masked: Tensor,
    temperature: Tensor,
    mask_token: int,
    guidance: Tensor | None = None,
) -> tuple[list[Launch], tuple[Tensor, Tensor]]:
    """The launches that compute mask_refine(...), and the tensors they fill."""
    logits, temperature, guidance = prepare("mask_refine", logits, temperature, guidance)
    (n, places), size = tokens.shape, logits.shape[-1]
    unconditional = None
    if guidance is not None:
        unconditional, logits = (readable(part.reshape(-1, size)) for part in logits.chunk(2))
    logits = logits.reshape(-1, size)
    first, (guided, weights, tops) = weigh_launch(
        logits, unconditional, guidance, None, max(places, 1)
    )
    tokens, masked = readable(tokens), readable(masked)
    race = readable(noise.float()) if noise.dim() == 3 else None
    uniform = readable(noise.double()) if noise.dim() == 2 else None
    following, predicted = (torch.empty_like(tokens) for _ in range(2))
    confidence = torch.empty(tokens.shape, dtype=torch.float64, device=tokens.device)
    launches = [
        first,
        Launch(
            _predict,
            (n * places,),
            {"guided": guided, "weights": weights, "tops": tops, "uniform": uniform, "race": race}
            | {"gumbel": readable(gumbel.double()), "temperature": temperature, "tokens": tokens}
            | {"predicted": predicted, "confidence": confidence, "rows": n * places}
            | {"places": places, "size": size, "mask_token": mask_token},
            {"BLOCK": block_of(size)},
            num_warps=warps_of(size),
        ),
        Launch(
            _choose,
            (n, cdiv(places, PLACES)),
            {"tokens": tokens, "predicted": predicted, "confidence": confidence}
            | {"masked": masked, "following": following, "places": places}
            | {"mask_token": mask_token},
            {"PLACES": min(PLACES, max(16, power_of_2(places)))},
        ),
    ]
    return launches, (following, predicted)


def mask_refine(
    logits: Tensor,
    tokens: Tensor,
    noise: Tensor,
    gumbel: Tensor,
    masked: Tensor,
    temperature: Tensor,
    mask_token: int,
    guidance: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws a token for every masked place, then masks the least certain again.

    Arguments as pyengine.ops.mask_refine's, on one GPU, logits float32 | bfloat16 | float16.
    Returns (next tokens, predicted tokens), [N, L] int64; a predicted token that is negative where
    one was drawn says what was wrong (csrc/core/token/sample_token.h).
    """
    launches, results = plan(
        logits, tokens, noise, gumbel, masked, temperature, mask_token, guidance
    )
    for launch in launches:
        launch.run()
    return results
