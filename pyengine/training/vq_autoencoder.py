"""The VQ-VAE: 64x64 RGB to a grid of tokens and back, in diffusers' VQModel.

Loss: L1 + L2; L2 of averages over 8x8 (small networks shift flat colours); L1 of
differences between neighbours (edges, which L2 alone blurs); and the commitment
term that holds the encoder to its codebook.  The first steps go without a
codebook, whose k-means then finds vectors that already mean something.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import coder, dataset, loop, parallel
from .codebook import Codebook, nearest

STAGE = "vq"
#: The decoder after :mod:`.vq_decoder` has trained it further.
DECODER = "decoder.pt"


@dataclass(frozen=True)
class VQSettings(loop.Settings):
    """Shape of the network and course of its training.

    entries, width: of the codebook.  plain_steps: without it.  favourites: the
    share of each batch that is of what the model will draw.  shift: pixels that
    a picture may be moved.  edges, colour, commitment: weights of the terms.
    """

    SHAPE = ("channels", "layers", "groups", "latent_channels", "entries", "width", "size")

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
        return self.size >> len(self.channels) - 1


def build(settings: VQSettings) -> Any:
    """A diffusers VQModel without attention."""
    from diffusers import VQModel

    return VQModel(  # type: ignore[no-untyped-call]  # no types in diffusers
        **coder.blocks(settings), num_vq_embeddings=settings.entries, vq_embed_dim=settings.width
    )


def error_terms(error: Any) -> dict[str, Any]:
    """Terms of the loss for an error [N, 3, H, W]."""
    terms = coder.error_terms(error)
    terms["edges"] = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return terms


class Networks(coder.Networks):
    """A VQ-VAE and its codebook, as :mod:`.course` trains them."""

    MEASURES = ("total", "l1", "l2", "colour", "edges", "commitment")

    def __init__(self, settings: VQSettings, device: str, seed: int):
        super().__init__(settings, device, seed, build)
        self.model.quantize.embedding.weight.requires_grad_(False)
        self.parameters = [p for p in self.averaged if p.requires_grad]
        self.codebook = Codebook(
            settings.entries, settings.width, settings.code_decay, settings.dead, device
        )
        self.seed = seed
        #: Of the last loss: vectors [N, D], their entries, squared distances; None before the
        #: codebook is used.
        self._assigned: tuple[Any, Any, Any] | None = None

    def loss(self, images: Any, step: int) -> tuple[Any, ...]:
        """(the weighted sum, l1, l2, colour, edges, commitment).

        The first settings.plain_steps do without quantisation and leave the codebook as it is.
        """
        latents = self.model.encode(images).latents
        commitment, self._assigned = latents.new_zeros(()), None
        if step >= self.settings.plain_steps:
            vectors = latents.permute(0, 2, 3, 1).flatten(0, 2).detach()
            entries = self.codebook.entries
            codes, distances = nearest(vectors, entries)
            self._assigned = vectors, codes, distances
            chosen = entries[codes].view(*latents.shape[:1], *latents.shape[2:], -1)
            chosen = chosen.permute(0, 3, 1, 2)
            commitment = (latents - chosen).square().mean()
            latents = latents + (chosen - latents).detach()
        error = self.model.decode(latents, force_not_quantize=True).sample - images
        terms = {**error_terms(error), "commitment": commitment}
        return coder.total(terms, self.settings), *terms.values()

    def before_step(self, step: int, batches: Batches) -> None:
        if step == self.settings.plain_steps:
            self._begin_codebook(step, batches)

    def _begin_codebook(self, step: int, batches: Batches, steps: int = 16) -> None:
        """k-means over the pictures of the last steps; the same in every process."""
        import torch

        with torch.no_grad():
            parts = [
                self.model.encode(batches.images(i)).latents.permute(0, 2, 3, 1).flatten(0, 2)
                for i in range(max(0, step - steps), step)
            ]
        self.codebook.begin(torch.cat(parts), loop.numbers(self.seed, "codes", step))
        parallel.copy_first_(self.codebook.sums)

    def after_step(self, step: int) -> None:
        if self._assigned is None:
            return
        s, (vectors, codes, distances) = self.settings, self._assigned
        self.codebook.update(vectors, codes)
        # Not in the cooldown: restarted entries would disturb the average that is exported.
        if step % 10 == 0 and step < s.steps - s.cooldown:
            self.codebook.revive(vectors, distances, loop.numbers(self.seed, "codes", step))
        self.model.quantize.embedding.weight.copy_(self.codebook.entries)

    def more_measures(self) -> dict[str, Any]:
        return {"used": self.codebook.used()}

    def more_state(self) -> dict[str, Any]:
        return {
            "codebook": self.codebook.state(),
            "used": self.codebook.used(),
            "perplexity": self.codebook.perplexity(),
        }

    def load_more_state(self, state: dict[str, Any]) -> None:
        self.codebook.load(state["codebook"])


class Batches:
    """The batch of a step, a function of its number.

    rows: of the transformer's pictures; a share settings.favourites of each batch is of these.
    """

    def __init__(
        self,
        pictures: dataset.Pictures,
        rows: np.ndarray,
        settings: VQSettings,
        seed: int,
        device: str,
    ):
        self.pictures, self.rows, self.settings = pictures, rows, settings
        self.seed, self.device = seed, device
        parallel.check_batch(settings.batch)

    def __call__(self, step: int) -> tuple[Any, int]:
        """(this process's pictures, the step) for `Networks.loss`."""
        return parallel.share(self.images(step)), step

    def images(self, step: int) -> Any:
        """All of the step: float32 [batch, 3, H, W] in [-1, 1]."""
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
    images = coder.mirrored(images, numbers)
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
    seconds: float | None = None,
    echo: Callable[[str], None] = print,
) -> Any:
    """Train, or go on with, the VQ-VAE; returns it with averaged weights.

    seconds: of this call, after which to stop early.
    """
    batches = Batches(pictures, rows, settings, seed, device)
    log = loop.Log(folder / "log.jsonl", STAGE, log_every, echo)
    return coder.train(
        Networks(settings, device, seed),
        batches,
        folder / f"{STAGE}.pt",
        log,
        save_seconds=save_seconds,
        seconds=seconds,
    )


