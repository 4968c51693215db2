"""DiT against diffusers' pipeline over the same checkpoints."""

import json

import diffusers
import pytest
import tiny
import torch
from pairs import LEAST_PSNR, generators, psnr

import pyengine
from pyengine.errors import ConfigError, RequestError
from pyengine.schedules.samplers import SAMPLERS

NAMES = {"0": "tench, Tinca tinca", "3": "white shark", "7": "umbrella"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_dit(tmp_path_factory.mktemp("dit") / "dit", names=NAMES)


@pytest.fixture(scope="module")
def pipe(folder):
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder):
    made = diffusers.DiTPipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_pictures_are_diffusers(pipe, theirs, steps, scale):
    call = {"guidance_scale": scale, "num_inference_steps": steps, "output_type": "np"}
    expected = theirs([3, 7], generator=generators([7, 8]), **call).images
    got = pipe([3, 7], generator=generators([7, 8]), **call)
    assert expected.std() > 0.1
    assert psnr(expected, got.images) >= LEAST_PSNR
    assert got.report.guidance_scale == scale


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "unipc"])
def test_other_samplers(pipe, theirs, sampler):
    """Not those that scale the model's input: diffusers' pipeline hands the scaled to the step."""
    cls, before = getattr(diffusers, SAMPLERS[sampler].class_name), theirs.scheduler
    call = {"num_inference_steps": 10, "output_type": "np"}
    theirs.scheduler = cls.from_config(before.config)
    try:
        expected = theirs([2], generator=generators(5), **call).images
    finally:
        theirs.scheduler = before
    got = pipe([2], generator=generators(5), scheduler=sampler, **call).images
    assert psnr(expected, got) >= LEAST_PSNR


def test_defaults_and_order_of_arguments(pipe):
    assert (pipe.defaults.num_inference_steps, pipe.defaults.guidance_scale) == (50, 4.0)
    got = pipe([3], 2.0, generators([1]), 4, "np", False)[0]
    want = pipe(
        class_labels=3,
        guidance_scale=2.0,
        generator=generators([1]),
        num_inference_steps=4,
        output_type="np",
    ).images
    assert (got == want).all()


@torch.no_grad()
def learned(theirs, scheduler, labels, scale, steps):
    """Guidance of the first channels, the variance of the conditional rows, in a plain loop."""
    made, n = generators([7, 8]), len(labels)
    x = torch.cat([torch.randn(1, 4, 8, 8, generator=g) for g in made])
    rows = torch.cat([torch.tensor(labels), torch.full((n,), 1000)])
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        out = theirs.transformer(torch.cat([x, x]), t.expand(2 * n), rows).sample
        (text, none), variance = out[:, :4].chunk(2), out[:n, 4:]
        guided = torch.cat([none + scale * (text - none), variance], dim=1)
        x = scheduler.step(guided, t, x, generator=made).prev_sample
    return x


def test_guided_with_a_learned_variance(folder, theirs):
    keys = {"variance_type": "learned_range", "clip_sample": False, "prediction_type": "sample"}
    pipe = pyengine.from_pretrained(folder, device="cpu")
    pipe.scheduler = diffusers.DDPMScheduler(**keys)
    want = learned(theirs, diffusers.DDPMScheduler(**keys), [3, 9], 2.5, 12)
    call = {"num_inference_steps": 12, "output_type": "latent"}
    got = pipe([3, 9], 2.5, generator=generators([7, 8]), **call).images
    assert float((got - want).norm() / want.norm()) < 1e-4
    # A guided and an unguided picture in one evaluation, where both have their own variance.
    alone = [pipe([3], s, seed=4, **call).images[0] for s in (2.5, 1.0)]
    both = pipe([3, 3], [2.5, 1.0], seed=[4, 4], **call).images
    assert torch.equal(both, torch.stack(alone))


