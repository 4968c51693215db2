"""`pyengine train clip`: a small contrastive encoder of pictures and texts.

Radford et al. 2021, arXiv:2103.00020. The tower for pictures is new; texts are read by the frozen
text encoder of the shipped `emoji`, behind which a projection is learnt.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from . import course, dataset, loop
from .generator import seeded
from .model_folder import write_json
from .small import TEXT_ENCODER, Data, SmallRecipe, SmallSettings

STYLES = ("fluent-3d", "fluent", "fluent-flat", "noto", "noto-v1", "twemoji")


@dataclass(frozen=True)
class ClipSettings(SmallSettings):
    """Shape of the tower and course of its training. projection: of the space that both share."""

    SHAPE = ("size", "patch", "width", "layers", "heads", "inner", "projection")

    patch: int = 16
    width: int = 128
    layers: int = 4
    heads: int = 4
    inner: int = 384
    projection: int = 128
    batch: int = 256
    rate: float = 1e-3
    decay: float = 0.98
    variants: int = 4
    steps: int = 1500
    cooldown: int = 500
    shift: int = 3


def build_tower(settings: ClipSettings) -> Any:
    """A CLIPVisionModelWithProjection."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=settings.width,
        intermediate_size=settings.inner,
        projection_dim=settings.projection,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        image_size=settings.size,
        patch_size=settings.patch,
        hidden_act="quick_gelu",
    )
    # torch's fused attention has a backward pass in bfloat16 that is many times slower.
    config._attn_implementation = "eager"
    return CLIPVisionModelWithProjection(config)


class Networks(course.Networks):
    """The tower, the projection of texts and the temperature."""

    MEASURES = ("loss", "found")
    CPU_AUTOCAST = True

    def __init__(self, settings: ClipSettings, data: Data, device: str, seed: int):
        import torch

        def projection() -> Any:
            return torch.nn.Linear(data.text.width, settings.projection, bias=False)

        self.settings, self.device = settings, device
        self.tower = seeded(seed, lambda: build_tower(settings)).to(device).train()
        self.projection = seeded(seed, projection).to(device)
        self.scale = torch.nn.Parameter(torch.tensor(float(np.log(1 / 0.07)), device=device))
        self.parameters = [*self.tower.parameters(), *self.projection.parameters(), self.scale]

    @property
    def exported(self) -> dict[str, Any]:
        return {"tower": self.tower, "projection": self.projection}

    def loss(self, images: Any, texts: Any) -> tuple[Any, ...]:
        """Cross entropy of each picture's text among the batch's texts, and of each text's picture
        among its pictures, by the cosine times a learnt scale (at most 100).

        images: [N, 3, H, W], normalised; texts: [N, C], pooled. found: the share of pictures whose
        own text is the nearest.
        """
        import torch
        from torch.nn.functional import cross_entropy, normalize

        pictures = normalize(self.tower(images).image_embeds.float(), dim=1)
        words = normalize(self.projection(texts).float(), dim=1)
        logits = (self.scale.exp().clamp(max=100.0) * pictures @ words.T).float()
        own = torch.arange(len(logits), device=logits.device)
        loss = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
        return loss, (logits.argmax(dim=1) == own).float().mean()

    def state_dict(self) -> dict[str, Any]:
        states = {name: part.state_dict() for name, part in self.exported.items()}
        return states | {"scale": self.scale.detach()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        import torch

        for name, part in self.exported.items():
            part.load_state_dict(state[name])
        with torch.no_grad():
            self.scale.copy_(state["scale"])


class Batches:
    """The batch of a step, a function of its number: as many labels, each in one of its styles."""

    def __init__(self, data: Data, stage: str, device: str):
        self.data, self.stage, self.device = data, stage, device
        self.settings, self.seed = data.settings, data.seed
        labels: dict[str, list[int]] = {}
        for row, label in enumerate(data.pictures.labels):
            labels.setdefault(label, []).append(row)
        self.by_label = list(labels.values())

    @cached_property
    def pooled(self) -> Any:
        """float32 [P, C]: of each of the data's prompts the hidden state at its end, which is what
        CLIP projects.
        """
        import torch

        texts, tokenizer = self.data.texts, self.data.text.tokenizer
        prompts = [*(prompt for row in texts.prompts for prompt in row), ""]
        last = texts.hidden.shape[1] - 1
        ends = torch.tensor([min(len(tokenizer.encode(p)) - 1, last) for p in prompts])
        return texts.hidden[torch.arange(len(prompts)), ends].float()

    def __call__(self, step: int) -> tuple[Any, ...]:
        import torch

        numbers = loop.numbers(self.seed, self.stage, step)
        count = min(self.settings.batch, len(self.by_label))
        # No label twice: its two pictures would each be called wrong for the other's text.
        chosen = numbers.permutation(len(self.by_label))[:count]
        rows = np.array([numbers.choice(self.by_label[label]) for label in chosen])
        places = self.data.texts.places(rows, 0.0, numbers)
        images = moved(self.data.pictures.images[rows], self.settings.shift, numbers)
        pixels = normalised(images).to(self.device, memory_format=torch.channels_last)
        return pixels, self.pooled[places].to(self.device)


def moved(images: np.ndarray, most: int, numbers: np.random.Generator) -> np.ndarray:
    """Pictures [N, H, W, 3], each moved by up to `most` pixels on white."""
    if not most:
        return images
    height, width = images.shape[1:3]
    wide = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), constant_values=255)
    corners = numbers.integers(0, 2 * most + 1, (len(images), 2))
    return np.stack(
        [
            one[top : top + height, left : left + width]
            for one, (top, left) in zip(wide, corners, strict=True)
        ]
    )


