"""DeepFloyd IF's first stage against diffusers' IFPipeline over the same checkpoints."""

import json

import diffusers
import if_folders
import pytest
import torch
from pairs import LEAST_PSNR, generators, psnr

import pyengine
from pyengine import metadata
from pyengine.cli import main
from pyengine.errors import ConfigError, RequestError
from pyengine.pipelines.registry import pipeline_named

PROMPTS = ["a photo of the red cat", "the dog"]
FIXED = {**if_folders.SCHEDULER, "variance_type": "fixed_small"}
FOLDERS = {
    "if": {},
    "fixed": {"scheduler": lambda: diffusers.DDPMScheduler(**FIXED)},
    "plain": {
        "unet": {
            "addition_embed_type": None,
            "encoder_hid_dim": None,
            "encoder_hid_dim_type": None,
            "cross_attention_dim": 32,
        },
        "text": {"d_model": 32, "feed_forward_proj": "relu"},
        "scheduler": lambda: diffusers.DDPMScheduler(
            variance_type="learned_range", clip_sample=True
        ),
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """folder(name): of a tiny checkpoint."""
    made = {}

    def find(name="if"):
        if name not in made:
            keys = dict(FOLDERS[name])
            if "scheduler" in keys:
                keys["scheduler"] = keys["scheduler"]()
            made[name] = if_folders.write(tmp_path_factory.mktemp(name) / name, **keys)
        return made[name]

    return find


@pytest.fixture(scope="module")
def own(folder):
    """own(name): pyengine's pipeline of it."""
    made = {}

    def find(name="if"):
        if name not in made:
            made[name] = pyengine.from_pretrained(folder(name), device="cpu")
        return made[name]

    return find


def theirs(folder):
    pipe = diffusers.IFPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("name", FOLDERS)
def test_pictures_are_diffusers(folder, own, name, steps):
    call = {"num_inference_steps": steps, "output_type": "np"}
    want = theirs(folder(name))(PROMPTS, generator=generators([7, 8]), **call).images
    got = own(name)(PROMPTS, generator=generators([7, 8]), **call).images
    assert want.std() > 0.1
    assert psnr(want, got) >= LEAST_PSNR


@pytest.mark.parametrize(
    "call",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 3.5, "negative_prompt": ["in", "and of ing"]},
        {"num_images_per_prompt": 2, "negative_prompt": ["a", "a"]},
        {"height": 24, "width": 20},
        {"timesteps": [900, 640, 300, 20], "num_inference_steps": None},
    ],
)
def test_arguments_are_diffusers(folder, own, call):
    call = {"num_inference_steps": 8, "output_type": "np", **call}
    count = 2 * call.get("num_images_per_prompt", 1)
    their_call = {k: v for k, v in call.items() if v is not None}
    want = theirs(folder())(PROMPTS, generator=generators(list(range(count))), **their_call).images
    got = own()(PROMPTS, generator=generators(list(range(count))), **call).images
    assert psnr(want, got) >= LEAST_PSNR


def test_embeddings_of_prompts(folder, own):
    pipe = theirs(folder())
    want = pipe.encode_prompt(PROMPTS, True, negative_prompt=["A Dog ", ""])
    got = own().encode_prompt(PROMPTS, True, negative_prompt=["A Dog ", ""])
    for mine, other in zip(got, want, strict=True):
        assert mine.shape == other.shape == (2, 77, 24)
        assert float((mine - other).norm() / other.norm()) < 1e-5
    alone, none = own().encode_prompt(PROMPTS[0], False)
    assert none is None
    assert torch.equal(alone, got[0][:1])
    call = {"seed": 3, "num_inference_steps": 3, "output_type": "pt"}
    by_text = own()(PROMPTS, negative_prompt=["A Dog ", ""], **call).images
    by_tensor = own()(prompt_embeds=got[0], negative_prompt_embeds=got[1], **call).images
    assert torch.equal(by_text, by_tensor)


