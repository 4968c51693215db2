"""Pipelines that make a picture in one pass: calls, jobs, batches, the command line."""

import json

import generators
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import pyengine
from pyengine import metadata
from pyengine.cli import main
from pyengine.errors import CancelledError, NotFiniteError, RequestError
from pyengine.pipelines import Run, StopSampling
from pyengine.weights import resolve

CALLS = {
    "dcgan": {"num_images": 3},
    "biggan": {"class_labels": [3, 0, 10], "truncation": [0.3, 0.9, 0.511]},
}
WRITERS = {"dcgan": generators.write_dcgan, "biggan": generators.write_biggan}
SIDES = {"dcgan": 32, "biggan": 16}
#: What the command line is told besides.
OPTIONS = {"dcgan": [], "biggan": ["--class-label", "3", "--truncation", "0.7"]}


@pytest.fixture(scope="module", params=WRITERS)
def kind(request):
    if request.param == "biggan" and not generators.installed("pytorch_pretrained_biggan"):
        pytest.skip("pytorch-pretrained-biggan is not installed")
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    return WRITERS[kind](tmp_path_factory.mktemp("one_pass") / kind)


@pytest.fixture(scope="module")
def pipe(folder):
    return pyengine.from_pretrained(folder, device="cpu")


def draw(pipe, kind, **call):
    return pipe(**{**CALLS[kind], "seed": 5, "output_type": "pt", **call})


def test_pictures(pipe, kind):
    side = SIDES[kind]
    result = draw(pipe, kind)
    assert result.images.shape == (3, 3, side, side)
    assert result.seeds == [5, 6, 7]
    assert result.images.std() > 0.05
    assert result.report.sampler == "one pass"
    assert (result.report.steps, result.report.evaluations) == (1, 1)
    assert "generate" in result.report.seconds
    assert "cpu" in result.report.kernels["conv2d"]
    as_pil = draw(pipe, kind, output_type="pil").images
    want = (result.images.permute(0, 2, 3, 1).numpy() * 255).round()
    assert np.array_equal(np.stack([np.asarray(p) for p in as_pil]), want)
    assert draw(pipe, kind, return_dict=False)[0].equal(result.images)


def test_seeds_latents_and_generators(pipe, kind):
    whole = draw(pipe, kind).images
    own = [torch.Generator().manual_seed(s) for s in (5, 6, 7)]
    assert draw(pipe, kind, seed=None, generator=own).images.equal(whole)
    latents = draw(pipe, kind, output_type="latent").images
    assert latents.shape == (3, *pipe.latent_shape)
    assert draw(pipe, kind, seed=1, latents=latents).images.equal(whole)
    assert draw(pipe, kind, seed=None, latents=latents.double()).images.equal(whole)
    assert not draw(pipe, kind, seed=6).images.equal(whole)


def test_same_bits_alone_in_a_batch_and_on_any_threads(pipe, kind, use_threads, monkeypatch):
    use_threads(1)
    whole = draw(pipe, kind).images
    jobs = pipe.prepare(pipe.request(**CALLS[kind], seed=5, output_type="pt"))
    for job in jobs:
        pipe.step([job])
        assert torch.equal(pipe.finish(job), whole[job.index])
    use_threads(3)
    assert draw(pipe, kind).images.equal(whole)
    monkeypatch.setattr("pyengine.pipelines.one_pass.MAX_PASS_PIXELS", 1)
    assert draw(pipe, kind).images.equal(whole)


def test_jobs_of_several_calls_in_one_step(pipe, kind):
    calls = [pipe.prepare(pipe.request(**CALLS[kind], seed=s, output_type="pt")) for s in (5, 50)]
    jobs = [calls[1][2], calls[0][1], calls[1][0]]
    calls[0][0].cancel()
    pipe.step([*jobs, calls[0][0]])
    assert [job.complete for job in jobs] == [True] * 3
    assert (calls[0][0].cancelled, calls[0][0].evaluations) == (True, 0)
    wanted = {s: draw(pipe, kind, seed=s).images for s in (5, 50)}
    for job, picture in zip(jobs, map(pipe.finish, jobs), strict=True):
        assert torch.equal(picture, wanted[job.seed - job.index][job.index])
    assert (pipe.finish(calls[0][0]) == 0.5).all(), "nothing was made of it: grey"
    with pytest.raises(RequestError, match="one that is complete or cancelled"):
        pipe.finish(calls[0][2])


