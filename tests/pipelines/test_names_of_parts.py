"""What scripts for diffusers read from a pipeline, set in it, switch on and off, and save."""

import copy
import warnings

import diffusers
import numpy as np
import pytest
import tiny
import torch
from pairs import SMALL, draw

import pyengine
from pyengine.errors import ConfigError, RequestError, UnavailableError, UnknownArgumentError
from pyengine.pipelines import StableDiffusionPipeline
from pyengine.pipelines.diffusers_names.schedulers import scheduler_class
from pyengine.pipelines.diffusers_names.switches import Switches
from pyengine.schedules import CLASSES

# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_components_have_diffusers_names(pair, name):
    own, reference = pair(name).own, pair(name).text_to_image
    assert own.components.keys() == reference.components.keys()
    for part, value in reference.components.items():
        mine = own.components[part]
        assert (mine is None) == (value is None), part
        assert getattr(own, part) is mine or part == "scheduler"
    assert own.vae_scale_factor == reference.vae_scale_factor
    assert own.name_or_path == own.source
    assert own._execution_device == own.device == torch.device("cpu")
    assert own.config._class_name == type(reference).__name__
    saved = {k: list(v) for k, v in reference.config.items() if isinstance(v, tuple | list)}
    assert {k: v for k, v in own.config.items() if isinstance(v, list)} == saved
    assert own.text_encoder.config.hidden_size == reference.text_encoder.config.hidden_size
    assert own.unet.config.in_channels == reference.unet.config.in_channels


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_pipeline_of_components(pair, name):
    pipe = pair(name).own
    again = type(pipe)(**pipe.components)
    assert np.array_equal(draw(again), draw(pipe))
    assert again.unet is pipe.unet
    assert again.model_hash == pipe.model_hash
    assert again.source == pipe.source
    assert again.to(torch.float32) is again
    settings = {} if name == "sdxl" else {"requires_safety_checker": False}
    euler = {
        **pipe.components,
        "scheduler": scheduler_class("EulerDiscreteScheduler").from_config(pipe.scheduler.config),
    }
    again = type(pipe)(**euler, **settings)
    assert np.array_equal(draw(again), draw(pipe, scheduler="euler"))


def test_a_pipeline_of_parts_of_two_checkpoints(pair, tmp_path):
    other = pyengine.from_pretrained(tiny.write_sd1(tmp_path / "x", seed=4, unet=SMALL))
    pipe = pair("sd1").own
    mixed = StableDiffusionPipeline(**{**pipe.components, "vae": other.vae})
    assert mixed.model_hash == ""
    with pytest.raises(RequestError, match="to: vae came as objects"):
        mixed.to(torch.bfloat16)
    assert not np.array_equal(draw(mixed), draw(pipe))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"unet": None}, RequestError, "expected unet too"),
        ({"scheduler": None}, RequestError, "expected scheduler too"),
        ({"vea": None}, UnknownArgumentError, "did you mean vae"),
        ({"safety_checker": object()}, RequestError, "safety_checker: pyengine runs none"),
        ({"vae": torch.nn.Linear(1, 1)}, RequestError, "vae: expected pyengine's AutoencoderKL"),
    ],
)
def test_components_that_make_no_pipeline(pair, change, error, text):
    with pytest.raises(error, match=text):
        StableDiffusionPipeline(**pair("sd1").own.components | change)


def test_setting_parts(pair):
    pipe = pyengine.from_pretrained(pair("sd1").folder, device="cpu")
    want = draw(pipe)
    pipe.safety_checker = None
    pipe.safety_checker, pipe.feature_extractor = None, None
    pipe.unet = torch.compile(pipe.unet)
    pipe.vae = pipe.vae
    assert type(pipe.unet).__module__.startswith("pyengine")
    assert np.array_equal(draw(pipe), want)
    with pytest.raises(RequestError, match=r"safety_checker: .*takes None"):
        pipe.safety_checker = object()
    with pytest.raises(RequestError, match=r"unet: .*given diffusers's UNet2DConditionModel"):
        pipe.unet = pair("sd1").text_to_image.unet
    with pytest.raises(RequestError, match="text_encoder: expected pyengine's CLIPTextModel"):
        pipe.text_encoder = None


