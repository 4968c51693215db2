"""What the pipelines share that draw a picture's tokens one after another behind a text."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..guard import inference
from ..jobs.output import TokenOutput
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
    ) -> TokenOutput:
        """Pictures for one prompt or a list of them, of any lengths.

        Args:
            prompt: one text or B of them.
            negative_prompt: one for all, or one per prompt, in place of what guidance compares
                with: an empty prompt or, of Janus, a blanked one.
            num_images_per_prompt: pictures of a prompt follow each other.
            height, width: pixels, the model's own; anything else is refused.
            guidance_scale: 1 or less leaves guidance out.
            seed: s gives picture i the seed s + i; a list one each; None random ones, which the
                result tells.
            generator: one per picture, or one from which the batch is drawn.
            prefix: tokens of the picture's beginning in reading order, [n] for all or [N, n], or a
                picture of the upper rows, as wide as the model draws.
            temperature: 0 draws the likeliest token every time; 1 unless the model says otherwise.
            top_k: as many of the likeliest may be drawn; 0: all.
            top_p: so may the likeliest that reach this probability together; 1: all.
            min_p: so may those with at least this share of the likeliest one's probability; 0: all.
            decoding: "sequential" reads the model once for every token, "jacobi" for a window of so
                many at once, of which those that were guessed right are drawn, and one more: the
                same tokens in fewer passes (report.tokens_per_pass); "jacobi-gumbel" draws others
                of the same distribution, in fewer still where the model is unsure.
            window: tokens that a pass of the latter two reads; the model's own number unless told.
            output_type: "pil", "np", "pt" (0 to 1) or "latent": the tokens as images.
            upscaler: a file or folder of one, or an UpscalePipeline, which enlarges the pictures.
            callback_on_step_end: called as (pipe, step, timestep, {"tokens": [N, h * w]}) after
                every pass, -1 where none is drawn yet; it may return each picture's last changed.
            callback_on_step_end_tensor_inputs: what of these it is given: tokens.
            progress: a bar on standard error; None shows one on a terminal.
            return_dict: False gives a tuple in place of a TokenOutput.
            timeout: seconds to wait for calls of other threads, then BusyError.
            run: a Run, to end this call from elsewhere.

        Returns:
            The pictures, with their seeds and a report; of a token model its tokens, too.

        Raises:
            RequestError: that names the argument.
            BusyError: where `timeout` is over first.
            NotFiniteError: where the network's numbers are not finite.
        """
        output: TokenOutput = self._call(locals())
        return output
