"""Text and noise to a picture in one pass, by a generator that was trained against a discriminator.

Goodfellow et al. 2014, arXiv:1406.2661; Isola et al. 2017, arXiv:1611.07004.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...guard import inference
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ..one_pass import CALLBACK_TENSORS
from ..text_generators import TextOnePassPipeline


class ConditionalGANPipeline(TextOnePassPipeline):
    """Pictures of prompts, in one pass; see `__call__`."""

    @inference
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        latents: Tensor | None = None,
        *,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        upscaler: Any = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = CALLBACK_TENSORS,
        progress: bool | None = None,
        return_dict: bool = True,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Pictures for one prompt or a list of them.

        latents: [N, latent_channels], standard normal; without it, each picture's come from its own
        generator. height, width: the model's own, or nothing. callback_on_step_end is called once,
        with {"images": [N, 3, H, W]} in -1..1, which it may change. output_type "latent": the
        latents. Others: as of StableDiffusionPipeline.
        Raises RequestError that names the argument.
        """
        output: PipelineOutput = self._call(locals())
        return output