def test_a_config_is_a_frozen_mapping(pair):
    config = pair("sd1").own.scheduler.config
    assert config.beta_start == config["beta_start"] == {**config}["beta_start"]
    with pytest.raises(TypeError, match="from_config"):
        config.beta_start = 1
    with pytest.raises(TypeError, match="from_config"):
        config.update(beta_start=1)
    with pytest.raises(AttributeError, match="did you mean beta_start"):
        _ = config.beta_strat
    assert copy.deepcopy(config) == config


# --- schedulers -----------------------------------------------------------------------------------


def as_diffusers(pair, name, scheduler, changes):
    """What diffusers draws with `pipe.scheduler = X.from_config(pipe.scheduler.config, ...)`."""
    pipe = pair(name).text_to_image
    own = pipe.scheduler
    pipe.scheduler = getattr(diffusers, scheduler).from_config(own.config, **changes)
    try:
        images = pipe(
            "a red heart",
            num_inference_steps=3,
            output_type="np",
            generator=torch.Generator().manual_seed(3),
        ).images
        return pipe.scheduler, images
    finally:
        pipe.scheduler = own


@pytest.mark.parametrize(
    ("scheduler", "changes"),
    [
        ("EulerDiscreteScheduler", {}),
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("DDIMScheduler", {"timestep_spacing": "trailing"}),
        ("UniPCMultistepScheduler", {}),
    ],
)
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_schedulers_from_config_are_diffusers(pair, name, scheduler, changes):
    theirs, expected = as_diffusers(pair, name, scheduler, changes)
    pipe = pyengine.from_pretrained(pair(name).folder, device="cpu")
    first = pipe.scheduler
    cls = scheduler_class(scheduler)
    pipe.scheduler = cls.from_config(pipe.scheduler.config, **changes)
    assert isinstance(pipe.scheduler, cls)
    assert abs(draw(pipe) - expected).max() < 1e-3
    for key, value in pipe.scheduler.config.items():
        if key in theirs.config and not key.startswith("_") and value is not None:
            assert value == theirs.config[key], key
    # diffusers' own objects do as well, and ours serve diffusers' classes.
    images = draw(pipe)
    pipe.scheduler = theirs
    assert np.array_equal(draw(pipe), images)
    back = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    assert {k: v for k, v in back.config.items() if k in theirs.config and k[0] != "_"} == {
        k: v for k, v in theirs.config.items() if k[0] != "_"
    }
    pipe.scheduler = first
    assert np.array_equal(draw(pipe), draw(pair(name).own))


