"""The stages of unCLIP: what each begins with, and what its network is told."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ...diffusion.conditions import Conditions, classifier_free_names
from ...diffusion.gradients import GradientGuidance
from ...diffusion.staged import (
    Stage,
    StagedJob,
    StageNoise,
    end_of,
    guidance_between,
    stage_batch,
)
from ...diffusion.watch import check_start
from ...guidance import Guidance
from ...models import PriorTransformer, UnCLIPTextProjModel
from ...schedules import Plan
from ...schedules.plan import State
from ..prior_denoiser import PriorConditions
from .request import Texts, UnCLIPRequest

#: By the parts that predict: the last step of the super-resolution has a network of its own.
PRIOR, DECODER, FIRST, LAST = "prior", "decoder", "super_res_first", "super_res_last"


@dataclass(frozen=True)
class Shapes:
    """Of what each stage denoises: [D], [C, h, w] and [C, height, width]."""

    prior: tuple[int, ...]
    decoder: tuple[int, ...]
    super_res: tuple[int, ...]


def enlarged(small: Tensor, height: int, width: int) -> Tensor:
    """[1, 3, h, w] -> [1, 3, height, width]: limited to -1..1, then bicubic with antialiasing.
    No op enlarges so: plain torch, a picture at a time.
    """
    limited = small.float().clamp(-1, 1)
    found: Tensor = torch.nn.functional.interpolate(
        limited, size=(height, width), mode="bicubic", align_corners=False, antialias=True
    )
    return found.to(small.dtype)


class UnCLIPCourse:
    """See pyengine.diffusion.staged.Course. All stages but the prior, where pictures' embeddings
    are given.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        r: UnCLIPRequest,
        plans: dict[str, Plan],
        shapes: Shapes,
        noise: StageNoise,
        texts: Texts,
        empty: Texts,
        projection: UnCLIPTextProjModel,
        source: str,
        gradients: Sequence[GradientGuidance | None],
    ):
        """plans: by PRIOR, DECODER and "super_res". texts: of each picture; empty: the one row of
        the empty text. gradients: what guides the decoder's stage of each picture. source: what to
        call the model in errors.
        """
        self.stages, self.names = stages, tuple(stage.main_part for stage in stages)
        self._r, self._shapes, self._noise = r, shapes, noise
        self._texts, self._empty = texts, empty
        self._projection, self._source = projection, source
        self._gradients = gradients
        last = plans.pop("super_res")
        plans |= {FIRST: end_of(last, 0, -1), LAST: end_of(last, -1, None)}
        self._plans = [plans[name] for name in self.names]
        self.lengths = tuple(len(plan) for plan in self._plans)
        length = texts.hidden.shape[1]
        self.shapes: tuple[Hashable, ...] = tuple((name, length) for name in self.names)

    def begin(self, stage: int, jobs: Sequence[StagedJob]) -> None:
        """Has the jobs enter a stage."""
        makers = {PRIOR: self._prior, DECODER: self._decoder, FIRST: self._first, LAST: self._last}
        makers[self.names[stage]](stage, jobs)

    def _prior(self, stage: int, jobs: Sequence[StagedJob]) -> None:
        told, guided = self._told(jobs)
        conditions = PriorConditions(
            told.hidden,
            names=classifier_free_names(guided),
            projected=told.projected,
            seen=told.seen,
        )
        x = self._start(stage, "prior", jobs, self._shapes.prior)
        self._enter(stage, jobs, conditions, x, self._guidance(jobs, self._r.prior_scale))

    def _decoder(self, stage: int, jobs: Sequence[StagedJob]) -> None:
        pairs = [(job, self._embedding(job)) for job in jobs]
        pairs = [(job, e) for job, e in pairs if job.check(f"{self._source}: prior", e)]
        if not pairs:
            return
        jobs, embeddings = [job for job, _ in pairs], torch.cat([e for _, e in pairs])
        told, guided = self._told(jobs)
        text, vectors = self._projection(
            image_embeddings=embeddings,
            prompt_embeds=told.projected,
            text_encoder_hidden_states=told.hidden,
            do_classifier_free_guidance=guided,
        )
        extra = self._projection.config.clip_extra_context_tokens
        seen = torch.nn.functional.pad(told.seen, (extra, 0), value=1.0)
        conditions = Conditions(
            text, labels=vectors, names=classifier_free_names(guided), text_mask=seen
        )
        x = self._start(stage, "decoder", jobs, self._shapes.decoder)
        self._enter(stage, jobs, conditions, x, self._guidance(jobs, self._r.decoder_scale))

    def _first(self, stage: int, jobs: Sequence[StagedJob]) -> None:
        small = [enlarged(job.latents, self._r.height, self._r.width) for job in jobs]
        x = self._start(stage, "super_res", jobs, self._shapes.super_res)
        self._enter(stage, jobs, Conditions(pictures=len(jobs), extra=torch.cat(small)), x)

    def _last(self, stage: int, jobs: Sequence[StagedJob]) -> None:
        """With another network alone: latents and the smaller picture stay."""
        before = [job.inner[0] for job in jobs]
        extra = [cast(Tensor, one.conditions.extra)[one.place : one.place + 1] for one in before]
        x = torch.cat([one.latents for one in before])
        self._enter(stage, jobs, Conditions(pictures=len(jobs), extra=torch.cat(extra)), x)

    # --- of some of the pictures ------------------------------------------------------------------

    def _told(self, jobs: Sequence[StagedJob]) -> tuple[Texts, bool]:
        """(their texts, the empty ones first where one of them is guided; whether one is)."""
        texts = self._texts.rows([job.index for job in jobs])
        guided = any(self._r.guided[job.index] for job in jobs)
        return (self._empty.rows([0] * len(jobs)).then(texts) if guided else texts), guided

    def _guidance(self, jobs: Sequence[StagedJob], scales: Sequence[float]) -> list[Guidance]:
        guided, method = self._r.guided, self._r.method
        return [
            guidance_between(scales[job.index], guided[job.index]).within(method.start, method.end)
            for job in jobs
        ]

    def _embedding(self, job: StagedJob) -> Tensor:
        """[1, D] of the picture."""
        if self._r.embeddings is not None:
            return self._r.embeddings[job.index : job.index + 1]
        prior = cast(PriorTransformer, cast(Any, self.stages[0].evaluate.unet).prior)
        return prior.post_process_latents(job.latents)

    def _start(
        self, stage: int, name: str, jobs: Sequence[StagedJob], shape: tuple[int, ...]
    ) -> Tensor:
        """[n, *shape] normal numbers, drawn or given."""
        given, dtype = self._r.latents_of[name], self._texts.hidden.dtype
        if given is not None:
            return torch.cat([given[job.index : job.index + 1] for job in jobs])
        return torch.cat([self._noise.start(stage, job.index, shape, dtype) for job in jobs])

    def _enter(
        self,
        stage: int,
        jobs: Sequence[StagedJob],
        conditions: Conditions,
        x: Tensor,
        guidance: Sequence[Guidance] | None = None,
    ) -> None:
        conditions.changed(self.stages[stage].evaluate.unet)
        plan, guidance = self._plans[stage], guidance or [guidance_between(1.0, False)] * len(jobs)
        state = plan.start(x) if self.names[stage] != LAST else State(x)
        noise = [self._noise.of(stage, job.index) for job in jobs]
        inner = stage_batch(jobs, state, plan, conditions, guidance, noise, self._source)
        if self.names[stage] == DECODER:
            for job, one in zip(jobs, inner, strict=True):
                one.gradients = self._gradients[job.index]
        check_start(self._source, x)
        for job, one in zip(jobs, inner, strict=True):
            job.enter(stage, one)
