"""`pyengine train classifier`: which thing a noised picture shows, for guidance by its gradient.

Dhariwal & Nichol 2021, arXiv:2105.05233, section 4. It reads what `emoji` denoises: latents of its
autoencoder, at the noise of its schedule.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import course
from .diffusion import TIMES, spread_timesteps
from .generator import seeded
from .model_folder import write_json
from .prior import encoded
from .small import TEXT_ENCODER, Batch, Data, SmallRecipe, SmallSettings


@dataclass(frozen=True)
class ClassifierSettings(SmallSettings):
    """channels: of the first level, a multiple of 32 (the norms' groups); levels: how much wider
    each is; blocks: of each. head: channels of a head of attention. waves: sines and cosines that
    tell the timestep, a divisor of channels.
    """

    SHAPE = ("size", "channels", "levels", "blocks", "head", "waves")

    channels: int = 32
    levels: tuple[int, ...] = (1, 1, 1)
    blocks: int = 1
    head: int = 8
    waves: int = 16
    batch: int = 64
    rate: float = 2e-3
    variants: int = 1
    steps: int = 3000
    cooldown: int = 1500


class Networks(course.Networks):
    """One classifier."""

    MEASURES = ("loss", "known")
    CPU_AUTOCAST = True

    def __init__(self, settings: ClassifierSettings, data: Data, device: str, seed: int):
        import torch

        from .encoder_unet import EncoderUNet

        self.settings, self.device = settings, device
        numbers = {name: number for number, name in enumerate(data.labels)}
        self.labels = torch.tensor([numbers[name] for name in data.pictures.labels]).to(device)
        self.latents = encoded(data.pictures).to(device)
        config = {
            "image_size": self.latents.shape[-1],
            "in_channels": self.latents.shape[1],
            "model_channels": settings.waves,
            "out_channels": len(data.labels),
            "num_res_blocks": settings.blocks,
            "attention_resolutions": [2],
            "channel_mult": [settings.channels // settings.waves * n for n in settings.levels],
            "num_head_channels": settings.head,
            "use_scale_shift_norm": True,
            "resblock_updown": True,
            "pool": "attention",
        }
        self.network = seeded(seed, lambda: EncoderUNet(config)).to(device)
        self.parameters = list(self.network.parameters())
        self.alphas = emoji_alphas().to(device)

    @property
    def exported(self) -> dict[str, Any]:
        return {"classifier": self.network}

    def loss(self, batch: Batch) -> tuple[Any, ...]:
        """Cross entropy of the label of a noised picture. known: how many are told rightly."""
        import torch

        latents, labels = self.latents[batch.rows], self.labels[batch.rows]
        timesteps = spread_timesteps(len(latents), batch.generator).to(latents.device)
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * batch.noise(*latents.shape)
        logits = self.network(noisy, timesteps).float()
        right = (logits.argmax(dim=1) == labels).float().mean()
        return torch.nn.functional.cross_entropy(logits, labels), right

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.network.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state)


def emoji_alphas() -> Any:
    """[TIMES] float32: the share of the clean latents' variance that `emoji`'s schedule leaves."""
    import torch

    from ..pipelines.loading import shipped_folder

    file = shipped_folder(TEXT_ENCODER) / "scheduler" / "scheduler_config.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    ends = (saved["beta_start"] ** 0.5, saved["beta_end"] ** 0.5)  # a scaled-linear schedule
    betas = torch.linspace(*ends, TIMES, dtype=torch.float32).square()
    return (1 - betas).cumprod(dim=0)


def write(folder: Path, networks: Networks) -> None:
    from safetensors.torch import save_file

    write_json(folder / "config.json", networks.network.config)
    state = networks.network.state_dict()
    half = {name: value.detach().half().contiguous() for name, value in state.items()}
    save_file(half, folder / "model.safetensors")


CARD = """# A small classifier of noised pictures

Which of the things in [concepts.txt](concepts.txt) noised latents of `emoji` show, at any timestep:
its gradient guides `emoji` towards a class (Dhariwal & Nichol 2021). Class k is line k + 1.

```python
import pyengine
pipe = pyengine.from_pretrained("emoji")
pipe("a picture", classifier="emoji-classifier", class_labels=0, classifier_scale=3.0, seed=1)
```

"""


def rows(settings: ClassifierSettings) -> dict[str, str]:
    return {"loss": "cross entropy of the label, at timesteps spread evenly"}


RECIPE = SmallRecipe(
    name="classifier",
    settings=ClassifierSettings,
    networks=Networks,
    write=write,
    card=CARD,
    rows=rows,
    curves=("loss", "known"),
    draws=False,
    borrows="autoencoder",
)