def test_a_name_is_a_scheduler_too(pair):
    pipe = pyengine.from_pretrained(pair("sd1").folder, device="cpu")
    want = draw(pipe, scheduler="dpmpp_2m_karras")
    pipe.scheduler = "dpmpp_2m_karras"
    assert pipe.scheduler.name == "dpmpp_2m_karras"
    assert type(pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert np.array_equal(draw(pipe), want)
    # A call's sampler takes the keys of the one that is set, as from_config does.
    euler = scheduler_class("EulerDiscreteScheduler")
    pipe.scheduler = euler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    assert (
        np.array_equal(
            draw(pipe, scheduler="ddim"),
            as_diffusers(pair, "sd1", "DDIMScheduler", {"timestep_spacing": "trailing"})[1],
        )
        or abs(
            draw(pipe, scheduler="ddim")
            - as_diffusers(pair, "sd1", "DDIMScheduler", {"timestep_spacing": "trailing"})[1]
        ).max()
        < 1e-3
    )
    pipe.scheduler = None
    assert np.array_equal(draw(pipe), draw(pair("sd1").own))


def test_what_is_no_scheduler(pair):
    pipe = pyengine.from_pretrained(pair("sd1").folder, device="cpu")
    before = pipe.scheduler
    for value, text in (
        (3, "expected a sampler's name or a scheduler"),
        (object(), "expected a sampler's name"),
        (diffusers.EulerDiscreteScheduler, r"EulerDiscreteScheduler.from_config\(pipe"),
        ("eular", "eular"),
    ):
        with pytest.raises(RequestError, match=text):
            pipe.scheduler = value
    with pytest.raises(ConfigError, match="FlowMatchHeunDiscreteScheduler"):
        pipe.scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    assert pipe.scheduler is before


def test_schedulers_by_themselves(tmp_path, pair):
    assert sorted(CLASSES) == sorted(scheduler_class(name).__name__ for name in CLASSES)
    ddim = scheduler_class("DDIMScheduler")
    made = ddim(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert made.config.beta_start == 0.00085
    assert made.config.num_train_timesteps == len(made) == 1000
    made.register_to_config(timestep_spacing="trailing")
    assert made.config.timestep_spacing == "trailing"
    assert "DDIMScheduler(" in repr(made)
    made.save_pretrained(tmp_path / "s")
    for again in (
        ddim.from_pretrained(tmp_path / "s"),
        ddim.from_config(diffusers.DDIMScheduler.from_pretrained(tmp_path / "s").config),
    ):
        assert again.config.beta_start == 0.00085
        assert again.config.timestep_spacing == "trailing"
    folder = pair("sd1").folder
    for place in ((folder,), (folder, "scheduler"), (folder / "scheduler",)):
        assert ddim.from_pretrained(*place).config.beta_schedule == "scaled_linear"
    with pytest.raises(ConfigError, match="beta_strat"):
        ddim(beta_strat=1)
    with pytest.raises(RequestError, match="config: expected"):
        ddim.from_config("folder")
    with pytest.raises(RequestError, match="found none at"):
        ddim.from_pretrained("org/name", subfolder="scheduler")
    with pytest.raises(AttributeError, match="did you mean DDIMScheduler"):
        scheduler_class("DDIMSchedule")


def test_a_saved_infinity_survives(tmp_path):
    dpm = diffusers.DPMSolverMultistepScheduler(beta_schedule="scaled_linear")
    dpm.save_pretrained(tmp_path)
    made = scheduler_class("DPMSolverMultistepScheduler").from_pretrained(tmp_path)
    made.save_pretrained(tmp_path / "again")
    back = diffusers.DPMSolverMultistepScheduler.from_pretrained(tmp_path / "again")
    assert back.config.lambda_min_clipped == dpm.config.lambda_min_clipped


# --- switches -------------------------------------------------------------------------------------

ACCEPTED = [
    ("enable_attention_slicing", ()), ("enable_attention_slicing", ("max",)),
    ("disable_attention_slicing", ()), ("set_attention_slice", (1,)),
    ("enable_xformers_memory_efficient_attention", ()),
    ("disable_xformers_memory_efficient_attention", ()),
    ("set_use_memory_efficient_attention_xformers", (True,)),
    ("enable_vae_slicing", ()), ("disable_vae_slicing", ()), ("disable_vae_tiling", ()),
    ("enable_model_cpu_offload", ()), ("enable_sequential_cpu_offload", ()),
    ("enable_group_offload", ()), ("disable_freeu", ()),
    ("fuse_qkv_projections", ()), ("unfuse_qkv_projections", ()), ("upcast_vae", ()),
    ("unload_lora_weights", ()), ("unfuse_lora", ()), ("disable_lora", ()),
    ("delete_adapters", ([],)), ("unload_textual_inversion", ()), ("unload_ip_adapter", ()),
    ("remove_all_hooks", ()), ("maybe_free_model_hooks", ()), ("reset_device_map", ()),
]  # fmt: skip
OF_LORAS = [
    "load_lora_weights",
    "load_textual_inversion",
    "fuse_lora",
    "set_adapters",
    "enable_lora",
]
REFUSED = [
    "enable_freeu",
    "save_lora_weights",
    "enable_lora_hotswap",
    "set_lora_device",
    "push_to_hub",
]


def test_switches_that_change_nothing(pair):
    pipe = pair("sdxl").own
    want = draw(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, args in ACCEPTED:
            assert getattr(pipe, name)(*args) is None
    pipe.vae.enable_slicing()
    pipe.vae.disable_slicing()
    assert pipe.unet.to(memory_format=torch.channels_last) is pipe.unet
    assert np.array_equal(draw(pipe), want)
    assert pipe.get_active_adapters() == []
    assert pipe.get_list_adapters() == {}


def test_switches_of_token_models():
    pipe = pyengine.from_pretrained("emoji-ar", device="cpu")
    for name, args in ACCEPTED:
        if name not in ("disable_vae_tiling", "upcast_vae"):
            getattr(pipe, name)(*args)
    with pytest.raises(RequestError, match="enable_vae_tiling: this model has no"):
        pipe.enable_vae_tiling()
    assert list(pipe.components) == ["transformer", "vqvae", "tokenizer", "tokens", "drafts"]


@pytest.mark.parametrize("name", REFUSED)
def test_switches_that_are_refused(pair, name):
    with pytest.raises(UnavailableError, match=f"^{name}: ."):
        getattr(pair("sd1").own, name)("x")


@pytest.mark.parametrize("name", OF_LORAS)
def test_switches_of_loras_are_refused_where_there_are_none(name):
    pipe = pyengine.from_pretrained("emoji-ar", device="cpu")
    with pytest.raises(UnavailableError, match=f"^{name}: Stable Diffusion's"):
        getattr(pipe, name)("x")


def test_switches_of_ip_adapters_are_refused_where_there_can_be_none():
    pipe = pyengine.from_pretrained("emoji-ar", device="cpu")
    for name in ("load_ip_adapter", "set_ip_adapter_scale"):
        with pytest.raises(UnavailableError, match=f"^{name}: ."):
            getattr(pipe, name)("x")


def test_every_switch_of_diffusers_is_here():
    """Public methods of diffusers' pipelines that switch something or load something."""
    stems = ("enable_", "disable_", "fuse_", "unfuse_", "load_", "unload_", "set_")
    ours = {n for n in dir(Switches) if n.startswith(stems)} | {"upcast_vae"}
    theirs = set()
    for name in ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "AmusedPipeline"):
        theirs |= {n for n in dir(getattr(diffusers, name)) if n.startswith(stems)}
    # Class methods for those who write pipelines.
    theirs -= {"load_config", "load_lora_into_text_encoder", "load_lora_into_unet"}
    assert theirs <= ours, theirs - ours
    listed = {name for name, _ in ACCEPTED} | {*REFUSED, *OF_LORAS}
    of_ip_adapters = {"load_ip_adapter", "set_ip_adapter_scale"}
    assert ours <= listed | of_ip_adapters | {"enable_vae_tiling", "set_progress_bar_config"}


def test_tiling_tiles(pair):
    pipe = pyengine.from_pretrained(pair("sd1").folder, device="cpu")
    size = {"height": 96, "width": 96}
    want = draw(pipe, **size)
    pipe.enable_vae_tiling()
    tiled = draw(pipe, **size)
    assert not np.array_equal(tiled, want)
    reference = pair("sd1").text_to_image
    reference.vae.enable_tiling()
    try:
        expected = reference(
            "a red heart",
            num_inference_steps=3,
            output_type="np",
            **size,
            generator=torch.Generator().manual_seed(3),
        ).images
    finally:
        reference.vae.disable_tiling()
    assert abs(tiled - expected).max() < 1e-3
    pipe.disable_vae_tiling()
    assert np.array_equal(draw(pipe, **size), want)


def test_the_progress_bar(pair, capfd):
    pipe = pyengine.from_pretrained(pair("sd1").folder, device="cpu")
    pipe.set_progress_bar_config(disable=False, desc="x", leave=False)
    draw(pipe)
    assert "denoising" in capfd.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    draw(pipe)
    assert capfd.readouterr().err == ""
    draw(pipe, progress=True)
    assert "denoising" in capfd.readouterr().err
    with pytest.raises(RequestError, match="disable: expected True"):
        pipe.set_progress_bar_config(disable="yes")


@pytest.mark.parametrize(
    "move",
    [
        lambda m: m.to(torch.bfloat16),
        lambda m: m.half(),
        lambda m: m.double(),
        lambda m: m.to("meta"),
        lambda m: m.bfloat16(),
    ],
)
def test_a_model_whose_weights_are_packed_does_not_move(pair, move):
    pipe = pair("sd1").own
    want = draw(pipe)
    with pytest.raises(RequestError, match=r"UNet2DConditionModel: .*from_pretrained\(.*dtype="):
        move(pipe.unet)
    assert pipe.unet.to("cpu", torch.float32).float().cpu().eval() is pipe.unet
    assert np.array_equal(draw(pipe), want)
