"""DeepFloyd IF from pictures, and within masks, against diffusers' four classes for that."""

import diffusers
import if_folders
import numpy as np
import pytest
import torch
from pairs import LEAST_PSNR, generators, psnr
from PIL import Image

import pyengine
from pyengine import metadata
from pyengine.cli import main
from pyengine.errors import RequestError

PROMPTS = ["a photo of the red cat", "the dog"]
NAMES = (
    "IFImg2ImgPipeline",
    "IFInpaintingPipeline",
    "IFImg2ImgSuperResolutionPipeline",
    "IFInpaintingSuperResolutionPipeline",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(of the first stage, of the second)."""
    where = tmp_path_factory.mktemp("if")
    further = if_folders.write_super_resolution(where / "further")
    return if_folders.write(where / "first"), further


@pytest.fixture(scope="module")
def own(folders):
    """own(name): the class of that name; own(0), own(1): what from_pretrained gives."""
    made = {}

    def find(name):
        if name not in made:
            folder = folders[name if isinstance(name, int) else "SuperRes" in name]
            cls = pyengine if isinstance(name, int) else getattr(pyengine, name)
            made[name] = cls.from_pretrained(folder, device="cpu")
        return made[name]

    return find


def theirs(name, folders):
    none = dict.fromkeys(("safety_checker", "feature_extractor", "watermarker"))
    pipe = getattr(diffusers, name).from_pretrained(folders["SuperRes" in name], **none)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def photos(count=2, width=19, height=13, seed=4, channels=3):
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (count, 4, 5, channels), dtype=np.uint8)
    images = [Image.fromarray(c.squeeze(-1) if channels == 1 else c) for c in coarse]
    return [image.resize((width, height), Image.Resampling.BILINEAR) for image in images]


def arguments(name, **sizes):
    """The pictures that a class needs, by diffusers' names."""
    given = {"image": photos(**sizes)}
    if "SuperRes" in name:
        given = {"image": photos(2, 8, 8, seed=5), "original_image": photos(**sizes)}
    if "Inpaint" in name:
        given["mask_image"] = photos(seed=6, channels=1, **sizes)
    return given


# --- diffusers' pictures --------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_diffusers(folders, own, name, steps):
    """Of pictures of 19x13, which are resized to 24x16, or to 48x32."""
    call = {"prompt": PROMPTS, "num_inference_steps": steps, "output_type": "np", "strength": 0.7}
    call |= arguments(name)
    want = theirs(name, folders)(generator=generators([7, 8]), **call).images
    got = own(name)(generator=generators([7, 8]), **call).images
    assert want.shape == got.shape
    assert want.std() > 0.1
    assert psnr(want, got) >= LEAST_PSNR


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "call",
    [
        {"guidance_scale": 1.0, "strength": 1.0},
        {"num_images_per_prompt": 2, "negative_prompt": ["in", "of"], "strength": 0.31},
        {"timesteps": [900, 640, 300, 20], "strength": 0.5},
        {"shared": True},
    ],
)
def test_arguments_are_diffusers(folders, own, name, call):
    call = {"prompt": PROMPTS, "num_inference_steps": 8, "output_type": "np", **call}
    call |= arguments(name, width=12, height=18)
    count = 2 * call.get("num_images_per_prompt", 1)
    shared = call.pop("shared", False)
    if "timesteps" in call:
        del call["num_inference_steps"]
    made = []
    for pipe in (theirs(name, folders), own(name)):
        drawn = torch.Generator().manual_seed(3) if shared else generators(list(range(count)))
        made.append(pipe(generator=drawn, **call).images)
    assert psnr(*made) >= LEAST_PSNR


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_by_position_with_diffusers_defaults(folders, own, name):
    """Neither steps nor strength nor scale nor noise level are told, but what keeps it short."""
    own_pipe, their_pipe = own(name), theirs(name, folders)
    given = arguments(name)
    args = [PROMPTS[0]] if "SuperRes" not in name else []
    args += [given[k][0] for k in ("image", "original_image", "mask_image") if k in given]
    named = {} if "SuperRes" not in name else {"prompt": PROMPTS[0]}
    evaluations = []
    want = their_pipe(
        *args,
        **named,
        generator=generators([3])[0],
        output_type="np",
        callback=lambda i, t, x: evaluations.append(t),
    ).images
    got = own_pipe(*args, **named, generator=generators([3])[0], output_type="np")
    assert got.report.evaluations == len(evaluations)
    assert psnr(want, got.images) >= LEAST_PSNR


