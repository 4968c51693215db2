"""The LoRAs that ship: found by name, small, with their notices, and they change the picture."""

import json

import pytest

import pyengine
from pyengine.adapters.file import shipped_loras
from pyengine.pipelines.loading import shipped_folder


@pytest.mark.parametrize("name", shipped_loras())
def test_a_lora_that_ships(name):
    folder = shipped_folder("loras") / name
    facts = json.loads((folder / "training.json").read_text())
    assert {"README.md", "NOTICE", "sheet.png"} <= {p.name for p in folder.iterdir()}
    assert (folder / f"{name}.safetensors").stat().st_size == facts["bytes"] < 320_000
    pipe = pyengine.from_pretrained(facts["model"])
    assert pipe.load_lora(name) == name
    call = {"seed": 1, "num_inference_steps": 4, "output_type": "np"}
    plain = pipe("a red heart", **call).images
    drawn = pipe("a red heart", lora={name: 1.0}, **call).images
    assert abs(drawn - plain).max() > 0.1
