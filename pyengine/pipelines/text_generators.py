"""What the pipelines share that make a picture from a text's vector and a latent in one pass."""

from collections.abc import Sequence
from copy import copy
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..jobs import checks
from ..jobs.output import Report
from ..models.base import Model
from .arguments import check
from .one_pass import OnePassCall, OnePassDefaults, OnePassPipeline, OnePassRequest
from .reading import Load
from .shipped_text import ShippedText, check_width, load_shipped_text


class TextOnePassPipeline(OnePassPipeline):
    """Base of the pipelines that are told a prompt by the mean of a text encoder's hidden states.

    A subclass has `part`, what OnePassPipeline's has, and `__call__`.
    """

    takes_prompt: ClassVar[bool] = True
    #: The name of its model among the checkpoint's parts.
    part: ClassVar[str] = "generator"
    defaults: OnePassDefaults

    def __init__(self, model: Model, text: ShippedText, checkpoint: Any, source: str,
                 defaults: Any):  # fmt: skip
        super().__init__(model, checkpoint, source, defaults)
        self.text = text

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
