"""What the pipelines share that draw a picture's tokens one after another behind a text."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..guard import inference
from ..jobs.output import PipelineOutput
from ..jobs.runs import Run
from .autoregressive import AutoregressivePipeline


class TextTokensPipeline(AutoregressivePipeline):
    """Base of these; see `__call__`."""

    @inference
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        *,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        prefix: Any = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        decoding: str | None = None,
        window: int | None = None,
        output_type: str = "pil",
        upscaler: Any = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("tokens",),
        progress: bool | None = None,
        return_dict: bool = True,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Pictures for one prompt or a list of them, of any lengths.

        negative_prompt: in place of the prompt that guidance compares with, an empty or, of Janus,
        a blanked one. guidance_scale: 1 or less leaves guidance out. prefix: tokens of the
        picture's beginning in reading order, [n] for all or [N, n], or a picture of the upper rows,
        as wide as the model draws. temperature: 0 draws the likeliest token every time; top_k (0:
        all), top_p, min_p: which may be drawn.
        decoding: "sequential" reads the model once for every token, "jacobi" for a window of so
        many at once, of which those that were guessed right are drawn, and one more: the same
        tokens in fewer passes (report.tokens_per_pass); "jacobi-gumbel" draws others of the same
        distribution, in fewer still where the model is unsure. callback_on_step_end is called after
        every pass with {"tokens": [N, h * w]}, -1 where none is drawn yet; it may change each
        picture's last. height, width: the model's own, or nothing.
        output_type "latent": the tokens as images. Others: as of StableDiffusionPipeline.
        Raises RequestError that names the argument.
        """
        output: PipelineOutput = self._call(locals())
        return output
