"""A normalising flow: text and latents to a picture in one pass, and a picture to its latents.

Kingma & Dhariwal 2018, arXiv:1807.03039.
"""

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...guard import inference
from ...jobs.noise import NoiseSource
from ...jobs.output import PipelineOutput, Report
from ...jobs.runs import Run
from ...models import Glow
from ..arguments import checked
from ..defaults import bounded
from ..one_pass import CALLBACK_TENSORS, OnePassCall, OnePassDefaults, OnePassRequest
from ..text_generators import EncodingPipeline


@dataclass(frozen=True)
class GlowDefaults(OnePassDefaults):
    """temperature: what latents are multiplied by."""

    temperature: float = bounded(0.7, 0, 100)


class GlowPipeline(EncodingPipeline):
    """Pictures of prompts, in one pass; see `__call__`, `encode`, `interpolate` and
    `bits_per_dimension`.
    """

    defaults_class: ClassVar[type[Any]] = GlowDefaults
    part: ClassVar[str] = "flow"
    model: Glow

    @inference
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        latents: Tensor | None = None,
        temperature: float | None = None,
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

        Args:
            prompt: one text or B of them.
            latents: [N, latent_size] in place of drawn, times the temperature already.
            temperature: what the normal numbers are multiplied by; below 1 pictures are likelier
                and less varied.
            num_images_per_prompt: pictures of a prompt follow each other.
            height, width: pixels, the model's own; anything else is refused.
            seed: s gives picture i the seed s + i; a list one each; None random ones, which the
                result tells.
            generator: one per picture, or one from which the batch is drawn.
            output_type: "pil", "np", "pt" (0 to 1) or "latent", the latents.
            upscaler: a file or folder of one, or an UpscalePipeline, which enlarges the pictures.
            callback_on_step_end: called once as (pipe, 0, 0, {"images": [N, 3, H, W]}), in -1..1,
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

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return (self.model.config.latent_size,)

    def _checked(self, arguments: dict[str, Any]) -> OnePassRequest:
        temperature = checked({"temperature": arguments.pop("temperature")}, self.defaults)
        r = super()._checked(arguments)
        r.settings = [(prompt, temperature["temperature"]) for prompt in r.settings]
        return r

    def _begin(self, r: OnePassRequest, report: Report) -> OnePassCall:
        own, r = r.settings, copy(r)
        r.settings = [prompt for prompt, _ in own]
        if r.latents is None:
            noise = NoiseSource(r.generators, self.device)
            r.latents = self._draw_latents(noise, r) * own[0][1]
        return super()._begin(r, report)

    def _encode(self, text: Tensor, images: Tensor) -> Tensor:
        return self.model.encode(text, images)[0]

    @inference
    def bits_per_dimension(
        self, images: Any, prompt: str | Sequence[str], generator: torch.Generator | None = None
    ) -> Tensor:
        """Bits a stored number that the model needs for pictures beside their prompts, float64 [N]:
        -log2 of the density at their values, which stand for ranges of a 256th.

        Args:
            images, prompt: as of `encode`.
            generator: of uniform noise within the ranges, with which the mean is an upper bound of
                the bits (Theis et al. 2016, arXiv:1511.01844) and what papers report; None: the
                density at the middles, an estimate of it. On the CPU.

        Raises:
            RequestError: that names the argument.
        """
        pictures, text = self._read(images, prompt)
        if generator is not None:
            noise = torch.rand(pictures.shape, generator=generator)
            pictures = pictures + (noise - 0.5) / 127.5
        nats = []
        for row, picture in zip(text, pictures, strict=True):
            latents, logdet = self.model.encode(row[None], picture[None].to(self.device))
            square = latents.double().square().sum()
            nats.append(logdet[0] - 0.5 * (square + latents.numel() * math.log(2 * math.pi)))
        size = self.model.config.latent_size
        bits: Tensor = (-torch.stack(nats) / (size * math.log(2)) + math.log2(128)).cpu()
        return bits
