"""The classes that scripts import from diffusers: from_pretrained, positional calls, defaults."""

import inspect

import diffusers
import numpy as np
import pytest
import tiny
import torch

import pyengine
from pyengine.errors import CheckpointError, RequestError, UnknownArgumentError
from pyengine.pipelines.diffusers_names.classes import Task
from pyengine.pipelines.diffusers_names.orders import ORDERS
from pyengine.schedules import CLASSES

NAMES = tuple(ORDERS)
AUTO = ("AutoPipelineForText2Image", "AutoPipelineForImage2Image", "AutoPipelineForInpainting")


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_arguments_is_diffusers(name):
    theirs = inspect.signature(getattr(diffusers, name).__call__).parameters
    assert ORDERS[name].split() == [n for n in theirs if n not in ("self", "kwargs")]


@pytest.mark.parametrize("name", NAMES)
def test_calls_show_that_order(name):
    """Of the arguments that there are here, those by position come in diffusers' order."""
    cls = getattr(pyengine, name)
    parameters = list(inspect.signature(cls.__call__).parameters.values())[1:]
    own = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
    order = [n for n in ORDERS[name].split() if n in {p.name for p in parameters}]
    assert own == order[: len(own)]
    if issubclass(cls, Task):
        assert own == order


def test_the_names_at_the_top():
    assert {n for n in pyengine.__all__ if n.endswith("Scheduler")} == set(CLASSES)
    others = {
        "DiffusionPipeline", "StableDiffusionDepth2ImgPipeline",
        "StableDiffusionImageVariationPipeline", "StableDiffusionInstructPix2PixPipeline",
        "StableDiffusionLatentUpscalePipeline", "StableDiffusionUpscalePipeline",
        "StableDiffusionXLInstructPix2PixPipeline",
    }  # fmt: skip
    assert {n for n in pyengine.__all__ if n.endswith("Pipeline")} == {*NAMES, *others}
    for name in pyengine.__all__:
        if name.endswith(("Scheduler", "Pipeline")) or name.startswith("Auto"):
            assert getattr(pyengine, name).__name__ == name
            assert hasattr(diffusers, name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FluxPipeline", "the pipelines are .*StableDiffusionXLPipeline.*diffusers has others"),
        ("StableDiffusion3Pipeline", "did you mean StableDiffusionPipeline"),
        ("StableDifusionXLPipeline", "did you mean StableDiffusionXLPipeline"),
        ("StableDiffusion3ControlNetPipeline", "ControlNets are here beside Stable Diffusion 1.x"),
        ("T2IAdapter", "pyengine.models has T2I-Adapters"),
        ("ScoreSdeVeScheduler", "the schedulers are .*EulerDiscreteScheduler"),
        ("DDIMSheduler", "did you mean DDIMScheduler"),
        ("from_pretraned", "did you mean from_pretrained"),
    ],
)
def test_names_that_are_not_here_say_what_is(name, text):
    with pytest.raises(AttributeError, match=text):
        getattr(pyengine, name)
    with pytest.raises(ImportError, match=text):
        exec(f"from pyengine import {name}")
    assert not hasattr(pyengine, name)


# --- loading --------------------------------------------------------------------------------------

KINDS = {
    "StableDiffusionPipeline": "sd1",
    "StableDiffusionImg2ImgPipeline": "sd1",
    "StableDiffusionInpaintPipeline": "sd1",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
    "StableDiffusionXLInpaintPipeline": "sdxl",
    "LatentConsistencyModelPipeline": "lcm",
    "LatentConsistencyModelImg2ImgPipeline": "lcm",
}
#: Arguments by position, as scripts give them, and the rest by name.
CALLS = {
    "StableDiffusionPipeline": (("a red heart",), {}),
    "StableDiffusionImg2ImgPipeline": (("a red heart", "image", 0.6), {}),
    "StableDiffusionInpaintPipeline": (("a red heart", "image", "mask"), {}),
    "StableDiffusionXLPipeline": (("a red heart", "a blue one"), {}),
    "StableDiffusionXLImg2ImgPipeline": (("a red heart", None, "image", 0.6), {}),
    "StableDiffusionXLInpaintPipeline": (("a red heart", None, "image", "mask"), {}),
    "LatentConsistencyModelPipeline": (("a red heart",), {}),
    "LatentConsistencyModelImg2ImgPipeline": (("a red heart", "image"), {}),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_script_with_the_import_changed_draws_the_same(pair, photo, mask, name):
    """No strength or guidance_scale unless diffusers' script needs it: the defaults are the class'
    own.
    """
    folder = pair(KINDS[name]).folder
    args, named = CALLS[name]
    given = {"image": photo.resize((64, 64)), "mask": mask.resize((64, 64))}
    args = tuple(given.get(a, a) if isinstance(a, str) else a for a in args)
    size = {"height": 64, "width": 64} if "Inpaint" in name else {}
    steps = {} if "Consistency" in name else {"num_inference_steps": 4}
    pictures = []
    for library in (diffusers, pyengine):
        cls = getattr(library, name)
        extra = {} if "XL" in name else {"safety_checker": None}
        pipe = cls.from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True, **extra)
        pipe = pipe.to("cpu")
        pipe.set_progress_bar_config(disable=True)
        assert isinstance(pipe, cls)
        call = {**named, **size, **steps, "generator": generator(), "output_type": "np"}
        pictures.append(pipe(*args, **call).images)
    difference = abs(pictures[0] - pictures[1]).max()
    assert difference < 1e-2, difference
    assert pictures[0].std() > 0.02