def load(folder: Path, settings: VQSettings, device: str = "cpu") -> Any:
    """The trained VQ-VAE with averaged weights; with its decoder of decoder.pt, if there is one."""
    import torch

    model = build(settings)
    parts = [(model, f"{STAGE}.pt")]
    if (folder / DECODER).exists():
        parts.append((coder.decoder_of(model), DECODER))
    for part, name in parts:
        state = loop.load_checkpoint(folder / name, settings.shape())
        loop.copy_values(part.parameters(), state["average"])
    return model.to(device, memory_format=torch.channels_last).eval()


def encode(model: Any, images: np.ndarray, batch: int = 64) -> Any:
    """Tokens int64 [N, h, w] of uint8 pictures, on the CPU."""
    weight = model.quantize.embedding.weight

    def tokens_of(pictures: Any) -> Any:
        latents = model.encode(pictures).latents.permute(0, 2, 3, 1)
        codes, _ = nearest(latents.flatten(0, 2), weight)
        return codes.view(latents.shape[:3])

    return coder.encode(model, images, tokens_of, batch)


def decode(model: Any, tokens: Any, batch: int = 64) -> np.ndarray:
    """uint8 pictures [N, H, W, 3] of tokens [N, h, w]."""
    weight = model.quantize.embedding.weight

    def pictures(part: Any) -> np.ndarray:
        latents = weight[part.to(weight.device)].permute(0, 3, 1, 2)
        sample = model.decode(latents.contiguous(), force_not_quantize=True).sample
        return dataset.to_uint8(sample)

    return np.concatenate(coder.in_batches(pictures, tokens, batch))
