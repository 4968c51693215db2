"""A folder of a small random CLIP, whole, with a tokenizer: what guides by its gradient."""

from __future__ import annotations

from pathlib import Path

import tiny


def write(folder: Path, seed: int = 3) -> Path:
    """transformers' CLIPModel."""
    from transformers import CLIPConfig, CLIPModel

    text = tiny.make_text_encoder().config.to_dict()
    vision = tiny.make_image_encoder().config.to_dict()
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    tiny.randomise(CLIPModel(config), seed).eval().save_pretrained(folder)
    tiny.write_tokenizer(folder)
    return folder
