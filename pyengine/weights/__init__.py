"""Checkpoints in, tensors out: safetensors and JSON only, nothing that can run code.

    source = open_weights("stable-diffusion/unet", variant="fp16")   # headers, checked
    load_module(module_on_meta, source, dtype=torch.float32)         # compared, then read

    checkpoint = resolve("stabilityai/stable-diffusion-2-1", variant="fp16")   # or a folder, a file
    config, source = checkpoint.component("unet")

Everything that a checkpoint says is doubted first: see header.py (safetensors), jsonio.py and
config.py (JSON), files.py (paths). Each refusal is a CheckpointError or ConfigError.
"""

from .checkpoint import Checkpoint
from .config import read_config
from .jsonio import load_json
from .load import TIERS, check_tier, load_module
from .resolve import resolve
from .source import TensorSource, open_weights

__all__ = [
    "TIERS",
    "Checkpoint",
    "TensorSource",
    "check_tier",
    "load_json",
    "load_module",
    "open_weights",
    "read_config",
    "resolve",
]