def test_one_pipeline_does_all(folders, own):
    """What from_pretrained gives takes the same arguments as the classes for one task."""
    for name in NAMES:
        call = {
            "prompt": PROMPTS,
            "seed": 3,
            "num_inference_steps": 5,
            "strength": 0.6,
            "output_type": "pt",
            "guidance_scale": 3.0,
            **arguments(name),
        }
        if "SuperRes" in name:
            call["noise_level"] = 100
        got = own(int("SuperRes" in name))(**call).images
        assert torch.equal(got, own(name)(**call).images)
    shared = pyengine.IFImg2ImgPipeline.from_pipe(own(0))
    assert shared.unet is own(0).unet
    assert (shared.defaults.num_inference_steps, own(0).defaults.num_inference_steps) == (80, 100)
    found = pyengine.AutoPipelineForInpainting.from_pretrained(folders[0], device="cpu")
    assert type(found) is pyengine.IFInpaintingPipeline


def test_pictures_as_pil_arrays_and_tensors(own):
    """PIL pictures of the model's size, and numbers of any size, which stay theirs."""
    call = {"seed": 3, "num_inference_steps": 4, "output_type": "pt"}
    image, mask = photos(1, 16, 16)[0], photos(1, 16, 16, seed=6, channels=1)[0]
    array, grey = np.asarray(image).copy(), np.asarray(mask).copy()
    tensor = torch.from_numpy(array).permute(2, 0, 1) / 255
    want = own(0)("a", image=image, mask_image=mask, **call).images
    for given in (array, array / 255, tensor, tensor[None], [image]):
        got = own(0)("a", image=given, mask_image=torch.from_numpy(grey / 255.0), **call).images
        assert torch.allclose(got, want, atol=1e-6)
    assert own(0)("a", image=tensor[:, :10, :12], **call).images.shape == (1, 3, 10, 12)
    assert own(0)("a", image=image, height=10, width=12, **call).images.shape == (1, 3, 10, 12)


def test_what_a_mask_leaves_is_the_picture_itself(own):
    """At every step: its noise is none."""
    image = photos(1, 16, 16)[0]
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    clean = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
    seen = []

    def look(pipe, step, timestep, tensors):
        seen.append(tensors["latents"].clone())
        return {}

    made = own(0)(
        "a",
        image=image,
        mask_image=Image.fromarray(mask),
        seed=1,
        output_type="pt",
        num_inference_steps=4,
        callback_on_step_end=look,
    ).images[0]
    for x in [*seen, 2 * made[None] - 1]:
        assert torch.allclose(x[0, :, :, :8] * 0.5 + 0.5, clean[:, :, :8], atol=1e-6)
    assert (made[:, :, 8:] - clean[:, :, 8:]).abs().max() > 0.1


