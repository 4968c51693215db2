"""NaN and infinity end a run in words: the part, the step, the picture, and what would help."""

import shutil

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import pyengine
from pyengine.diffusion import watch
from pyengine.diffusion.job import Batch
from pyengine.errors import CheckpointError, NotFiniteError, PyengineError, RequestError
from pyengine.finite import all_finite, first_bad

NAN, INF = float("nan"), float("inf")
PICTURE = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
CALL = {"num_inference_steps": 3, "seed": 1, "progress": False, "height": 64, "width": 64}
OUTPUTS = ("pil", "np", "pt")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("finite") / name
            made[name] = getattr(tiny, f"write_{name}")(folder)
        return made[name]

    return get


@pytest.fixture
def damaged(healthy, tmp_path):
    """damaged("sd1", "unet", "conv_out.bias", NAN): the pipeline with a weight's first row so."""

    def get(name, part, weight, value, **options):
        folder = shutil.copytree(healthy(name), tmp_path / "damaged")
        (file,) = (folder / part).glob("*.safetensors")
        tensors = load_file(file)
        tensors[weight][0] = value
        save_file(tensors, file, metadata={"format": "pt"})
        return pyengine.from_pretrained(folder, device="cpu", **options)

    return get


PARTS = {
    "text": ("text_encoder", "encoder.layers.0.mlp.fc2.bias", "text encoder", {}),
    "unet": ("unet", "conv_out.bias", r"unet.*at step 0 \(timestep [0-9.]+\)", {}),
    "decoder": ("vae", "decoder.conv_out.bias", "vae: the decoder", {}),
    "encoder": ("vae", "encoder.conv_out.bias", "vae: the encoder",
                {"image": PICTURE, "strength": 1.0}),
    "inpainting": ("vae", "encoder.conv_out.bias", "vae: the encoder",
                   {"image": PICTURE, "mask_image": PICTURE, "strength": 1.0}),
}  # fmt: skip


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_damaged_weights(damaged, name, part, value):
    file, weight, words, extra = PARTS[part]
    pipe = damaged(name, file, weight, value)
    with pytest.raises(NotFiniteError, match=words) as caught:
        pipe("a cat", **CALL, **extra)
    assert "damaged" in str(caught.value)
    assert "picture 0" in str(caught.value)


def test_sdxls_second_encoder(damaged):
    pipe = damaged("sdxl", "text_encoder_2", "text_projection.weight", NAN)
    with pytest.raises(NotFiniteError, match=r"text encoder.*NaN in picture 0"):
        pipe("a cat", **CALL)


@pytest.mark.parametrize("output_type", [*OUTPUTS, "latent"])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun", "dpmpp_2m", "unipc", "lcm", "ddpm"])
def test_the_step_and_the_picture(healthy, monkeypatch, sampler, output_type):
    """One picture of a batch, from the second evaluation on."""
    pipe = pyengine.from_pretrained(healthy("sd1"), device="cpu")
    forward, calls = type(pipe.unet).forward, []

    def spoilt(*args, **kwargs):
        y = forward(*args, **kwargs)
        calls.append(1)
        if len(calls) > 1:
            y[0][-1, 0, 0, 0] = NAN  # with guidance the last row is the last picture's
        return y

    monkeypatch.setattr(type(pipe.unet), "forward", spoilt)
    with pytest.raises(NotFiniteError, match=r"unet: .*NaN in picture 2 at step 1 \(timestep"):
        pipe(
            "a cat",
            **CALL,
            num_images_per_prompt=3,
            scheduler=sampler,
            output_type=output_type,
        )


def test_an_update_that_overflows(healthy, monkeypatch):
    """In float16 guidance overflows though the model's output is finite."""
    pipe = pyengine.from_pretrained(healthy("sd1"), device="cpu", dtype="float16")
    forward = type(pipe.unet).forward

    def large(*args, **kwargs):
        y = forward(*args, **kwargs)
        return (y[0].sign() * 60000, *y[1:])

    monkeypatch.setattr(type(pipe.unet), "forward", large)
    with pytest.raises(NotFiniteError, match=r"sampler euler: .*float32 or bfloat16 would help"):
        pipe("a cat", **CALL, scheduler="euler", guidance_scale=1000)


def test_float16_that_is_too_narrow_for_the_decoder(healthy, tmp_path):
    folder = tiny.write_sd1(tmp_path / "sd1", vae={"force_upcast": False})
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["decoder.conv_out.weight"] *= 1e7
    save_file(tensors, file, metadata={"format": "pt"})
    narrow = pyengine.from_pretrained(folder, device="cpu", dtype="float16")
    with pytest.raises(NotFiniteError, match=r"decoder.*float16.*float32 or bfloat16 would help"):
        narrow("a cat", **CALL)
    wide = pyengine.from_pretrained(folder, device="cpu")
    assert wide("a cat", **CALL).images


# --- callbacks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_callback_that_gives_none_finite(healthy, value, in_place):
    pipe = pyengine.from_pretrained(healthy("sd1"), device="cpu")

    def spoil(pipe, step, timestep, tensors):
        x = tensors["latents"] if in_place else tensors["latents"].clone()
        if step == 1:
            x[1, 0, 0, 0] = value
        return None if in_place else {"latents": x}

    with pytest.raises(RequestError, match=r"step_end: latents: .* picture 1 at step 1$"):
        pipe("a cat", **CALL, num_images_per_prompt=2, callback_on_step_end=spoil)


def test_a_callback_that_spoils_the_text(healthy):
    pipe = pyengine.from_pretrained(healthy("sd1"), device="cpu")
    with pytest.raises(RequestError, match=r"callback_on_step_end: prompt_embeds: .*finite"):
        pipe(
            "a cat",
            **CALL,
            callback_on_step_end=lambda *a: {"prompt_embeds": a[3]["prompt_embeds"] * NAN},
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )


