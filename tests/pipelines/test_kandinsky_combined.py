"""Kandinsky 2.2's prior and decoder as one pipeline, against diffusers' combined ones."""

import diffusers
import kandinsky_folders
import numpy as np
import pytest
import tiny
import torch
from pairs import generators, psnr, quiet
from PIL import Image
from transformers import CLIPConfig, CLIPModel

import pyengine
from pyengine.cli import main
from pyengine.errors import CheckpointError, ConfigError, NotFiniteError, RequestError

PROMPTS = ["a photo of the red cat", "the dog"]
LEAST_PSNR = 40
#: Relative L2 of latents: so many steps of networks that are held to 1e-4.
LIMIT = 1e-3
FEW = {"prior_num_inference_steps": 3, "num_inference_steps": 4, "height": 16, "width": 24}
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
HOLE = Image.fromarray(np.pad(np.full((8, 12), 255, np.uint8), ((4, 4), (6, 6))))
KINDS = ("", "Img2Img", "Inpaint")


def theirs_of(folder, kind=""):
    quiet()
    made = getattr(diffusers, f"KandinskyV22{kind}CombinedPipeline").from_pretrained(folder)
    for pipe in (made.prior_pipe, made.decoder_pipe):
        pipe.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{kind: (the decoder's folder, the prior's)}."""
    place = tmp_path_factory.mktemp("kandinsky")
    prior = kandinsky_folders.write_prior(place / "prior")
    kinds = {kind: kandinsky_folders.write(place / f"d{kind}", kind=kind) for kind in KINDS}
    return {kind: (decoder, prior) for kind, decoder in kinds.items()}


@pytest.fixture(scope="module")
def pipes(folders, tmp_path_factory):
    """use(kind): (ours, diffusers' over the folder of both that ours has saved)."""
    found = {}

    def use(kind=""):
        if kind not in found:
            decoder, prior = folders[kind]
            own = pyengine.from_pretrained(decoder, prior=prior, device="cpu")
            both = tmp_path_factory.mktemp("both") / "c"
            own.save_pretrained(both)
            found[kind] = own, theirs_of(both, kind), both
        return found[kind]

    return use


@pytest.fixture(scope="module")
def own(pipes):
    return pipes()[0]


def check(own, theirs, *args, seed, **call):
    got = own(*args, generator=generators(seed), output_type="np", **call).images
    want = theirs(*args, generator=generators(seed), output_type="np", **call).images
    assert psnr(got, want) >= LEAST_PSNR


# --- diffusers' pictures --------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, 20, pytest.param(50, marks=pytest.mark.slow)])
def test_pictures_are_diffusers(pipes, steps):
    own, theirs, _ = pipes()
    call = {**FEW, "prior_num_inference_steps": steps, "num_inference_steps": steps}
    check(own, theirs, PROMPTS, seed=[7, 8], **call)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        {"num_images_per_prompt": 2},
        {"prior_guidance_scale": 1.0, "guidance_scale": 1.0},
        {"prior_guidance_scale": 2.0, "guidance_scale": 1.0},
        {"width": 30},
    ],
)
def test_latents_are_diffusers(pipes, call, shared):
    own, theirs, _ = pipes()
    count = 2 * call.get("num_images_per_prompt", 1)
    seed = 5 if shared else list(range(count))
    call = {**FEW, **call, "output_type": "latent"}
    got = own(PROMPTS, generator=generators(seed), **call).images
    want = theirs(PROMPTS, generator=generators(seed), **call).images
    assert got.shape == want.shape
    assert float((got - want).norm() / want.norm()) < LIMIT


def test_negative_prompts_are_diffusers(pipes):
    own, theirs, _ = pipes()
    check(own, theirs, PROMPTS, ["in", "and of ing"], seed=5, **FEW)
    call = {**FEW, "output_type": "pt", "seed": 5}
    assert not torch.equal(own(PROMPTS, "in", **call).images, own(PROMPTS, **call).images)


