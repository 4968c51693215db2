"""`pyengine generate` beside ControlNets, T2I-Adapters and IP-Adapters: files, settings, --from."""

import diffusers
import kandinsky_folders
import numpy as np
import pytest
import tiny
from control_networks import make_adapter, make_controlnet
from image_prompt_files import IMAGE, tensors_of
from PIL import Image
from safetensors.torch import save_file

import pyengine
from pyengine import metadata, preprocess

FAST = ("--steps", "2", "--height", "32", "--width", "40")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders and files of networks for the model of these tests, and a picture."""
    folder = tmp_path_factory.mktemp("beside")
    unet = tiny.make_unet(layers_per_block=1)
    make_controlnet(unet).save_pretrained(folder / "controlnet")
    make_adapter().save_pretrained(folder / "adapter")
    tiny.make_image_encoder(**IMAGE).save_pretrained(folder / "ip" / "image_encoder")
    save_file(tensors_of("base", unet), folder / "ip" / "a.safetensors")
    blocks = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / "photo.png")
    return folder


def pixels(path):
    return np.asarray(Image.open(path))


CASES = {
    "controlnet": (
        ("--control", "photo.png", "--control-scale", "0.5", "--control-kind", "canny"),
        {"controlnet_conditioning_scale": 0.5},
    ),
    "adapter": (("--control", "photo.png", "--adapter-share", "0.5"),
                {"adapter_conditioning_factor": 0.5}),
    "ip": (("--ip-adapter-image", "photo.png", "--ip-adapter-scale", "0.7"),
           {"ip_adapter_scale": 0.7}),
}  # fmt: skip
OPTIONS = {"controlnet": "--controlnet", "adapter": "--t2i-adapter", "ip": "--ip-adapter"}


@pytest.mark.parametrize("kind", CASES)
def test_a_picture_beside_a_network_and_again(run, model, places, tmp_path, kind):
    given, call = CASES[kind]
    given = [places / a if a == "photo.png" else a for a in given]
    network = (OPTIONS[kind], places / kind)
    status, _, err = run(
        "generate", "a cat", "--seed", "3", "-o", "x.png", "--model", model, *network, *given, *FAST
    )
    assert status == 0, err
    photo = Image.open(places / "photo.png")
    pipe = pyengine.from_pretrained(
        model, **({kind: places / kind} if kind != "ip" else {}), device="cpu"
    )
    if kind == "ip":
        pipe.load_ip_adapter(places / "ip")
    shown = preprocess.canny(photo) if kind == "controlnet" else photo
    name = "ip_adapter_image" if kind == "ip" else "control_image"
    call = {**call, name: shown, "num_inference_steps": 2, "height": 32, "width": 40}
    want = pipe("a cat", seed=3, **call).images[0]
    assert (pixels("x.png") == np.asarray(want)).all()

    settings = metadata.read(tmp_path / "x.png")
    field = {"controlnet": "controlnet", "adapter": "t2i_adapter", "ip": "ip_adapter"}[kind]
    assert len(getattr(settings, field)) == 64
    assert settings.control_kind == ("canny" if kind == "controlnet" else None)

    # Again: with the networks and the picture named; the rest is remembered.
    shown = given[:2]
    again = ("generate", "--from", "x.png", "--model", model)
    status, _, err = run(*again, "-o", "y.png", *network, *shown)
    assert status == 0, err
    assert err == ""
    assert (pixels("y.png") == pixels("x.png")).all()
    status, _, err = run(*again, *shown)
    assert (status, f"expected it as {OPTIONS[kind]}" in err) == (2, True), err
    status, _, err = run(*again, *network)
    assert (status, f"expected it as {shown[0]}" in err) == (2, True), err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--control-kind", "canny"), "control-kind: expected --control with it"),
        (("--image-encoder", "x"), "image-encoder: expected --ip-adapter with it"),
        (("--ip-adapter", "x"), "ip-adapter: expected --ip-adapter-image with it"),
        (("--controlnet", "x"), "controlnet: no such file or folder"),
    ],
)
def test_options_that_need_others(run, model, options, text):
    status, _, err = run("generate", "a cat", "--model", model, *options, *FAST)
    assert status == 2
    assert text in err


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_another_autoencoder(run, model, tmp_path, kind):
    """--vae, of a folder and of TAEF2-like files; remembered, and asked for again by --from."""
    tiny_vae = make_tiny(tmp_path / "tiny")
    place = tmp_path / "tiny" if kind == "folder" else tmp_path / "one.safetensors"
    if kind == "file":
        save_file(tiny_vae.state_dict(), place)
    given = ("generate", "a cat", "--seed", "3", "-m", model, *FAST)
    status, _, err = run(*given, "--vae", place, "-o", "x.png")
    assert status == 0, err
    pipe = pyengine.from_pretrained(model, vae=place, device="cpu")
    want = pipe("a cat", seed=3, num_inference_steps=2, height=32, width=40).images[0]
    assert (pixels("x.png") == np.asarray(want)).all()
    assert len(metadata.read(tmp_path / "x.png").vae) == 64
    again = ("generate", "--from", "x.png", "-m", model)
    status, _, err = run(*again, "--vae", place, "-o", "y.png")
    assert (status, err) == (0, "")
    assert (pixels("y.png") == pixels("x.png")).all()
    status, _, err = run(*again, "-o", "z.png")
    assert status == 2
    assert "--from: the picture was made with another checkpoint's vae: expected it as --vae" in err
    status, _, err = run(*given, "--vae", "nowhere", "-o", "z.png")
    assert status == 2
    assert "vae: no such file or folder: 'nowhere'" in err


def make_tiny(folder):
    """A tiny autoencoder for the 8-fold latents of the tests' model, saved in a folder."""
    made = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(16,) * 4, decoder_block_out_channels=(16,) * 4
    ).eval()
    made.save_pretrained(folder)
    return made


def test_a_prior_before_a_decoder(run, tmp_path):
    """--prior: Kandinsky's two folders as one pipeline."""
    prior = kandinsky_folders.write_prior(tmp_path / "prior")
    decoder = kandinsky_folders.write(tmp_path / "decoder")
    given = ("-m", decoder, "--seed", "3", "--steps", "2", "--prior-steps", "2", "--height", "16")
    status, _, err = run(
        "generate", "a cat", *given, "--width", "24", "--prior", prior, "-o", "x.png"
    )
    assert status == 0, err
    pipe = pyengine.from_pretrained(decoder, prior=prior, device="cpu")
    call = {"num_inference_steps": 2, "prior_num_inference_steps": 2, "height": 16, "width": 24}
    want = pipe("a cat", seed=3, **call).images[0]
    assert (pixels("x.png") == np.asarray(want)).all()
    again = ("generate", "--from", "x.png", "-m", decoder)
    status, _, err = run(*again, "--prior", prior, "-o", "y.png")
    assert (status, err) == (0, "")
    assert (pixels("y.png") == pixels("x.png")).all()
    status, _, err = run(*again, "-o", "z.png")
    assert status == 2
    assert "--from: the picture was made with another checkpoint's prior" in err
    status, _, err = run("generate", "a cat", "--prior", prior, "-o", "z.png")
    assert status == 2
    assert "--prior: a StableDiffusionPipeline takes none" in err