def test_steps_callbacks_and_runs(pipe, kind):
    whole = draw(pipe, kind).images
    steps = pipe.steps(**CALLS[kind], seed=5, output_type="pt")
    (step,) = list(steps)
    assert (step.step, step.latents.shape) == (0, whole.shape)
    assert step.preview("pt").equal(whole)
    assert steps.output.images.equal(whole)
    seen = []

    def look(pipe, step, timestep, tensors):
        seen.append((step, tensors["images"].shape))
        tensors["images"][0] = -1

    changed = draw(pipe, kind, callback_on_step_end=look).images
    assert seen == [(0, whole.shape)]
    assert (changed[0] == 0).all()
    assert changed[1:].equal(whole[1:])
    flipped = draw(pipe, kind, callback_on_step_end=lambda p, i, t, x: {"images": -x["images"]})
    assert torch.allclose(flipped.images, 1 - whole, atol=1e-6)

    def stop(*_):
        raise StopSampling

    assert draw(pipe, kind, callback_on_step_end=stop).images.equal(whole), "it was the last step"
    run = Run()
    run.interrupt()
    with pytest.raises(CancelledError):
        draw(pipe, kind, run=run)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ({"height": 31}, "height: expected 32, the model's only one, given 31"),
        ({"seed": -1}, "seed: expected a whole number"),
        ({"latents": torch.zeros(3, 1)}, r"latents: expected shape \[3,"),
        ({"latents": [1.0]}, "latents: expected a float tensor"),
        ({"output_type": "jpeg"}, "output_type: expected one of pil"),
        ({"prompt": "a cat"}, "prompt: this model has no such argument, given 'a cat'"),
        ({"num_image": 2}, "num_image: .* unexpected keyword argument"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt: expected a whole number from 1"),
        ({"num_images_per_prompt": 1024}, "num_images_per_prompt: expected at most 1024 pictures"),
        ({"callback_on_step_end": lambda *_: {"images": None}, }, None),
        ({"callback_on_step_end": lambda *_: {"images": 3}}, "callback_on_step_end: images: exp"),
        ({"callback_on_step_end": lambda *_: {"latents": 3}}, "expected some of images back"),
    ],
)  # fmt: skip
def test_wrong_arguments(pipe, kind, call, text):
    if text is None:
        assert draw(pipe, kind, **call).images.equal(draw(pipe, kind).images)
        return
    if call.get("num_images_per_prompt") == 1024 and "truncation" in CALLS[kind]:
        call = {**call, "truncation": 0.5}
    if "height" in call:
        text = text.replace("32", str(SIDES[kind]))
    with pytest.raises(RequestError, match=text):
        draw(pipe, kind, **call)


def test_a_picture_that_is_not_finite_spoils_no_other(pipe, kind):
    latents = draw(pipe, kind, output_type="latent").images
    jobs = pipe.prepare(pipe.request(**CALLS[kind], latents=latents, seed=5, output_type="pt"))
    jobs[1].latents.fill_(float("nan"))
    pipe.step(jobs)
    assert [job.error is None for job in jobs] == [True, False, True]
    assert torch.equal(pipe.finish(jobs[2]), draw(pipe, kind).images[2])
    with pytest.raises(NotFiniteError, match=r"generator: .* found NaN in picture 1 \(in float32"):
        pipe.finish(jobs[1])


def test_saved_and_loaded_again(pipe, kind, folder, tmp_path):
    pipe.save_pretrained(tmp_path / "copy")
    again = pyengine.from_pretrained(tmp_path / "copy", device="cpu")
    assert again.model_hash == pipe.model_hash == resolve(folder).model_hash
    assert draw(again, kind).images.equal(draw(pipe, kind).images)
    half = again.to(torch.bfloat16)
    assert half.dtype == torch.bfloat16
    error = (draw(half, kind).images.float() - draw(pipe, kind).images).abs().mean()
    assert 0 < error < 0.05