def test_a_long_prompt_is_cut_and_said(own):
    with pytest.warns(UserWarning, match="the prompt was cut to 77 tokens; this was left out: "):
        result = own()("the cat " * 60, seed=1, num_inference_steps=1, output_type="pt")
    same = own()("the cat " * 38, seed=1, num_inference_steps=1, output_type="pt")
    assert torch.equal(result.images, same.images)


def test_one_generator_for_all_draws_as_diffusers(folder, own):
    call = {"num_inference_steps": 6, "output_type": "np"}
    want = theirs(folder())(PROMPTS, generator=torch.Generator().manual_seed(5), **call).images
    got = own()(PROMPTS, generator=torch.Generator().manual_seed(5), **call).images
    assert psnr(want, got) >= LEAST_PSNR


def test_published_tokenizers(folder, own, tmp_path):
    """spiece.model, as DeepFloyd's folders have it."""
    pipe = pyengine.from_pretrained(if_folders.write(tmp_path / "if", pieces=True), device="cpu")
    call = {"seed": 4, "num_inference_steps": 2, "output_type": "pt"}
    assert torch.equal(pipe(PROMPTS, **call).images, own()(PROMPTS, **call).images)


def test_saved_again_it_is_the_same_to_both(own, folder, tmp_path):
    own().save_pretrained(tmp_path / "saved")
    again = pyengine.from_pretrained(tmp_path / "saved", device="cpu")
    call = {"seed": 4, "num_inference_steps": 3, "output_type": "np"}
    want = own()(PROMPTS, **call).images
    assert (again(PROMPTS, **call).images == want).all()
    del call["seed"]
    assert (
        psnr(theirs(tmp_path / "saved")(PROMPTS, generator=generators([4, 5]), **call).images, want)
        >= LEAST_PSNR
    )
    assert type(pipeline_named("IFPipeline").from_pretrained(folder(), device="cpu")) is type(own())


# --- bits -----------------------------------------------------------------------------------------


def draw(pipe, prompts, **call):
    return pipe(prompts, **{"num_inference_steps": 4, "output_type": "pt", **call}).images


def test_the_same_bits_alone_and_in_a_batch(own):
    scales = [7.0, 1.0, 3.0]
    together = draw(own(), [*PROMPTS, "a"], seed=[5, 6, 7], guidance_scale=scales)
    for i, prompt in enumerate([*PROMPTS, "a"]):
        alone = draw(own(), prompt, seed=5 + i, guidance_scale=scales[i])
        assert torch.equal(alone[0], together[i])


def test_the_same_bits_on_any_number_of_threads(own, use_threads):
    results = []
    for threads in (1, 3):
        use_threads(threads)
        results.append(draw(own(), PROMPTS, seed=5))
    assert torch.equal(*results)


def test_jobs_of_several_calls_in_one_step(own):
    """Other prompts, samplers, scales and positions, each with the bits that it has alone."""
    pipe = own()
    calls = [
        {"prompt": PROMPTS[0], "seed": 1, "num_inference_steps": 4},
        {"prompt": PROMPTS[1], "seed": 2, "num_inference_steps": 3, "guidance_scale": 1.0},
        {"prompt": "a", "seed": 3, "num_inference_steps": 5, "scheduler": "ddim"},
        {"prompt": "the", "seed": 4, "num_inference_steps": 2, "negative_prompt": "red"},
    ]
    alone = [pipe(output_type="pt", **call).images[0] for call in calls]
    jobs = []
    for call in calls:
        jobs += pipe.prepare(pipe.request(output_type="pt", **call))
        pipe.step([job for job in jobs if job.active])
    while any(job.active for job in jobs):
        pipe.step([job for job in jobs if job.active])
    for job, want in zip(jobs, alone, strict=True):
        assert torch.equal(pipe.finish(job), want)


def test_every_sampler_runs(own):
    for sampler in ("ddim", "euler", "dpmpp_2m", "unipc", "heun"):
        picture = draw(own("fixed"), PROMPTS[0], seed=1, scheduler=sampler)
        assert picture.isfinite().all()


