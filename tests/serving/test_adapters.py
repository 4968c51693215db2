"""Adapters beside the models that `pyengine serve` was started with, named by requests."""

import base64
import io

import control_networks
import httpx
import image_prompt_files
import pytest
import tiny
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file

import pyengine
from pyengine import metadata
from pyengine.adapters.places import hash_of
from pyengine.branches import targets
from pyengine.cli.serving import Options, _give
from pyengine.errors import RequestError

pytest.importorskip("fastapi", reason="needs the extra `serve`")

from served import running

CALL = {"prompt": "a fox", "seed": 1, "steps": 2, "size": "32x32"}
Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model's folder, and what goes beside it."""
    folder = tmp_path_factory.mktemp("beside")
    tiny.write_sd1(folder / "sd1", unet={"layers_per_block": 1})
    unet = UNet2DConditionModel.from_pretrained(folder / "sd1" / "unet")
    control_networks.make_controlnet(unet).save_pretrained(folder / "controlnet")
    save_file(image_prompt_files.tensors_of("base", unet), folder / "ip.safetensors")
    tiny.make_image_encoder(**image_prompt_files.IMAGE).save_pretrained(folder / "image_encoder")
    for name in ("loras", "words"):
        (folder / name).mkdir()
    pipe = pyengine.from_pretrained(folder / "sd1", device="cpu")
    draws = torch.Generator().manual_seed(0)
    file = {}
    for name, target in targets(pipe.unet).items():
        if name.endswith(("to_q", "to_v", "conv1")):
            out, *rest = target.shape
            up = torch.randn(out, 4, *[1] * (len(rest) - 1), generator=draws)
            down = torch.randn(4, *rest, generator=draws)
            file |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up / 4}
    save_file(file, folder / "loras" / "ink.safetensors")
    (folder / "loras" / "bad.safetensors").write_bytes(b"\xff" * 99)
    width = pipe.parts.encoders[0].config.hidden_size
    save_file({"emb_params": torch.randn(2, width)}, folder / "words" / "toy.safetensors")
    return folder


@pytest.fixture(scope="module")
def client(place):
    """Of a server started with all of it, and the pipeline behind it."""
    options = Options([str(place / "sd1")], "127.0.0.1", 0, 8, None, {}, {})
    options.folders = {"lora_dir": place / "loras", "embeddings_dir": place / "words"}
    options.ip_adapter = {"place": place / "ip.safetensors"}
    with pyengine.Engine(*options.models, device="cpu", controlnet=place / "controlnet") as engine:
        _give(engine, options)
        with running(engine) as server, httpx.Client(base_url=server.url, timeout=120) as found:
            yield found, engine.pipeline()


def picture(side=32):
    data = io.BytesIO()
    Image.effect_mandelbrot((side, side), (-2, -1.5, 1, 1.5), 30).convert("RGB").save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def drawn(client, **call):
    """(pixels, settings) of a picture."""
    answer = client.post("/v1/images/generations", json={**CALL, **call})
    assert answer.status_code == 200, answer.text
    data = io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))
    with Image.open(data) as image:
        return image.tobytes(), metadata.read_image(image, "answer")


def test_loras_by_request(client):
    http, _ = client
    plain, _ = drawn(http)
    half, settings = drawn(http, lora={"ink": 0.5})
    assert half != plain
    assert settings.lora == "ink:0.5"
    assert [name for name, _ in settings.files_of_loras] == ["ink"]
    for other in ("ink:0.5", "ink:0.25,ink:0.25", '{"ink": 0.5}'):
        assert drawn(http, lora=other)[0] == half
    assert drawn(http, prompt="a fox <lora:ink:0.5>")[0] == half
    blocks = {"unet": {"down": {"block_0": [0.1]}, "up": 0.2, "mid": -0.3, "other": 0.5}}
    some, settings = drawn(http, lora={"ink": blocks})
    assert some not in (plain, half)
    assert drawn(http, lora=settings.lora)[0] == some
    assert drawn(http)[0] == plain


def test_what_is_beside_is_in_the_settings(client, place):
    http, _ = client
    _, settings = drawn(http, control_image=picture(), ip_adapter_image=picture(40))
    assert settings.controlnet == hash_of("x", place / "controlnet")
    assert settings.ip_adapter == hash_of("x", place / "ip.safetensors")
    _, settings = drawn(http, prompt="a toy")
    assert settings.controlnet is None
    assert [token for token, _ in settings.files_of_embeddings] == ["toy"]


WRONG = [
    {"lora": "../ink"},
    {"lora": "/etc/passwd"},
    {"lora": {"../loras/ink": 1}},
    {"lora": "bad"},
    {"lora": {"ink": {"unet": {"up": {"block_7": 1}}}}},
    {"lora": {"ink": {"unet": [1]}}},
    {"lora": {"ink": {"vae": 1}}},
    {"lora": {"ink": "x"}},
    {"lora": ["ink"]},
    {"lora": "{"},
    {"lora": {str(i): 1 for i in range(99)}},
    {"prompt": "<lora:nobody:1>"},
    {"prompt": "<lora:ink:nan>"},
    {"prompt": "(a" * 60, "prompt_weighting": "a1111"},
    {"prompt": "a" + "+" * 9000, "prompt_weighting": "compel"},
    {"lora_dir": "/"},
    {"controlnet": "/"},
    {"ip_adapter": "x"},
    {"control_image": "file:///etc/passwd"},
    {"control_image": [picture()]},
    {"ip_adapter_image": 5},
    {"ip_adapter_scale": "x"},
    {"control_image": picture(), "control_start": 0.9, "control_end": 0.1},
    {"control_image": picture(), "control_scale": [1, 2]},
    {"control_scale": 0.5},
    {"ip_adapter_image_embeds": [1, 2]},
    {"cross_attention_kwargs": {"scale": 2}},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: str(wrong)[:50])
def test_what_is_refused(client, place, wrong):
    """The request's fault, in words that tell no place of this machine."""
    http, _ = client
    answer = http.post("/v1/images/generations", json={**CALL, **wrong})
    assert answer.status_code == 400, answer.text
    assert str(place) not in answer.text


def test_models_that_take_none_of_it(place):
    options = Options(["x"], "127.0.0.1", 0, 8, None, {}, {})
    options.folders = {"lora_dir": place / "loras"}
    complaint = r"^lora-dir: expected a model that takes it, given"
    with (
        pyengine.Engine(pyengine.from_pretrained("emoji-ar"), _thread=False) as engine,
        pytest.raises(RequestError, match=complaint),
    ):
        _give(engine, options)
