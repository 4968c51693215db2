"""The halves of emoji-ar as the files that pyengine, transformers and diffusers load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from . import gpt
from .model_folder import tidy_config, write_json

# What pyengine uses where a call says nothing.
DEFAULTS = {"guidance_scale": 2.0, "temperature": 1.0, "top_k": 200, "top_p": 0.95}
INDEX = {
    "_class_name": "PictureGPTPipeline",
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokens": ["pyengine", "PictureTokens"],
    "transformer": ["transformers", "LlamaForCausalLM"],
    "vqvae": ["diffusers", "VQModel"],
}


def write_parts(folder: Path, networks: gpt.Networks, model: Any, tokenizer_files: Path) -> None:
    """The folder that pyengine loads: both models in float16. They themselves stay as they are."""
    import torch

    copies = (
        ("transformer", gpt.build(networks.settings), networks.model),
        ("vqvae", type(model).from_config(model.config), model),
    )
    for name, copy, trained in copies:
        copy.load_state_dict(trained.state_dict())
        copy.to(torch.float16).save_pretrained(folder / name, safe_serialization=True)
        tidy_config(folder / name / "config.json")
    (folder / "transformer" / "generation_config.json").unlink(missing_ok=True)
    shutil.copytree(tokenizer_files, folder / "tokenizer")
    (folder / "tokens").mkdir()
    write_json(folder / "tokens" / "config.json", networks.settings.tokens())
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "pyengine.json", DEFAULTS)
    for file in folder.rglob("*.*"):
        file.chmod(0o644)
