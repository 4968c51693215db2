"""save_pretrained: folders that diffusers and pyengine load again."""

from pathlib import Path

import diffusers
import numpy as np
import pytest
import tiny
import torch
from pairs import draw

import pyengine
from pyengine.errors import RequestError, UnknownArgumentError


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "lcm"])
def test_saving_a_folder(pair, tmp_path, name):
    pipe = pair(name).own
    want = draw(pipe)
    pipe.save_pretrained(tmp_path / "saved")
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]
    again = pyengine.from_pretrained(tmp_path / "saved", device="cpu")
    assert np.array_equal(draw(again), want)
    assert again.model_hash == pipe.model_hash
    assert type(again.scheduler) is type(pipe.scheduler)
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "saved", safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    assert type(theirs).__name__ == pipe.config._class_name
    expected = theirs(
        "a red heart",
        num_inference_steps=3,
        output_type="np",
        generator=torch.Generator().manual_seed(3),
    ).images
    assert abs(want - expected).max() < 1e-3


def test_saving_with_another_scheduler_in_16_bits_and_a_variant(pair, tmp_path):
    pipe = pyengine.from_pretrained(pair("sd1").folder, device="cpu", dtype="float16")
    pipe.scheduler = "dpmpp_2m_karras"
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in files(tmp_path / "half")
    assert "text_encoder/model.fp16.safetensors" in files(tmp_path / "half")
    again = pyengine.from_pretrained(tmp_path / "half", variant="fp16", dtype="float16")
    assert np.array_equal(draw(again), draw(pipe))
    assert again.scheduler.config.use_karras_sigmas is True
    half = tmp_path / "half" / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    whole = pair("sd1").folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "half", variant="fp16")


@pytest.mark.parametrize("model", ["emoji", "emoji-ar"])
def test_saving_the_shipped_models(model, tmp_path):
    pipe = pyengine.from_pretrained(model, device="cpu")
    pipe.save_pretrained(tmp_path / "m")
    again = pyengine.from_pretrained(tmp_path / "m", device="cpu")
    want, got = (p("a red heart", seed=1, output_type="np") for p in (pipe, again))
    assert np.array_equal(want.images, got.images)
    assert again.defaults == pipe.defaults


@pytest.mark.parametrize("kind", ["amused", "image_gpt", "janus"])
def test_saving_token_models(kind, tmp_path):
    folder = getattr(tiny, f"write_{kind}")(tmp_path / "m")
    pipe = pyengine.from_pretrained(folder, device="cpu")
    pipe.save_pretrained(tmp_path / "saved")
    again = pyengine.from_pretrained(tmp_path / "saved", device="cpu")
    args = () if kind == "image_gpt" else ("a red heart",)
    assert torch.equal(pipe(*args, seed=1).tokens, again(*args, seed=1).tokens)
    assert again.config == pipe.config | {"_name_or_path": str(tmp_path / "saved")}


def test_saving_over_its_own_folder_keeps_other_files(pair, tmp_path):
    import shutil

    folder = shutil.copytree(pair("sd1").folder, tmp_path / "m")
    (folder / "notes.txt").write_text("mine")
    pipe = pyengine.from_pretrained(folder, device="cpu")
    want = draw(pipe)
    pipe.scheduler = "euler"
    pipe.save_pretrained(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    again = pyengine.from_pretrained(folder, device="cpu")
    assert again.scheduler.name == "euler"
    assert np.array_equal(draw(again, scheduler="ddim"), want)


def test_nothing_half_written_is_left(pair, tmp_path, monkeypatch):
    from pyengine.pipelines.diffusers_names import saving

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write_tensors", full)
    with pytest.raises(OSError, match="No space"):
        pair("sd1").own.save_pretrained(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"safe_serialization": False}, RequestError, "safe_serialization: expected True"),
        ({"push_to_hub": True}, RequestError, "push_to_hub: .*hf upload"),
        ({"varient": "fp16"}, UnknownArgumentError, "did you mean variant"),
        ({"variant": "../x"}, ValueError, "variant"),
    ],
)
def test_saving_that_is_refused(pair, tmp_path, given, error, text):
    with pytest.raises(error, match=text):
        pair("sd1").own.save_pretrained(tmp_path / "saved", **given)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match="save_directory: expected a folder"):
        pair("sd1").own.save_pretrained(tmp_path / "file")
