"""Files of 8-bit floats, as ComfyUI's users save them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def store_fp8(path: Path, stored: torch.dtype, scaled: bool) -> None:
    """Rewrites a file's matrices in 8 bits; scaled: as ComfyUI's scaled fp8."""
    tensors = load_file(path)
    for name in [n for n, t in tensors.items() if t.dim() == 2 and n.endswith(".weight")]:
        scale = tensors[name].abs().max() / 100 if scaled else torch.tensor(1.0)
        tensors[name] = (tensors[name] / scale).to(stored)
        if scaled:
            layer = name.removesuffix("weight")
            tensors[layer + "scale_weight"] = scale
            tensors[layer + "scale_input"] = torch.tensor(1.0)
    if scaled:
        tensors["scaled_fp8"] = torch.zeros(2, dtype=stored)
    save_file(tensors, path)


def plain_of(path: Path) -> dict[str, torch.Tensor]:
    """What the tensors of such a file mean, in float32."""
    tensors = load_file(path)
    plain = {n: t.float() for n, t in tensors.items() if "scale" not in n}
    for name in [n for n in tensors if n.endswith(".scale_weight")]:
        plain[name.replace("scale_weight", "weight")] *= tensors[name].float()
    return plain
