"""BigGAN-deep: pictures of classes in one pass.

Brock et al. 2018, arXiv:1809.11096.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...guard import inference
from ...jobs import checks
from ...jobs.noise import NoiseSource
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ...models import BigGAN
from ..class_labels import Labels
from ..defaults import bounded
from ..one_pass import CALLBACK_TENSORS, OnePassDefaults, OnePassPipeline, OnePassRequest

#: Where the noise is cut: no number is further from 0, before the truncation multiplies it.
CUT = 2.0


@dataclass(frozen=True)
class BigGANDefaults(OnePassDefaults):
    """truncation: less is nearer to the class's typical picture, more is more varied."""

    truncation: float = bounded(0.4, 1e-6, 1)


class Told(NamedTuple):
    """What the generator is told of a picture besides its noise. classes: [num_classes] shares, or
    an integer.
    """

    classes: Tensor
    truncation: float


class BigGANPipeline(OnePassPipeline):
    """Pictures of a BigGAN-deep checkpoint; see `__call__`."""

    defaults_class: ClassVar[type[Any]] = BigGANDefaults
    model: BigGAN

    @property
    def default_size(self) -> tuple[int, int]:
        side = self.model.config.sample_size
        return side, side

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return (self.model.config.z_dim,)

    @inference
    def __call__(
        self,
        class_labels: int | Sequence[int] | Tensor | None = None,
        truncation: float | Sequence[float] | None = None,
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
        """Pictures of classes.

        class_labels: a class's number, several, or [N, num_classes] shares of classes.
        num_images_per_prompt: pictures of each, which follow each other. truncation: above 0 and at
        most 1, for all or one per picture: what the noise is multiplied by, and the statistics of
        batch norm that go with it. latents: [N, z_dim], times the truncation already; without it,
        each picture's come from its own generator, normal and cut at 2. height, width: the model's
        own, or nothing. callback_on_step_end is called once, with {"images": [N, 3, H, W]} in
        -1..1, which it may change. output_type "latent": the latents. Others: as of
        StableDiffusionPipeline.
        Raises RequestError that names the argument.
        """
        output: PipelineOutput = self._call(locals())
        return output

    def _checked(self, arguments: dict[str, Any]) -> OnePassRequest:
        classes = self._classes(arguments.pop("class_labels"))
        per = checks.integer(
            "num_images_per_prompt", arguments.pop("num_images_per_prompt"), 1, checks.MAX_PICTURES
        )
        rows = [row for row in classes for _ in range(per)]
        truncations = self._truncations(arguments.pop("truncation"), len(rows))
        told = [Told(row, t) for row, t in zip(rows, truncations, strict=True)]
        return self._request(len(rows), told, **arguments)

    def _classes(self, value: Any) -> list[Tensor]:
        """An item for each class asked for. Raises RequestError."""
        shares = isinstance(value, Tensor) and value.is_floating_point()
        count = self.model.config.num_classes
        rows = Labels("vectors" if shares else "classes", count).read(value)
        return list(rows.float() if shares else rows)

    def _truncations(self, value: Any, count: int) -> list[float]:
        if value is None:
            value = self.defaults.truncation
        items = value.tolist() if hasattr(value, "tolist") else value
        items = list(items) if isinstance(items, list | tuple) else [items] * count
        if len(items) != count:
            raise checks.refuse("truncation", f"a number, or one per picture: {count}",
                                f"{len(items)} of them")  # fmt: skip
        numbers = [checks.real("truncation", item, 0, 1) for item in items]
        if not all(numbers):
            raise checks.refuse("truncation", "a number above 0", 0)
        return numbers

    def _draw_latents(self, noise: NoiseSource, r: OnePassRequest) -> Tensor:
        """Normal numbers cut at CUT, by the inverse of their distribution function in float64."""
        uniform = noise.uniform((r.count, *self.latent_shape), torch.float64)
        low = torch.special.ndtr(torch.tensor(-CUT, dtype=torch.float64, device=uniform.device))
        normal: Tensor = torch.special.ndtri(low + uniform * (1 - 2 * low)).clamp_(-CUT, CUT)
        truncation = torch.tensor([told.truncation for told in r.settings], dtype=torch.float64)
        return (normal * truncation.to(normal.device)[:, None]).float()

    def _evaluate(self, latents: Tensor, settings: list[Any]) -> Tensor:
        shares = [told.classes for told in settings]
        if any(row.dim() for row in shares):
            count = self.model.config.num_classes
            shares = [
                row if row.dim() else torch.nn.functional.one_hot(row, count).float()
                for row in shares
            ]
        truncations = [told.truncation for told in settings]
        made: Tensor = self.model(latents, torch.stack(shares), truncations)
        return made
