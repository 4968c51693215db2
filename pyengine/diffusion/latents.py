"""What a run begins from: noise, or a picture and noise, or a picture with a hole in it.

Random numbers are drawn in diffusers' order: the picture's latents, the noise, the masked
picture's latents.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import images
from ..finite import check_finite
from ..jobs.noise import NoiseSource
from ..models import AsymmetricAutoencoderKL, AutoencoderKL, AutoencoderTiny
from ..models.autoencoder.kl import AutoencoderKLConfig
from ..models.autoencoder.tiny import AutoencoderTinyConfig
from ..pixels import say
from ..schedules.plan import Plan, State
from .request import Request

Config = AutoencoderKLConfig | AutoencoderTinyConfig


@dataclass
class Start:
    """state: the sampler's first. For inpainting: mask: [N, 1, h, w], 1 where the picture is made
    anew; known, noise: [N, C, h, w], the clean latents to keep and the noise they began with, None
    for an inpainting U-Net, which is given mask and masked: [N, C, h, w], of the masked picture
    (where the U-Net has no use for it, only if a callback wants it).
    """

    state: State
    known: Tensor | None = None
    noise: Tensor | None = None
    mask: Tensor | None = None
    masked: Tensor | None = None


def tile(rows: Tensor, count: int) -> Tensor:
    """`rows` over and over until there are `count`."""
    return rows if len(rows) == count else rows.repeat(count // len(rows), *[1] * (rows.dim() - 1))


def scale_latents(z: Tensor, c: Config, per_channel: bool) -> Tensor:
    """What the U-Net works on, from an autoencoder's latents z [N, C, h, w].

    per_channel: apply latents_mean and latents_std, where the config `c` has both.
    """
    if per_channel and (both := _statistics(z, c)):
        mean, std = both
        return (z - mean) * c.scaling_factor / std
    return c.scaling_factor * z


def unscale_latents(z: Tensor, c: Config, per_channel: bool) -> Tensor:
    """The way back of `scale_latents`: what the autoencoder decodes."""
    if per_channel and (both := _statistics(z, c)):
        mean, std = both
        return z * std / c.scaling_factor + mean
    return z / c.scaling_factor


def _statistics(z: Tensor, c: Config) -> tuple[Tensor, Tensor] | None:
    if c.latents_mean is None or c.latents_std is None:
        return None
    mean, std = (
        torch.tensor(values, dtype=z.dtype, device=z.device)[:, None, None]
        for values in (c.latents_mean, c.latents_std)
    )
    return mean, std


def unapplied(c: Config, per_channel: bool) -> str | None:
    """What of the config `c` the pipelines leave out, as diffusers' do, in words; None: nothing."""
    if c.shift_factor:
        return (
            f"shift_factor {c.shift_factor:g} is not applied: Stable Diffusion's pipelines scale"
            " latents by scaling_factor alone, diffusers' too"
        )
    if c.latents_mean is not None and not per_channel:
        return "latents_mean and latents_std are not applied: only SDXL's pipelines do that"
    return None


def shown_to_decoder(vae: Any, r: Request) -> list[dict[str, Tensor]]:
    """What each picture's decoder is told besides its latents: an asymmetric autoencoder's, where a
    picture is painted in, that picture and the mask; as diffusers tells it.
    """
    if not isinstance(vae, AsymmetricAutoencoderKL) or r.masks is None:
        return [{}] * r.count
    if images.is_latents(r.begun_from[0], vae.config.latent_channels):
        return [{}] * r.count
    said: list[str] = []  # when the run began
    pictures = tile(images.to_tensor(r.begun_from, r.height, r.width, "image", said), r.count)
    masks = tile(images.to_mask(r.masks, r.height, r.width, "mask_image", said), r.count)
    rows = zip(pictures.split(1), masks.split(1), strict=True)
    return [{"image": picture, "mask": mask} for picture, mask in rows]


