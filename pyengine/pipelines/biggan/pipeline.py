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

        Args:
            class_labels: a class's number, several, or [B, num_classes] shares of classes.
            truncation: above 0 and at most 1, for all or one per picture: what the noise is
                multiplied by, and the statistics of batch norm that go with it.
            latents: [N, z_dim] in place of drawn, times the truncation already; what is drawn is
                normal and cut at 2.
            num_images_per_prompt: pictures of each class, which follow each other.
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
