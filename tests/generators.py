"""Adversarial generators and upscalers written plainly in torch, with random weights: the oracles
of networks whose publishers' code is no package, and tiny checkpoints of them.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType

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
        "model_type": "dcgan",
        "latent_channels": kwargs["latent"],
        "block_out_channels": kwargs["widths"],
        "out_channels": kwargs["out"],
    }
    return write_folder(place, config, tensors)


def write_folder(place: Path, config: dict, tensors: dict[str, torch.Tensor]) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    save_file(tensors, place / "model.safetensors")
    return place


# --- upscalers ------------------------------------------------------------------------------------


class DenseBlock(nn.Module):
    """Wang et al. 2018, figure 4: five convolutions that each see all before them."""

    def __init__(self, feat: int, grow: int):
        super().__init__()
        for i in range(5):
            out = feat if i == 4 else grow
            self.add_module(f"conv{i + 1}", nn.Conv2d(feat + i * grow, out, 3, 1, 1))

    def forward(self, x):
        seen = [x]
        for i in range(4):
            y = self.get_submodule(f"conv{i + 1}")(torch.cat(seen, 1))
            seen.append(nn.functional.leaky_relu(y, 0.2))
        return self.conv5(torch.cat(seen, 1)) * 0.2 + x


class ResidualBlock(nn.Module):
    def __init__(self, feat: int, grow: int):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(feat, grow) for _ in range(3))

    def forward(self, x):
        return self.rdb3(self.rdb2(self.rdb1(x))) * 0.2 + x


class PlainRRDB(nn.Module):
    """ESRGAN's generator as the paper has it; keys are BasicSR's."""

    def __init__(self, scale: int, feat: int, blocks: int, grow: int, ups: int):
        super().__init__()
        self.ups, self.unshuffle = ups, 2**ups // scale
        self.conv_first = nn.Conv2d(3 * self.unshuffle**2, feat, 3, 1, 1)
        self.body = nn.Sequential(*(ResidualBlock(feat, grow) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(feat, feat, 3, 1, 1)
        for i in range(ups):
            self.add_module(f"conv_up{i + 1}", nn.Conv2d(feat, feat, 3, 1, 1))
        self.conv_hr = nn.Conv2d(feat, feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(feat, 3, 3, 1, 1)

    def forward(self, x):
        leaky = lambda t: nn.functional.leaky_relu(t, 0.2)  # noqa: E731
        if self.unshuffle > 1:
            x = nn.functional.pixel_unshuffle(x, self.unshuffle)
        first = self.conv_first(x)
        y = first + self.conv_body(self.body(first))
        for i in range(self.ups):
            y = nn.functional.interpolate(y, scale_factor=2, mode="nearest")
            y = leaky(self.get_submodule(f"conv_up{i + 1}")(y))
        return self.conv_last(leaky(self.conv_hr(y)))


class PlainCompact(nn.Module):
    """Real-ESRGAN's compact form; keys are BasicSR's."""

    def __init__(self, scale: int, feat: int, convs: int):
        super().__init__()
        self.scale = scale
        layers = [nn.Conv2d(3, feat, 3, 1, 1), nn.PReLU(feat)]
        for _ in range(convs):
            layers += [nn.Conv2d(feat, feat, 3, 1, 1), nn.PReLU(feat)]
        layers.append(nn.Conv2d(feat, 3 * scale**2, 3, 1, 1))
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        base = nn.functional.interpolate(x, scale_factor=self.scale, mode="nearest")
        return nn.functional.pixel_shuffle(self.body(x), self.scale) + base


RRDB = {"scale": 4, "feat": 12, "blocks": 2, "grow": 5, "ups": 2}
COMPACT = {"scale": 4, "feat": 10, "convs": 3}


def make_rrdb(seed: int = 0, **sizes) -> nn.Module:
    return randomise(PlainRRDB(**{**RRDB, **sizes}), seed)


def make_compact(seed: int = 0, **sizes) -> nn.Module:
    return randomise(PlainCompact(**{**COMPACT, **sizes}), seed)


def esrgan_name(name: str, kind: str, ups: int) -> str:
    """What ESRGAN's own code calls a tensor of BasicSR: kind "new" or "old"."""
    stem, _, leaf = name.rpartition(".")
    parts = stem.split(".")
    if parts[0] == "body":
        block, dense, conv = parts[1], parts[2].upper(), parts[3]
        if kind == "new":
            return f"RRDB_trunk.{block}.{dense}.{conv}.{leaf}"
        return f"model.1.sub.{block}.{dense}.{conv}.0.{leaf}"
    number = int(stem[7:]) if stem.startswith("conv_up") else 0
    new = {"conv_body": "trunk_conv", "conv_hr": "HRconv"}
    # nn.Sequential: first, [blocks], then upsampling, convolution, activation for each doubling.
    old = {
        "conv_first": 0,
        "conv_body": "1.sub.99",
        "conv_hr": 3 * ups + 2,
        "conv_last": 3 * ups + 4,
    }
    if kind == "new":
        return f"upconv{number}.{leaf}" if number else f"{new.get(stem, stem)}.{leaf}"
    return f"model.{3 * number}.{leaf}" if number else f"model.{old[stem]}.{leaf}"


