"""from_pretrained's keywords, diffusers' too: done, accepted or refused in words."""

import inspect
import shutil

import pytest
import tiny
import torch

import pyengine
from pyengine.errors import CheckpointError, RequestError, UnavailableError, UnknownArgumentError
from pyengine.models import AutoencoderKL
from pyengine.pipelines.diffusers_names import keywords
from pyengine.weights import resolve

CALL = {"num_inference_steps": 2, "output_type": "np", "seed": 3}


@pytest.fixture(scope="module")
def folder(pair):
    return pair("sd1").folder


@pytest.fixture(scope="module")
def expected(pair):
    return pair("sd1").own("a red heart", **CALL).images


def same(pipe, expected):
    return (pipe("a red heart", **CALL).images == expected).all()


@pytest.mark.parametrize(
    "given",
    [
        {"torch_dtype": torch.float32},
        {"torch_dtype": "auto"},
        {"torch_dtype": {"default": torch.float32, "vae": "torch.float32"}},
        {"torch_dtype": torch.float32, "dtype": torch.float32},
        {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
        {"image_encoder": None, "add_watermarker": False},
        {"use_safetensors": True, "local_files_only": True, "low_cpu_mem_usage": True},
        {"token": "secret", "revision": "main", "force_download": False, "cache_dir": "cache"},
        {"device_map": "cpu"},
        {"device_map": "balanced", "device": "cpu"},
        {"device_map": {"": "cpu"}},
        {"device_map": torch.device("cpu"), "max_memory": None},
        {"device": "cpu", "variant": None, "custom_pipeline": None, "trust_remote_code": False},
        {"proxies": None, "mirror": None, "resume_download": True, "disable_mmap": True},
        {"scheduler": "ddim"},
    ],
)
def test_keywords_that_change_nothing(folder, expected, given):
    given = {"device": "cpu"} | given if "device_map" not in given else given
    assert same(pyengine.from_pretrained(folder, **given), expected)


def test_dtypes(folder, tmp_path):
    half = pyengine.from_pretrained(folder, device="cpu", torch_dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    stored = tiny.store_as(shutil.copytree(folder, tmp_path / "half"), torch.bfloat16)
    assert pyengine.from_pretrained(stored, device="cpu", dtype="auto").dtype == torch.bfloat16
    assert pyengine.from_pretrained(stored, device="cpu").dtype == torch.float32


def test_a_subfolder(folder, expected, tmp_path):
    shutil.copytree(folder, tmp_path / "sd" / "small")
    assert same(pyengine.from_pretrained(tmp_path / "sd", subfolder="small"), expected)
    with pytest.raises(CheckpointError, match="no such folder"):
        pyengine.from_pretrained(tmp_path / "sd", subfolder="large")
    with pytest.raises(RequestError, match=r"subfolder: .*hf download"):
        pyengine.from_pretrained("org/name", subfolder="small")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"custom_pipeline": "lpw"}, "custom_pipeline: no code .* is ever run"),
        ({"trust_remote_code": True}, "trust_remote_code: no code"),
        ({"safety_checker": object()}, "safety_checker: .*takes None"),
        ({"image_encoder": object()}, "image_encoder: .*IP-Adapters"),
        ({"add_watermarker": True}, "add_watermarker: "),
        ({"use_safetensors": False}, "use_safetensors: expected True or None"),
        ({"quantization_config": {}}, "quantization_config: .*weights="),
        ({"max_memory": {0: "1GB"}}, "max_memory: .*one device"),
        ({"proxies": {}}, "proxies: .*HTTPS_PROXY"),
        ({"controlnet": object()}, "controlnet: expected a folder or a file"),
        ({"device_map": {"unet": "cpu", "vae": "cuda"}}, "device_map: .*one device, given 2"),
        ({"device_map": "sideways"}, "device: expected auto, cpu"),
        ({"device_map": 1.5}, "device_map: expected"),
        ({"device_map": "cuda", "device": "cpu"}, "device_map: expected device or device_map"),
        ({"torch_dtype": "float16", "dtype": "float32"}, "torch_dtype: expected dtype or"),
        ({"torch_dtype": {"unet": "float16", "vae": "float32"}}, "torch_dtype: expected one dtype"),
        ({"torch_dtype": torch.int8}, "dtype: expected one of"),
        ({"local_files_only": "yes"}, "local_files_only: expected True or False"),
        ({"force_download": True, "local_files_only": True}, "force_download: "),
        ({"token": 7}, "token: expected a text, True, False or None, given a int"),
        ({"subfolder": 3}, "subfolder: expected"),
        ({"vae": None}, "vae: the model cannot do without"),
        ({"vae": torch.nn.Linear(1, 1)}, "vae: expected pyengine's AutoencoderKL"),
        ({"tokenizer": "clip"}, "tokenizer: expected pyengine's ClipTokenizer"),
        ({"tokenizer_2": "clip"}, "tokenizer_2: expected none for a StableDiffusionPipeline"),
        ({"force_zeros_for_empty_prompt": 1}, "force_zeros_for_empty_prompt: expected True or F"),
        ({"scheduler": 3}, "scheduler: expected a sampler's name"),
        ({"scheduler": "dimm"}, "scheduler: "),
    ],
)  # fmt: skip
def test_keywords_that_are_refused(folder, given, text):
    with pytest.raises(RequestError, match=text):
        pyengine.from_pretrained(folder, **given)


