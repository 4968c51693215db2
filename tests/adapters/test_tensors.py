"""LoRAs that come as tensors in memory."""

import numpy as np
import pytest
import torch
from adapter_pairs import draw, psnr
from lora_files import make
from safetensors.torch import save_file
from test_formats import LEAST_PSNR, usual

import pyengine
from pyengine.errors import CheckpointError, RequestError


@pytest.fixture
def made(opened):
    one = opened("sd1")
    return make(one.own, one.folder, "lora", 1, usual).tensors


def test_as_diffusers_and_as_its_file(opened, made, tmp_path):
    one = opened("sd1")
    own, theirs = one.own, one.theirs()
    save_file(made, tmp_path / "a.safetensors")
    own.load_lora(tmp_path / "a.safetensors")
    try:
        plain, want = draw(own), draw(own, lora={"a": 1.0})
        theirs.load_lora_weights(dict(made), adapter_name="b")
        own.load_lora_weights(made, adapter_name="b")
        assert own.get_active_adapters() == ["b"]
        got = draw(own)
        assert (got == want).all()
        assert psnr(draw(theirs), got) >= LEAST_PSNR
        hashes = draw_report(own).loras[0]["b"]["sha256"]
        assert len(hashes) == 64
        for tensor in made.values():  # they were copied
            tensor.zero_()
        assert (draw(own) == want).all()
        assert (draw(own, lora={}) == plain).all()
    finally:
        own.unload_lora_weights()


def draw_report(pipe):
    return pipe("a", seed=1, num_inference_steps=1, height=32, width=32).report


def test_moved(opened, made):
    pipe = pyengine.from_pretrained(opened("sd1").folder, device="cpu")
    pipe.load_lora(made, "a")
    want = draw(pipe, lora={"a": 0.5})
    pipe.to("cpu", torch.bfloat16)
    assert psnr(want, draw(pipe, lora={"a": 0.5})) > 15
    pipe.to("cpu", torch.float32)
    assert (draw(pipe, lora={"a": 0.5}) == want).all()


NAME = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({3: torch.ones(2)}, "lora: expected names of tensors, given 3"),
        ({NAME: np.ones((4, 32))}, f"lora: '{NAME}': expected a tensor, given 'ndarray'"),
        ({NAME: None}, f"lora: '{NAME}': expected a tensor, given 'NoneType'"),
        ({NAME: torch.ones(4, 32).to_sparse()}, f"lora: '{NAME}': expected a dense tensor"),
        ({NAME: torch.ones(4, 32, device="meta")}, f"lora: '{NAME}': expected a dense tensor"),
        ({NAME: torch.ones(4, 32, dtype=torch.complex128)}, f"lora: '{NAME}': expected a dense"),
        ({NAME: torch.full((4, 32), float("nan"))}, f"tensors: '{NAME}': expected finite"),
        ({NAME: torch.ones(4, 33)}, rf"tensors: '{NAME}': expected \[4, 32\], found \[4, 33\]"),
        ({NAME: torch.tensor(1.0)}, f"tensors: '{NAME}': expected two dimensions"),
        ({"what": torch.ones(1)}, "tensors: 1 tensors are of no LoRA format"),
    ],
)
def test_what_is_refused(opened, made, change, complaint):
    with pytest.raises((RequestError, CheckpointError), match=f"^{complaint}"):
        opened("sd1").own.load_lora({**made, **change}, "a")


def test_how_it_is_called(opened, made):
    own = opened("sd1").own
    with pytest.raises(RequestError, match=r"^name: expected one for tensors"):
        own.load_lora(made)
    with pytest.raises(CheckpointError, match=r"^tensors: expected a LoRA's tensors, found none"):
        own.load_lora({}, "a")
    with pytest.raises(CheckpointError, match=r"^weight_name: expected None beside tensors"):
        own.load_lora_weights(made, weight_name="x.safetensors")
    assert own.lora_names == ()
    own.load_lora({n: t.half().requires_grad_() for n, t in made.items()}, "half")
    own.unload_lora("half")