def write_rrdb(place: Path, kind: str = "basicsr", **sizes) -> Path:
    """A folder, or a file under the names of "basicsr", "new" or "old"."""
    sizes = {**RRDB, **sizes}
    tensors = make_rrdb(**sizes).state_dict()
    if place.suffix == ".safetensors":
        if kind != "basicsr":
            tensors = {esrgan_name(n, kind, sizes["ups"]): t for n, t in tensors.items()}
        place.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, place)
        return place
    config = {
        "model_type": "rrdbnet",
        "scale": sizes["scale"],
        "num_feat": sizes["feat"],
        "num_block": sizes["blocks"],
        "num_grow_ch": sizes["grow"],
        "num_upsample": sizes["ups"],
    }
    return write_folder(place, config, tensors)


def write_compact(place: Path, **sizes) -> Path:
    sizes = {**COMPACT, **sizes}
    tensors = make_compact(**sizes).state_dict()
    if place.suffix == ".safetensors":
        place.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, place)
        return place
    config = {
        "model_type": "srvgg_compact",
        "upscale": sizes["scale"],
        "num_feat": sizes["feat"],
        "num_conv": sizes["convs"],
    }
    return write_folder(place, config, tensors)


# --- BigGAN ---------------------------------------------------------------------------------------

BIGGAN = {
    "output_dim": 16, "z_dim": 6, "class_embed_dim": 6, "channel_width": 4, "num_classes": 11,
    "layers": [[False, 16, 16], [True, 16, 8], [False, 8, 4], [True, 4, 4], [False, 4, 2],
               [False, 2, 1]],
    "attention_layer_position": 3, "eps": 1e-4, "n_stats": 51,
}  # fmt: skip


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def biggan_package():
    """pytorch-pretrained-biggan, without boto3 and requests, which it imports to download."""
    if "pytorch_pretrained_biggan" not in sys.modules and not installed("boto3"):
        # For the time of the import alone: accelerate asks whether there is a boto3.
        stubs = ("boto3", "botocore", "botocore.exceptions")
        sys.modules.update({name: ModuleType(name) for name in stubs})
        sys.modules["botocore.exceptions"].ClientError = OSError
        import_module("pytorch_pretrained_biggan")
        for name in stubs:
            del sys.modules[name]
    return import_module("pytorch_pretrained_biggan")


def make_biggan(seed: int = 0, **sizes) -> nn.Module:
    """The package's, all parameters and statistics drawn anew, gamma among them."""
    package = biggan_package()
    config = package.BigGANConfig(**{**BIGGAN, **sizes})
    model = package.BigGAN(config)
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.state_dict().items():
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("running_vars"):
            p.copy_(0.5 + noise.abs())
        elif name.endswith(("weight_u", "weight_v")):
            p.copy_(noise / noise.norm())
        elif name.endswith("gamma"):
            p.fill_(0.7)
        elif name == "embeddings.weight":
            p.copy_(noise)
        elif p.dim() > 1:
            p.copy_(noise / p[0].numel() ** 0.5)
        else:
            p.copy_(0.3 * noise + (1 if name == "generator.bn.weight" else 0))
    # u and v as training leaves them, near the first singular vectors: u' W v is then no accident.
    for module in model.modules():
        if hasattr(module, "weight_orig"):
            u, _, v = torch.linalg.svd(module.weight_orig.detach().flatten(1), full_matrices=False)
            module.weight_u.copy_(u[:, 0])
            module.weight_v.copy_(v[0] + 0.05 * module.weight_v)
    return model.eval().requires_grad_(False)


def write_biggan(place: Path, seed: int = 0, **sizes) -> Path:
    tensors = {n: t.contiguous() for n, t in make_biggan(seed, **sizes).state_dict().items()}
    return write_folder(place, {**BIGGAN, **sizes}, tensors)


# --- tiny autoencoders ----------------------------------------------------------------------------


class PlainBlock(nn.Module):
    """taesd.py's block, with the pooled branch of TAEF2's."""

    def __init__(self, width: int, pooled: bool):
        super().__init__()
        three = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(three[0], nn.ReLU(), three[1], nn.ReLU(), three[2])
        self.pool = None
        if pooled:
            wide = 4 * width
            self.pool = nn.Sequential(
                nn.Conv2d(width, wide, 1, bias=False),
                nn.GroupNorm(4, wide),
                nn.ReLU(),
                nn.Conv2d(wide, width, 1, bias=False),
            )

    def forward(self, x):
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class PlainClamp(nn.Module):
    def forward(self, x):
        return torch.tanh(x / 3) * 3


class PlainTiny(nn.Module):
    """taesd.py's encoder (0..1 to latents) and decoder (to 0..1), as nn.Sequential each."""

    def __init__(self, width: int, latents: int, pooled: bool):
        super().__init__()

        def conv(a, b, **around):
            return nn.Conv2d(a, b, 3, padding=1, **around)

        encoder = [conv(3, width), PlainBlock(width, False)]
        for level in range(3):
            encoder.append(conv(width, width, stride=2, bias=False))
            encoder += [PlainBlock(width, pooled and level == 2) for _ in range(3)]
        self.encoder = nn.Sequential(*encoder, conv(width, latents))
        decoder = [PlainClamp(), conv(latents, width), nn.ReLU()]
        for level in range(3):
            decoder += [PlainBlock(width, pooled and level == 0) for _ in range(3)]
            decoder += [nn.Upsample(scale_factor=2), conv(width, width, bias=False)]
        self.decoder = nn.Sequential(*decoder, PlainBlock(width, False), conv(width, 3))
