"""Previews that cost next to nothing: colours as a linear map of the latents.

An autoencoder's latents have, at each place, mostly the colour and brightness of their patch of the
picture, which is nearly linear in them. The map, of a place's channels and its neighbours', is
fitted by least squares to what the pipeline's own autoencoder decodes of latents that are as noisy
as those of a run, so it fits any latent space; it is the same map every time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.latents import scale_latents
from ..finite import check_finite

#: Of each picture that the map is fitted to: how much of its latents, of one spread, is noise.
NOISE = (0.0, 0.0, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
#: Sides of these pictures, in latents.
SIDE = 10
#: Sides of their fields of colour: from whole pictures of one colour to every place its own.
FIELDS = (1, 2, 5, 10)
SEED = 17


class LinearPreview:
    """Pictures of latents [N, C, h, w] as a pipeline's steps have them: [N, 3, H, W] in [-1, 1],
    with one colour for each place, blended in between.
    """

    def __init__(
        self,
        vae: Any,
        scaled: Callable[[Tensor], Tensor],
        decoded: Callable[[Tensor], Tensor],
        name: str = "preview",
    ):
        """vae: an autoencoder with an encoder. scaled: from its latents to those of the steps.
        decoded: pictures in [-1, 1] of latents of the steps. name: of the model, for errors.
        """
        self.vae, self.name = vae, name
        self.factor: int = vae.config.downscale
        generator = torch.Generator("cpu").manual_seed(SEED)
        seen, wanted = [], []
        for part in NOISE:  # one at a time: as small as any picture's
            clean = scaled(_encoded(vae, _picture(self.factor, generator)))
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            spread = clean.std() if part < 1 else 1.0
            latents = (1 - part**2) ** 0.5 * clean + part * spread * noise
            seen.append(_around(latents).flatten(2)[0].T)
            wanted.append(
                F.avg_pool2d(decoded(latents).double().cpu(), self.factor).flatten(2)[0].T
            )
        x, y = torch.cat(seen), torch.cat(wanted)
        gram = x.T @ x
        # A little towards zero, where a number says nothing of colours.
        gram += 1e-4 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
        self.map = torch.linalg.solve(gram, x.T @ y)

    @classmethod
    def of(cls, pipe: Any, known: "LinearPreview | None") -> "LinearPreview":
        """Of a pipeline; `known` where that is of its autoencoder."""
        vae = pipe.vae
        if known is not None and known.vae is vae:
            return known
        scaled = partial(scale_latents, c=vae.config, per_channel=not pipe.stable_diffusion)
        return cls(vae, scaled, pipe.pixels_of, pipe.source)

    def __call__(self, latents: Tensor) -> Tensor:
        """Raises NotFiniteError where the latents are not finite."""
        check_finite(f"{self.name}: latents", latents)
        colours = torch.einsum("nihw,ic->nchw", _around(latents), self.map)
        made = F.interpolate(colours.float(), scale_factor=self.factor, mode="bilinear")
        return made.clamp(-1, 1)


def _picture(factor: int, generator: torch.Generator) -> Tensor:
    """[1, 3, H, W] in [-1, 1]: fields of random colours of several sizes, added up."""
    side = SIDE * factor
    whole = torch.zeros(1, 3, side, side)
    for fields in FIELDS:
        colours = torch.rand(1, 3, fields, fields, generator=generator) - 0.5
        whole += F.interpolate(colours, size=(side, side), mode="bilinear")
    return (1.2 * whole).clamp(-1, 1)


def _encoded(vae: Any, picture: Tensor) -> Tensor:
    given: Any = vae.encode(picture.to(vae.device, vae.dtype))
    found: Tensor = given.latent_dist.mode() if hasattr(given, "latent_dist") else given.latents
    return found.float()


def _around(latents: Tensor) -> Tensor:
    """[N, 9 C + 1, h, w] float64: each place's numbers, its neighbours', and a one."""
    padded = F.pad(latents.double().cpu(), (1, 1, 1, 1), mode="replicate")
    n, c, h, w = latents.shape
    near = F.unfold(padded, 3).view(n, 9 * c, h, w)
    return torch.cat([near, torch.ones_like(near[:, :1])], 1)
