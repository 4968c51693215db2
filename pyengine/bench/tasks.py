"""One call of a U-Net or a decoder: its config, inputs and work, the same for every contestant."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..models import AutoencoderKL
from . import checkpoints
from .flops import model_work

#: Values of `--model`, and the names for the report.
NAMES = {
    "sd15": "SD 1.5",
    "sdxl": "SDXL",
    "ddpm": "DDPM (CIFAR-10)",
    "unclip": "unCLIP's decoder",
    "if": "IF-I-M",
}
TOKENS = 77
#: Of an embedding, before those of the text (unCLIP).
EXTRA_TOKENS = 4
#: A timestep in the middle of a schedule.
TIMESTEP = 500


@dataclass(frozen=True)
class Task:
    """One network at one size.

    kind: unet | vae. latents: side of the latents in pixels. batch: rows of the call; two for a
    picture with guidance. device, dtype: of every contestant. model: one of checkpoints.UNETS.
    weights: how ours multiply, "int8", "fp8" or None for as the dtype says.
    """

    kind: str
    latents: int
    batch: int
    quick: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    model: str = "sd15"
    weights: str | None = None

    @property
    def label(self) -> str:
        model = f"{NAMES[self.model]}, " if self.kind == "unet" else ""
        stored = f", our weights in {self.weights}" if self.weights else ""
        what = "pixels" if self.of_pixels else "latents"
        return f"{model}{self.latents}x{self.latents} {what} x {self.batch}{stored}"

    @property
    def of_pixels(self) -> bool:
        """Whether the network works on pixels."""
        return self.kind == "unet" and self.model in ("ddpm", "unclip", "if")

    @property
    def reads_text(self) -> bool:
        return self.kind == "unet" and self.model != "ddpm"

    @property
    def converts(self) -> bool:
        """Whether OpenVINO's converter is told all that the network is."""
        return not self.of_pixels

    @property
    def config(self) -> dict[str, Any]:
        if self.kind == "unet":
            return checkpoints.UNETS[self.model][self.quick]
        return checkpoints.TINY_VAE if self.quick else checkpoints.VAE

    def write(self, folder: Path) -> Path:
        """The checkpoint, in a folder of its own within `folder`, unless it is there.

        SDXL's is float16, as it is published; in float32 it would be 10 GB.
        """
        model = f"-{self.model}" if self.model != "sd15" else ""
        place = folder / f"{self.kind}{model}{'-quick' if self.quick else ''}"
        if self.kind == "vae":
            return checkpoints.write_vae(place, self.quick)
        dtype = torch.float16 if self.model == "sdxl" else torch.float32
        return checkpoints.write_unet(place, self.quick, dtype, self.model)

    def inputs(self) -> dict[str, np.ndarray]:
        """The same at every call: the sample and, of a U-Net, timestep, text embeddings and, of
        SDXL's, the pooled text and the sizes, of unCLIP's the embedding beside the time's and the
        text's mask.
        """
        random = np.random.default_rng(0)
        size = (self.batch, 3 if self.of_pixels else 4, self.latents, self.latents)
        found = {"sample": random.standard_normal(size, dtype=np.float32)}
        if self.kind == "unet":
            found["timestep"] = np.array(TIMESTEP, dtype=np.int64)
        if self.reads_text:
            tokens = TOKENS + (EXTRA_TOKENS if self.model == "unclip" else 0)
            width = self.config.get("encoder_hid_dim", self.config["cross_attention_dim"])
            text = (self.batch, tokens, width)
            found["text"] = random.standard_normal(text, dtype=np.float32)
        if self.config.get("addition_embed_type") == "text_time":
            width = self.config["projection_class_embeddings_input_dim"]
            width -= 6 * self.config["addition_time_embed_dim"]
            found["text_embeds"] = random.standard_normal((self.batch, width), dtype=np.float32)
            pixels = 8 * self.latents  # original size, crop offset, target size
            ids = [[pixels, pixels, 0, 0, pixels, pixels]] * self.batch
            found["time_ids"] = np.array(ids, dtype=np.float32)
        if self.config.get("class_embed_type") == "identity":
            width = 4 * self.config["block_out_channels"][0]
            found["labels"] = random.standard_normal((self.batch, width), dtype=np.float32)
            found["mask"] = np.ones((self.batch, tokens), dtype=np.float32)
            found["mask"][:, EXTRA_TOKENS + TOKENS // 4 :] = 0  # of a prompt of 19 tokens
        return found

    def work(self) -> tuple[int, int]:
        """(operations, bytes) of a call; see flops.model_work."""
        shapes = {name: array.shape for name, array in self.inputs().items()}

        def decode(model: Any) -> Callable[[], torch.Tensor]:
            z = torch.empty(shapes["sample"])
            return lambda: model.decode(z).sample

        def predict(model: Any) -> Callable[[], torch.Tensor]:
            given = {name: torch.empty(shape) for name, shape in shapes.items()}
            times = model.embed_timesteps([TIMESTEP], **beside_times(given, model.config))
            context = model.encode_context(given.get("text"), **beside_text(given))
            return lambda: model.evaluate(given["sample"], times[0], context)

        if self.kind == "vae":
            return model_work(AutoencoderKL, self.config, decode, self.dtype.itemsize)
        cls = checkpoints.unet_class(self.model)
        return model_work(cls, self.config, predict, self.dtype.itemsize)


def conditions(given: dict[str, Any]) -> dict[str, Any] | None:
    """SDXL's added_cond_kwargs; None for other U-Nets."""
    names: tuple[str, ...] = ("text_embeds", "time_ids")
    return {name: given[name] for name in names if name in given} or None


def beside_times(given: dict[str, Any], config: Any) -> dict[str, Any]:
    """What our network of this config is told with the timestep, by its names; IF's the text, which
    is a part of the embedding.
    """
    added = conditions(given)
    if getattr(config, "addition_embed_type", None) == "text":
        added = {"encoder_hidden_states": given["text"]}
    return {"added_cond_kwargs": added, "class_labels": given.get("labels")}


def beside_text(given: dict[str, Any]) -> dict[str, Any]:
    """What our networks are told with the text, by its names; those without one of nothing."""
    return {"attention_mask": given["mask"]} if "mask" in given else {}


def on_device(inputs: dict[str, np.ndarray], device: str, dtype: torch.dtype) -> dict[str, Any]:
    """The arrays as tensors on the device; floats in `dtype`."""
    tensors = {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
