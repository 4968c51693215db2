"""Pipelines with another autoencoder: vae= by object, folder or file; previews by a tiny one."""

import json
import shutil

import diffusers
import pytest
import tiny
import torch
from safetensors.torch import save_file

import pyengine
from pyengine.cli import main
from pyengine.errors import CheckpointError, ConfigError, RequestError
from pyengine.models import AutoencoderKL, AutoencoderTiny

SMALL = {
    "encoder_block_out_channels": (8,) * 4,
    "decoder_block_out_channels": (8,) * 4,
    "num_encoder_blocks": (1, 1, 1, 1),
    "num_decoder_blocks": (1, 1, 1, 1),
}
CALL = {"prompt": "a cat", "num_inference_steps": 3, "height": 32, "width": 48, "seed": 2,
        "output_type": "pt"}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """{kind: place of the same tiny autoencoder}, and the Stable Diffusion it is for."""
    root = tmp_path_factory.mktemp("places")
    model = tiny.randomise(diffusers.AutoencoderTiny(**SMALL), 9)
    model.save_pretrained(root / "folder")
    both = {n: t.contiguous() for n, t in model.state_dict().items()}
    save_file(both, root / "both.safetensors")
    for half, shift in (("encoder", 0), ("decoder", 1)):
        tensors = {}
        for name, tensor in both.items():
            if name.startswith(f"{half}.layers."):
                number, _, rest = name.removeprefix(f"{half}.layers.").partition(".")
                tensors[f"{int(number) + shift}.{rest}"] = tensor
        save_file(tensors, root / f"tae_{half}.safetensors")
    sd = tiny.write_sd1(root / "sd1", unet={"layers_per_block": 1})
    return {
        "folder": root / "folder",
        "both": root / "both.safetensors",
        "sd1": sd,
        "encoder": root / "tae_encoder.safetensors",
        "model": model,
        "decoder": root / "tae_decoder.safetensors",
    }


@pytest.fixture(scope="module")
def pipes(places):
    """(diffusers' pipeline, ours), both with the tiny autoencoder."""
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(places["sd1"])
    theirs.set_progress_bar_config(disable=True)
    theirs.vae = places["model"]
    return theirs, pyengine.from_pretrained(
        places["sd1"], device="cpu", vae=AutoencoderTiny.from_pretrained(places["folder"])
    )


def psnr(a, b):
    return float(10 * torch.log10(1 / (a - b).square().mean()))


@pytest.mark.parametrize("kind", ["folder", "both", "encoder", "decoder"])
def test_by_its_place(kind, places, pipes):
    pipe = pyengine.from_pretrained(places["sd1"], device="cpu", vae=places[kind])
    assert isinstance(pipe.vae, AutoencoderTiny)
    want = pipes[1](**CALL).images
    assert pipe(**CALL).images.equal(want)
    other = pyengine.from_pretrained(places["sd1"], device="cpu")
    assert not other(**CALL).images.equal(want)
    other.vae = str(places[kind])
    assert other(**CALL).images.equal(want)


def test_text_to_image_against_diffusers(pipes):
    theirs, ours = pipes
    call = {k: v for k, v in CALL.items() if k != "seed"}
    generator = torch.Generator().manual_seed(2)
    want = theirs(**call, generator=generator).images
    assert psnr(ours(**CALL).images, want) > 60
    batch = ours(**CALL, num_images_per_prompt=3).images
    assert torch.equal(batch[1:2], ours(**{**CALL, "seed": 3}).images)


@pytest.mark.parametrize("masked", [False, True])
def test_from_pictures_against_diffusers(masked, pipes, photo, mask):
    theirs, ours = pipes
    call = {**CALL, "image": photo.resize((48, 32)), "strength": 0.7}
    del call["seed"]
    kind = diffusers.StableDiffusionImg2ImgPipeline
    if masked:
        call["mask_image"] = mask.resize((48, 32))
        kind = diffusers.StableDiffusionInpaintPipeline
    else:
        del call["height"], call["width"]
    other = kind(**theirs.components)
    other.set_progress_bar_config(disable=True)
    want = other(**call, generator=torch.Generator().manual_seed(4)).images
    assert psnr(ours(**call, seed=4).images, want) > 60


