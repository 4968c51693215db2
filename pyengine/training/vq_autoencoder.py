"""The VQ-VAE: 64x64 RGB to a grid of tokens and back, in diffusers' VQModel.

Loss: L1 + L2; L2 of averages over 8x8 (small networks shift flat colours); L1 of
differences between neighbours (edges, which L2 alone blurs); and the commitment
term that holds the encoder to its codebook.  The first steps go without a
codebook, whose k-means then finds vectors that already mean something.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import dataset, loop, parallel
from .codebook import Codebook, nearest

STAGE = "vq"
#: The decoder after :mod:`.vq_decoder` has trained it further.
DECODER = "decoder.pt"


@dataclass(frozen=True)
class VQSettings:
    """Shape of the network and course of its training.

    entries, width: of the codebook.  plain_steps: without it.  favourites: the
    share of each batch that is of what the model will draw.  shift: pixels that
    a picture may be moved.  edges, colour, commitment: weights of the terms.
    """

    channels: tuple[int, ...] = (16, 32, 64, 128)
    layers: int = 1
    groups: int = 8
    latent_channels: int = 32
    entries: int = 1024
    width: int = 16
    size: int = 64
    steps: int = 3200
    batch: int = 16
    rate: float = 1.5e-3
    warmup: int = 100
    cooldown: int = 800
    plain_steps: int = 200
    favourites: float = 0.85
    shift: int = 2
    commitment: float = 0.25
    colour: float = 4.0
    edges: float = 0.5
    decay: float = 0.995
    code_decay: float = 0.99
    dead: float = 0.03

    @property
    def side(self) -> int:
        """Tokens along each side."""
        return self.size // 2 ** (len(self.channels) - 1)

    def shape(self) -> dict:
        """What a checkpoint must agree on."""
        names = ("channels", "layers", "groups", "latent_channels", "entries", "width", "size")
        return {name: loop.plain(getattr(self, name)) for name in names}


def build(settings: VQSettings):
    """A diffusers VQModel without attention."""
    from diffusers import VQModel

    levels = len(settings.channels)
    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=settings.channels,
        layers_per_block=settings.layers,
        latent_channels=settings.latent_channels,
        num_vq_embeddings=settings.entries,
        vq_embed_dim=settings.width,
        norm_num_groups=settings.groups,
        sample_size=settings.size,
        mid_block_add_attention=False,
    )


def losses(model, images, codebook: Codebook | None, settings: VQSettings):
    """(terms of the loss and their weighted ``total``, vectors, codes, squared distances).

    codebook: None leaves quantisation out; the last three are then vectors, None, None.
    """
    latents = model.encode(images).latents
    vectors = latents.permute(0, 2, 3, 1).flatten(0, 2)
    codes = distances = None
    commitment = vectors.new_zeros(())
    if codebook is not None:
        entries = codebook.entries
        codes, distances = nearest(vectors.detach(), entries)
        chosen = entries[codes].view(*latents.shape[:1], *latents.shape[2:], -1)
        chosen = chosen.permute(0, 3, 1, 2)
        commitment = (latents - chosen).square().mean()
        latents = latents + (chosen - latents).detach()
    error = model.decode(latents, force_not_quantize=True).sample - images
    terms = {**error_terms(error), "commitment": commitment}
    return {"total": total(terms, settings), **terms}, vectors.detach(), codes, distances


def error_terms(error) -> dict:
    """The terms of the loss that look at what is drawn wrong, [N, 3, H, W]."""
    from torch.nn import functional

    return {
        "l1": error.abs().mean(),
        "l2": error.square().mean(),
        "colour": functional.avg_pool2d(error, 8).square().mean(),
        "edges": error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean(),
    }


def total(terms: dict, settings: VQSettings):
    """The weighted sum of the terms."""
    return sum(getattr(settings, name, 1.0) * term for name, term in terms.items())


class Training:
    """A VQ-VAE, its optimiser and codebook, and the step they are at."""

    def __init__(self, settings: VQSettings, seed: int, device: str):
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build(settings)
        self.model = model.to(device, memory_format=torch.channels_last).train()
        self.model.quantize.embedding.weight.requires_grad_(False)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.average = loop.Average(model.parameters(), settings.decay)
        self.codebook = Codebook(
            settings.entries, settings.width, settings.code_decay, settings.dead, device
        )
        self.settings, self.seed, self.step, self.seconds = settings, seed, 0, 0.0

    def save(self, path: Path) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "seed": self.seed,
            "settings": self.settings.shape(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
            "codebook": self.codebook.state(),
            "used": self.codebook.used(),
            "perplexity": self.codebook.perplexity(),
        }
        loop.save_checkpoint(path, state)

    def load(self, path: Path) -> None:
        state = loop.load_checkpoint(path, self.settings.shape())
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for value, stored in zip(self.average.values, state["average"], strict=True):
            value.copy_(stored)
        self.codebook.load(state["codebook"])
        self.step, self.seconds = state["step"], state["seconds"]

    def advance(self, images) -> dict:
        """One step on this process's pictures; returns the terms of its loss."""
        import torch

        s, step = self.settings, self.step
        for group in self.optimizer.param_groups:
            group["lr"] = loop.learning_rate(step, s.rate, s.warmup, s.steps, s.cooldown)
        codebook = self.codebook if step >= s.plain_steps else None
        terms, vectors, codes, distances = losses(self.model, images, codebook, s)
        self.optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        parallel.average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        if codebook is not None:
            codebook.update(vectors, codes)
            # Entries that begin anew would disturb the average that is exported.
            if step % 10 == 0 and step < s.steps - s.cooldown:
                codebook.revive(vectors, distances, loop.numbers(self.seed, "codes", step))
            self.model.quantize.embedding.weight.copy_(codebook.entries)
        self.average.update(self.model.parameters(), step)
        self.step += 1
        return {name: value.detach() for name, value in terms.items()}

    def begin_codebook(self, batches: Batches, steps: int = 16) -> None:
        """k-means over the pictures of the last steps; the same in every process."""
        import torch

        places = range(max(0, self.step - steps), self.step)
        with torch.no_grad():
            parts = [
                self.model.encode(batches.images(step)).latents.permute(0, 2, 3, 1).flatten(0, 2)
                for step in places
            ]
        self.codebook.begin(torch.cat(parts), loop.numbers(self.seed, "codes", self.step))
        parallel.copy_first_(self.codebook.sums)


