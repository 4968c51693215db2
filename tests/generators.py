"""Adversarial generators and upscalers written plainly in torch, with random weights: the oracles
of networks whose publishers' code is no package, and tiny checkpoints of them.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

# --- DCGAN ----------------------------------------------------------------------------------------


def make_dcgan(latent: int, widths: tuple[int, ...], out: int, seed: int = 0) -> nn.Module:
    """The generator of PyTorch's examples (dcgan/main.py): keys main.N.*."""
    layers: list[nn.Module] = []
    sides = [latent, *widths, out]
    for i, (a, b) in enumerate(pairwise(sides)):
        layers.append(nn.ConvTranspose2d(a, b, 4, 1 if i == 0 else 2, int(i > 0), bias=False))
        layers += [nn.Tanh()] if i == len(widths) else [nn.BatchNorm2d(b), nn.ReLU(True)]
    model = nn.Module()
    model.main = nn.Sequential(*layers)
    model.forward = model.main.forward
    return randomise(model, seed)


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Every parameter and statistic drawn anew: none is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.state_dict().items():
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            p.fill_(7)
        elif name.endswith("running_var"):
            p.copy_(0.5 + noise.abs())
        elif p.dim() > 1:
            p.copy_(noise * (3 / p[0].numel()) ** 0.5)
        elif name.endswith("weight"):
            p.copy_(1 + 0.3 * noise)
        else:
            p.copy_(0.3 * noise)
    return model.eval().requires_grad_(False)


DCGAN = {"latent": 7, "widths": (20, 12, 9), "out": 3}


def write_dcgan(place: Path, **kwargs) -> Path:
    """A folder, or a file where the name ends so, of make_dcgan(**kwargs)."""
    kwargs = {**DCGAN, **kwargs}
    tensors = make_dcgan(**kwargs).state_dict()
    if place.suffix == ".safetensors":
        place.parent.mkdir(parents=True, exist_ok=True)
        # num_batches_tracked in float32, as a published file has it.
        save_file({n: t.float() for n, t in tensors.items()}, place)
        return place
    config = {
        "model_type": "dcgan", "latent_channels": kwargs["latent"],
        "block_out_channels": kwargs["widths"], "out_channels": kwargs["out"],
    }  # fmt: skip
    return write_folder(place, config, tensors)


def write_folder(place: Path, config: dict, tensors: dict[str, torch.Tensor]) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    save_file(tensors, place / "model.safetensors")
    return place
