"""Where in a run of steps the latents stop being finite.

On the CPU every step's latents are looked at, 3 us at 64x64. On a GPU no step waits for that: what
is found is noted there, and read when the pictures are taken out.
"""

from collections.abc import Callable, Sequence
from copy import copy

import torch
from torch import Tensor

from ..errors import RequestError
from ..finite import all_finite, check_finite, first_bad, kind, not_finite
from .job import Batch, DenoisingJob
from .told import Told

CALLBACK = "callback_on_step_end: latents"


def check_start(source: str, x: Tensor) -> None:
    """Raises NotFiniteError where latents that a run begins with are not finite."""
    check_finite(f"{source}: the latents to begin with", x)


def set_errors(
    jobs: Sequence[DenoisingJob], x: Tensor, output: Callable[[], Tensor], told: Told
) -> None:
    """Sets the error of every job whose latents x[k] are not finite after an evaluation:
    NotFiniteError, which names the picture, the step and the part.

    output: makes the model's output anew, whose rows are told's, to tell whether the model or the
    sampler is at fault.
    """
    if all_finite(x):
        return
    out = output()
    for k, job in enumerate(jobs):
        if all_finite(x[k]):
            continue
        part, found = _network(job), [out[row] for row in told.rows_of(k)]
        found = [rows for rows in found if not all_finite(rows)]
        if not found:
            part, found = f"the sampler {job.plan.sampler}", [x[k]]
        where = f"picture {job.index}{_at(job, job.position)}"
        job.error = not_finite(f"{job.source}: {part}", kind(found[0]), where, x.dtype)


def note(batch: Batch, jobs: Sequence[DenoisingJob], when: Sequence[int]) -> None:
    """Notes where the latents of a batch are not finite, without waiting for the GPU.

    when: of each of the jobs, all of that batch, the half step: 2 i after evaluation i, 2 i + 1
    after its callback.
    """
    x = batch.state.x
    bad = ~torch.isfinite(x).flatten(1).all(dim=1)
    first = batch.first_bad
    if first is None:
        first = bad.new_full(bad.shape, -1, dtype=torch.int64)
    now = torch.zeros_like(first)
    now[torch.tensor([job.row for job in jobs], device=x.device)] = torch.tensor(
        when, device=x.device
    )
    batch.first_bad = torch.where((first < 0) & bad, now, first)


def check_noted(jobs: Sequence[DenoisingJob]) -> None:
    """Raises what `note` has found of the jobs' latents, where it was found first; every job that
    it was found of has its error set.
    """
    noted: list[tuple[int, int, Exception]] = []
    for k, job in enumerate(jobs):
        first = -1 if job.batch.first_bad is None else int(job.batch.first_bad[job.row])
        if first >= 0:
            job.error = _noted(job, *divmod(first, 2))
            noted.append((first, k, job.error))
    if noted:
        raise copy(min(noted, key=lambda found: found[:2])[2])


def _noted(job: DenoisingJob, i: int, by_callback: int) -> Exception:
    found = kind(job.latents)
    if by_callback:
        return refused(job.index, found, i)
    part = f"{job.source}: {_network(job)} or the sampler {job.plan.sampler}"
    where = f"picture {job.index}{_at(job, i)}"
    return not_finite(part, found, where, job.latents.dtype)


def check_answer(i: int, x: Tensor) -> None:
    """Raises RequestError where a callback after evaluation i left latents that are not finite."""
    if bad := first_bad(x):
        raise refused(*bad, i)


def refused(picture: int, found: str, i: int) -> RequestError:
    return RequestError(
        f"{CALLBACK}: expected finite values, given {found} in picture {picture} at step {i}"
    )


def _network(job: DenoisingJob) -> str:
    """What the network is called among the parts of the job's pipeline."""
    return str(getattr(job.owner, "main_part", "unet"))


def _at(job: DenoisingJob, i: int) -> str:
    return f" at step {i} (timestep {job.plan.timesteps[i]:g})"
