"""The parts of an exported masked-token model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..model_folder import write_json
from ..small import TEXT_ENCODER
from ..small_folder import write_module
from .objective import VQVAE

#: Of a call: what `pyengine.json` says.
DEFAULTS = {
    "num_inference_steps": 12,
    "guidance_scale": 2.5,
    "temperature": 1.0,
    "last_temperature": 0.0,
}
INDEX = {
    "_class_name": "MaskedTokensPipeline",
    "transformer": ["pyengine", "MaskedTransformer"],
}


def write(folder: Path, networks: Any) -> None:
    """Writes model_index.json, pyengine.json and transformer/, float16, with the networks' weights
    as they are.
    """
    config = networks.settings.config() | {"text_encoder": TEXT_ENCODER, "vqvae": VQVAE}
    write_module(folder / "transformer", config, networks.model)
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "pyengine.json", DEFAULTS)