def normalised(images: np.ndarray) -> Any:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] by CLIP's mean and deviation of the colours."""
    import torch

    from ..clip_pictures import MEAN, STD

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return ((dataset.to_float(images) + 1) / 2 - mean) / std


def write(folder: Path, networks: Networks) -> None:
    """A whole CLIP in transformers' layout, but for the tower for texts: config.json names the
    shipped model whose that is.
    """
    from safetensors.torch import save_file

    from ..clip_pictures import MEAN, STD
    from ..pipelines.loading import shipped_folder

    settings = networks.settings
    text = shipped_folder(TEXT_ENCODER) / "text_encoder" / "config.json"
    shared = {"projection_dim": settings.projection}
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": settings.width,
        "intermediate_size": settings.inner,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "image_size": settings.size,
        "patch_size": settings.patch,
        "hidden_act": "quick_gelu",
        **shared,
    }
    config = {
        "model_type": "clip",
        "text_encoder": TEXT_ENCODER,
        **shared,
        "text_config": {**json.loads(text.read_text(encoding="utf-8")), **shared},
        "vision_config": vision,
    }
    write_json(folder / "config.json", config)
    pictures = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": settings.size},
        "crop_size": {"height": settings.size, "width": settings.size},
        "resample": 3,
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
    write_json(folder / "preprocessor_config.json", pictures)
    state = {
        **networks.tower.state_dict(),
        "text_projection.weight": networks.projection.weight,
        "logit_scale": networks.scale,
    }
    own = {n: v.detach().half().contiguous() for n, v in state.items() if "position_ids" not in n}
    save_file(own, folder / "model.safetensors")


CARD = """# A small CLIP for emoji

A tower for 64x64 pictures and a projection of texts into one space (Radford et al. 2021). Texts are
read by `emoji`'s text encoder, which is not copied: config.json names it. It guides other models,
scores pictures against prompts, and is the space in which `pyengine train prior` works.

```python
import pyengine
pipe = pyengine.from_pretrained("emoji")
pipe("a thing", clip_model="emoji-clip", clip_prompt="a red heart", seed=1)
```

"""


def rows(settings: ClipSettings) -> dict[str, str]:
    return {
        "loss": "cross entropy of the pairs in a batch, both ways, with a learnt temperature",
        "pictures vary": f"moved by up to {settings.shift} pixels each way",
    }


RECIPE = SmallRecipe(
    name="clip",
    settings=ClipSettings,
    networks=Networks,
    write=write,
    card=CARD,
    rows=rows,
    styles=STYLES,
    curves=("loss", "found"),
    batches=Batches,
    draws=False,
)