def test_latents_that_the_dtype_cannot_hold(healthy):
    pipe = pyengine.from_pretrained(healthy("sd1"), device="cpu", dtype="float16")
    latents = torch.full((1, 4, 8, 8), 1e6)
    with pytest.raises(PyengineError, match=r"latents.*infinity"):
        pipe("a cat", **CALL, latents=latents)


# --- on a GPU, where no step waits ----------------------------------------------------------------


def _jobs(pipe, count):
    """Jobs whose latents are zeros, and what notes them after evaluation i, as on a GPU."""
    jobs = pipe.prepare(
        pipe.request("a cat", num_images_per_prompt=count, seed=1, num_inference_steps=4)
    )
    batch = jobs[0].batch
    batch.state.x.zero_()

    def look(i, callback=0):
        watch.note(batch, jobs, [2 * i + callback] * count)

    return jobs, batch.state.x, look


@pytest.mark.parametrize("by_callback", [False, True])
def test_found_at_the_end(healthy, by_callback):
    pipe = pyengine.from_pretrained(healthy("sd1"), device="cpu")
    jobs, x, look = _jobs(pipe, 3)
    for i in range(4):
        if i == 2 and not by_callback:
            x[1] = INF
        look(i)
        if i == 2 and by_callback:
            x[1] = INF
        look(i, callback=1)
        x[0] = NAN if i == 2 else 0  # later
    error, words = (RequestError, "callback") if by_callback else (NotFiniteError, ".*: unet or")
    with pytest.raises(error, match=f"^{words}.*infinity in picture 1 at step 2"):
        watch.check_noted(jobs)
    assert [job.error is None for job in jobs] == [False, False, True]
    # What was noted goes with a job that is stepped without the others.
    Batch.of(jobs[1:])
    with pytest.raises(error, match="picture 1 at step 2"):
        watch.check_noted(jobs[1:])
    watch.check_noted(jobs[2:])


def test_nothing_found_at_the_end(healthy):
    pipe = pyengine.from_pretrained(healthy("sd1"), device="cpu")
    jobs, _, look = _jobs(pipe, 1)
    watch.check_noted(jobs)
    look(0)
    watch.check_noted(jobs)


# --- models of tokens -----------------------------------------------------------------------------

VQ_PARTS = {
    "amused": ("vqvae", {"prompt": "a cat", "num_inference_steps": 2}),
    "picture_gpt": ("vqvae", {"prompt": "a cat"}),
    "janus": (".", {"prompt": "a cat"}),
}


def _vq(name, weight):
    return f"model.vqmodel.{weight}" if name == "janus" else weight


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("name", VQ_PARTS)
def test_a_damaged_decoder_of_tokens(damaged, name, value):
    part, call = VQ_PARTS[name]
    pipe = damaged(name, part, _vq(name, "decoder.conv_out.bias"), value)
    for output_type in OUTPUTS:
        with pytest.raises(NotFiniteError, match=r"decoder of tokens: .* in picture 0"):
            pipe(**call, seed=1, output_type=output_type, progress=False)
    assert pipe(**call, seed=1, output_type="latent", progress=False).tokens is not None


@pytest.mark.parametrize("name", VQ_PARTS)
def test_a_damaged_encoder_of_tokens(damaged, name):
    part, call = VQ_PARTS[name]
    pipe = damaged(name, part, _vq(name, "encoder.conv_out.bias"), NAN)
    height, width = pipe.default_size
    if name == "amused":
        call = {**call, "image": Image.new("RGB", (width, height), "red")}
    else:
        call = {**call, "prefix": Image.new("RGB", (width, 2), "red")}
    with pytest.raises(NotFiniteError, match=r"encoder's latents: .* NaN in picture 0"):
        pipe(**call, seed=1, progress=False)


def test_amuseds_text(damaged):
    pipe = damaged("amused", "text_encoder", "text_projection.weight", NAN)
    with pytest.raises(NotFiniteError, match=r"text encoder: .* NaN in picture 0"):
        pipe("a cat", num_inference_steps=2, progress=False)


@pytest.mark.parametrize("decoding", ["sequential", "jacobi", "jacobi-gumbel"])
def test_logits(damaged, decoding):
    pipe = damaged("picture_gpt", "transformer", "model.norm.weight", NAN)
    with pytest.raises(NotFiniteError, match=r"logits: .* NaN in picture 0 at step"):
        pipe("a cat", decoding=decoding, progress=False)
    assert issubclass(NotFiniteError, CheckpointError)  # which it was called before


# --- the command ----------------------------------------------------------------------------------


def test_the_command_leaves_no_file(damaged, tmp_path, monkeypatch, capsys):
    from pyengine.cli import main

    pipe = damaged("sd1", "vae", "decoder.conv_out.bias", NAN)
    monkeypatch.chdir(tmp_path)
    code = main(["generate", "a cat", "--model", str(pipe.source), "--steps", "2", "-o", "cat.png"])
    assert code == 2
    assert "vae: the decoder: expected finite numbers, found NaN" in capsys.readouterr().err
    assert not (tmp_path / "cat.png").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_all_finite(dtype):
    largest = torch.finfo(dtype).max
    x = torch.full((3, 5), largest, dtype=dtype)
    assert all_finite(x)
    assert all_finite(-x)
    for value in (NAN, INF, -INF):
        y = x.clone()
        y[1, 2] = value
        assert not all_finite(y)
        y[1, 3] = -value
        assert not all_finite(y)
        assert first_bad(y) == (1, "NaN" if value != value else "infinity")
