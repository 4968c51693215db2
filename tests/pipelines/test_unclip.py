"""unCLIP against diffusers' pipelines over the same weights, and its stages as jobs."""

import json

import numpy as np
import pytest
import torch
import unclip_folders
from pairs import generators, psnr
from PIL import Image
from safetensors.torch import load_file, save_file
from test_cuda_calls import Recorder

import pyengine
from pyengine import metadata
from pyengine.cli import main
from pyengine.diffusion.evaluator import Evaluator
from pyengine.diffusion.staged import Stage
from pyengine.errors import CheckpointError, ConfigError, NotFiniteError, RequestError

PROMPTS = ["a photo of the red cat", "the dog"]
LEAST_PSNR = 40
#: Of the three stages.
FEW = {
    "prior_num_inference_steps": 3,
    "decoder_num_inference_steps": 4,
    "super_res_num_inference_steps": 3,
}
VARIED = {name: steps for name, steps in FEW.items() if not name.startswith("prior")}
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 45, 60, 3), dtype=np.uint8)
PICTURES = [Image.fromarray(p) for p in PIXELS]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    return unclip_folders.pipeline(tmp_path_factory.mktemp("unclip"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, theirs):
    place = tmp_path_factory.mktemp("unclip") / "u"
    theirs.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def own(folder):
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def their_variation(tmp_path_factory):
    return unclip_folders.variation_pipeline(tmp_path_factory.mktemp("variation"))


@pytest.fixture(scope="module")
def variation(tmp_path_factory, their_variation):
    place = tmp_path_factory.mktemp("variation") / "v"
    their_variation.save_pretrained(place)
    return pyengine.from_pretrained(place, device="cpu")


def check(own, theirs, *args, seed, **call):
    call = {"output_type": "np", **call}
    got = own(*args, generator=generators(seed), **call).images
    want = theirs(*args, generator=generators(seed), **call).images
    assert want.std() > 0.05
    assert psnr(got, want) >= LEAST_PSNR


# --- diffusers' pictures --------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, 20, pytest.param(50, marks=pytest.mark.slow)])
def test_pictures_are_diffusers(own, theirs, steps):
    call = {"prior_num_inference_steps": steps, "decoder_num_inference_steps": steps}
    check(own, theirs, PROMPTS, seed=[7, 8], **call)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        {"num_images_per_prompt": 2},
        {"prior_guidance_scale": 1.0, "decoder_guidance_scale": 1.0},
        {"prior_guidance_scale": 0.5, "decoder_guidance_scale": 3.0},
        {"prior_guidance_scale": 2.0, "decoder_guidance_scale": 0.7},
        {"super_res_num_inference_steps": 2},
    ],
)
def test_arguments_are_diffusers(own, theirs, call, shared):
    count = 2 * call.get("num_images_per_prompt", 1)
    check(own, theirs, PROMPTS, seed=5 if shared else list(range(count)), **{**FEW, **call})


def test_given_noise(own, theirs):
    side, small, width = unclip_folders.SIDE, unclip_folders.SMALL, unclip_folders.WIDTH
    latents = {
        "prior_latents": torch.randn(2, width, generator=generators(1)),
        "decoder_latents": torch.randn(2, 3, small, small, generator=generators(2)),
        "super_res_latents": torch.randn(2, 3, side, side, generator=generators(3)),
    }
    check(own, theirs, PROMPTS, seed=[1, 2], **FEW, **latents)


@pytest.mark.parametrize("scale", [4.0, 1.0])
def test_given_texts(own, theirs, scale):
    """Mixtures of texts, as CLIP gives them, with their mask."""
    output = own.text_encoder(torch.tensor(own.tokenizer(PROMPTS, 77)[0]))
    given = (output.text_embeds.flip(0), output.last_hidden_state)
    mask = torch.ones(2, 77, dtype=torch.bool)
    mask[1, 5:] = False
    call = {
        **FEW,
        "text_attention_mask": mask,
        "num_images_per_prompt": 2,
        "prior_guidance_scale": scale,
        "decoder_guidance_scale": scale,
    }
    check(own, theirs, text_model_output=given, seed=[4, 5, 6, 7], **call)
    call["output_type"] = "pt"
    a, b = (own(text_model_output=g, seed=1, **call).images for g in (given, output))
    assert not torch.equal(a, b)


