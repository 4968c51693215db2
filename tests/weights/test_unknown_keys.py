"""What a checkpoint says that pyengine does not know: off, left out by the caller, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
from damage import edit_json, read_raw, write_raw
from whole import load

import pyengine
from pyengine.errors import CheckpointError, ConfigError, RequestError
from pyengine.models import UNet2DConditionModel
from pyengine.weights import resolve


@pytest.fixture
def folder(sd1, tmp_path) -> Path:
    return Path(shutil.copytree(sd1, tmp_path / "c"))


def files_of(folder: Path) -> dict[str, Path]:
    parts = {p.parent.name: p for p in folder.glob("*/*config.json") if "token" not in p.name}
    return {"index": folder / "model_index.json", **parts}


PLACES = ("index", "unet", "vae", "text_encoder", "scheduler")


@pytest.mark.parametrize("place", PLACES)
def test_unknown_keys(place, folder):
    assert set(files_of(folder)) == set(PLACES)
    edit_json(files_of(folder)[place], lambda d: d.update(magic=7, wand="x", off=None, no={}))
    with pytest.raises(CheckpointError, match=r"'magic', 'wand' \(to load .* 'wand'\]\)"):
        load(folder)
    with pytest.raises(CheckpointError, match=r"unknown keys 'wand' \("):
        load(folder, ignore_config_keys=["magic"])
    assert load(folder, ignore_config_keys=["magic", "wand", "other"])


def test_known_keys_are_read_all_the_same(folder):
    edit_json(folder / "unet/config.json", lambda d: d.update(magic=7))
    keys = ("magic", "block_out_channels", "layers_per_block")
    unet = load(folder, ignore_config_keys=keys)["unet"]
    assert (
        list(unet.config.block_out_channels)
        == json.loads((folder / "unet/config.json").read_text())["block_out_channels"]
    )


def test_a_part_that_pyengine_lacks_can_be_left_out(folder):
    edit_json(folder / "model_index.json", lambda d: d.update(prior=["diffusers", "PriorModel"]))
    with pytest.raises(CheckpointError, match=r"no part that .* ignore_config_keys=\['prior'\]"):
        resolve(folder)
    left_out = resolve(folder, ignore_config_keys=("prior", "unet"))
    assert "prior" not in left_out.components
    assert "unet" in left_out.components, "what the pipeline needs is read all the same"


def test_from_pretrained_takes_them(folder):
    edit_json(folder / "vae/config.json", lambda d: d.update(magic=7))
    with pytest.raises(ConfigError, match="unknown keys 'magic'"):
        pyengine.from_pretrained(folder, device="cpu")
    pipe = pyengine.from_pretrained(folder, device="cpu", ignore_config_keys=["magic"])
    assert pipe.vae.config.latent_channels == 4
    edit_json(folder / "unet/config.json", lambda d: d.update(magic=7))
    with pytest.raises(ConfigError, match="unknown keys 'magic'"):
        UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    UNet2DConditionModel.from_pretrained(folder, subfolder="unet", ignore_config_keys=["magic"])


def test_text_config_of_a_whole_clip(folder):
    def wrap(config):
        text = {**config, "magic": 7}
        config.clear()
        config.update(text_config=text, model_type="clip")

    edit_json(folder / "text_encoder/config.json", wrap)
    with pytest.raises(ConfigError, match="text_config: unknown keys 'magic'"):
        load(folder)
    load(folder, ignore_config_keys=["magic"])


def test_a_single_models_folder(tmp_path):
    folder = tiny.write_image_gpt(tmp_path / "gpt")
    edit_json(folder / "config.json", lambda d: d.update(magic=7))
    edit_json(folder / "preprocessor_config.json", lambda d: d.update(wand=7))
    with pytest.raises(ConfigError, match="unknown keys 'magic'"):
        pyengine.from_pretrained(folder, device="cpu")
    pyengine.from_pretrained(folder, device="cpu", ignore_config_keys=["magic", "wand"])


@pytest.mark.parametrize("wrong", ["magic", 7, [1], None])
def test_wrong_lists_of_keys(wrong, sd1):
    with pytest.raises(RequestError, match="ignore_config_keys: expected a list of names, given"):
        resolve(sd1, ignore_config_keys=wrong)


# --- model_index.json -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["StableDiffusionImg2ImgPipeline", "LatentConsistencyModelImg2ImgPipeline"]
)
def test_classes_of_the_same_parts(name, folder):
    edit_json(folder / "model_index.json", lambda d: d.update(_class_name=name))
    pipe = pyengine.from_pretrained(folder, device="cpu")
    assert pipe.parts.pipeline_class == name
    assert pipe.defaults.num_inference_steps == (4 if name.startswith("Latent") else 50)


def test_amuseds_image_to_image(tmp_path):
    folder = tiny.write_amused(tmp_path / "a")
    edit_json(folder / "model_index.json", lambda d: d.update(_class_name="AmusedImg2ImgPipeline"))
    assert "text_encoder" in resolve(folder).components
    assert type(pyengine.from_pretrained(folder, device="cpu")).__name__ == "AmusedPipeline"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("StableDiffusionPipelin", "; the nearest is StableDiffusionPipeline$"),
        ("StableDiffusionXLPipelines", "; the nearest is StableDiffusionXLPipeline$"),
        ("StableDiffusionPipelineSafe", "change _class_name to that to draw without it"),
        ("StableDiffusionXLPAGPipeline", "its parts are StableDiffusionXLPipeline's"),
        ("FluxPipeline", "_class_name is 'FluxPipeline', expected StableDiffusionPipeline, "),
        (7, "_class_name is 7, expected"),
        (None, "_class_name is None, expected"),
    ],
)
def test_other_classes(name, message, folder):
    edit_json(folder / "model_index.json", lambda d: d.update(_class_name=name))
    with pytest.raises(CheckpointError, match=message):
        resolve(folder)


def test_options_that_are_off(folder):
    keys = {
        "safety_checker": [None, None],
        "prior": [None, None],
        "image_encoder": None,
        "add_watermarker": None,
        "revision": "",
        "force_zeros_for_empty_prompt": True,
    }
    edit_json(folder / "model_index.json", lambda d: d.update(keys))
    assert resolve(folder).options["force_zeros_for_empty_prompt"] is True


# --- numbers as other tools write them ------------------------------------------------------------


def test_whole_floats_draw_the_same_picture(sd1, folder):
    numbers = {
        "scheduler": {"num_train_timesteps": 1000.0, "steps_offset": 1.0},
        "unet": {"in_channels": 4.0, "layers_per_block": 2.0, "norm_num_groups": None},
        "vae": {"latent_channels": 4.0, "sample_size": 64.0},
        "text_encoder": {"hidden_size": 32.0, "num_attention_heads": 2.0},
    }
    for part, changed in numbers.items():
        path = files_of(folder)[part]
        saved = json.loads(path.read_text())
        edit_json(
            path,
            lambda d, c=changed, s=saved: d.update(
                {k: float(s[k]) if v is None else v for k, v in c.items()}
            ),
        )
    call = {"seed": 3, "num_inference_steps": 2, "height": 32, "width": 32, "output_type": "pt"}
    one, other = (
        pyengine.from_pretrained(f, device="cpu")("a cat", **call).images for f in (sd1, folder)
    )
    assert one.equal(other)


def test_no_metadata(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    header, data = read_raw(path)
    write_raw(path, json.dumps({"__metadata__": None, **header}).encode(), data)
    write_raw(path, {**header, "__metadata__": None}, data)
    assert load(folder)


def test_a_tokenizer_without_a_limit(sd1, folder):
    """transformers then writes int(1e30)."""
    path = folder / "tokenizer" / "tokenizer_config.json"
    edit_json(path, lambda d: d.update(model_max_length=int(1e30)))
    pipe = pyengine.from_pretrained(folder, device="cpu")
    call = {"seed": 3, "num_inference_steps": 1, "height": 32, "width": 32, "output_type": "pt"}
    same = pyengine.from_pretrained(sd1, device="cpu")("a cat", **call).images
    assert pipe("a cat", **call).images.equal(same)