@pytest.mark.parametrize("shared", [False, True])
def test_image_to_image_is_diffusers(pipes, shared):
    own, theirs, _ = pipes("Img2Img")
    seed = 5 if shared else [1, 2]
    # A square: diffusers exchanges height and width here.
    call = {**FEW, "width": 16, "strength": 0.6, "image": [PHOTO, PHOTO.transpose(0)]}
    check(own, theirs, PROMPTS, seed=seed, **call)


@pytest.mark.parametrize("shared", [False, True])
def test_inpainting_is_diffusers(pipes, shared):
    own, theirs, _ = pipes("Inpaint")
    seed = 5 if shared else [1, 2]
    check(own, theirs, PROMPTS, seed=seed, image=PHOTO, mask_image=HOLE, **FEW)


def test_pictures_go_with_their_prompts(pipes):
    own, _, _ = pipes("Img2Img")
    call = {**FEW, "strength": 0.6, "output_type": "pt"}
    images = [PHOTO, PHOTO.transpose(0)]
    together = own(PROMPTS, image=images, num_images_per_prompt=2, seed=1, **call).images
    alone = own(PROMPTS[1], image=images[1], num_images_per_prompt=2, seed=3, **call).images
    assert torch.equal(together[2:], alone)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_both(pipes, kind):
    own, theirs, both = pipes(kind)
    again = pyengine.from_pretrained(both, device="cpu")
    task = getattr(pyengine, type(theirs).__name__).from_pretrained(both, device="cpu")
    call = {**FEW, "seed": 3, "output_type": "pt"}
    call |= {"image": PHOTO} if kind else {}
    call |= {"mask_image": HOLE} if kind == "Inpaint" else {}
    want = own(PROMPTS, **call).images
    assert torch.equal(again(PROMPTS, **call).images, want)
    assert torch.equal(task(PROMPTS, **call).images, want)
    assert own._class_name == type(theirs).__name__


def test_as_the_two_by_themselves(own, folders):
    """The same seeds give the prior's embeddings and the decoder's pictures of them."""
    decoder, prior = (pyengine.from_pretrained(place, device="cpu") for place in folders[""])
    made = prior(PROMPTS, num_inference_steps=3, generator=(g := generators([4, 5])))
    want = decoder(
        **made, num_inference_steps=4, height=16, width=24, generator=g, output_type="pt"
    ).images
    assert torch.equal(own(PROMPTS, seed=[4, 5], output_type="pt", **FEW).images, want)


def test_a_clip_guides_the_decoder(own, folders, tmp_path):
    """As it guides the decoder by itself, and alone as in a batch."""
    towers = [tiny.make_text_encoder().config, tiny.make_image_encoder().config]
    text, vision = (tower.to_dict() for tower in towers)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    tiny.randomise(CLIPModel(config), 3).save_pretrained(tmp_path / "clip")
    call = {
        "clip_model": tmp_path / "clip",
        "clip_guidance_scale": 3.0,
        "clip_image": PHOTO,
        "scheduler": "ddim",
        "output_type": "latent",
    }
    got = own(PROMPTS, seed=[4, 5], **FEW, **call).images
    assert not torch.equal(
        got, own(PROMPTS, seed=[4, 5], **FEW, **call | {"clip_guidance_scale": 0.0}).images
    )
    assert torch.equal(own(PROMPTS[1], seed=5, **FEW, **call).images[0], got[1])
    decoder, prior = (pyengine.from_pretrained(place, device="cpu") for place in folders[""])
    made = prior(PROMPTS, num_inference_steps=3, generator=(g := generators([4, 5])))
    want = decoder(**made, num_inference_steps=4, height=16, width=24, generator=g, **call).images
    assert torch.equal(got, want)


# --- bits -----------------------------------------------------------------------------------------


def test_the_same_bits_alone_and_in_a_batch(own):
    prompts, scales, call = [*PROMPTS, "a"], [4.0, 1.0, 3.0], {**FEW, "output_type": "pt"}
    lists = {"prior_guidance_scale": scales, "guidance_scale": scales[::-1]}
    for negatives in (None, ["dog", "", "blue in the"]):
        together = own(prompts, negatives, seed=5, **lists, **call)
        assert together.seeds == [5, 6, 7]
        for i, prompt in enumerate(prompts):
            mine = {name: values[i] for name, values in lists.items()}
            negative = None if negatives is None else negatives[i]
            alone = own(prompt, negative, seed=5 + i, **mine, **call).images[0]
            assert torch.equal(alone, together.images[i])


