"""Tokens of many jobs from their logits, each by its own settings and numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops
from ..cuda import to_device
from .job import Draw, TokenJob

#: For draws that take the likeliest token, and for those at positions that are known already or
#: beyond a picture's end, which count for nothing.
_NO_NUMBER = torch.zeros(1, dtype=torch.float64)
#: Of a row of which no token can be drawn: ops.sample_token's, who has more of them.
NONE = -1


def draw(
    how: Draw, logits: Tensor, jobs: Sequence[TokenJob], positions: Sequence[int]
) -> list[int]:
    """A token of each of m rows; negative where its logits are NaN or infinite.

    how: the `draw` of all jobs, but that without gumbel the settings may differ. logits: [m, K],
    with guidance [2 m, K], the unconditional ones first. jobs, positions: of each of the m.
    """
    if how.gumbel:
        return _gumbel(how, logits, jobs, positions)
    uniform = to_device(uniforms(jobs, positions), logits.device)
    settings = settings_of(jobs, logits.device)
    with ops.unseen():  # so that one job's fault ends no other
        tokens: list[int] = ops.sample_token(logits, uniform, settings).tolist()
    return tokens


def uniforms(jobs: Sequence[TokenJob], positions: Sequence[int]) -> Tensor:
    """[m] float64 on the host, a number for each job's position."""
    found = []
    for job, position in zip(jobs, positions, strict=True):
        needed = job.draw.random and job.position <= position < job.length
        found.append(job.numbers.at(job.row, position) if needed else _NO_NUMBER)
    return torch.cat(found)


def settings_of(jobs: Sequence[TokenJob], device: torch.device) -> Tensor:
    """A row of settings for each job, as ops.sample_token takes them."""
    first = jobs[0].draw
    if all(job.draw is first for job in jobs):
        return first.rows(len(jobs), device)
    return torch.cat([job.draw.rows(1, device) for job in jobs])


def _gumbel(
    how: Draw, logits: Tensor, jobs: Sequence[TokenJob], positions: Sequence[int]
) -> list[int]:
    s, scores = how.sampling, logits.float()
    fine = scores.amax(dim=-1).isfinite()
    if how.guided:
        other, scores = scores.chunk(2)
        fine = fine.view(2, -1).all(dim=0)
        masked = scores.isinf() | other.isinf()
        scores = other + how.guidance_scale * (scores - other)
        scores = scores.masked_fill(masked, -torch.inf)
    scores = (scores - scores.amax(dim=-1, keepdim=True)) / s.temperature
    left = s.filter(scores)
    numbers = torch.cat(
        [
            job.numbers.at(job.row, min(max(position, job.position), job.length - 1))
            for job, position in zip(jobs, positions, strict=True)
        ]
    )
    drawn: list[int] = (left + numbers).argmax(dim=-1).where(fine, NONE).tolist()
    return drawn