# --- bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_alone_and_in_a_batch(own, name, use_threads):
    call = {"num_inference_steps": 5, "output_type": "pt", "strength": 0.7}
    given, scales = arguments(name), [4.0, 1.0]
    together = own(name)(prompt=PROMPTS, seed=[5, 6], guidance_scale=scales, **given, **call).images
    use_threads(3)
    for i, prompt in enumerate(PROMPTS):
        one = {key: value[i] for key, value in given.items()}
        alone = own(name)(prompt=prompt, seed=5 + i, guidance_scale=scales[i], **one, **call).images
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("stage", [0, 1])
def test_jobs_of_several_calls_in_one_step(own, stage):
    """With and without a picture, with a mask and without: each has the bits that it has alone."""
    pipe, side = own(stage), 16 << stage
    name = "original_image" if stage else "image"
    beside = {"image": photos(1, 8, 8, seed=5)[0]} if stage else {}
    begin = {name: photos(1, side, side)[0]}
    mask = {"mask_image": photos(1, side, side, seed=6, channels=1)[0]}
    calls = [
        {"prompt": "a", "seed": 1, "num_inference_steps": 4},
        {"prompt": "the", "seed": 2, "num_inference_steps": 6, "strength": 0.5, **begin},
        {"prompt": "cat", "seed": 3, "num_inference_steps": 5, **begin, **mask},
        {"prompt": "dog", "seed": 4, "num_inference_steps": 3, "guidance_scale": 1.0, **begin},
    ]
    calls = [{**call, **beside, "output_type": "pt"} for call in calls]
    alone = [pipe(**call).images[0] for call in calls]
    jobs = []
    for call in calls:
        jobs += pipe.prepare(pipe.request(**call))
        pipe.step([job for job in jobs if job.active])
    while any(job.active for job in jobs):
        pipe.step([job for job in jobs if job.active])
    for job, want in zip(jobs, alone, strict=True):
        assert torch.equal(pipe.finish(job), want)


# --- errors, command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"strength": 0.5}, "strength: expected only together with image"),
        ({"mask_image": photos(1)[0]}, "mask_image: expected only together with image"),
        ({"image": photos(3)}, "image: expected 1 or 2 pictures, given '3 pictures'"),
        ({"image": photos(1) + photos(1, 9, 9)}, "image: expected pictures of one size, or height"),
        ({"image": photos(1), "mask_image": photos(3)}, "mask_image: expected 1 or 2 pictures"),
        ({"image": photos(1), "strength": 1.5}, "strength: expected a number from 0 to 1"),
        ({"image": photos(1), "strength": 0.1}, "strength: 0.1 of 4 steps is less than one step"),
        ({"image": "cat.png"}, "image: expected a PIL picture"),
        ({"image": torch.full((3, 8, 8), float("nan"))}, "image: expected"),
        ({"image": photos(1), "original_image": photos(1)}, "original_image: this model has no"),
        ({"clean_caption": True}, "clean_caption: prompts are lowered and stripped"),
    ],
)
def test_wrong_arguments(own, call, message):
    with pytest.raises(RequestError, match=message):
        own(0)(PROMPTS, num_inference_steps=4, **call)


def test_wrong_arguments_of_further_stages(own):
    small = photos(1, 8, 8)[0]
    with pytest.raises(RequestError, match="strength: expected only together with original_image"):
        own(1)("a", image=small, strength=0.5)
    with pytest.raises(RequestError, match="original_image: a IFImg2ImgSuperResolutionPipeline ne"):
        own(NAMES[2])(small, prompt="a")


def test_command_line(folders, tmp_path):
    paths = {}
    for name, image in (
        ("small", photos(1, 8, 8)[0]),
        ("large", photos(1, 32, 32)[0]),
        ("mask", photos(1, 32, 32, seed=6, channels=1)[0]),
    ):
        paths[name] = str(tmp_path / f"{name}.png")
        image.save(paths[name])
    pictures = ["--init-image", paths["small"], "--original-image", paths["large"]]
    pictures += ["--mask", paths["mask"], "-m", str(folders[1])]
    place, again = tmp_path / "cat.png", tmp_path / "again.png"
    made = ["generate", "the cat", "-o", str(place), "--steps", "4", "--strength", "0.5", *pictures]
    assert main([*made, "--seed", "5"]) == 0
    settings = metadata.read(place)
    assert (settings.strength, settings.width) == (0.5, 32)
    assert None not in (settings.init_image, settings.original_image, settings.mask)
    assert main(["generate", "--from", str(place), "-o", str(again), *pictures]) == 0
    assert again.read_bytes() == place.read_bytes()
