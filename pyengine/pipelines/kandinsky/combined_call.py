"""What a call of Kandinsky's prior and decoder together is asked, and the stages that it takes."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...diffusion.gradients import GradientGuidance
from ...diffusion.job import Batch, DenoisingJob
from ...diffusion.staged import StagedCall, StagedJob, StageNoise, stage_batch
from ...diffusion.watch import check_start
from ...jobs.noise import NoiseSource
from ...jobs.request import Enlarger, Heard
from ...jobs.runs import Run
from ...schedules import Plan
from ..prior_denoiser import PriorConditions
from .pipeline import KandinskyRequest, KandinskyV22Pipeline
from .prior import KandinskyV22PriorPipeline
from .prior_call import PriorRequest


@dataclass
class CombinedRequest:
    """prior, decoder: the requests of the two; the decoder's is to get its embeddings. wide: the
    [N, C, h, w] noise of the decoder's start in place of drawn, or None.
    """

    prior: PriorRequest
    decoder: KandinskyRequest
    wide: Tensor | None = None
    upscaler: Enlarger | None = None

    @property
    def run(self) -> Run:
        return self.decoder.run

    @property
    def count(self) -> int:
        return self.decoder.count

    @property
    def height(self) -> int:
        return self.decoder.height

    @property
    def width(self) -> int:
        return self.decoder.width

    @property
    def seeds(self) -> list[int | None]:
        return self.decoder.seeds

    @property
    def output_type(self) -> str:
        return self.decoder.output_type

    @property
    def timeout(self) -> float | None:
        return self.decoder.timeout

    @property
    def return_dict(self) -> bool:
        return self.decoder.return_dict

    @property
    def callback(self) -> Callable[..., Any] | None:
        return self.decoder.callback

    @property
    def callback_inputs(self) -> tuple[str, ...]:
        return self.decoder.callback_inputs

    @property
    def callback_known(self) -> tuple[str, ...]:
        return self.decoder.callback_known

    @property
    def evaluations(self) -> int:
        return self.prior.evaluations + self.decoder.evaluations


class CombinedCall(StagedCall[CombinedRequest]):
    """Each of the two stages has a callback, which counts its own steps."""

    def heard(self, stage: int) -> tuple[Heard, int]:
        return (self.request.decoder if stage else self.request.prior), 0

    def seen(self) -> tuple[Tensor, Any]:
        """Of each picture one: not the negative embeddings that may be made beside the others."""
        furthest = max(job.stage for job in self.jobs)
        here = [job.inner[0] for job in self.jobs if job.stage == furthest]
        return torch.cat([one.latents for one in here]), here[0].timestep


class CombinedCourse:
    """See pyengine.diffusion.staged.Course: the prior, with the negative prompts' embeddings where
    there are any, and the decoder.
    """

    def __init__(
        self,
        prior: KandinskyV22PriorPipeline,
        decoder: KandinskyV22Pipeline,
        r: CombinedRequest,
        plans: tuple[Plan, Plan],
        conditions: PriorConditions,
        gradients: Sequence[GradientGuidance | None],
    ):
        """conditions: of all of the prior's embeddings. gradients: what guides each of the
        decoder's pictures besides.
        """
        self._gradients = gradients
        self._prior, self._decoder, self._r = prior, decoder, r
        self._plans, self._conditions = plans, conditions
        self.lengths = tuple(len(plan) for plan in plans)
        shape = r.height, r.width
        self.shapes: tuple[Hashable, ...] = (("prior",), ("unet", *shape))
        self._source = decoder.source
        self._grey: Tensor | None = None
        device = decoder.device
        self._noise = (
            StageNoise(NoiseSource(r.prior.generators, device), r.prior.count, 1),
            StageNoise(NoiseSource(r.decoder.generators, device), r.count, 1),
        )

    def begin(self, stage: int, jobs: Sequence[StagedJob]) -> None:
        """Has the jobs enter a stage; the first is entered by all of the call's at once."""
        if stage:
            self._decode(jobs)
        else:
            self._embed(jobs)

    def _embed(self, jobs: Sequence[StagedJob]) -> None:
        r, noise = self._r.prior, self._noise[0]
        width = (self._prior.prior.config.embedding_dim,)
        begin = r.latents
        if begin is None:
            rows = [noise.start(0, i, width, self._prior.dtype) for i in range(r.count)]
            begin = torch.cat(rows)
        begin = begin.to(self._prior.device, self._prior.dtype)
        self._conditions.changed(self._prior._evaluate.unet)
        inner = [
            DenoisingJob(
                r.run,
                i % r.wanted,
                r.seeds[i],
                self._plans[0],
                self._conditions,
                r.method.guidance(r.guidance_scale[i]),
                0.0,
                noise.of(0, i),
                self._source,
            )
            for i in range(r.count)
        ]
        for place, one in enumerate(inner):
            one.place = place
        Batch(inner, self._plans[0].start(begin))
        check_start(self._source, begin)
        for job in jobs:
            job.enter(0, *inner[job.index :: r.wanted])

    def _decode(self, jobs: Sequence[StagedJob]) -> None:
        jobs = [job for job in jobs if self._check(job)]
        if not jobs:
            return
        r, plan = self._part(jobs), self._plans[1]
        state = self._decoder._start(r, plan, NoiseSource([], self._decoder.device))
        conditions = self._decoder._conditions(r)
        conditions.changed(self._decoder.unet)
        guidance = self._decoder._guidance(r)
        noise = [self._noise[1].of(0, job.index) for job in jobs]
        inner = stage_batch(jobs, state, plan, conditions, guidance, noise, self._source)
        for job, one in zip(jobs, inner, strict=True):
            one.gradients = self._gradients[job.index]
        check_start(self._source, state.x)
        for job, one in zip(jobs, inner, strict=True):
            job.enter(1, one)

    def _part(self, jobs: Sequence[StagedJob]) -> KandinskyRequest:
        """The decoder's request of these pictures alone, with their embeddings and noise."""
        r, own = self._r.decoder, [job.index for job in jobs]
        shape = (
            self._decoder.channels,
            r.height // self._decoder.factor,
            r.width // self._decoder.factor,
        )
        wide = self._r.wide
        rows = [
            wide[i : i + 1]
            if wide is not None
            else self._noise[1].start(0, i, shape, self._decoder.dtype)
            for i in own
        ]
        scales = tuple(r.guidance_scale[i] for i in own)
        embeds = [torch.cat([self._embedding(job, 0) for job in jobs])]
        if any(map(r.method.guides, scales)):
            embeds.insert(0, torch.cat([self._embedding(job, 1) for job in jobs]))
        return replace(
            r,
            count=len(own),
            latents=torch.cat(rows),
            guidance_scale=scales,
            embeds=torch.cat(embeds),
            images=_picked(r.images, own, r.count),
            masks=_picked(r.masks, own, r.count),
            known=None,
            noise=None,
        )

    def _embedding(self, job: StagedJob, which: int) -> Tensor:
        """[1, D], of the prompt (0), or what to guide away from (1)."""
        if which and len(job.inner) == 1:
            if self._grey is None:
                self._grey = self._prior.black()
            return self._grey
        return self._prior.prior.post_process_latents(job.inner[which].latents)

    def _check(self, job: StagedJob) -> bool:
        for which in range(len(job.inner)):
            job.check(f"{self._source}: prior", self._embedding(job, which))
        return job.error is None


def _picked(rows: Tensor | None, own: Sequence[int], count: int) -> Tensor | None:
    """Those of M rows, each for count / M pictures, that are of some pictures."""
    if rows is None or len(rows) == 1:
        return rows
    return torch.cat([rows[i * len(rows) // count][None] for i in own])