# --- errors, command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "prompt: expected a text, a list of texts or prompt_embeds"),
        ({"prompt": "a", "guidance_scale": -1}, "guidance_scale: expected a number from 0"),
        ({"prompt": "a", "guidance_scale": [1, 2]}, "guidance_scale"),
        ({"prompt": "a", "negative_prompt": ["a", "b"]}, "negative_prompt: expected"),
        ({"prompt": "a", "prompt_embeds": torch.zeros(1, 77, 24)}, "expected these or prompt"),
        ({"prompt_embeds": torch.zeros(1, 77, 23)}, r"prompt_embeds: expected .*24\]"),
        ({"prompt": "a", "height": 1}, "height: expected at least 2, given 1"),
        ({"prompt": "a", "num_inference_steps": 0}, "num_inference_steps: expected a whole number"),
        ({"prompt": "a", "latents": torch.zeros(1, 3, 4, 4)}, r"latents: expected shape"),
        ({"prompt": "a", "image": 3}, "image: expected a PIL picture"),
        ({"prompt": "a", "class_labels": 1}, "class_labels: this model"),
        ({"prompt": "\ud800"}, "lone surrogate"),
    ],
)
def test_wrong_arguments(own, call, message):
    with pytest.raises(RequestError, match=message):
        own()(**call)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", {"in_channels": 4}, "in_channels 4, out_channels 6: expected 3, and 3, or 6"),
        ("unet", {"class_embed_type": "timestep"}, "class_embed_type 'timestep' does not fit"),
        ("unet", {"addition_embed_type": "image"}, "addition_embed_type 'image' does not fit"),
        ("unet", {"encoder_hid_dim": 28}, "expects texts of 28 channels .* but the text encoder"),
        ("unet", {"encoder_hid_dim_type": "image_proj"}, "encoder_hid_dim_type 'image_proj' does"),
        ("text_encoder", {"vocab_size": 100}, "vocab_size 100, but its tokenizer has ids up to"),
        ("text_encoder", {"model_type": "umt5"}, "model_type is 'umt5'|model_type 'umt5'"),
        ("text_encoder", {"num_layers": 10**9}, "num_layers is 1000000000"),
        ("scheduler", {"variance_type": "rumoured"}, "variance_type must be .*, found 'rumoured'"),
    ],
)
def test_folders_that_are_refused(tmp_path, part, change, message):
    made = if_folders.write(tmp_path / "if")
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    config = json.loads((made / part / name).read_text())
    (made / part / name).write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigError, match=message):
        pyengine.from_pretrained(made, device="cpu")


def test_a_learned_variance_needs_six_channels(tmp_path):
    made = if_folders.write(tmp_path / "if", unet={"out_channels": 3})
    with pytest.raises(ConfigError, match="variance_type 'learned_range' is for models that pred"):
        pyengine.from_pretrained(made, device="cpu")("a", num_inference_steps=2)


def test_command_line(folder, tmp_path, capsys):
    place = tmp_path / "cat.png"
    made = ["generate", "The Red CAT", "-m", str(folder()), "-o", str(place), "--steps", "3"]
    assert main([*made, "--seed", "5", "--guidance", "4", "--negative", "dog"]) == 0
    settings = metadata.read(place)
    assert (settings.prompt, settings.negative_prompt) == ("The Red CAT", "dog")
    assert (settings.steps, settings.guidance_scale, settings.sampler) == (3, 4.0, "ddpm")
    again = tmp_path / "again.png"
    assert main(["generate", "--from", str(place), "-m", str(folder()), "-o", str(again)]) == 0
    assert again.read_bytes() == place.read_bytes()
    capsys.readouterr()
    assert main(["info", str(folder())]) == 0
    shown = capsys.readouterr().out
    assert "IFPipeline" in shown
    assert "feed_forward_proj gated-gelu" in shown
    assert main(["info", str(folder()), "--plan"]) == 0
    assert "text_encoder" in capsys.readouterr().out