def test_a_long_prompt_is_cut_and_said(own, theirs):
    with pytest.warns(UserWarning, match="the prompt was cut to 77 tokens; this was left out: "):
        check(own, theirs, "the cat " * 60, seed=[1], **FEW)


def test_karlos_name_of_the_projections_module(tmp_path, own):
    again = pyengine.from_pretrained(unclip_folders.write(tmp_path / "k", karlo=True), device="cpu")
    call = {**FEW, "seed": 3, "output_type": "pt"}
    assert torch.equal(again(PROMPTS, **call).images, own(PROMPTS, **call).images)


def test_saved_again_it_is_the_same(own, variation, tmp_path):
    for pipe, args, call in ((own, [PROMPTS], FEW), (variation, [PICTURES], VARIED)):
        place = tmp_path / type(pipe).__name__
        pipe.save_pretrained(place)
        again = pyengine.from_pretrained(place, device="cpu")
        call = {**call, "seed": 3, "output_type": "pt"}
        assert torch.equal(again(*args, **call).images, pipe(*args, **call).images)


@pytest.mark.parametrize("scale", [8.0, 1.0])
@pytest.mark.parametrize("shared", [False, True])
def test_variations_are_diffusers(variation, their_variation, scale, shared):
    call = {**VARIED, "decoder_guidance_scale": scale, "num_images_per_prompt": 2}
    seed = 5 if shared else [1, 2, 3, 4]
    check(variation, their_variation, PICTURES, seed=seed, **call)
    check(variation, their_variation, PICTURES[0], seed=9, **VARIED)


def test_variations_of_tensors_and_embeddings(variation, their_variation):
    pixels = torch.randn(2, 3, 32, 32, generator=generators(1))
    check(variation, their_variation, pixels, seed=[1, 2], **VARIED)
    embeds = torch.randn(2, unclip_folders.WIDTH, generator=generators(2))
    check(variation, their_variation, image_embeddings=embeds, seed=[1, 2], **VARIED)
    call = {**VARIED, "seed": 2, "output_type": "pt"}
    by_embedding = variation(image_embeddings=variation.embed(PICTURES), **call).images
    assert torch.equal(variation(PICTURES, **call).images, by_embedding)


def test_between_two_pictures(variation):
    ends = variation.embed(PICTURES)
    between = variation.interpolate(PICTURES, steps=5)
    assert torch.equal(between, variation.interpolate(ends, steps=5))
    assert torch.allclose(between[[0, -1]], ends, rtol=1e-5, atol=1e-6)
    # On a great circle: equal angles between neighbours, where both ends are as long.
    unit = torch.nn.functional.normalize(ends.double(), dim=1)
    points = variation.interpolate(unit.float(), steps=4).double()
    angles = (points[1:] * points[:-1]).sum(1).clamp(-1, 1).arccos()
    whole = (unit[0] @ unit[1]).arccos()
    assert torch.allclose(angles, (whole / 3).expand(3), atol=1e-3)
    drawn = variation(image_embeddings=between, seed=[1] * 5, output_type="pt", **VARIED).images
    assert drawn.shape == (5, 3, unclip_folders.SIDE, unclip_folders.SIDE)
    same = variation.interpolate(ends[[0, 0]], steps=3)
    assert torch.allclose(same, ends[[0, 0, 0]])


# --- bits -----------------------------------------------------------------------------------------


def test_the_same_bits_alone_and_in_a_batch(own, variation):
    prompts, seeds = [*PROMPTS, "a"], [5, 6, 7]
    scales = {"prior_guidance_scale": [4.0, 1.0, 3.0], "decoder_guidance_scale": [2.0, 1.0, 0.5]}
    call = {**FEW, "output_type": "pt"}
    together = own(prompts, seed=seeds, **call, **scales)
    assert together.seeds == seeds
    for i, prompt in enumerate(prompts):
        alone = {name: values[i] for name, values in scales.items()}
        found = own(prompt, seed=seeds[i], **call, **alone).images[0]
        assert torch.equal(found, together.images[i]), i
    call = {**VARIED, "output_type": "pt"}
    together = variation(PICTURES, seed=[1, 2], **call).images
    for i, picture in enumerate(PICTURES):
        assert torch.equal(variation(picture, seed=i + 1, **call).images[0], together[i])