@pytest.mark.parametrize("name", ["AmusedPipeline", "AmusedImg2ImgPipeline"])
def test_amused_by_position(tmp_path, photo, name):
    folder = tiny.write_amused(tmp_path / "m")
    tokens = []
    image = photo.resize((12, 12))
    for library in (diffusers, pyengine):
        pipe = getattr(library, name).from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        args = ("a heart", image) if "Img2Img" in name else ("a heart",)
        tokens.append(pipe(*args, generator=generator(), output_type="np").images)
    assert abs(tokens[0] - tokens[1]).max() < 1e-4


def test_classes_load_their_own_models_only(pair, tmp_path):
    sd1, sdxl = pair("sd1").folder, pair("sdxl").folder
    text = r"a StableDiffusionXLPipeline, which StableDiffusionImg2ImgPipeline cannot draw with"
    with pytest.raises(CheckpointError, match=text):
        pyengine.StableDiffusionImg2ImgPipeline.from_pretrained(sdxl)
    with pytest.raises(CheckpointError, match="StableDiffusionXLPipeline cannot draw with"):
        pyengine.StableDiffusionXLPipeline.from_pretrained(pretrained_model_name_or_path=sd1)
    with pytest.raises(CheckpointError, match="a PictureGPTPipeline, which Stable"):
        pyengine.StableDiffusionPipeline.from_pretrained("emoji-ar")
    assert pyengine.StableDiffusionPipeline.from_pretrained().source == "emoji"


def test_what_a_class_needs(pair):
    pipe = pyengine.StableDiffusionInpaintPipeline.from_pipe(pair("sd1").own)
    with pytest.raises(RequestError, match="image: a StableDiffusionInpaintPipeline needs one"):
        pipe("a red heart")
    with pytest.raises(RequestError, match="mask_image: a StableDiffusionInpaintPipeline needs"):
        pipe("a red heart", np.zeros((64, 64, 3), np.float32))
    with pytest.raises(RequestError, match="prompt: given twice"):
        pipe("a red heart", prompt="a blue one")
    with pytest.raises(RequestError, match="expected at most 27 arguments by position, given 30"):
        pipe(*[None] * 30)
    image = np.zeros((64, 64, 3), np.float32)
    with pytest.raises(UnknownArgumentError, match="did you mean num_images_per_prompt"):
        pipe("x", image, image, num_image_per_prompt=1)


def test_a_class_of_ones_own_keeps_the_order(pair, photo):
    class Mine(pyengine.StableDiffusionImg2ImgPipeline):
        pass

    pipe = Mine.from_pipe(pair("sd1").own)
    call = {"num_inference_steps": 3, "seed": 1, "output_type": "np"}
    got = pipe("a red heart", photo, 0.5, **call).images
    want = pair("sd1").own("a red heart", image=photo, strength=0.5, **call).images
    assert np.array_equal(got, want)


def test_a_class_of_ones_own_is_of_the_kind_that_it_derives_from(tmp_path):
    folder = tiny.write_sdxl(tmp_path / "m")

    class Mine(pyengine.StableDiffusionXLPipeline):
        pass

    pipe = Mine.from_pretrained(folder)
    for one in (pipe, Mine(**pipe.components), Mine.from_pipe(pipe)):
        assert type(one) is Mine
        assert one.config._class_name == "StableDiffusionXLPipeline"
    pipe.save_pretrained(tmp_path / "saved")
    assert type(Mine.from_pretrained(tmp_path / "saved")) is Mine
    with pytest.raises(CheckpointError, match="StableDiffusionXLPipeline, which StableDiffusionPi"):
        pyengine.StableDiffusionPipeline.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("auto", AUTO)