def test_the_same_bits_on_any_number_of_threads(own, use_threads):
    results = []
    for threads in (1, 3):
        use_threads(threads)
        results.append(own(PROMPTS, "dog", seed=5, output_type="pt", **FEW).images)
    assert torch.equal(*results)


def test_jobs_of_several_calls_in_one_step(own):
    calls = [
        {"prompt": PROMPTS, "seed": 1, **FEW, "negative_prompt": "dog"},
        {"prompt": "a", "seed": 3, **FEW, "prior_num_inference_steps": 2, "scheduler": "heun"},
        {"prompt": "a", "seed": 4, **FEW, "guidance_scale": 1.0, "height": 12},
    ]
    alone = [own(**call, output_type="pt").images for call in calls]
    jobs, stages = [], set()
    for call in calls:
        jobs += own.prepare(own.request(**call, output_type="pt"))
        own.step([job for job in jobs if job.active][::-1])
    own.step(jobs[:1])
    while any(job.active for job in jobs):
        own.step([job for job in jobs if job.active])
        stages.add(tuple(job.stage for job in jobs))
    assert any(len(set(found)) > 1 for found in stages)  # both stages in a step
    for job, want in zip(jobs, [p for call in alone for p in call], strict=True):
        assert torch.equal(own.finish(job), want)


def test_an_engine_runs_it(own):
    call = {**FEW, "output_type": "pt"}
    with pyengine.Engine(own) as engine:
        running = [
            engine.submit(prompt=p, seed=3 + i, previews=3, **call) for i, p in enumerate(PROMPTS)
        ]
        found = [job.result(timeout=60).images for job in running]
    assert torch.equal(torch.cat(found), own(PROMPTS, seed=3, **call).images)


# --- callbacks, ends ------------------------------------------------------------------------------


def test_each_stage_has_a_callback(own):
    seen = []

    def look(pipe, i, t, tensors):
        seen.append((i, tuple(tensors["latents"].shape)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    call = {**FEW, "seed": 1, "output_type": "latent", "negative_prompt": "dog"}
    result = own(PROMPTS, prior_callback_on_step_end=look, callback_on_step_end=look, **call)
    prior = [(i, (4, kandinsky_folders.WIDTH)) for i in range(3)]
    assert seen == prior + [(i, (2, 4, 8, 12)) for i in range(4)]
    assert not result.images.any()
    assert (result.report.steps, result.report.evaluations) == (7, 7)
    assert result.report.sampler == "ddpm"


def test_a_run_that_is_left_shows_what_there_is(own):
    shown = []
    steps = own.steps(PROMPTS, "dog", seed=1, output_type="pt", **FEW)
    for step in steps:
        shown.append(step.preview("pt"))
        if step.step == 4:
            break
    assert [tuple(p.shape) for p in shown] == [(2, 3, 64, 64)] * 3 + [(2, 3, 16, 24)] * 2
    assert torch.equal(steps.output.images, shown[4])
    left = own.steps(PROMPTS, seed=1, output_type="pt", **FEW)
    next(left)
    assert torch.equal(left.output.images, torch.full((2, 3, 16, 24), 0.5))


def test_a_fault_of_one_picture_ends_no_other(own):
    call = {**FEW, "seed": 1, "output_type": "pt"}
    one, two = own.prepare(own.request(PROMPTS, "dog", **call))
    one.inner[1].batch.set_latents(one.inner[1].row, torch.full((1, 32), float("nan")))
    while one.active or two.active:
        own.step([one, two])
    with pytest.raises(NotFiniteError, match=r"prior.*picture 0 at step 0"):
        own.finish(one)
    assert torch.equal(own.finish(two), own(PROMPTS, "dog", **call).images[1])


def test_the_scheduler_is_the_decoders(own):
    call = {**FEW, "seed": 1, "output_type": "pt"}
    plain = own(PROMPTS, **call).images
    named = own(PROMPTS, scheduler="euler", **call)
    assert named.report.sampler == "euler"
    before = own.scheduler
    try:
        own.scheduler = "euler"
        assert torch.equal(own(PROMPTS, **call).images, named.images)
    finally:
        own.scheduler = before
    assert torch.equal(own(PROMPTS, **call).images, plain)


# --- errors, command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "prompt: expected a text or a list of texts"),
        ({"prompt": "a", "prior_num_inference_steps": 1}, "^prior_num_inference_steps: expected"),
        ({"prompt": "a", "prior_guidance_scale": "x"}, "^prior_guidance_scale: expected"),
        ({"prompt": "a", "num_inference_steps": 0}, "^num_inference_steps: expected"),
        ({"prompt": "a", "num_images_per_prompt": 0}, "num_images_per_prompt: expected"),
        ({"prompt": "a", "latents": torch.zeros(1, 31)}, r"latents: expected shape \[1, 32\]"),
        ({"prompt": "a", "decoder_latents": torch.zeros(1, 4, 3, 3)}, "latents: expected shape"),
        ({"prompt": "a", "mask_image": HOLE}, "mask_image: this decoder is not one for inpaint"),
        ({"prompt": "a", "strength": 0.5}, "strength: expected only together with image"),
        ({"prompt": "a", "image_embeds": torch.zeros(1, 32)}, "image_embeds: this model has no"),
        ({"prompt": "a", "promt": 1}, "unexpected keyword argument 'promt'; did you mean prompt"),
        ({"prompt": "a", "prior_callback_on_step_end": 3}, "^prior_callback_on_step_end: expected"),
    ],
)
def test_wrong_arguments(own, call, message):
    with pytest.raises(RequestError, match=message):
        own(**call)