def test_an_adapter_that_is_not_there(folder):
    with pytest.raises(CheckpointError, match="adapter: no such file or folder"):
        pyengine.from_pretrained(folder, adapter="there/is/none")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("torch_dtpye", "torch_dtype"),
        ("devise", "device"),
        ("safty_checker", "safety_checker"),
        ("cache_directory", "cache_dir"),
        ("ignore_config_key", "ignore_config_keys"),
    ],
)
def test_a_misspelt_keyword_names_the_nearest(folder, name, meant):
    with pytest.raises(UnknownArgumentError, match=f"^{name}: .*; did you mean {meant}\\?$"):
        pyengine.from_pretrained(folder, **{name: 1})
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'frobnicate'$"):
        pyengine.from_pretrained(folder, frobnicate=1)


def test_every_keyword_of_diffusers_is_known():
    """Those that DiffusionPipeline.from_pretrained reads out of its kwargs."""
    import re

    import diffusers

    text = inspect.getsource(diffusers.DiffusionPipeline.from_pretrained)
    read = set(re.findall(r'kwargs\.pop\(\s*"(\w+)"', text))
    assert len(read) > 15
    assert read <= set(keywords.known()), read - set(keywords.known())


def test_a_keyword_is_in_one_list():
    lists = (
        keywords.RESOLVED,
        keywords.part_names(),
        keywords.SETTINGS,
        keywords.ACCEPTED,
        tuple(keywords.NOT_HERE),
    )
    assert sum(map(len, lists)) == len(set().union(*lists))
    assert set(keywords.RESOLVED) <= set(inspect.signature(resolve).parameters)


def test_a_part_of_ours_in_place_of_the_checkpoints(pair, folder, expected, tmp_path):
    from pairs import SMALL

    other = tiny.write_sd1(tmp_path / "other", seed=5, unet=SMALL)
    vae = AutoencoderKL.from_pretrained(other, subfolder="vae")
    pipe = pyengine.from_pretrained(folder, vae=vae, device="cpu")
    assert pipe.vae is vae
    want = pair("sd1").text_to_image
    import diffusers

    own, want.vae = want.vae, diffusers.AutoencoderKL.from_pretrained(other, subfolder="vae")
    try:
        pictures = want(
            "a red heart",
            num_inference_steps=2,
            output_type="np",
            generator=torch.Generator().manual_seed(3),
        ).images
    finally:
        want.vae = own
    assert abs(pipe("a red heart", **CALL).images - pictures).max() < 1e-4
    assert not same(pipe, expected)
    assert pipe.model_hash == ""
    for what in (lambda: pipe.to(torch.bfloat16), lambda: pipe.save_pretrained(tmp_path / "x")):
        with pytest.raises(RequestError, match="vae came as objects"):
            what()
    pipe.vae = pair("sd1").own.vae
    assert same(pipe, expected)


