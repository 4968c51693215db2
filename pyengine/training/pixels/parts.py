"""The parts of an exported model that draws pixel by pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..model_folder import write_json
from ..small import TEXT_ENCODER
from ..small_folder import write_module

#: Of a call: what `pyengine.json` says.
DEFAULTS = {"guidance_scale": 2.0, "temperature": 1.0, "top_p": 0.9}
INDEX = {"_class_name": "PixelGPTPipeline", "transformer": ["pyengine", "PixelGPT"]}


def write(folder: Path, networks: Any) -> None:
    """Writes model_index.json, pyengine.json and transformer/, float16, with the networks' weights
    as they are.
    """
    config = networks.settings.config()
    config |= {"text_encoder": TEXT_ENCODER, "palette": networks.palette.tolist()}
    write_module(folder / "transformer", config, networks.model)
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "pyengine.json", DEFAULTS)