def test_the_same_bits_on_any_number_of_threads(own, use_threads):
    results = []
    for threads in (1, 3):
        use_threads(threads)
        results.append(own(PROMPTS, seed=5, output_type="pt", **FEW).images)
    assert torch.equal(*results)


@pytest.mark.parametrize("shared", [False, True])
def test_jobs_of_several_calls_in_one_step(own, shared):
    """Other prompts, runs and scales, each at its own stage, with the bits that it has alone."""
    calls = [
        {"prompt": PROMPTS, "seed": 1, **FEW},
        {"prompt": PROMPTS[1], "seed": 3, **FEW, "prior_num_inference_steps": 2},
        {"prompt": "a", "seed": 4, **FEW, "prior_guidance_scale": 1, "decoder_guidance_scale": 1},
    ]
    if shared:
        del calls[0]["seed"]

    def numbers():
        return {"generator": generators(6)} if shared else {}

    alone = [
        own(**call, **(numbers() if i == 0 else {}), output_type="pt").images
        for i, call in enumerate(calls)
    ]
    jobs, stages = [], set()
    for i, call in enumerate(calls):
        given = own.request(**call, **(numbers() if i == 0 else {}), output_type="pt")
        jobs += own.prepare(given)
        own.step([job for job in jobs if job.active][::-1])
    own.step(jobs[:1])  # one picture of a call ahead of the other
    while any(job.active for job in jobs):
        own.step([job for job in jobs if job.active])
        stages.add(tuple(job.stage for job in jobs))
    assert any(len(set(found)) > 2 for found in stages)  # several stages in a step
    for job, want in zip(jobs, torch.cat(alone), strict=True):
        assert torch.equal(own.finish(job), want)


def test_what_is_left_of_a_job(own):
    (job,) = own.prepare(own.request("a", seed=1, **FEW))
    shapes, left = [], []
    while job.active:
        shapes.append(job.shape)
        left.append(job.left)
        own.step([job])
    assert left == list(range(10, 0, -1))
    assert (job.left, job.steps, job.evaluations) == (0, 10, 10)
    assert [name for _, (name, _) in shapes] == [
        *["prior"] * 3,
        *["decoder"] * 4,
        *["super_res_first"] * 2,
        "super_res_last",
    ]


def test_an_engine_runs_it(own):
    call = {**FEW, "output_type": "pt"}
    with pyengine.Engine(own) as engine:
        running = [
            engine.submit(prompt=p, seed=3 + i, previews=2, **call) for i, p in enumerate(PROMPTS)
        ]
        found = [job.result(timeout=60).images for job in running]
    assert torch.equal(torch.cat(found), own(PROMPTS, seed=3, **call).images)


@pytest.mark.parametrize("scale", [3.0, 1.0])
def test_recorded_networks_draw_the_same(own, monkeypatch, scale):
    """A decoder's text has a mask, and the super-resolution's input a picture beside the noise."""
    call = {
        **FEW,
        "seed": 5,
        "output_type": "pt",
        "prior_guidance_scale": scale,
        "decoder_guidance_scale": scale,
    }
    want = own(PROMPTS, **call).images
    recorders = [Recorder() for _ in own.stages]
    stages = [
        Stage(stage.main_part, Evaluator(stage.evaluate.unet, recorder))
        for stage, recorder in zip(own.stages, recorders, strict=True)
    ]
    monkeypatch.setattr(own, "stages", tuple(stages))
    assert torch.equal(own(PROMPTS, **call).images, want)
    assert [recorder.recorded for recorder in recorders] == [1, 1, 1, 1]
    assert [recorder.replayed for recorder in recorders] == [3, 4, 2, 1]


# --- callbacks, ends ------------------------------------------------------------------------------


def test_a_callback_sees_and_changes_every_stage(own):
    seen = []

    def look(pipe, i, t, tensors):
        seen.append((i, tuple(tensors["latents"].shape)))
        return {"latents": torch.zeros_like(tensors["latents"])} if i == 9 else tensors

    call = {**FEW, "output_type": "pt", "callback_on_step_end": look}
    result = own(PROMPTS, seed=1, **call)
    side, small = unclip_folders.SIDE, unclip_folders.SMALL
    shapes = [(2, 32)] * 3 + [(2, 3, small, small)] * 4 + [(2, 3, side, side)] * 3
    assert seen == list(enumerate(shapes))
    assert torch.equal(result.images, torch.full_like(result.images, 0.5))
    assert (result.report.steps, result.report.evaluations) == (10, 10)
    assert result.report.sampler == "unclip"


