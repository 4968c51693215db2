"""Stable Diffusion 2's depth-to-image: the U-Net is shown how far away what is in a picture is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...diffusion.conditions import Conditions
from ...diffusion.latents import tile
from ...diffusion.request import Request
from ...errors import RequestError
from ...guard import inference
from ...jobs import checks
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ..loras import LoraArgument
from ..stable_diffusion.pipeline import StableDiffusionPipeline
from ..stable_diffusion.unasked import unasked


@dataclass(kw_only=True)
class DepthRequest(Request):
    """depth: [M, H, W] float32, M dividing the number of pictures."""

    depth: Tensor | None = None


class StableDiffusionDepth2ImgPipeline(StableDiffusionPipeline):
    """Pictures from a picture, its depth and a text; see `__call__`."""

    @inference
    def __call__(  # type: ignore[override]  # diffusers' order of arguments, which is another
        self,
        prompt: str | Sequence[str] | None = None,
        image: Any = None,
        depth_map: Any = None,
        strength: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        *,
        seed: int | Sequence[int] | None = None,
        lora: LoraArgument = None,
        prompt_weighting: str | None = None,
        upscaler: Any = None,
        guidance_method: str = "cfg",
        negative_scale: float | None = None,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        scheduler: str | None = None,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Names and order are those of diffusers' StableDiffusionDepth2ImgPipeline; what is not
        told here is as in StableDiffusionPipeline.__call__.

        Args:
            image: the picture to begin from, which decides the size, or its scaled latents.
            depth_map: floats [H, W] or [M, H, W] of any size, greater where nearer, in any unit: as
                a MiDaS network gives them. Its least and its greatest number become -1 and 1. The
                checkpoint's own network for it is not run.
            strength: 0 to 1, how much of `image` is made anew, 0.8 unless told.
        """
        made: PipelineOutput = self._call(locals())
        return made

    def _checked(self, arguments: dict[str, Any]) -> Request:
        given = arguments.pop("depth_map")
        if arguments["image"] is None:
            raise RequestError(f"image: a {type(self).__name__} needs one, given none")
        depth = _depth(given)
        r = super()._checked({**unasked(), **arguments})
        if len(depth) > r.count or r.count % len(depth):
            raise checks.refuse(
                "depth_map", f"a number of them that divides {r.count} pictures", len(depth)
            )
        return DepthRequest(**vars(r), depth=depth)

    def _conditions(self, r: Request, warned: list[str]) -> Conditions:
        assert isinstance(r, DepthRequest)
        assert r.depth is not None
        found = super()._conditions(r, warned)
        factor = self.vae.config.downscale
        size = r.height // factor, r.width // factor
        shown = torch.cat([_shown(one, size) for one in r.depth])
        found.extra = tile(shown.to(self.device, self.dtype), r.count)
        return found


def _depth(given: Any) -> Tensor:
    """[M, H, W] float32. Raises RequestError for anything but finite floats that differ."""
    wanted = "finite numbers [H, W] or [M, H, W] that are not all alike"
    if given is None:
        raise RequestError(
            "depth_map: expected the depth of the image, given none; the"
            " checkpoint's network that estimates it is not run"
        )
    if isinstance(given, np.ndarray) and given.dtype.kind == "f":
        given = torch.from_numpy(np.ascontiguousarray(given, dtype=np.float32))
    if not isinstance(given, Tensor) or not given.is_floating_point():
        raise checks.refuse("depth_map", wanted, getattr(given, "dtype", type(given).__name__))
    depth = given.detach().to("cpu", torch.float32)
    depth = depth[None] if depth.dim() == 2 else depth
    if depth.dim() != 3 or not depth.numel() or max(depth.shape) > 1 << 15:
        raise checks.refuse("depth_map", wanted, list(given.shape))
    if not torch.isfinite(depth).all() or (depth.amax(dim=(1, 2)) <= depth.amin(dim=(1, 2))).any():
        raise checks.refuse("depth_map", wanted, "NaN, infinity or one number")
    return depth


def _shown(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """[1, 1, h, w] in -1..1 at the latents' size, of [H, W]; alone, as each has its own scale."""
    small = torch.nn.functional.interpolate(
        depth[None, None], size=size, mode="bicubic", align_corners=False
    )
    low, high = small.amin(), small.amax()
    return 2.0 * (small - low) / (high - low).clamp(min=torch.finfo(small.dtype).tiny) - 1.0