def test_previews_by_a_tiny_one(places):
    pipe = pyengine.from_pretrained(places["sd1"], device="cpu")
    plain = [step.preview("pt") for step in pipe.steps(**CALL)]
    tiny_one = AutoencoderTiny.from_pretrained(places["folder"])
    pipe.preview_vae = places["decoder"]
    result = pipe(**CALL).images
    for step, before in zip(pipe.steps(**CALL), plain, strict=True):
        shown = step.preview("pt")
        want = tiny_one.decode(step.latents).sample * 0.5 + 0.5
        assert torch.equal(shown, want.clamp(0, 1))
        assert not shown.equal(before)
    pipe.preview_vae = None
    assert pipe.preview_vae is None
    assert torch.equal([s.preview("pt") for s in pipe.steps(**CALL)][-1], plain[-1])
    assert pipe(**CALL).images.equal(result), "pictures are the autoencoder's all the same"


def test_what_is_refused(places, tmp_path):
    pipe = pyengine.from_pretrained(places["sd1"], device="cpu")
    encoder = places["encoder"]
    alone = AutoencoderTiny.from_files(encoder)
    wide = tiny.randomise(diffusers.AutoencoderTiny(**SMALL, latent_channels=5), 0)
    wide.save_pretrained(tmp_path / "wide")
    for value, error, text in (
        (3, RequestError, "preview_vae: expected a folder, a file, or pyengine's AutoencoderKL, "),
        (alone, RequestError, "preview_vae: expected one with a decoder"),
        (tmp_path / "wide", RequestError, "preview_vae: expected 4 latent channels at a 8th of"),
        (tmp_path, CheckpointError, "expected an autoencoder's folder, found no config.json"),
        (tmp_path / "none.safetensors", CheckpointError, "no such file"),
        (places["sd1"] / "unet", ConfigError, "_class_name is 'UNet2DConditionModel', expected"),
    ):
        with pytest.raises(error, match=text):
            pipe.preview_vae = value
    assert pipe.preview_vae is None
    with pytest.raises(
        RequestError, match=r"vae: expected pyengine.s AutoencoderKL .* given builtins's int"
    ):
        pipe.vae = 3
    with pytest.raises(ConfigError, match="do not fit an autoencoder of 5 latent channels"):
        pyengine.from_pretrained(places["sd1"], device="cpu", vae=tmp_path / "wide")
    assert isinstance(
        pyengine.from_pretrained(places["sd1"], vae=places["sd1"] / "vae").vae, AutoencoderKL
    )


# --- asymmetric -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asymmetric(places, tmp_path_factory):
    """(diffusers' pipeline, ours) with one decoder that sees what is not masked."""
    folder = tmp_path_factory.mktemp("asymmetric") / "vae"
    kinds = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    model = diffusers.AsymmetricAutoencoderKL(
        **kinds,
        down_block_out_channels=[4, 8, 8, 8],
        up_block_out_channels=[8, 16, 32, 32],
        norm_num_groups=4,
        sample_size=64,
    )
    tiny.randomise(model, 7).save_pretrained(folder)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(places["sd1"], vae=model)
    return theirs, pyengine.from_pretrained(places["sd1"], device="cpu", vae=folder)


