"""Networks beside a checkpoint whose folders have weights of a variant (fp16)."""

import shutil

import control_networks
import image_prompt_files
import pytest
import tiny
import torch
from adapter_pairs import CALL
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

import pyengine
from pyengine.adapters.places import hash_of, variant_of
from pyengine.errors import CheckpointError

WHOLE = "diffusion_pytorch_model.safetensors"
HALF = "diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture(scope="module")
def nets(opened, tmp_path_factory):
    """{keyword: (a folder in float32, one with fp16 alone, one with both)} beside tiny SD 1.x."""
    place, found = tmp_path_factory.mktemp("variants"), {}
    unet = UNet2DConditionModel.from_pretrained(opened("sd1").folder / "unet")
    for name, net in (
        ("controlnet", control_networks.make_controlnet(unet)),
        ("adapter", control_networks.make_adapter(channels=unet.config.block_out_channels)),
    ):
        plain, half, both = (place / f"{name}-{kind}" for kind in ("plain", "half", "both"))
        net.save_pretrained(plain)
        for folder in (half, both):
            shutil.copytree(plain, folder)
            tensors = {n: t.half() for n, t in load_file(plain / WHOLE).items()}
            save_file(tensors, folder / HALF, metadata={"format": "pt"})
        (half / WHOLE).unlink()
        found[name] = plain, half, both
    return found


def shown(folder, **how):
    pipe = pyengine.from_pretrained(folder, device="cpu", **how)
    image = Image.effect_mandelbrot((32, 32), (-2, -1.5, 1, 1.5), 30).convert("RGB")
    return pipe("a fox", image=image, seed=3, **CALL).images, pipe


@pytest.mark.parametrize("name", ["controlnet", "adapter"])
def test_folders(opened, nets, name, tmp_path):
    """The variant that is asked for, else the plain weights, else the only ones that there are."""
    folder, (plain, half, both) = opened("sd1").folder, nets[name]
    full, pipe = shown(folder, **{name: plain})
    want, halved = shown(folder, **{name: half})
    assert 0 < abs(full - want).max() < 0.05
    assert (shown(folder, **{name: both})[0] == full).all()
    # The checkpoint itself has no such variant: diffusers' folders have what they have.
    variant = tmp_path / "model"
    shutil.copytree(folder, variant)
    for file in variant.glob("*/*.safetensors"):
        shutil.copy(file, file.with_name(f"{file.stem}.fp16.safetensors"))
    told, pipe = shown(variant, variant="fp16", **{name: both})
    assert (told == want).all()
    assert (shown(variant, variant="fp16", **{name: plain})[0] == full).all()
    pipe.save_pretrained(tmp_path / "saved")  # the same weights, under the plain name
    assert (shown(tmp_path / "saved")[0] == want).all()
    halved.to("cpu", torch.bfloat16)
    halved.to("cpu", torch.float32)
    image = Image.effect_mandelbrot((32, 32), (-2, -1.5, 1, 1.5), 30).convert("RGB")
    assert (halved("a fox", image=image, seed=3, **CALL).images == want).all()
    assert hash_of(name, both) == hash_of(name, plain)
    assert hash_of(name, both, "fp16") == hash_of(name, half) != hash_of(name, plain)


def test_which(nets, tmp_path):
    plain, half, both = nets["controlnet"]
    assert [variant_of(f, None) for f in (plain, half, both)] == [None, "fp16", None]
    assert [variant_of(f, "fp16") for f in (plain, half, both)] == [None, "fp16", "fp16"]
    assert [variant_of(f, "bf16") for f in (plain, half, both)] == [None, "fp16", None]
    two = tmp_path / "two"
    shutil.copytree(half, two)
    shutil.copy(two / HALF, two / HALF.replace("fp16", "bf16"))
    assert variant_of(two, None) is None
    with pytest.raises(CheckpointError, match=r"variant='bf16', variant='fp16'"):
        hash_of("controlnet", two)


def test_an_image_encoder_of_a_variant(opened, tmp_path):
    one = opened("sd1")
    unet = UNet2DConditionModel.from_pretrained(one.folder / "unet")
    path = tmp_path / "ip.safetensors"
    save_file(image_prompt_files.tensors_of("base", unet), path)
    tiny.make_image_encoder(**image_prompt_files.IMAGE).save_pretrained(tmp_path / "plain")
    shutil.copytree(tmp_path / "plain", tmp_path / "half")
    file = tmp_path / "half" / "model.safetensors"
    file.rename(file.with_name("model.fp16.safetensors"))
    pictures = []
    for kind in ("plain", "half"):
        one.own.load_ip_adapter(path, image_encoder=tmp_path / kind)
        pictures.append(
            one.own("a", ip_adapter_image=Image.new("RGB", (32, 32), "red"), seed=1, **CALL).images
        )
    one.own.unload_ip_adapter()
    assert (pictures[0] == pictures[1]).all()
