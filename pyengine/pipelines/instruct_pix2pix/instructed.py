"""What both InstructPix2Pix pipelines do: the picture that is changed, beside the latents."""

from typing import Any

import torch
from torch import Tensor

from ... import images as pictures
from ...diffusion.latents import LatentMaker, Start, tile
from ...diffusion.request import Request
from ...errors import RequestError
from ...finite import check_finite
from ...jobs import checks
from ...jobs.noise import NoiseSource
from ...jobs.output import Report
from ...models import AutoencoderTiny
from ...schedules import Plan
from ..arguments import check
from ..stable_diffusion.pipeline import StableDiffusionPipeline
from ..stable_diffusion.unasked import unasked
from .guidance import PictureAndText


class Instructed(StableDiffusionPipeline):
    """Base of both: the request, the picture's latents, the start."""

    def _checked(self, arguments: dict[str, Any]) -> Request:
        given = arguments.pop("image_guidance_scale")
        if arguments["image"] is None:
            raise RequestError(f"image: a {type(self).__name__} needs one, given none")
        default = self.defaults.image_guidance_scale
        scale = check("image_guidance_scale", default if given is None else given)
        latents = arguments.pop("latents")
        r = super()._checked({**unasked(not self.stable_diffusion), **arguments})
        r.method = PictureAndText(image_scale=scale, start=r.method.start, end=r.method.end)
        r.strength = 1.0
        if latents is not None:
            c = self.vae.config
            shape = r.count, c.latent_channels, r.height // c.downscale, r.width // c.downscale
            r.latents = checks.check_latents(latents, shape)
        return r

    def _report(self, r: Request) -> Report:
        report = super()._report(r)
        report.strength = None
        return report

    def _image_latents(self, r: Request, warned: list[str]) -> Tensor:
        """[N, C, h, w]: the pictures' most likely latents, as the autoencoder gives them: they are
        not scaled.
        """
        assert r.images is not None
        if pictures.is_latents(r.images[0], self.vae.config.latent_channels):
            found = torch.stack(r.images)
        else:
            pixels = pictures.to_tensor(r.images, r.height, r.width, "image", warned)
            found = torch.cat([self._most_likely(p[None]) for p in pixels])
            check_finite("vae: the encoder", found)
        return tile(found.to(self.device, self.dtype), r.count)

    def _most_likely(self, pixels: Tensor) -> Tensor:
        encoded: Any = self.vae.encode(pixels)
        found: Tensor = (
            encoded.latents if isinstance(self.vae, AutoencoderTiny) else (encoded.latent_dist.mean)
        )
        return found

    def _start(self, r: Request, plan: Plan, noise: NoiseSource, warned: list[str]) -> Start:
        per_channel = not self.stable_diffusion
        return LatentMaker(self.vae, r, noise, self.dtype, per_channel, warned).from_noise(plan)
