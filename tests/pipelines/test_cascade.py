"""pyengine.cascade: several pipelines as one."""

import asyncio
import json

import if_folders
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import pyengine
from pyengine import metadata
from pyengine.cli import main
from pyengine.errors import RequestError
from pyengine.models import RRDBConfig, RRDBNet
from pyengine.pipelines import CascadePipeline, Run

PROMPTS = ["a photo of the red cat", "the dog"]
STAGES = [{"num_inference_steps": 3}, {"num_inference_steps": 2, "noise_level": 90}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of IF's first stage, 16x16, of its second, 32x32, and an upscaler's file, which doubles."""
    where = tmp_path_factory.mktemp("cascade")
    net = RRDBNet(RRDBConfig(scale=2, num_feat=8, num_block=1, num_grow_ch=4))
    draw = torch.Generator().manual_seed(3)
    tensors = {
        name: 0.1 * torch.randn(p.shape, generator=draw) for name, p in net.named_parameters()
    }
    save_file(tensors, where / "upscaler.safetensors")
    return [
        if_folders.write(where / "first"),
        if_folders.write_super_resolution(where / "second"),
        where / "upscaler.safetensors",
    ]


@pytest.fixture(scope="module")
def pipe(folders):
    return pyengine.cascade(folders[:2], device="cpu")


def draw(pipe, prompt=PROMPTS[0], stages=STAGES, **call):
    return pipe(prompt, stages=stages, **{"seed": 3, "output_type": "pt", **call}).images


def photos(count, side, seed=4, channels=3):
    values = np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), np.uint8)
    return [Image.fromarray(v.squeeze(-1) if channels == 1 else v) for v in values]


# --- what it draws --------------------------------------------------------------------------------


def test_the_pictures_are_those_of_the_stages_by_hand(pipe):
    """As a script does it: one generator per picture through both calls."""
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    call = {"generator": generators, "output_type": "pt"}
    low = pipe.stages[0](PROMPTS, **STAGES[0], **call).images
    high = pipe.stages[1](PROMPTS, image=low, **STAGES[1], **call).images
    assert high.shape == (2, 3, 32, 32)
    assert torch.equal(draw(pipe, PROMPTS), high)


def test_the_same_bits_alone_in_a_batch_and_on_any_threads(pipe, use_threads):
    together = draw(pipe, PROMPTS, num_images_per_prompt=2, negative_prompt=["in", "of"])
    assert len(together) == 4
    use_threads(3)
    for i in range(4):
        one = draw(pipe, PROMPTS[i // 2], seed=3 + i, negative_prompt=["in", "of"][i // 2])
        assert torch.equal(one[0], together[i])


def test_jobs_at_different_stages_in_one_step(pipe):
    """Calls that join one after the other, so that one denoises 16x16 while another is at 32x32."""
    calls = [
        {"prompt": "a", "seed": 1, "stages": STAGES},
        {"prompt": "the", "seed": 2, "num_inference_steps": 4, "guidance_scale": 1.0},
        {"prompt": "cat", "seed": 3, "stages": [{"num_inference_steps": 1}, STAGES[1]]},
    ]
    alone = [pipe(output_type="pt", **call).images[0] for call in calls]
    jobs, stages = [], set()
    for call in calls:
        jobs += pipe.prepare(pipe.request(output_type="pt", **call))
        pipe.step([job for job in jobs if job.active])
        pipe.step([job for job in jobs if job.active])
    while any(job.active for job in jobs):
        stages.add(frozenset(job.stage for job in jobs if job.active))
        pipe.step([job for job in jobs if job.active])
    assert frozenset({0, 1}) in stages
    for job, want in zip(jobs, alone, strict=True):
        assert job.left == 0
        assert torch.equal(pipe.finish(job), want)


def test_in_an_engine(pipe):
    """Two callers' jobs; previews are of the stage that a picture is at."""

    async def follow(job):
        return [event async for event in job]

    with pyengine.Engine(pipe) as engine:
        jobs = [
            engine.submit(prompt=p, seed=3 + i, stages=STAGES, output_type="pt", previews=3)
            for i, p in enumerate(PROMPTS)
        ]
        events = asyncio.run(follow(jobs[0]))
        made = torch.cat([job.result().images for job in jobs])
    assert torch.equal(made, draw(pipe, PROMPTS))
    shown = [event.images[0].size for event in events if event.type == "preview"]
    assert set(shown) <= {(16, 16), (32, 32)}
    assert shown


def test_an_upscaler_as_the_last_stage(folders, pipe):
    three = CascadePipeline([*pipe.stages, pyengine.from_pretrained(folders[2], device="cpu")])
    made = draw(three)
    assert made.shape == (1, 3, 64, 64)
    assert torch.equal(made, draw(pipe, upscaler=three.stages[2]))
    tiled = draw(three, stages=[*STAGES, {"tile": 20}])
    assert torch.allclose(tiled, made, atol=1e-4)


def test_from_a_picture_and_within_a_mask(pipe):
    """Both of IF's stages are told the picture; what the mask leaves is the picture's own."""
    image, mask = photos(1, 32)[0], np.zeros((32, 32), np.uint8)
    mask[:, 16:] = 255
    call = {"image": image, "mask_image": Image.fromarray(mask), "strength": 0.9}
    stages = [{"num_inference_steps": 3}, {"num_inference_steps": 3}]
    made = draw(pipe, stages=stages, **call)[0]
    clean = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
    assert torch.allclose(made[:, :, :16], clean[:, :, :16], atol=1e-6)
    assert (made[:, :, 16:] - clean[:, :, 16:]).abs().max() > 0.1


def test_classes_and_image_to_image(folders):
    """The shipped model's pictures, made anew by itself and enlarged."""
    first = pyengine.from_pretrained("emoji", device="cpu")
    second = pyengine.from_pretrained("emoji", device="cpu")
    pipe = pyengine.cascade([first, second, folders[2]], device="cpu")
    stages = [{}, {"strength": 0.5, "guidance_scale": 2.0}]
    made = pipe("a red heart", stages, num_inference_steps=4, seed=1, output_type="pt")
    assert made.images.shape == (1, 3, 128, 128)
    assert [r.evaluations for r in made.report.stages] == [4, 2, 1]


# --- texts, report, previews ----------------------------------------------------------------------


def test_texts_are_read_once(folders, pipe, monkeypatch):
    assert pipe.stages[0].text_encoder is pipe.stages[1].text_encoder
    read = []
    encoder = type(pipe.stages[0].text_encoder)
    monkeypatch.setattr(
        encoder,
        "forward",
        lambda self, ids, mask, original=encoder.forward: (
            read.append(len(ids)),
            original(self, ids, mask),
        )[1],
    )
    draw(pipe, PROMPTS, num_images_per_prompt=2)
    assert sum(read) == 3  # two prompts and one empty negative
    apart = CascadePipeline([pyengine.from_pretrained(f, device="cpu") for f in folders[:2]])
    assert apart.stages[0].text_encoder is not apart.stages[1].text_encoder
    read.clear()
    assert torch.equal(draw(apart, PROMPTS), draw(pipe, PROMPTS))
    assert sum(read) == 6


def test_encoders_that_differ_read_their_own(folders, tmp_path):
    other = if_folders.write(tmp_path / "other", text={"seed": 8})
    pipe = pyengine.cascade([other, folders[1]], device="cpu")
    assert not pipe.stages[0].reads_as(pipe.stages[1])
    low = pipe.stages[0](
        "a cat", generator=(g := torch.Generator().manual_seed(3)), output_type="pt", **STAGES[0]
    ).images
    high = pipe.stages[1]("a cat", image=low, generator=g, output_type="pt", **STAGES[1]).images
    assert torch.equal(draw(pipe, "a cat"), high)


def test_one_report(pipe):
    result = pipe(PROMPTS, stages=STAGES, seed=3)
    report = result.report
    assert (report.steps, report.evaluations, report.height, report.width) == (5, 5, 32, 32)
    assert (report.sampler, report.pipeline) == ("ddpm + ddpm", "CascadePipeline")
    assert [(r.steps, r.height) for r in report.stages] == [(3, 16), (2, 32)]
    assert result.seeds == [3, 4]
    with pytest.warns(UserWarning, match="the prompt was cut to 77 tokens"):
        pipe("the cat " * 60, stages=STAGES, seed=3)


def test_steps_show_each_stage(pipe):
    steps = pipe.steps(PROMPTS, stages=STAGES, seed=3, output_type="pt")
    sizes = [(step.latents.shape[-1], step.preview()[1].size) for step in steps]
    assert sizes == [(16, (16, 16))] * 3 + [(32, (32, 32))] * 2
    assert torch.equal(steps.output.images, draw(pipe, PROMPTS))


def test_ended_early_it_gives_the_stage_that_it_was_at(pipe):
    run = Run()

    def end(pipe, step, timestep, tensors):
        if step == 1:
            run.interrupt()

    result = pipe("a", stages=STAGES, seed=3, run=run, callback_on_step_end=end)
    assert result.report.interrupted
    assert result.images[0].size == (16, 16)
    one, two = pipe.prepare(pipe.request(PROMPTS, stages=STAGES, seed=3, output_type="pt"))
    one.cancel()
    while two.active:
        pipe.step([one, two])
    assert pipe.finish(one).shape == (3, 16, 16)
    assert torch.equal(pipe.finish(two), draw(pipe, PROMPTS)[1])


# --- errors, command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "prompt: expected a text or a list of texts"),
        ({"prompt": "a", "stages": 3}, "stages: expected a list of at most 2 dicts"),
        ({"prompt": "a", "stages": [{}] * 3}, "stages: expected a list of at most 2 dicts"),
        ({"prompt": "a", "stages": "[{]"}, "stages: not JSON"),
        ({"prompt": "a", "stages": '[], "x": []'}, "stages: expected a list of at most 2"),
        ({"prompt": "a", "stages": [{"seed": 3}]}, "stages: 1: seed: expected in the call"),
        ({"prompt": "a", "stages": [{}, {"nose": 1}]}, "stages: 2: nose: .* unexpected keyword"),
        ({"prompt": "a", "stages": [{"noise_level": 1}]}, "stages: 1: noise_level: this model has"),
        ({"prompt": "a", "stages": [{"clip_model": "x"}]}, "stages: 1: clip_model: expected none"),
        ({"prompt": "a", "stages": [{}, {"noise_level": -1}]}, "stage 2: noise_level: expected"),
        ({"prompt": "a", "guidance_scale": -1}, "stage 1: guidance_scale: expected a number"),
        ({"prompt": "a", "strength": 0.5}, "strength: expected only together with image"),
        ({"prompt": "a", "top_k": 3}, "top_k: this model has no such argument"),
        ({"prompt": "a", "class_labels": 3}, "class_labels: expected none beside prompt"),
        ({"prompt": "a", "output_type": "latent"}, "output_type: expected one of pil, np, pt"),
        ({"prompt": PROMPTS, "generator": torch.Generator()}, "generator: expected one for each"),
        ({"prompt": PROMPTS, "image": photos(3, 8)}, "image: expected 1, 2 or 2 pictures"),
    ],
)
def test_wrong_arguments(pipe, call, message):
    with pytest.raises(RequestError, match=message):
        pipe(**call)