class LatentMaker:
    """Makes a request's first latents with the autoencoder `vae`, in the U-Net's dtype.

    per_channel: see `scale_latents`. warned: gets the warnings of pictures and masks.
    """

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny,
        request: Request,
        noise: NoiseSource,
        dtype: torch.dtype,
        per_channel: bool = False,
        warned: list[str] | None = None,
    ):
        self.vae, self.request, self.noise, self.dtype = vae, request, noise, dtype
        self.per_channel, self.warned = per_channel, warned
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
        r = self.request
        if r.latents is not None:  # what SDXL and LCM begin with in the picture's place
            return Start(State(self._given(r.latents)))
        clean = self.image_latents()
        if r.goes_on:
            return Start(State(clean))
        return Start(plan.start(self._noise(), clean))

    def from_masked(self, plan: Plan, inpainting_unet: bool) -> Start:
        """For a U-Net with or without channels of its own for the mask and the masked picture."""
        r = self.request
        assert r.masks is not None
        blend = (r.strength < 1 and r.latents is None) or r.goes_on
        latents = images.is_latents(r.begun_from[0], self.shape[1])
        pictures = None
        if not latents:
            pictures = images.to_tensor(r.begun_from, r.height, r.width, "image", self.warned)
        mask = images.to_mask(r.masks, r.height, r.width, "mask_image", self.warned)
        # Not per channel: diffusers' SDXL inpainting encodes by the scaling factor alone, too.
        known = None
        if blend or not inpainting_unet:
            known = self._stacked(r.begun_from) if pictures is None else self._encode(pictures)
        noise = self._noise()
        start = known if blend else None
        state = State(start) if start is not None and r.goes_on else plan.start(noise, start)
        small = F.interpolate(mask, size=self.shape[2:]).to(noise.device, self.dtype)
        self._warn_of_thin(mask, small)
        small = tile(small, r.count)
        masked = None if pictures is None else pictures * (mask < 0.5)
        masked = self._masked(masked, inpainting_unet)
        if inpainting_unet:
            return Start(state, mask=small, masked=masked)
        return Start(state, known, noise, small, masked)

    def _masked(self, masked: Tensor | None, inpainting_unet: bool) -> Tensor | None:
        """Latents of the masked pictures [B, 3, H, W], of which only an inpainting U-Net and
        callbacks make use.
        """
        r = self.request
        if r.masked_latents is not None:
            return tile(self._given(r.masked_latents), r.count)
        if masked is None:  # latents came in place of a picture: nothing can be masked
            return None
        if inpainting_unet or "masked_image_latents" in r.callback_inputs:
            return self._encode(masked)
        # diffusers encodes the masked picture here too and leaves it unused: only the numbers that
        # it draws for that matter.
        if not isinstance(self.vae, AutoencoderTiny):
            self._posterior_noise(len(masked), self.vae.dtype)
        return None

    def _given(self, latents: Tensor) -> Tensor:
        return latents.to(self.noise.device, self.dtype)

    def _stacked(self, latents: list[Tensor]) -> Tensor:
        return tile(self._given(torch.stack(latents)), self.request.count)

    def _warn_of_thin(self, mask: Tensor, small: Tensor) -> None:
        """Says so where a mask has white, and none at the latents' size."""
        lost = mask.flatten(1).any(dim=1) & ~small.cpu().flatten(1).any(dim=1)
        if lost.any():
            say(
                f"mask_image: what is white is finer than {self.vae.config.downscale} pixels, the"
                " size of a latent's, and falls between them: nothing is made anew",
                self.warned,
            )

    def _noise(self) -> Tensor:
        if self.request.latents is not None:
            return self._given(self.request.latents)
        return self.noise.draw(self.shape, self.dtype)

    def image_latents(self) -> Tensor:
        """[N, C, h, w]: scaled latents of the request's pictures, or those that came in place."""
        r = self.request
        if images.is_latents(r.begun_from[0], self.shape[1]):
            return self._stacked(r.begun_from)
        pictures = images.to_tensor(r.begun_from, r.height, r.width, "image", self.warned)
        return self._encode(pictures, self.per_channel)

    def _encode(self, pictures: Tensor, per_channel: bool = False) -> Tensor:
        """[N, C, h, w]: scaled latents of pictures [B, 3, H, W], drawn from their distribution; of
        a tiny autoencoder, which has none, what it gives.
        """
        if isinstance(self.vae, AutoencoderTiny):
            latents = torch.cat([self.vae.encode(p[None], return_dict=False)[0] for p in pictures])
            check_finite("vae: the encoder", latents)
            latents = scale_latents(latents.to(self.dtype), self.vae.config, per_channel)
            return tile(latents, self.request.count)
        found = [self.vae.encode(p[None], return_dict=False)[0] for p in pictures]
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