def test_priors_that_are_none(folders, tmp_path):
    decoder, prior = folders[""]
    with pytest.raises(RequestError, match="prior: expected a KandinskyV22PriorPipeline's folder"):
        pyengine.from_pretrained(decoder, prior=decoder, device="cpu")
    with pytest.raises(RequestError, match="prior: a KandinskyV22PriorPipeline takes none"):
        pyengine.from_pretrained(prior, prior=prior, device="cpu")
    with pytest.raises(CheckpointError):
        pyengine.from_pretrained(decoder, prior=tmp_path / "nothing", device="cpu")
    plain = pyengine.from_pretrained(decoder, prior=None, device="cpu")
    assert type(plain).__name__ == "KandinskyV22Pipeline"
    wide = kandinsky_folders.write(tmp_path / "w", unet={"encoder_hid_dim": 16})
    with pytest.raises(ConfigError, match="encoder_hid_dim is 16, expected 32"):
        pyengine.from_pretrained(wide, prior=prior, device="cpu")


def test_elsewhere(own, pipes, capsys, tmp_path):
    """Another dtype; info and its plan; the command line, and a picture drawn again."""
    _, _, both = pipes()
    moved = pyengine.from_pretrained(both, device="cpu").to(torch.bfloat16)
    assert moved("a cat", seed=1, output_type="pt", **FEW).images.dtype == torch.bfloat16
    for extra in ([], ["--plan"]):
        assert main(["info", str(both), *extra]) == 0
        assert "prior_prior" in capsys.readouterr().out
    file = tmp_path / "a.png"
    call = ["--prior-steps", "3", "--steps", "4", "--height", "16", "--width", "24", "--seed", "5"]
    assert main(["generate", "a cat", "-m", str(both), *call, "-o", str(file)]) == 0
    again = ["generate", "--from", str(file), "-m", str(both), "-o", str(tmp_path / "b.png")]
    assert main(again) == 0
    pictures = [np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png")]
    assert np.array_equal(*pictures)
    want = own("a cat", seed=5, output_type="np", **FEW).images[0]
    assert np.array_equal(pictures[0], (want * 255).round().astype(np.uint8))
