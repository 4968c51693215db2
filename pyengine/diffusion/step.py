"""One model evaluation and update for any pictures, each at its own position of its own plan."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..jobs.noise import NoiseSource
from ..schedules.plan import State, stack_rows
from .controls import residuals_of
from .evaluator import Evaluator
from .job import Batch, DenoisingJob
from .moves import Moves
from .step_caching import deep_features, is_whole, keep_features
from .told import Told
from .watch import note, set_errors


def step(evaluate: Evaluator, jobs: Sequence[DenoisingJob]) -> None:
    """Takes every job, all active, one evaluation further.

    Jobs whose latents differ in shape or dtype, or their texts in length, are evaluated apart: a
    row of the evaluation does not depend on the others, so this changes no picture. So are those
    that compute all of the network and those that read what they have kept of it.
    """
    groups: dict[object, list[DenoisingJob]] = {}
    for job in jobs:
        groups.setdefault((job.shape, is_whole(job)), []).append(job)
    for group in groups.values():
        _step(evaluate, group)


def _step(evaluate: Evaluator, jobs: Sequence[DenoisingJob]) -> None:
    batch, unet = Batch.of(jobs), evaluate.unet
    told = batch.told
    if not isinstance(told, Told) or told.key != Told.key_of(jobs):
        told = batch.told = Told(jobs)
    scales = [job.scale for job in jobs]
    rows = stack_rows([(job.plan, job.position) for job in jobs], scales)
    times = told.times(unet, jobs)
    residuals = residuals_of(jobs, told, rows.scale_input(batch.state.x))
    deep = deep_features(jobs, told)
    given = batch.state, rows, told, times, residuals, deep
    moves = Moves.of(jobs, rows.scale_input(batch.state.x))
    state = evaluate.step(jobs, *given, noise=draw_noise(jobs, batch.state.x), moves=moves)
    keep_features(jobs, told, deep)
    batch.state = keep_known(jobs, state)
    if unet.device.type == "cuda":
        note(batch, jobs, [2 * job.position for job in jobs])
    else:
        set_errors(jobs, batch.state.x, partial(evaluate.output, *given), told)
        if moves is not None:
            moves.set_errors()
    for job in jobs:
        if job.error is None:
            job.evaluations += 1
            job.steps += job.plan.ends_step[job.position]
            job.position += 1


def draw_noise(jobs: Sequence[DenoisingJob], x: Tensor) -> Tensor | None:
    """[N, ...] normal numbers in x's dtype for the jobs that draw at this step, zeros for the
    others; None where none draws.
    """
    draws = [job.plan.draws_noise[job.position] for job in jobs]
    if not any(draws):
        return None
    dtypes = {job.plan.noise_dtype or x.dtype for job in jobs}
    own = [job.noise.generator for job in jobs]
    if all(draws) and len(dtypes) == 1 and not any(job.noise.has(job.position) for job in jobs):
        generators = [generator for generator in own if generator is not None]
        if len(generators) == len(jobs):  # in one go: on a GPU one copy
            noise = NoiseSource(generators, x.device).draw(x.shape, dtypes.pop())
            for k, job in enumerate(jobs):
                job.noise.keep(job.position, noise[k : k + 1])
            return noise
    noise = torch.zeros_like(x)
    for k, job in enumerate(jobs):
        if draws[k]:
            dtype = job.plan.noise_dtype or x.dtype
            noise[k : k + 1] = job.noise.draw(job.position, x.shape[1:], dtype)
    return noise


def keep_known(jobs: Sequence[DenoisingJob], state: State) -> State:
    """The state with the known parts of the pictures put back, at the noise level that each has
    come to: schedules.plan.Plan.keep_known.
    """
    if all(job.conditions.known is None for job in jobs):
        return state
    first, c = jobs[0], jobs[0].conditions
    together = all(
        job.conditions is c
        and job.plan is first.plan
        and job.place == k
        and job.position == first.position
        for k, job in enumerate(jobs)
    )
    if together and c.count == len(jobs) and c.known is not None:
        assert c.mask is not None
        return first.plan.keep_known(first.position, state, c.known, c.noise, c.mask[: c.count])
    x = state.x.clone()
    for k, job in enumerate(jobs):
        c, own = job.conditions, slice(job.place, job.place + 1)
        if c.known is not None:
            assert c.mask is not None
            noise = None if c.noise is None else c.noise[own]
            kept = job.plan.keep_known(
                job.position, State(x[k : k + 1]), c.known[own], noise, c.mask[own]
            )
            x[k : k + 1] = kept.x
    return State(x, state.d1, state.d2, state.d3, state.base)
