"""`pyengine train prior`: a text to the embedding of a picture, and that to a picture.

Ramesh et al. 2022, arXiv:2204.06125 (unCLIP): a diffusion prior over CLIP's embeddings of pictures,
which reads a text, and a decoder that denoises latents, told an embedding. Embeddings are those of
the shipped `emoji-clip`, latents those of `emoji`'s autoencoder. See diffusion.py for the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import course, dataset
from .clip import normalised
from .ddpm import trained, write_network, write_scheduler
from .diffusion import DiffusionSettings, denoising_loss
from .generator import seeded
from .model_folder import tidy_config, write_json
from .small import TEXT_ENCODER, Batch, Data, SmallRecipe

DEFAULTS = {"prior_num_inference_steps": 10, "num_inference_steps": 20, "guidance_scale": 2.0}
CLIP = "emoji-clip"


@dataclass(frozen=True)
class PriorSettings(DiffusionSettings):
    """patch: latents along a side of the decoder's tokens. prior_layers, prior_heads: of heads of
    32. unguided: the share of embeddings that the decoder is not told.
    """

    SHAPE = (*DiffusionSettings.SHAPE, "patch", "prior_layers", "prior_heads")

    width: int = 96
    inner: int = 288
    patch: int = 2
    prior_layers: int = 2
    prior_heads: int = 3
    unguided: float = 0.1
    steps: int = 2550
    cooldown: int = 1350


def build_prior(settings: PriorSettings, width: int, length: int) -> Any:
    """A PriorTransformer over embeddings of `width` numbers and texts of `length` tokens."""
    from diffusers import PriorTransformer

    prior: Any = PriorTransformer(  # type: ignore[no-untyped-call]  # no types in diffusers
        num_attention_heads=settings.prior_heads,
        attention_head_dim=32,
        num_layers=settings.prior_layers,
        embedding_dim=width,
        num_embeddings=length,
    )
    prior.clip_std.data.fill_(1.0)  # embeddings are as large as noise already
    return prior


class Networks(course.Networks):
    """The prior and the decoder, trained side by side."""

    MEASURES = ("loss", "prior", "decoder")
    CPU_AUTOCAST = True

    def __init__(self, settings: PriorSettings, data: Data, device: str, seed: int):
        from .patches import PatchNetwork

        self.settings, self.device = settings, device
        self.embeddings = embedded(data.pictures).to(device)
        self.latents = encoded(data.pictures).to(device)
        width, (channels, side) = self.embeddings.shape[1], self.latents.shape[1:3]
        length = data.texts.hidden.shape[1]
        config = settings.network(
            sample_size=side,
            patch_size=settings.patch,
            in_channels=channels,
            out_channels=channels,
            vector_size=width,
        )
        self.prior = seeded(seed, lambda: build_prior(settings, width, length)).to(device)
        self.decoder = seeded(seed + 1, lambda: PatchNetwork(config)).to(device)
        self.decoder.learn_statistics(self.embeddings.cpu())
        self.parameters = trained(self.prior, self.decoder)

    @property
    def exported(self) -> dict[str, Any]:
        return {"prior": self.prior, "decoder": self.decoder}

    def loss(self, batch: Batch) -> tuple[Any, ...]:
        """The sum of both networks' errors; see diffusion.denoising_loss."""
        import torch

        generator, gamma = batch.generator, self.settings.gamma
        embeddings, latents = self.embeddings[batch.rows], self.latents[batch.rows]

        def predict(noisy: Any, timesteps: Any, told: Any) -> Any:
            hidden, vectors = told
            # All tokens are texts': they are padded, and read so. Each sees those before it.
            seen = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
            out = self.prior(noisy, timesteps, vectors, hidden, seen)
            return out.predicted_image_embedding

        told = batch.hidden, batch.vectors
        prior = denoising_loss(predict, embeddings, told, generator, gamma)
        kept = torch.rand((len(latents), 1), generator=generator) >= self.settings.unguided
        shown = embeddings * kept.to(embeddings.device)
        decoder = denoising_loss(self.decoder, latents, shown, generator, gamma)
        return prior + decoder, prior, decoder

    def state_dict(self) -> dict[str, Any]:
        return {name: network.state_dict() for name, network in self.exported.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, network in self.exported.items():
            network.load_state_dict(state[name])


def embedded(pictures: dataset.Pictures) -> Any:
    """float32 [N, D]: CLIP's embeddings of pictures, of length sqrt(D) each, so that their numbers
    are about as large as noise.
    """
    import torch

    from ..models import CLIPVisionModelWithProjection
    from ..pipelines.loading import shipped_folder

    tower = CLIPVisionModelWithProjection.from_pretrained(shipped_folder(CLIP))
    found = [
        tower(normalised(pictures.images[i : i + 1])).image_embeds for i in range(len(pictures))
    ]
    rows = torch.cat(found)
    return torch.nn.functional.normalize(rows, dim=1) * rows.shape[1] ** 0.5


def encoded(pictures: dataset.Pictures) -> Any:
    """float32 [N, C, h, w]: scaled latents of pictures."""
    import torch

    from ..models import AutoencoderKL
    from ..pipelines.loading import shipped_folder

    vae: Any = AutoencoderKL.from_pretrained(shipped_folder(TEXT_ENCODER), subfolder="vae")
    factor = vae.config.scaling_factor
    images = dataset.to_float(pictures.images)
    return torch.cat([factor * vae.encode(image[None]).latent_dist.mode() for image in images])


def write(folder: Path, networks: Networks) -> None:
    import copy

    networks_prior = copy.deepcopy(networks.prior).half()
    networks_prior.save_pretrained(folder / "prior", safe_serialization=True)
    tidy_config(folder / "prior" / "config.json")
    write_network(folder / "decoder", networks.decoder)
    write_scheduler(folder / "scheduler")
    index = {
        "_class_name": "SmallPriorPipeline",
        "autoencoder": TEXT_ENCODER,
        "prior": ["diffusers", "PriorTransformer"],
        "decoder": ["pyengine", "PatchTransformer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    write_json(folder / "model_index.json", index)
    write_json(folder / "pyengine.json", DEFAULTS)


CARD = """# A small prior and decoder

Text to 64x64 pictures by way of an embedding, as in unCLIP (DALL-E 2): a diffusion prior makes
`emoji-clip`'s embedding of a picture from a text, and a decoder denoises latents of `emoji`'s
autoencoder, told that embedding.

```python
import pyengine
pipe = pyengine.from_pretrained("emoji-prior")
pipe("a red heart", seed=1).images[0].save("heart.png")
```
"""


def rows(settings: PriorSettings) -> dict[str, str]:
    return {
        "loss": "squared error of the clean embedding, and of the clean latents, weighted by"
        f" min(SNR + 1, {settings.gamma:g})",
        "noise": "linear betas 0.0001 to 0.02, 1000 timesteps",
        "empty prompts": f"{settings.dropped:.0%}; the decoder without embeddings:"
        f" {settings.unguided:.0%}",
    }


RECIPE = SmallRecipe(
    name="prior",
    settings=PriorSettings,
    networks=Networks,
    write=write,
    card=CARD,
    rows=rows,
    curves=("prior", "decoder"),
)