def test_a_changed_embedding_makes_another_picture(own):
    def forget(pipe, i, t, tensors):
        if i == 2:
            tensors["latents"].zero_()

    call = {**FEW, "seed": 1, "output_type": "pt"}
    changed = own(["a", "the dog"], callback_on_step_end=forget, **call).images
    plain = own(["a", "the dog"], **call).images
    assert not torch.equal(changed[0], plain[0])
    assert not torch.equal(changed[1], plain[1])


def test_a_run_that_is_left_shows_what_there_is(own):
    side, shown = unclip_folders.SIDE, []
    steps = own.steps(PROMPTS, seed=1, output_type="pt", **FEW)
    for step in steps:
        shown.append(step.preview("pt"))
        assert shown[-1].shape == (2, 3, side, side)
        if step.step == 6:
            break
    assert torch.equal(shown[2], torch.full((2, 3, side, side), 0.5))
    assert not torch.equal(shown[3], shown[2])
    assert torch.equal(steps.output.images, shown[6])  # the decoder's last, enlarged
    assert steps.output.report.interrupted


def test_a_cancelled_picture_leaves_the_others_alone(own):
    call = {**FEW, "seed": 1, "output_type": "pt"}
    one, two = own.prepare(own.request(PROMPTS, **call))
    own.step([one, two])
    one.cancel()
    while two.active:
        own.step([one, two])
    assert torch.equal(own.finish(one), torch.full_like(own.finish(one), 0.5))
    assert torch.equal(own.finish(two), own(PROMPTS, **call).images[1])


def test_a_fault_of_one_picture_ends_no_other(own):
    call = {**FEW, "seed": 1, "output_type": "pt"}
    one, two = own.prepare(own.request(PROMPTS, **call))
    one.inner[0].batch.set_latents(0, torch.full((1, unclip_folders.WIDTH), float("nan")))
    while one.active or two.active:
        own.step([one, two])
    with pytest.raises(NotFiniteError, match=r"prior.*picture 0 at step 0"):
        own.finish(one)
    assert torch.equal(own.finish(two), own(PROMPTS, **call).images[1])