class Batches:
    """The pictures of any step, from its number alone.

    rows: of what the model will draw; `settings.favourites` of each batch are of these.
    """

    def __init__(self, pictures, rows: np.ndarray, settings: VQSettings, seed: int, device: str):
        self.pictures, self.rows, self.settings = pictures, rows, settings
        self.seed, self.device = seed, device

    def images(self, step: int):
        """float32 [batch, 3, H, W] in [-1, 1]."""
        s, numbers = self.settings, loop.numbers(self.seed, STAGE, step)
        favourites = round(s.batch * s.favourites) if len(self.rows) else 0
        rows = [
            numbers.choice(self.rows, favourites) if favourites else np.zeros(0),
            numbers.integers(len(self.pictures), size=s.batch - favourites),
        ]
        images = self.pictures.images[np.concatenate(rows).astype(np.int64)]
        return dataset.to_float(vary(images, s.shift, numbers)).to(self.device)


def vary(images: np.ndarray, shift: int, numbers: np.random.Generator) -> np.ndarray:
    """Half of the pictures mirrored, all moved by up to `shift` pixels over white."""
    flip = numbers.random(len(images)) < 0.5
    images = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
    if not shift:
        return images
    height, width = images.shape[1:3]
    wide = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), constant_values=255)
    places = numbers.integers(2 * shift + 1, size=(len(images), 2))
    return np.stack(
        [
            picture[y : y + height, x : x + width]
            for picture, (y, x) in zip(wide, places, strict=True)
        ]
    )


def train(
    pictures: dataset.Pictures,
    rows: np.ndarray,
    folder: Path,
    settings: VQSettings,
    *,
    seed: int,
    device: str = "cpu",
    save_seconds: float = 180.0,
    log_every: int = 50,
    until: float | None = None,
    echo: Callable[[str], None] = print,
):
    """Train, or go on with, the VQ-VAE; returns it with averaged weights.

    until: a time.monotonic() at which to stop early.
    """
    parallel.check_batch(settings.batch)
    path = folder / f"{STAGE}.pt"
    training = Training(settings, seed, device)
    if path.exists():
        training.load(path)
    batches = Batches(pictures, rows, settings, seed, device)
    log = loop.Log(folder / "log.jsonl", STAGE, log_every, echo)
    saved = last = time.monotonic()
    first = training.step
    while training.step < settings.steps and not parallel.agree(until is not None and last > until):
        if training.step == settings.plain_steps:
            training.begin_codebook(batches)
        images = parallel.share(batches.images(training.step))
        terms = training.advance(images)
        log.add(training.step - 1, settings.batch, **terms, used=training.codebook.used())
        now = time.monotonic()
        training.seconds += now - last
        last = now
        if now - saved > save_seconds:
            training.save(path)
            saved = now
    if first < training.step:
        training.save(path)
        parallel.agree(True)  # nobody reads the file before the first process has written it
    training.average.copy_to(training.model.parameters())
    return training.model.eval()


def decoder_of(model):
    """What turns codebook entries into a picture."""
    import torch

    return torch.nn.ModuleList([model.post_quant_conv, model.decoder])


def load(folder: Path, settings: VQSettings, device: str = "cpu"):
    """The trained VQ-VAE with averaged weights; with its decoder of decoder.pt, if there is one."""
    import torch

    model = build(settings)
    parts = [(model, f"{STAGE}.pt")]
    if (folder / DECODER).exists():
        parts.append((decoder_of(model), DECODER))
    for part, name in parts:
        state = loop.load_checkpoint(folder / name, settings.shape())
        for parameter, value in zip(part.parameters(), state["average"], strict=True):
            parameter.data.copy_(value)
    return model.to(device, memory_format=torch.channels_last).eval()


def encode(model, images: np.ndarray, batch: int = 64):
    """Tokens int64 [N, h, w] of uint8 pictures, on the CPU."""
    import torch

    weight = model.quantize.embedding.weight
    parts = []
    with torch.inference_mode():
        for i in range(0, len(images), batch):
            pictures = dataset.to_float(images[i : i + batch]).to(weight.device)
            latents = model.encode(pictures).latents.permute(0, 2, 3, 1)
            codes, _ = nearest(latents.flatten(0, 2), weight)
            parts.append(codes.view(latents.shape[:3]).cpu())
    return torch.cat(parts).clone()


def decode(model, tokens, batch: int = 64) -> np.ndarray:
    """uint8 pictures [N, H, W, 3] of tokens [N, h, w]."""
    import torch

    weight = model.quantize.embedding.weight
    parts = []
    with torch.inference_mode():
        for i in range(0, len(tokens), batch):
            latents = weight[tokens[i : i + batch].to(weight.device)].permute(0, 3, 1, 2)
            sample = model.decode(latents.contiguous(), force_not_quantize=True).sample
            parts.append(dataset.to_uint8(sample))
    return np.concatenate(parts)
