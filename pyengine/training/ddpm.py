"""`pyengine train ddpm`: pixel diffusion by text; see diffusion.py for the loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import course
from .diffusion import DiffusionSettings, denoising_loss, scheduler
from .generator import seeded
from .model_folder import write_json
from .small import Batch, Data, SmallRecipe
from .small_folder import write_model

DEFAULTS = {"num_inference_steps": 25, "guidance_scale": 2.0}


@dataclass(frozen=True)
class DDPMSettings(DiffusionSettings):
    """patch: pixels along a side of a token."""

    SHAPE = (*DiffusionSettings.SHAPE, "patch")

    patch: int = 8
    steps: int = 16000
    cooldown: int = 8000


class Networks(course.Networks):
    """One denoiser."""

    MEASURES = ("loss",)
    CPU_AUTOCAST = True

    def __init__(self, settings: DDPMSettings, data: Data, device: str, seed: int):
        from .patches import PatchNetwork

        self.settings, self.device = settings, device
        config = settings.network(
            sample_size=settings.size, patch_size=settings.patch, vector_size=data.text.width
        )
        self.network = seeded(seed, lambda: PatchNetwork(config)).to(device)
        self.network.learn_statistics(data.texts.vectors)
        self.parameters = trained(self.network)

    @property
    def exported(self) -> dict[str, Any]:
        return {"network": self.network}

    def loss(self, batch: Batch) -> tuple[Any, ...]:
        """See diffusion.denoising_loss."""
        gamma = self.settings.gamma
        return (denoising_loss(self.network, batch.images, batch.vectors, batch.generator, gamma),)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.network.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state)


def trained(*networks: Any) -> list[Any]:
    """The parameters of networks that the optimiser changes."""
    return [p for network in networks for p in network.parameters() if p.requires_grad]


def write_network(folder: Path, network: Any) -> None:
    """A PatchNetwork as the engine's PatchTransformer."""
    config = {"_class_name": "PatchTransformer", **asdict(network.config)}
    write_model(folder, config, dict(network.named_children()))


def write_scheduler(folder: Path) -> None:
    folder.mkdir(parents=True)
    write_json(folder / "scheduler_config.json", scheduler())


def write(folder: Path, networks: Networks) -> None:
    write_network(folder / "network", networks.network)
    write_scheduler(folder / "scheduler")
    index = {
        "_class_name": "PixelDiffusionPipeline",
        "network": ["pyengine", "PatchTransformer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    write_json(folder / "model_index.json", index)
    write_json(folder / "pyengine.json", DEFAULTS)


CARD = """# A small model that denoises pixels

Text to 64x64 pictures by diffusion over the pixels themselves: a transformer over patches of 8x8
pixels that predicts the clean picture, {steps} evaluations a picture. There is no autoencoder;
beside `emoji`, which denoises 16x16 latents, this shows what the autoencoder is for.

```python
import pyengine
pipe = pyengine.from_pretrained("emoji-ddpm")
pipe("a red heart", seed=1).images[0].save("heart.png")
```
""".format(steps=DEFAULTS["num_inference_steps"])


def rows(settings: DDPMSettings) -> dict[str, str]:
    return {
        "loss": f"squared error of the clean picture, weighted by min(SNR + 1, {settings.gamma:g})",
        "noise": "linear betas 0.0001 to 0.02, 1000 timesteps",
        "empty prompts": f"{settings.dropped:.0%}",
    }


RECIPE = SmallRecipe(
    name="ddpm",
    settings=DDPMSettings,
    networks=Networks,
    write=write,
    card=CARD,
    rows=rows,
)
