"""`pyengine train cascade`: a picture of 32x32 by pixel diffusion, then one of 64x64 beside it.

Ho et al. 2022, arXiv:2106.15282 (cascades; the smaller picture is noised in training, and the
network told how much, so that it forgives the first network's faults); Saharia et al. 2021,
arXiv:2104.07636 (SR3: the smaller picture joins the input). See diffusion.py for the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import course
from .ddpm import trained, write_network, write_scheduler
from .diffusion import DiffusionSettings, denoising_loss
from .generator import seeded
from .model_folder import write_json
from .small import Batch, Data, SmallRecipe

DEFAULTS = {"num_inference_steps": 25, "super_res_num_inference_steps": 10, "guidance_scale": 2.0}
#: The largest share of noise that a smaller picture gets in training.
MOST_NOISE = 0.5


@dataclass(frozen=True)
class CascadeSettings(DiffusionSettings):
    """patches: along each side, in both stages."""

    SHAPE = (*DiffusionSettings.SHAPE, "patches")

    width: int = 96
    layers: int = 3
    inner: int = 288
    patches: int = 8
    steps: int = 5500
    cooldown: int = 3500


class Networks(course.Networks):
    """A denoiser of small pictures, and one of pictures beside small ones."""

    MEASURES = ("loss", "base", "super_res")
    CPU_AUTOCAST = True

    def __init__(self, settings: CascadeSettings, data: Data, device: str, seed: int):
        import torch

        from .patches import PatchNetwork

        size, patches, text = settings.size, settings.patches, data.text.width
        base = settings.network(
            sample_size=size // 2, patch_size=size // 2 // patches, vector_size=text
        )
        beside = settings.network(
            sample_size=size, patch_size=size // patches, in_channels=6, vector_size=text + 1
        )
        self.settings, self.device = settings, device
        self.base = seeded(seed, lambda: PatchNetwork(base)).to(device)
        self.super_res = seeded(seed + 1, lambda: PatchNetwork(beside)).to(device)
        vectors = data.texts.vectors
        levels = MOST_NOISE * torch.linspace(0, 1, len(vectors))[:, None]
        self.base.learn_statistics(vectors)
        self.super_res.learn_statistics(torch.cat([vectors, levels], dim=1))
        self.parameters = trained(self.base, self.super_res)

    @property
    def exported(self) -> dict[str, Any]:
        return {"base": self.base, "super_res": self.super_res}

    def loss(self, batch: Batch) -> tuple[Any, ...]:
        """The sum of both networks' errors; see diffusion.denoising_loss."""
        import torch

        images, vectors, generator = batch.images, batch.vectors, batch.generator
        gamma, count = self.settings.gamma, len(batch.images)
        small = torch.nn.functional.avg_pool2d(images, 2)
        base = denoising_loss(self.base, small, vectors, generator, gamma)
        levels = MOST_NOISE * torch.rand((count, 1), generator=generator).to(images.device)
        beside = noised(enlarged(small), levels, batch.noise(*images.shape))
        told = torch.cat([vectors, levels], dim=1)
        more = denoising_loss(self.super_res, images, told, generator, gamma, beside)
        return base + more, base, more

    def state_dict(self) -> dict[str, Any]:
        return {name: network.state_dict() for name, network in self.exported.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, network in self.exported.items():
            network.load_state_dict(state[name])


def enlarged(small: Any) -> Any:
    """[N, C, h, w] -> [N, C, 2 h, 2 w], each pixel four times."""
    return small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def noised(pictures: Any, levels: Any, noise: Any) -> Any:
    """sqrt(1 - s^2) pictures + s noise, for levels s [N, 1]."""
    s = levels.view(-1, 1, 1, 1)
    return (1 - s.square()).sqrt() * pictures + s * noise


def write(folder: Path, networks: Networks) -> None:
    write_network(folder / "base", networks.base)
    write_network(folder / "super_res", networks.super_res)
    write_scheduler(folder / "scheduler")
    index = {
        "_class_name": "PixelCascadePipeline",
        "base": ["pyengine", "PatchTransformer"],
        "super_res": ["pyengine", "PatchTransformer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    write_json(folder / "model_index.json", index)
    write_json(folder / "pyengine.json", DEFAULTS)


CARD = """# A small cascade: a little picture, then a larger one

Text to 32x32 pixels by diffusion, then 64x64 by diffusion beside that picture, both over pixels, by
transformers that predict the clean picture. Published cascades (Imagen, DeepFloyd IF) work so.
It was trained for a third of the steps of `emoji-ddpm`: the edges of its patches show.

```python
import pyengine
pipe = pyengine.from_pretrained("emoji-cascade")
pipe("a red heart", seed=1).images[0].save("heart.png")
```
"""


def rows(settings: CascadeSettings) -> dict[str, str]:
    return {
        "loss": "squared error of the clean pictures, weighted by"
        f" min(SNR + 1, {settings.gamma:g})",
        "noise": "linear betas 0.0001 to 0.02, 1000 timesteps",
        "noise on the smaller picture": f"a share of 0 to {MOST_NOISE:g}, which is told",
        "empty prompts": f"{settings.dropped:.0%}",
    }


RECIPE = SmallRecipe(
    name="cascade",
    settings=CascadeSettings,
    networks=Networks,
    write=write,
    card=CARD,
    rows=rows,
    curves=("base", "super_res"),
)