def test_same_bits_alone_in_a_batch_and_on_any_threads(pipe, use_threads):
    use_threads(1)
    call = {"num_inference_steps": 4, "output_type": "pt", "scheduler": "dpmpp_2m"}
    labels, seeds, scales = [3, 9, 3, 500, 1], [3, 14, 15, 92, 65], [4.0, 1.0, 2.0, 7.5, 1.0]
    with pyengine.ops.kernels_used() as used:
        alone = [
            pipe([k], g, seed=s, **call).images[0]
            for k, s, g in zip(labels, seeds, scales, strict=True)
        ]
    assert {*used.summary().values()} == {f"cpu-{pyengine.ops.isa()}"}
    assert (alone[0] - alone[2]).abs().max() > 0.02
    for threads, size in ((1, 2), (3, 3), (2, 5)):
        use_threads(threads)
        drawn = pipe(labels[:size], scales[:size], seed=seeds[:size], **call).images
        assert all(torch.equal(a, b) for a, b in zip(drawn, alone, strict=False))


def test_jobs_of_several_calls_in_one_step(pipe):
    calls = [
        {
            "class_labels": 5 * k,
            "seed": k,
            "num_inference_steps": 3 + k % 3,
            "output_type": "pt",
            "guidance_scale": (1.0, 4.0)[k % 2],
            "scheduler": ("ddim", "heun", "unipc")[k % 3],
        }
        for k in range(8)
    ]
    wanted = [pipe(**call).images[0] for call in calls]
    jobs = [pipe.prepare(pipe.request(**call))[0] for call in calls]
    while any(job.active for job in jobs):
        pipe.step([job for job in jobs if job.active])
    for job, want in zip(jobs, wanted, strict=True):
        assert torch.equal(pipe.finish(job), want)


def test_names_of_classes(pipe, theirs):
    assert pipe.labels == theirs.labels
    assert pipe.get_label_ids(["white shark", "Tinca tinca"]) == [3, 0]
    assert pipe.get_label_ids("umbrella") == [7]
    with pytest.raises(RequestError, match=r"label: expected names of 4 classes, .*given 'cat'"):
        pipe.get_label_ids(["cat"])


def test_saved_and_read_again(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    again = pyengine.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.labels == pipe.labels
    call = {"class_labels": 3, "seed": 1, "num_inference_steps": 2, "output_type": "pt"}
    assert torch.equal(again(**call).images, pipe(**call).images)


def test_other_sizes(pipe):
    picture = pipe(3, seed=1, num_inference_steps=2, height=48, width=80).images[0]
    assert picture.size == (80, 48)
    with pytest.raises(RequestError, match="height: expected a multiple of 16, given 24"):
        pipe(3, height=24)


WRONG = [
    ({}, "class_labels: this model draws classes: expected whole numbers from 0 to 999"),
    ({"class_labels": 1000}, "class_labels: expected a whole number from 0 to 999, given 1000"),
    ({"class_labels": 1, "guidance_scale": -1}, "guidance_scale: expected a number from 0"),
    ({"class_labels": 1, "guidance_scale": [1, 2]}, "guidance_scale: expected a number, or one"),
    ({"class_labels": 1, "guidance_rescale": 0.5}, "guidance_rescale: this model has no such"),
    ({"class_labels": 1, "eta": "much"}, "eta: expected a number from 0 to 1"),
]


@pytest.mark.parametrize(("call", "text"), WRONG)
def test_wrong_arguments(pipe, call, text):
    with pytest.raises(RequestError, match=text):
        pipe(**call)


BROKEN = {
    "names": ({"0": 3}, "id2label: expected names by class"),
    "number": ({"-1": "x"}, "id2label: expected names by class, 0 to 999"),
    "list": (["x"], "id2label: expected names of at most 1000 classes"),
    "many": ({str(k): "x" for k in range(1001)}, "id2label: expected names of at most 1000"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_names_that_are_refused(folder, tmp_path, name):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    index = json.loads((copy / "model_index.json").read_text())
    index["id2label"], message = BROKEN[name]
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=message):
        pyengine.from_pretrained(copy, device="cpu")


def test_parts_that_do_not_fit(tmp_path):
    made = tiny.write_dit(tmp_path / "five", transformer={"in_channels": 5, "out_channels": 10})
    with pytest.raises(ConfigError, match="transformer: in_channels 5, out_channels 10 do not fit"):
        pyengine.from_pretrained(made, device="cpu")
