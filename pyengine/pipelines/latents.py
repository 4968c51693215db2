"""What a run begins from: noise, or a picture and noise, or a picture with a hole in it.

Random numbers are drawn in diffusers' order: the picture's latents, the noise, the masked
picture's latents.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import images
from ..finite import check_finite
from ..models import AutoencoderKL
from ..models.autoencoder import AutoencoderKLConfig
from ..schedules.plan import Plan, State
from .noise import NoiseSource
from .request import Request


@dataclass
class Start:
    """state: the sampler's first. For inpainting: known, noise: [N, C, h, w], the clean latents to
    keep and the noise they began with; mask: [N, 1, h, w], 1 where the picture is made anew;
    extra: [N, 1 + C, h, w], what an inpainting U-Net is given besides the latents.
    """

    state: State
    known: Tensor | None = None
    noise: Tensor | None = None
    mask: Tensor | None = None
    extra: Tensor | None = None


def tile(rows: Tensor, count: int) -> Tensor:
    """`rows` over and over until there are `count`."""
    return rows if len(rows) == count else rows.repeat(count // len(rows), *[1] * (rows.dim() - 1))


def scale_latents(z: Tensor, c: AutoencoderKLConfig, per_channel: bool) -> Tensor:
    """What the U-Net works on, from an autoencoder's latents z [N, C, h, w].

    per_channel: apply latents_mean and latents_std, where the config `c` has both.
    """
    if per_channel and (both := _statistics(z, c)):
        mean, std = both
        return (z - mean) * c.scaling_factor / std
    return c.scaling_factor * z


def unscale_latents(z: Tensor, c: AutoencoderKLConfig, per_channel: bool) -> Tensor:
    """The way back of `scale_latents`: what the autoencoder decodes."""
    if per_channel and (both := _statistics(z, c)):
        mean, std = both
        return z * std / c.scaling_factor + mean
    return z / c.scaling_factor


def _statistics(z: Tensor, c: AutoencoderKLConfig) -> tuple[Tensor, Tensor] | None:
    if c.latents_mean is None or c.latents_std is None:
        return None
    mean, std = (
        torch.tensor(values, dtype=z.dtype, device=z.device)[:, None, None]
        for values in (c.latents_mean, c.latents_std)
    )
    return mean, std


def unapplied(c: AutoencoderKLConfig, per_channel: bool) -> str | None:
    """What of the config `c` the pipelines leave out, as diffusers' do, in words; None: nothing."""
    if c.shift_factor:
        return (
            f"shift_factor {c.shift_factor:g} is not applied: Stable Diffusion's pipelines scale"
            " latents by scaling_factor alone, diffusers' too"
        )
    if c.latents_mean is not None and not per_channel:
        return "latents_mean and latents_std are not applied: only SDXL's pipelines do that"
    return None


class LatentMaker:
    """Makes a request's first latents with the autoencoder `vae`, in the U-Net's dtype.

    per_channel: see `scale_latents`.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        request: Request,
        noise: NoiseSource,
        dtype: torch.dtype,
        per_channel: bool = False,
    ):
        self.vae, self.request, self.noise, self.dtype = vae, request, noise, dtype
        self.per_channel = per_channel
        factor = vae.config.downscale
        self.shape = (
            request.count,
            vae.config.latent_channels,
            request.height // factor,
            request.width // factor,
        )

    def from_noise(self, plan: Plan) -> Start:
        return Start(plan.start(self._noise()))

    def from_image(self, plan: Plan) -> Start:
        clean = self._image_latents()
        return Start(plan.start(self._noise(), clean))

    def from_masked(self, plan: Plan, inpainting_unet: bool) -> Start:
        """For a U-Net with or without channels of its own for the mask and the masked picture."""
        r = self.request
        blend = r.strength < 1 and r.latents is None
        pictures = images.to_tensor(r.images, r.height, r.width, "image")
        mask = images.to_mask(r.masks, r.height, r.width, "mask_image")
        # Not per channel: diffusers' SDXL inpainting encodes by the scaling factor alone, too.
        known = None
        if blend or not inpainting_unet:
            known = self._encode(pictures)
        noise = self._noise()
        state = plan.start(noise, known if blend else None)
        small = F.interpolate(mask, size=self.shape[2:]).to(noise.device, self.dtype)
        small = tile(small, r.count)
        masked = pictures * (mask < 0.5)
        if inpainting_unet:
            extra = torch.cat([small, self._encode(masked)], dim=1)
            return Start(state, extra=extra)
        # diffusers encodes the masked picture here too and leaves it unused: only the numbers that
        # it draws for that matter.
        self._posterior_noise(len(masked), self.vae.dtype)
        return Start(state, known, noise, small)

    def _noise(self) -> Tensor:
        if self.request.latents is not None:
            return self.request.latents.to(self.noise.device, self.dtype)
        return self.noise.draw(self.shape, self.dtype)

    def _image_latents(self) -> Tensor:
        r = self.request
        if images.is_latents(r.images[0], self.shape[1]):
            latents = torch.stack(r.images).to(self.noise.device, self.dtype)
            return tile(latents, r.count)
        pictures = images.to_tensor(r.images, r.height, r.width, "image")
        return self._encode(pictures, self.per_channel)

    def _encode(self, pictures: Tensor, per_channel: bool = False) -> Tensor:
        """[N, C, h, w]: scaled latents of pictures [B, 3, H, W], drawn from their distribution."""
        found = [self.vae.encode(p[None]).latent_dist for p in pictures]
        mean, std = (torch.cat([getattr(d, name) for d in found]) for name in ("mean", "std"))
        for x in (mean, std):
            check_finite("vae: the encoder", x)
        noise = self._posterior_noise(len(mean), mean.dtype)
        latents = tile(mean, len(noise)) + tile(std, len(noise)) * noise
        latents = scale_latents(latents.to(self.dtype), self.vae.config, per_channel)
        return tile(latents, self.request.count)

    def _posterior_noise(self, pictures: int, dtype: torch.dtype) -> Tensor:
        # From one generator diffusers draws for the pictures that were given; with one generator
        # per picture every picture draws its own, whatever was given.
        count = pictures if self.noise.shared else self.shape[0]
        return self.noise.draw((count, *self.shape[1:]), dtype)