def test_the_command_line(pipe, kind, folder, tmp_path, capsys):
    assert main(["info", str(folder)]) == 0
    assert pipe.config._class_name in capsys.readouterr().out
    file = tmp_path / "one.png"
    options = ["-m", str(folder), "--seed", "6", "--device", "cpu"]
    assert main(["generate", *options, *OPTIONS[kind], "-o", str(file), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["settings"]["sampler"] == "one pass"
    saved = metadata.read(file)
    assert (saved.seed, saved.model_hash) == (6, pipe.model_hash)
    again = tmp_path / "again.png"
    assert main(["generate", "--from", str(file), "-m", str(folder), "-o", str(again)]) == 0
    assert again.read_bytes() == file.read_bytes()
    with pyengine.images.open_image(file) as picture:
        assert picture.size == (SIDES[kind],) * 2


# --- BigGAN ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def biggan(tmp_path_factory):
    if not generators.installed("pytorch_pretrained_biggan"):
        pytest.skip("pytorch-pretrained-biggan is not installed")
    folder = generators.write_biggan(tmp_path_factory.mktemp("biggan") / "m")
    return pyengine.from_pretrained(folder, device="cpu")


def test_biggan_against_the_package(biggan):
    truncation = 0.41
    z = generators.biggan_package().truncated_noise_sample(4, 6, truncation, seed=3)
    z, classes = torch.from_numpy(z), torch.tensor([1, 5, 10, 0])
    one_hot = torch.nn.functional.one_hot(classes, 11).float()
    want = generators.make_biggan()(z, one_hot, truncation) * 0.5 + 0.5
    call = {"truncation": truncation, "latents": z, "output_type": "pt"}
    for labels in (classes, classes.tolist(), one_hot, tuple(classes.numpy())):
        got = biggan(labels, **call).images
        assert 10 * torch.log10(1 / (got - want).square().mean()) > 80
    assert biggan([1, 5], 0.3, num_images_per_prompt=2, output_type="pt").images.shape[0] == 4


def test_biggans_noise(biggan):
    call = {"class_labels": 2, "num_images_per_prompt": 400, "seed": 0, "output_type": "latent"}
    noise = biggan(**call, truncation=1).images
    assert float(noise.abs().max()) <= 2
    assert abs(float(noise.mean())) < 0.05
    # Of a normal distribution cut at 2: the square root of 1 - 4 phi(2) / (2 Phi(2) - 1).
    assert float(noise.std()) == pytest.approx(0.8796, abs=0.02)
    assert torch.allclose(biggan(**call, truncation=0.25).images, 0.25 * noise)
    assert torch.allclose(biggan(**call).images, 0.4 * noise), "the default"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ({}, "class_labels: this model draws classes: expected whole numbers from 0 to 10"),
        ({"class_labels": 11}, "class_labels: expected a whole number from 0 to 10, given 11"),
        ({"class_labels": "cat"}, "class_labels: expected a whole number from 0 to 10"),
        ({"class_labels": []}, "class_labels: expected whole numbers .* given '0 of them'"),
        ({"class_labels": torch.zeros(2, 10)}, r"class_labels: expected shape \[2, 11\], given"),
        ({"class_labels": torch.full((1, 11), float("nan"))}, "class_labels: expected finite"),
        ({"class_labels": 1, "truncation": 0}, "truncation: expected a number above 0"),
        ({"class_labels": 1, "truncation": 2}, "truncation: expected a number from 0 to 1"),
        ({"class_labels": 1, "truncation": [0.1, 0.2]}, "truncation: expected a number, or one"),
        ({"class_labels": 1, "num_images": 2}, "num_images: this model has no such argument"),
    ],
)
def test_wrong_arguments_of_biggan(biggan, call, text):
    with pytest.raises(RequestError, match=text):
        biggan(**call)


# --- DCGAN ----------------------------------------------------------------------------------------


def test_a_dcgan_file_is_its_folder(tmp_path):
    place = generators.write_dcgan(tmp_path / "g.safetensors")
    folder = generators.write_dcgan(tmp_path / "folder")
    one, other = (pyengine.from_pretrained(p, device="cpu") for p in (place, folder))
    assert one.model.config == other.model.config
    call = {"num_images": 2, "seed": 3, "output_type": "pt"}
    assert one(**call).images.equal(other(**call).images)
    assert one(2, num_images_per_prompt=2, seed=3, output_type="pt").images.shape[0] == 4
    latents = torch.randn(5, 7, 1, 1)
    assert one(latents=latents, output_type="pt").images.shape[0] == 5
    with pytest.raises(RequestError, match="num_images_per_prompt: expected 1 beside latents"):
        one(latents=latents, num_images_per_prompt=2)
    grey = generators.write_dcgan(tmp_path / "grey", out=1)
    pictures = pyengine.from_pretrained(grey, device="cpu")(2, seed=1, output_type="np").images
    assert pictures.shape == (2, 32, 32, 3)
    assert (pictures[..., :1] == pictures).all()


def test_a_dcgan_against_torchs_layers(tmp_path):
    place = generators.write_dcgan(tmp_path / "g.safetensors")
    latents = torch.randn(3, 7, 1, 1, generator=torch.Generator().manual_seed(0))
    got = pyengine.from_pretrained(place, device="cpu")(latents=latents, output_type="pt").images
    want = generators.make_dcgan(**generators.DCGAN)(latents) * 0.5 + 0.5
    assert float((got - want).abs().max()) < 1e-5


def test_a_damaged_dcgan_file_says_so(tmp_path):
    place = generators.write_dcgan(tmp_path / "g.safetensors")
    save_file({**load_file(place), "main.3.weight": torch.zeros(20, 12, 4, 5)}, place)
    with pytest.raises(pyengine.errors.CheckpointError, match=r"'main.3.weight' is \[20, 12, 4, 5"):
        pyengine.from_pretrained(place)
