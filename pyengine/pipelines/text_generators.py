"""What the pipelines share that make a picture from a text's vector and a latent in one pass."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, ClassVar
from warnings import warn

import torch
from torch import Tensor

from ..guard import inference
from ..images import as_list, to_tensor
from ..jobs import checks
from ..jobs.output import PipelineOutput, Report
from ..jobs.runs import Run
from ..models.base import Model
from .arguments import check
from .one_pass import (
    CALLBACK_TENSORS,
    OnePassCall,
    OnePassDefaults,
    OnePassPipeline,
    OnePassRequest,
)
from .reading import Load
from .shipped_text import ShippedText, check_width, load_shipped_text


class TextOnePassPipeline(OnePassPipeline):
    """Base of the pipelines that are told a prompt by the mean of a text encoder's hidden states.

    A subclass has `part` and what OnePassPipeline's has.
    """

    takes_prompt: ClassVar[bool] = True
    #: The name of its model among the checkpoint's parts.
    part: ClassVar[str] = "generator"
    defaults: OnePassDefaults

    def __init__(self, model: Model, text: ShippedText, checkpoint: Any, source: str,
                 defaults: Any):  # fmt: skip
        super().__init__(model, checkpoint, source, defaults)
        self.text = text

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

        Args:
            prompt: one text or B of them.
            latents: [N, latent_channels] standard normal, in place of drawn.
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
    def default_size(self) -> tuple[int, int]:
        side = self.model.config.sample_size
        return side, side

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return (self.model.config.latent_channels,)

    @property
    def components(self) -> dict[str, Any]:
        """{name: part}: the model, and the text encoder that it borrows."""
        return {
            self.part: self.model, "text_encoder": self.text.encoder,
            "tokenizer": self.text.tokenizer,
        }  # fmt: skip

    def _checked(self, arguments: dict[str, Any]) -> OnePassRequest:
        prompts = checks.texts("prompt", arguments.pop("prompt"))
        per = check("num_images_per_prompt", arguments.pop("num_images_per_prompt"))
        rows = [prompt for prompt in prompts for _ in range(per)]
        return self._request(len(rows), rows, **arguments)

    def _vectors(self, prompts: Sequence[str], warnings: list[str]) -> Tensor:
        """[N, C]: what the model is told of each prompt."""
        return self.text.encode(prompts, warnings)[1]

    def _begin(self, r: OnePassRequest, report: Report) -> OnePassCall:
        with report.stage("encode_prompt", self.device):
            vectors = self._vectors(r.settings, report.warnings)
        r = copy(r)
        r.settings = list(vectors)
        return super()._begin(r, report)

    def _evaluate(self, latents: Tensor, settings: list[Any]) -> Tensor:
        made: Tensor = self.model(torch.stack(settings), latents)
        return made.clamp(-1, 1)


class EncodingPipeline(TextOnePassPipeline):
    """Base of those whose model also tells of a picture which latents it is made from.

    A subclass has `_encode`.
    """

    def _encode(self, text: Tensor, images: Tensor) -> Tensor:
        """[N, C], [N, 3, H, W] in -1..1 -> latents [N, *latent_shape]."""
        raise NotImplementedError

    @inference
    def encode(self, images: Any, prompt: str | Sequence[str]) -> Tensor:
        """The latents that pictures are made from beside their prompts, float32
        [N, *latent_shape], as `pipe(prompt, latents=...)` takes them.

        images: a PIL picture, an array or a tensor, or a list of them, as `image` of
        StableDiffusionPipeline; resized to the model's size. prompt: one for all, or one each.
        Raises RequestError that names the argument.
        """
        pictures, text = self._read(images, prompt)
        with self._runs.begin(Run(), self.device):
            made = [
                self._encode(row[None], picture[None].to(self.device))
                for row, picture in zip(text, pictures, strict=True)
            ]
        return torch.cat(made).float()

    def _read(self, images: Any, prompt: Any) -> tuple[Tensor, Tensor]:
        """(pictures [N, 3, H, W] in -1..1, their texts' vectors [N, C])."""
        pictures = to_tensor(as_list(images, "images"), *self.default_size, "images")
        prompts = checks.texts("prompt", prompt, len(pictures), of="pictures")
        warnings: list[str] = []
        with self._runs.begin(Run(), self.device):
            text = self._vectors(prompts, warnings)
        for message in warnings:
            warn(message, stacklevel=4)
        return pictures, text

    def interpolate(
        self, prompt: str, start: Tensor, end: Tensor, count: int = 8, **arguments: Any
    ) -> PipelineOutput:
        """`count` pictures of one prompt on the straight line between two latents.

        start, end: [*latent_shape], of `encode` or drawn. arguments: others of the call.
        Raises RequestError that names the argument.
        """
        checks.integer("count", count, 2, checks.MAX_PICTURES)
        ends = [
            checks.check_latents(value, self.latent_shape, name).float()
            for name, value in (("start", start), ("end", end))
        ]
        shares = torch.linspace(0, 1, count)
        line = torch.stack([ends[0] + share * (ends[1] - ends[0]) for share in shares])
        output: PipelineOutput = self(
            prompt, latents=line, num_images_per_prompt=count, **arguments
        )
        return output


def build(load: Load) -> Any:
    """From a checkpoint of one model, whose config names its text encoder, to its pipeline."""
    checkpoint, part = load.checkpoint, load.family.main
    configs, sources = load.configs((part,), checkpoint.where)
    config = configs[part]
    text = load_shipped_text(config.text_encoder, load)
    check_width(text, config.text_width, f"{checkpoint.where(part)}: text_width")
    defaults = load.defaults()
    model = load.network(part, config, sources[part])
    checkpoint.hold(sources)
    return load.pipeline_class(model, text, checkpoint, load.source, defaults)
