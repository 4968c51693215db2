"""DCGAN: pictures from noise in one pass.

Radford et al. 2015, arXiv:1511.06434.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...guard import inference
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ...models import DCGANGenerator
from ..one_pass import CALLBACK_TENSORS, OnePassPipeline, OnePassRequest, count_of


class DCGANPipeline(OnePassPipeline):
    """Pictures of a DCGAN's generator; see `__call__`."""

    model: DCGANGenerator

    @property
    def default_size(self) -> tuple[int, int]:
        side = self.model.config.sample_size
        return side, side

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.model.config.latent_channels, 1, 1

    @inference
    def __call__(
        self,
        num_images: int | None = None,
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
        """Pictures from noise.

        Args:
            num_images: how many, 1 unless latents say.
            latents: [N, latent_channels, 1, 1] standard normal, in place of drawn.
            num_images_per_prompt: so many times as many, which is what other pipelines call it.
            height, width: pixels, the model's own; anything else is refused.
            seed: s gives picture i the seed s + i; a list one each; None random ones, which the
                result tells.
            generator: one per picture, or one from which the batch is drawn.
            output_type: "pil", "np", "pt" (0 to 1) or "latent", the latents.
            upscaler: a file or folder of one, or an UpscalePipeline, which enlarges the pictures.
            callback_on_step_end: called once as (pipe, 0, 0, {"images": [N, C, H, W]}), in -1..1,
                before they become pictures; it may return them changed.
            callback_on_step_end_tensor_inputs: what of these it is given: images.
            progress: a bar on standard error; None shows one on a terminal.
            return_dict: False gives a tuple in place of a PipelineOutput.
            timeout: seconds to wait for calls of other threads, then BusyError.
            run: a Run, to end this call from elsewhere.

        Returns:
            The pictures, with their seeds and a report.

        Raises:
            RequestError: that names the argument.
            BusyError: where `timeout` is over first.
            NotFiniteError: where the network's numbers are not finite.
        """
        output: PipelineOutput = self._call(locals())
        return output

    def _checked(self, arguments: dict[str, Any]) -> OnePassRequest:
        num_images, per = arguments.pop("num_images"), arguments.pop("num_images_per_prompt")
        count = count_of(num_images, per, arguments["latents"])
        return self._request(count, [None] * count, **arguments)

    def _evaluate(self, latents: Tensor, settings: list[Any]) -> Tensor:
        made: Tensor = self.model(latents)
        return made