def test_stages_that_cannot_follow(folders, pipe):
    first, second = pipe.stages
    for stages, message in (
        ([], "stages: expected 1 to 8 pipelines"),
        ("emoji", "stages: expected a list of pipelines"),
        ([second, first, 3], "model: expected a folder"),
        ([first, first], "stages: expected each pipeline once"),
        ([first, pipe], "stages: 2: expected a pipeline, a folder"),
        ([first, "emoji-ar"], "stages: 2: a PictureGPTPipeline takes no picture"),
    ):
        with pytest.raises(RequestError, match=message):
            pyengine.cascade(stages, device="cpu")
    with pytest.raises(RequestError, match="save each of the cascade's stages"):
        pipe.save_pretrained("x")


def test_command_line(folders, pipe, tmp_path, capsys):
    place, again = tmp_path / "cat.png", tmp_path / "again.png"
    models = [word for folder in folders for word in ("-m", str(folder))]
    made = ["generate", "the cat", *models, "-o", str(place), "--seed", "5", "--steps", "2"]
    assert main([*made, "--stages", '[{"guidance_scale": 3}]', "--noise-level", "90"]) == 0
    settings = metadata.read(place)
    assert json.loads(settings.stages) == [
        {"guidance_scale": 3, "num_inference_steps": 2},
        {"num_inference_steps": 2, "noise_level": 90},
        {},
    ]
    assert (settings.width, settings.steps) == (64, 5)
    assert settings.model == "first + second + upscaler.safetensors"
    assert main(["generate", "--from", str(place), *models, "-o", str(again)]) == 0
    assert again.read_bytes() == place.read_bytes()
    assert main(["generate", "--from", str(place), "-o", str(again)]) != 0
    assert "expected --model" in capsys.readouterr().err