# --- errors, command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "prompt: expected a text or a list of texts"),
        ({"prompt": "a", "prior_num_inference_steps": 1}, "prior_num_inference_steps: expected a"),
        ({"prompt": "a", "super_res_num_inference_steps": 1001}, "super_res_num_inference_steps"),
        ({"prompt": "a", "num_inference_steps": 5}, "num_inference_steps: this model has no such"),
        ({"prompt": "a", "guidance_scale": 5.0}, "guidance_scale: this model has no such"),
        ({"prompt": "a", "decoder_guidance_scale": [1, 2]}, "decoder_guidance_scale: expected"),
        ({"prompt": "a", "prior_guidance_scale": float("inf")}, "prior_guidance_scale: expected"),
        ({"prompt": "a", "prior_latents": torch.zeros(1, 31)}, r"prior_latents: expected shape"),
        ({"prompt": "a", "decoder_latents": torch.zeros(1, 3, 8, 9)}, "decoder_latents: expected"),
        ({"prompt": "a", "height": 64}, "height: this model has no such argument"),
        ({"prompt": "a", "generator": [torch.Generator()] * 2}, "generator: expected one"),
        ({"prompt": "a", "text_attention_mask": torch.ones(1, 77)}, "expected only with text_mod"),
        ({"text_model_output": (torch.zeros(1, 32),)}, "text_model_output: expected"),
        ({"text_model_output": (torch.zeros(1, 32), torch.zeros(1, 9, 32))}, "last_hidden_state"),
        ({"text_model_output": (torch.zeros(1, 32), torch.zeros(1, 77, 32))},
         r"text_attention_mask: expected a tensor \[1, 77\]"),
        ({"prompt": "a", "text_model_output": (1, 2)}, "text_model_output: expected it or prompt"),
    ],
)  # fmt: skip
def test_wrong_arguments(own, call, message):
    with pytest.raises(RequestError, match=message):
        own(**call)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "image: expected it or image_embeddings, given neither"),
        ({"image": PICTURES, "image_embeddings": torch.zeros(2, 32)}, "given both"),
        ({"image": torch.zeros(1, 3, 31, 32)}, r"image: expected shape \[1, 3, 32, 32\]"),
        ({"image": [torch.zeros(3, 32, 32)]}, "image: expected PIL pictures or arrays, or one"),
        ({"image": 3}, "image: expected a PIL picture"),
        ({"image_embeddings": torch.zeros(2, 31)}, r"image_embeddings: expected shape \[2, 32\]"),
        ({"image_embeddings": torch.full((1, 32), float("nan"))}, "image_embeddings: expected fin"),
    ],
)
def test_wrong_arguments_of_variations(variation, call, message):
    with pytest.raises(RequestError, match=message):
        variation(**call)
    with pytest.raises(RequestError, match="image: expected shape"):
        variation.interpolate(torch.zeros(3, 32))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("decoder/config.json", {"class_embed_type": None}, "class_embed_type is None, expected"),
        ("decoder/config.json", {"sample_size": None}, "decoder: sample_size is None, expected"),
        ("decoder/config.json", {"out_channels": 3}, "out_channels is 3, expected 6 with"),
        ("decoder/config.json", {"cross_attention_dim": 32}, "cross_attention_dim is 32, expected"),
        ("decoder/config.json", {"down_block_types": ["ResnetDownsampleBlock2D",
                                                      "CrossAttnDownBlock2D"]}, "without a mask"),
        ("text_proj/config.json", {"time_embed_dim": 64}, "time_embed_dim is 64, expected the"),
        ("text_proj/config.json", {"clip_embeddings_dim": 16}, "projection_dim is 32, expected 16"),
        ("text_proj/config.json", {"clip_extra_context_tokens": 10**9}, "clip_extra_context_tok"),
        ("super_res_last/config.json", {"sample_size": 32}, "super_res_last: sample_size is 32"),
        ("super_res_first/config.json", {"in_channels": 3}, "super_res_first: in_channels is 3"),
        ("super_res_first/config.json", {"out_channels": 6}, "super_res_first: out_channels is 6"),
        ("prior/config.json", {"num_embeddings": 60}, "num_embeddings is 60, expected 77"),
        ("prior_scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "'epsilon'"),
        ("decoder_scheduler/scheduler_config.json", {"variance_type": "fixed"}, "variance_type"),
        ("super_res_scheduler/scheduler_config.json", {"beta_schedule": "linear"}, "beta_schedule"),
    ],
)  # fmt: skip
def test_folders_that_are_refused(folder, tmp_path, file, change, message):
    place = tmp_path / "u"
    place.mkdir()
    for path in folder.rglob("*"):
        target = place / path.relative_to(folder)
        if path.is_dir():
            target.mkdir()
        else:
            target.hardlink_to(path)
    config = json.loads((folder / file).read_text())
    (place / file).unlink()
    (place / file).write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigError, match=message):
        pyengine.from_pretrained(place, device="cpu")


@pytest.mark.parametrize(
    "name", ["learned_classifier_free_guidance_embeddings", "clip_extra_context_tokens_proj.weight"]
)
def test_tensors_that_are_refused(tmp_path, name):
    made = unclip_folders.write(tmp_path / "u")
    file = made / "text_proj" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, name: tensors[name][:-1].contiguous()}, file)
    with pytest.raises(CheckpointError, match=f"misshapen.*'{name}'"):
        pyengine.from_pretrained(made, device="cpu")


def test_command_line(folder, capsys, tmp_path):
    assert main(["info", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "UnCLIPPipeline" in shown
    assert "prior_scheduler: unclip" in shown
    assert main(["info", str(folder), "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "super_res_last" in shown
    steps = ["--prior-steps", "3", "--decoder-steps", "4", "--super-res-steps", "3"]
    file = tmp_path / "a.png"
    more = ["--decoder-guidance", "3", "--seed", "5", "-o", str(file)]
    assert main(["generate", "a cat", "-m", str(folder), *steps, *more]) == 0
    capsys.readouterr()
    again = ["generate", "--from", str(file), "-m", str(folder), "-o", str(tmp_path / "b.png")]
    assert main(again) == 0
    pictures = [np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png")]
    assert np.array_equal(*pictures)
    settings = metadata.read(file)
    assert (settings.super_res_steps, settings.decoder_guidance_scale) == (3, 3.0)