def test_parts_that_do_not_fit(pair, folder, tmp_path):
    half = AutoencoderKL.from_pretrained(folder, subfolder="vae", dtype=torch.bfloat16)
    with pytest.raises(RequestError, match=r"vae: expected one on cpu in torch.float32"):
        pyengine.from_pretrained(folder, vae=half, device="cpu")
    with pytest.raises(ValueError, match="unet: cross_attention_dim 72"):
        pyengine.from_pretrained(folder, unet=pair("sdxl").own.unet, device="cpu")
    xl = pair("sdxl").own
    with pytest.raises(RequestError, match="text_encoder_2: expected none"):
        pyengine.from_pretrained(folder, text_encoder_2=xl.text_encoder_2, device="cpu")


# --- .to ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "given"),
    [
        ((), {}),
        (("cpu",), {}),
        ((torch.device("cpu"),), {}),
        ((torch.float32,), {}),
        (("float32",), {}),
        (("cpu", torch.float32), {}),
        ((None, torch.float32), {}),
        ((), {"device": "cpu", "dtype": torch.float32, "silence_dtype_warnings": True}),
        (("cpu",), {"dtype": torch.float32}),
    ],
)
def test_to_the_same_place_is_the_same(pair, args, given):
    pipe = pair("sd1").own
    unet = pipe.unet
    assert pipe.to(*args, **given) is pipe
    assert pipe.unet is unet


def test_to_another_dtype_reads_the_weights_again(folder, expected):
    pipe = pyengine.from_pretrained(folder, device="cpu", scheduler="euler")
    assert pipe.to(torch.bfloat16) is pipe
    assert {m.dtype for m in (pipe.unet, pipe.text_encoder)} == {torch.bfloat16}
    assert pipe.scheduler.name == "euler"
    want = pyengine.from_pretrained(folder, device="cpu", scheduler="euler", dtype="bfloat16")
    assert same(pipe, want("a red heart", **CALL).images)
    pipe.scheduler = "ddim"
    assert same(pipe.to("cpu", torch.float32), expected)


def test_to_of_a_token_model():
    pipe = pyengine.from_pretrained("emoji-ar", device="cpu")
    want = pipe("a red heart", seed=1).tokens
    assert pipe.to("cpu").to(torch.float32) is pipe
    assert pipe.to("bfloat16").dtype == torch.bfloat16
    assert (pipe.to(torch.float32)("a red heart", seed=1).tokens == want).all()


@pytest.mark.parametrize(
    ("args", "given", "error", "text"),
    [
        ((torch.float16, "cpu"), {}, RequestError, "to: expected the device before the dtype"),
        (("cpu", torch.float32, 1), {}, RequestError, "to: expected a device and a dtype at most"),
        (("cpu",), {"device": "cpu"}, RequestError, "device: to\\(\\) was given"),
        ((torch.float16,), {"dtype": torch.float16}, RequestError, "dtype: to\\(\\) was given"),
        ((), {"torch_dtype": torch.float16}, UnknownArgumentError, "did you mean dtype"),
        (("mps",), {}, RequestError, "device: expected"),
        ((torch.float64,), {}, RequestError, "dtype: expected"),
        (("cuda:77",), {}, UnavailableError, "device: "),
        (([],), {}, RequestError, "device: expected"),
    ],
)
def test_to_where_nothing_goes(pair, args, given, error, text):
    with pytest.raises(error, match=text):
        pair("sd1").own.to(*args, **given)


def test_to_in_a_callback(folder):
    pipe = pyengine.from_pretrained(folder, device="cpu")

    def move(pipe, *_):
        pipe.to(torch.bfloat16)

    with pytest.raises(RequestError, match="to: a run is in progress"):
        pipe("a red heart", callback_on_step_end=move, **CALL)
