"""Networks with random weights, as files.

No weight is 0 or 1: matrices have variance 1 / fan-in, so that activations keep their size through
the net.
"""

import json
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.base import Model

NAME = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def write_model(
    folder: Path,
    cls: type[Model],
    config: dict[str, Any],
    dtype: torch.dtype,
    seed: int,
    weights: str = WEIGHTS,
    last: str = "",
) -> Path:
    """config.json and the random weights that cls needs, unless the folder has them already.

    last: names that begin so are a tenth as large: of the last layer of a network whose outputs are
    clipped step by step, which at their full size makes pictures chaotic.
    """
    recipe = {"config": config, "dtype": NAME[dtype], "seed": seed}
    recipe |= {"last": last} if last else {}
    done = folder / "recipe.json"
    if done.exists() and json.loads(done.read_text()) == recipe:
        return folder
    write_json(folder / "config.json", config)
    shapes = {k: v.shape for k, v in cls.from_config(dict(config)).state_dict().items()}
    _write_safetensors(folder / weights, shapes, dtype, seed, last)
    write_json(done, recipe)  # written last, so that an interrupted run is repeated
    return folder


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))


def _write_safetensors(
    path: Path, shapes: dict[str, torch.Size], dtype: torch.dtype, seed: int, last: str
) -> None:
    """Writes tensor by tensor, so that 3.4 GB are never in memory at once."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + shape.numel() * dtype.itemsize
        header[name] = {"dtype": NAME[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(seed)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            tensor = _random(name, shape, generator)
            if last and name.startswith(last):
                tensor.mul_(0.1)
            file.write(tensor.to(dtype).view(torch.uint8).numpy().data)


def _random(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if "embedding.weight" in name or "embed_tokens.weight" in name:
        return noise.mul_(0.3)
    if name.endswith(("running_var", "running_vars")):
        return noise.abs_().add_(0.5)
    if name.endswith(("weight_u", "weight_v")):
        return _signs(shape[0])
    if name.endswith("weight_orig"):
        # Of spectral norm: u' W v is about 1 for the u and v above.
        rows = noise.flatten(1).div_(shape[1:].numel() ** 0.5)
        return rows.add_(torch.outer(_signs(rows.shape[0]), _signs(rows.shape[1]))).view(shape)
    if len(shape) == 4 and name.startswith("main."):
        # DCGAN's, [in, out, 4, 4] of transposed convolutions: four taps meet in a pixel.
        return noise.div_((4 * shape[0]) ** 0.5)
    if len(shape) >= 2:
        return noise.div_(shape[1:].numel() ** 0.5)
    if name.endswith("weight"):
        return noise.mul_(0.2).add_(1)
    return noise.mul_(0.1)


def _signs(count: int) -> Tensor:
    """A vector of length 1: alternating signs, so that numbers of one sign add up to little."""
    signs: Tensor = torch.tensor([1.0, -1.0]).repeat(count // 2 + 1)[:count] / count**0.5
    return signs