@pytest.mark.parametrize("kind", ["sd1", "sdxl", "lcm"])
def test_auto_pipelines_choose_as_diffusers(pair, auto, kind, tmp_path):
    folder = pair(kind).folder
    if kind == "lcm":
        import json
        import shutil

        folder = shutil.copytree(folder, tmp_path / "lcm")
        index = json.loads((folder / "model_index.json").read_text())
        index["_class_name"] = "LatentConsistencyModelPipeline"
        (folder / "model_index.json").write_text(json.dumps(index))
    try:
        theirs = type(getattr(diffusers, auto).from_pretrained(folder)).__name__
    except ValueError:
        with pytest.raises(RequestError, match="no class that draws from a picture and a mask"):
            getattr(pyengine, auto).from_pretrained(folder)
        return
    pipe = getattr(pyengine, auto).from_pretrained(folder)
    assert type(pipe).__name__ == theirs == pipe.config._class_name
    again = getattr(pyengine, auto).from_pipe(pair(kind).own)
    if kind != "lcm":
        assert type(again).__name__ == theirs
    assert (
        type(pyengine.DiffusionPipeline.from_pretrained(folder)).__name__
        == type(diffusers.DiffusionPipeline.from_pretrained(folder)).__name__
    )


def test_auto_pipelines_of_token_models(tmp_path):
    auto = pyengine.AutoPipelineForText2Image.from_pretrained("emoji-ar")
    assert type(auto).__name__ == "PictureGPTPipeline"
    with pytest.raises(RequestError, match="no class that draws from a picture"):
        pyengine.AutoPipelineForImage2Image.from_pretrained("emoji-ar")
    folder = tiny.write_image_gpt(tmp_path / "m")
    with pytest.raises(RequestError, match="no class that draws from text alone"):
        pyengine.AutoPipelineForText2Image.from_pretrained(folder)
    with pytest.raises(TypeError, match=r"DiffusionPipeline.from_pretrained\(\.\.\.\)"):
        pyengine.DiffusionPipeline()


# --- from_pipe ------------------------------------------------------------------------------------


def test_from_pipe_shares_models(pair, photo):
    pipe = pair("sd1").own
    other = pyengine.StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    assert other.unet is pipe.unet
    other.scheduler = "euler"
    assert pipe.scheduler.name == "ddim"
    back = pyengine.AutoPipelineForText2Image.from_pipe(other, scheduler="ddim")
    call = {"num_inference_steps": 3, "seed": 1, "output_type": "np"}
    assert np.array_equal(back("a heart", **call).images, pipe("a heart", **call).images)
    half = pyengine.StableDiffusionPipeline.from_pipe(pipe, torch_dtype=torch.bfloat16)
    assert (half.dtype, pipe.dtype) == (torch.bfloat16, torch.float32)
    lcm = pyengine.LatentConsistencyModelPipeline.from_pipe(pipe)
    assert (lcm.defaults.num_inference_steps, pipe.defaults.num_inference_steps) == (4, 50)
    made = pyengine.StableDiffusionImg2ImgPipeline(**pipe.components)
    assert np.array_equal(
        made("a heart", photo, **call).images, pipe("a heart", image=photo, **call).images
    )
    # Both give back the memory of their activations, wherever the shared models have it.
    for one in (made, pipe):
        one("a heart", image=photo, **call)
        facts = pipe.unet.arena.statistics()
        assert (facts["touched"], facts["used"]) == (0, 0) < (facts["peak"], 1)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"variant": "fp16"}, "from_pipe: expected scheduler"),
        ({"revision": "main"}, "from_pipe: expected scheduler"),
        ({"sheduler": "ddim"}, "from_pipe.*did you mean scheduler"),
    ],
)
def test_from_pipe_with_a_wrong_argument(pair, keywords, text):
    with pytest.raises(RequestError, match=text):
        pyengine.StableDiffusionPipeline.from_pipe(pair("sd1").own, **keywords)


def test_from_pipe_of_something_else(pair):
    with pytest.raises(RequestError, match="from_pipe: expected a pipeline of pyengine's"):
        pyengine.StableDiffusionPipeline.from_pipe(pair("sd1").text_to_image)
    with pytest.raises(RequestError, match="cannot draw with the models of a StableDiffusionXL"):
        pyengine.StableDiffusionPipeline.from_pipe(pair("sdxl").own)