@pytest.mark.parametrize("masked", [False, True])
def test_an_asymmetric_one_against_diffusers(masked, asymmetric, photo, mask):
    theirs, ours = asymmetric
    call = {k: v for k, v in CALL.items() if k != "seed"}
    kind = diffusers.StableDiffusionPipeline
    if masked:
        pictures = {"image": photo.resize((48, 32)), "mask_image": mask.resize((48, 32))}
        call |= pictures
        kind = diffusers.StableDiffusionInpaintPipeline
    other = kind(**theirs.components)
    other.set_progress_bar_config(disable=True)
    want = other(**call, generator=torch.Generator().manual_seed(4)).images
    got = ours(**call, seed=4).images
    assert psnr(got, want) > 60
    jobs = ours.prepare(ours.request(**call, seed=3, num_images_per_prompt=2))
    while any(job.active for job in jobs):
        ours.step(jobs)
    assert torch.equal(ours.finish(jobs[1]), got[0])


# --- named in model_index.json --------------------------------------------------------------------


@pytest.fixture(scope="module")
def named(asymmetric, places, tmp_path_factory):
    """{class: a Stable Diffusion checkpoint of diffusers' with such an autoencoder}."""
    root, made = tmp_path_factory.mktemp("named"), {}
    for vae in (places["model"], asymmetric[0].vae):
        theirs = diffusers.StableDiffusionPipeline.from_pretrained(places["sd1"], vae=vae)
        made[type(vae).__name__] = root / type(vae).__name__
        theirs.save_pretrained(made[type(vae).__name__])
    return made


@pytest.mark.parametrize("kind", ["AutoencoderTiny", "AsymmetricAutoencoderKL"])
def test_named_in_the_index(kind, named, places, pipes, asymmetric, tmp_path, capsys):
    pair = pipes if kind == "AutoencoderTiny" else asymmetric
    theirs, want = pair[0].vae, pair[1](**CALL).images
    pipe = pyengine.from_pretrained(named[kind], device="cpu")
    assert type(pipe.vae).__name__ == kind
    assert pipe(**CALL).images.equal(want)
    assert main(["info", str(named[kind]), "--json"]) == 0
    part = json.loads(capsys.readouterr().out)["parts"]["vae"]
    assert part["config"]["class"] == kind
    assert part["parameters"] == theirs.num_parameters()
    assert main(["info", str(named[kind]), "--plan"]) == 0
    assert "vae" in capsys.readouterr().out
    pipe.save_pretrained(tmp_path / "again")
    index = json.loads((tmp_path / "again/model_index.json").read_text())
    assert index["vae"] == ["diffusers", kind]
    assert pyengine.from_pretrained(tmp_path / "again", device="cpu")(**CALL).images.equal(want)


@pytest.mark.parametrize("write", [tiny.write_sdxl, tiny.write_dit])
def test_named_by_other_families(write, places, tmp_path):
    folder = write(tmp_path / "whole")
    kind = diffusers.DiffusionPipeline.from_pretrained(folder)
    made = type(kind)(**{**kind.components, "vae": places["model"]})
    made.save_pretrained(tmp_path / "tiny")
    ours = pyengine.from_pretrained(tmp_path / "tiny", device="cpu")
    call = {"num_inference_steps": 3}
    call |= (
        {"class_labels": [3]}
        if write is tiny.write_dit
        else {"prompt": "a cat", "height": 32, "width": 48}
    )
    made.set_progress_bar_config(disable=True)
    seeded = {"generator": torch.Generator().manual_seed(3), "output_type": "np"}
    want = torch.from_numpy(made(**call, **seeded).images)
    got = torch.from_numpy(ours(**call, seed=3, output_type="np").images)
    assert psnr(got, want) > 60


def test_a_class_that_config_and_index_call_differently(named, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(named["AutoencoderTiny"], folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["vae"] = ["diffusers", "AutoencoderKL"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="_class_name is 'AutoencoderTiny', expected Autoenc"):
        pyengine.from_pretrained(folder, device="cpu")
    config = json.loads((folder / "vae/config.json").read_text())
    config.pop("_class_name")
    (folder / "vae/config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="unknown keys"):
        pyengine.from_pretrained(folder, device="cpu")
    index["vae"] = ["diffusers", "AutoencoderTiny"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert isinstance(pyengine.from_pretrained(folder, device="cpu").vae, AutoencoderTiny)
