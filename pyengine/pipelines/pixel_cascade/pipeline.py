"""A pixel cascade by text: a picture of half the size, then one of the whole beside it.

Ho et al. 2022, arXiv:2106.15282; Saharia et al. 2021, arXiv:2104.07636.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...diffusion.conditions import Conditions
from ...diffusion.staged import StagedJob
from ...guard import inference
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ...models.base import Model
from ..defaults import bounded
from ..diffusers_names.schedulers import NamedScheduler
from ..shipped_text import ShippedText
from ..two_stages import TwoStageCourse, TwoStagePipeline
from ..unprompted import CALLBACK_TENSORS

#: The share of noise on the smaller picture, as the second network is told it.
LEVEL = 0.1


@dataclass(frozen=True)
class PixelCascadeDefaults:
    """Of a call of PixelCascadePipeline."""

    num_inference_steps: int = bounded(25, 1, 1000)
    super_res_num_inference_steps: int = bounded(10, 1, 1000)
    guidance_scale: float = bounded(2.0, 0, 1000)


class PixelCascadePipeline(TwoStagePipeline):
    """Text to pictures with a checkpoint of `pyengine train cascade`; see `__call__`."""

    defaults_class: ClassVar[type[Any]] = PixelCascadeDefaults
    steps_of = (
        ("num_inference_steps", "guidance_scale"),
        ("super_res_num_inference_steps", None),
    )
    main_part = "base"

    def __init__(
        self,
        models: dict[str, Model],
        text: ShippedText,
        checkpoint: Any,
        source: str,
        defaults: Any,
        scheduler: NamedScheduler,
    ):
        super().__init__(models, models, text, checkpoint, source, defaults, scheduler)
        sides = [models[name].config.sample_size for name in ("base", "super_res")]
        self.shapes = tuple((3, side, side) for side in sides)

    @property
    def default_size(self) -> tuple[int, int]:
        return self.shapes[1][1], self.shapes[1][2]

    @inference
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        super_res_num_inference_steps: int | None = None,
        guidance_method: str = "cfg",
        negative_scale: float | None = None,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        seed: int | Sequence[int] | None = None,
        upscaler: Any = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = CALLBACK_TENSORS,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Pictures for one prompt or a list of them. What is not named here is as of
        PixelDiffusionPipeline's call.

        Args:
            num_inference_steps, super_res_num_inference_steps: of the smaller picture, and of the
                larger one; 25 and 10 unless told or the checkpoint says otherwise.
            guidance_scale: of the smaller picture, for all, or one per picture; 1 or less leaves
                guidance out. 2 unless told or the checkpoint says otherwise.
            output_type: "pil", "np", "pt" (0 to 1) or "latent", which is what was denoised, -1..1.
            guidance_method, negative_scale, guidance_start, guidance_end: as of
                StableDiffusionPipeline's call, of the smaller picture.
            callback_on_step_end: its steps count on from stage to stage.
            run: a Run, to end this call from elsewhere. A picture that was ended before its second
                stage began is the smaller one, enlarged.

        Raises RequestError that names the argument.
        """
        output: PipelineOutput = self._call(locals())
        return output

    def _told(
        self,
        course: TwoStageCourse,
        stage: int,
        jobs: Sequence[StagedJob],
        names: tuple[str, ...],
    ) -> Conditions:
        vectors = course.texts(jobs, names).vectors
        if not stage:
            return Conditions(labels=vectors, pictures=len(jobs), names=names)
        level = vectors.new_full((len(vectors), 1), LEVEL)
        extra = [
            float((1 - LEVEL**2) ** 0.5) * enlarged(job.latents)
            + LEVEL * course.noise.start(2, job.index, self.shapes[1], self.dtype)
            for job in jobs
        ]
        labels = torch.cat([vectors, level], dim=1)
        return Conditions(labels=labels, pictures=len(jobs), names=names, extra=torch.cat(extra))

    def _seen(self, latents: Tensor) -> Tensor:
        return latents if latents.shape[2] == self.shapes[1][1] else enlarged(latents)


def enlarged(small: Tensor) -> Tensor:
    """[1, C, h, w] -> [1, C, 2 h, 2 w], each pixel four times, limited to -1..1."""
    limited = small.clamp(-1, 1)
    return limited.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
