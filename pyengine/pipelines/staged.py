"""What the pipelines share whose pictures go through several networks, one after the other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import images as pictures
from ..diffusion.staged import Stage, StagedJob, take_step
from ..diffusion.watch import check_noted
from ..jobs.job import Call
from ..jobs.output import PipelineOutput
from ..jobs.request import RequestT
from ..models.base import Model
from .base import NetworkPipeline


class StagedPipeline(NetworkPipeline[RequestT, StagedJob]):
    """Base of such pipelines. A subclass has `stages`, `network` and `_pixels`."""

    #: What the jobs go through, in order.
    stages: tuple[Stage, ...]
    models: dict[str, Model]

    def _pixels(self, job: StagedJob) -> Tensor:
        """[1, 3, height, width] about -1..1: the picture that the job has come to, of the size that
        it is to have at the end.
        """
        raise NotImplementedError

    def _latents(self, job: StagedJob) -> Tensor:
        """What output_type "latent" gives: [1, C, h, w], of the last stage."""
        return self._pixels(job)

    def _step(self, jobs: Sequence[StagedJob]) -> None:
        take_step(self.stages, jobs)

    def _picture(self, job: StagedJob) -> Any:
        check_noted(job.inner)
        return self._made(job, job.request.output_type)[0]

    def _output(self, call: Call[RequestT, StagedJob]) -> PipelineOutput:
        with call.report.stage("decode", self.device):
            made = [self._made(job, call.request.output_type) for job in call.jobs]
        return PipelineOutput(_joined(made), call.request.seeds, call.report)

    def _made(self, job: StagedJob, output_type: str) -> Any:
        """A batch of one picture."""
        if output_type == "latent":
            return self._latents(job)
        return pictures.from_tensor(self._pixels(job), output_type)

    def _release(self) -> None:
        for stage in self.stages:
            stage.evaluate.clear()

    def _trim(self) -> None:
        for model in self.models.values():
            model.arena.trim()


def _joined(made: list[Any]) -> Any:
    """One batch of several, as their output type has it."""
    if isinstance(made[0], Tensor):
        return torch.cat(made)
    if isinstance(made[0], np.ndarray):
        return np.concatenate(made)
    return [picture for batch in made for picture in batch]
