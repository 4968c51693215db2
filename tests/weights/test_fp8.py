"""Weights in 8-bit floats, plain and with ComfyUI's scales: widened, in folders and files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from original_layout import write_original
from safetensors.torch import load_file, save_file
from scaled import plain_of, store_fp8
from whole import CLASSES, load

import pyengine
from pyengine.errors import CheckpointError
from pyengine.weights import load_module, open_weights, resolve
from pyengine.weights.source import PIECE

E4, E5 = torch.float8_e4m3fn, torch.float8_e5m2
FILE = "diffusion_pytorch_model.safetensors"


def linear(rows=3, columns=4):
    with torch.device("meta"):
        return torch.nn.Linear(columns, rows)


def read_linear(folder, tensors, module=None, **options):
    save_file(tensors, folder / "model.safetensors")
    with open_weights(folder) as source:
        return load_module(module or linear(), source, **options)


@pytest.mark.parametrize("stored", [E4, E5], ids=str)
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_value_is_widened(stored, dtype, tmp_path):
    codes = torch.arange(256, dtype=torch.uint8).view(stored).reshape(32, 8)
    tensors = {"weight": codes, "bias": torch.zeros(32, dtype=stored)}
    weight = read_linear(tmp_path, tensors, linear(32, 8), dtype=dtype).weight
    assert weight.dtype == (dtype or torch.float32)
    want = codes.float().to(weight.dtype)
    assert torch.equal(weight.nan_to_num(7, 8, 9), want.nan_to_num(7, 8, 9))


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("stored", [E4, E5], ids=str)
def test_a_folder_draws_what_its_widened_weights_draw(stored, scaled, sd1, tmp_path):
    narrow, wide = (Path(shutil.copytree(sd1, tmp_path / n)) for n in ("narrow", "wide"))
    store_fp8(narrow / "unet" / FILE, stored, scaled)
    save_file(plain_of(narrow / "unet" / FILE), wide / "unet" / FILE)
    call = {"seed": 3, "num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np"}
    pipes = [pyengine.from_pretrained(f, device="cpu") for f in (narrow, wide)]
    assert pipes[0].dtype == torch.float32
    pictures = [p("a red heart", **call).images for p in pipes]
    assert np.array_equal(*pictures)
    sizes = [sum(p.nbytes for p in pipe.unet.parameters()) for pipe in pipes]
    assert sizes[0] == sizes[1] if scaled else sizes[0] < sizes[1]


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_single_file(family, scaled, wide, tmp_path):
    tiny.write_tokenizer(tmp_path / "tokenizer")
    path = write_original(wide(family), tmp_path / "model.safetensors", family)
    store_fp8(path, E4, scaled)
    tensors, plain = load_file(path), plain_of(path)
    checkpoint = resolve(path)
    assert load(path).keys() == load(wide(family)).keys()
    name = "model.diffusion_model.middle_block.0.emb_layers.1"
    assert tensors[f"{name}.weight"].dtype == E4
    read = checkpoint.tensors("unet").read("mid_block.resnets.0.time_emb_proj.weight")
    assert torch.equal(read.float(), plain[f"{name}.weight"])


@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (3, 1)], ids=str)
@pytest.mark.parametrize("stored", [E4, torch.float16, torch.float32], ids=str)
def test_scales(name, shape, stored, tmp_path):
    weight = torch.randn(3, 4).to(stored)
    scale = torch.rand(shape) + 0.5
    tensors = {"weight": weight, "bias": torch.zeros(3), name: scale}
    module = read_linear(tmp_path, tensors, dtype=torch.float32)
    assert torch.equal(module.weight, weight.float() * scale.reshape(-1, 1))


def test_scales_of_rows_reach_every_piece(tmp_path):
    rows = PIECE // 1000 + 7
    tensors = {"weight": torch.ones(rows, 1000).to(E5), "weight_scale": torch.rand(rows)}
    save_file(tensors, tmp_path / "model.safetensors")
    with open_weights(tmp_path) as source:
        read = source.read("weight", torch.float32)
        assert source.keys() == ["weight"]
        assert len(source) == 1
        assert "weight_scale" not in source
    assert torch.equal(read, tensors["weight_scale"][:, None].expand(rows, 1000))


def test_a_scaled_weight_is_not_kept_narrow(tmp_path):
    class Narrow(torch.nn.Linear):
        WIDENED = ("weight",)

    weight = torch.randn(3, 4)
    for stored, scaled, kept in (
        (E4, {}, torch.bfloat16),
        (E4, {"weight_scale": torch.tensor(0.3)}, torch.float32),
        (torch.float16, {"weight_scale": torch.tensor(0.3)}, torch.float32),
        (torch.float16, {}, torch.float16),
    ):
        with torch.device("meta"):
            module = Narrow(4, 3)
        tensors = {"weight": weight.to(stored), "bias": torch.zeros(3), **scaled}
        read_linear(tmp_path, tensors, module, dtype=torch.float32)
        assert module.weight.dtype == kept, (stored, scaled)


def comfy(text: bytes) -> torch.Tensor:
    return torch.tensor(list(text), dtype=torch.uint8)


def test_formats_that_are_scales(tmp_path):
    said = comfy(json.dumps({"format": "float8_e4m3fn"}).encode())
    tensors = {
        "weight": torch.ones(3, 4).to(E4),
        "bias": torch.zeros(3),
        "comfy_quant": said,
        "weight_scale": torch.tensor(2.0),
        "input_scale": torch.tensor(9.0),
    }
    assert torch.equal(read_linear(tmp_path, tensors).weight, torch.full((3, 4), 2.0))


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ({"weight_scale": torch.ones(2)}, r"is torch.float32 \[2\], expected one .* 3"),
        ({"weight_scale": torch.ones(3, 2)}, "other scales .of blocks. are not read"),
        ({"weight_scale": torch.ones(1, 1, 1)}, r"\[1, 1, 1\], expected one floating-point number"),
        ({"weight_scale": torch.ones(1).int()}, "torch.int32 .1., expected one floating-point"),
        ({"weight_scale": torch.tensor(float("nan"))}, "weight_scale': expected finite scales"),
        ({"scale_weight": torch.ones(1), "weight_scale": torch.ones(1)}, "both scale 'weight'"),
        ({"comfy_quant": comfy(b'{"format": "nvfp4"}')}, "comfy_quant': format 'nvfp4', expected"),
        ({"comfy_quant": comfy(b'{"a": 1}')}, "format None, expected float8_e4m3fn"),
        ({"comfy_quant": comfy(b'{"format": ["x"]}')}, "format .*'x'.*, expected float8"),
        ({"comfy_quant": comfy(b"\x80\x04 pickle")}, "comfy_quant': not UTF-8"),
        ({"comfy_quant": comfy(b"[]")}, "comfy_quant': expected a JSON object"),
        ({"comfy_quant": torch.ones(3)}, "' is torch.float32 .3., expected at most 4096"),
        ({"comfy_quant": comfy(b" " * 5000)}, "expected at most 4096 bytes"),
        ({"weight_scale_2": torch.ones(1)}, "1 extra: 'weight_scale_2'"),
        ({"weight": torch.ones(3, 4).char(), "weight_scale": torch.ones(1)}, "int8 with a sc"),
        ({"weight": torch.ones(3, 4).char()}, "'weight' is torch.int8, expected torch.float32"),
        ({"weight": torch.ones(3, 4, dtype=torch.complex64)}, "torch.complex64, expected torch.fl"),
        ({"weight": torch.ones(3, 4, dtype=torch.uint16)}, "torch.uint16, expected torch.float32"),
        ({"other.weight_scale": torch.ones(1)}, "1 extra: 'other.weight_scale'"),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(v),
)  # fmt: skip
def test_other_formats_are_refused(beside, message, tmp_path):
    tensors = {"weight": torch.ones(3, 4).to(E4), "bias": torch.zeros(3), **beside}
    with pytest.raises(CheckpointError, match=message):
        read_linear(tmp_path, tensors)


def test_the_scales_are_hashed(sd1, tmp_path):
    folder = Path(shutil.copytree(sd1, tmp_path / "c"))
    store_fp8(folder / "unet" / FILE, E4, scaled=True)
    before = resolve(folder).model_hash
    tensors = load_file(folder / "unet" / FILE)
    name = next(n for n in sorted(tensors) if n.endswith("scale_weight"))
    tensors[name] *= 2
    save_file(tensors, folder / "unet" / FILE)
    assert resolve(folder).model_hash != before


def test_models_read_them_alone(sd1, tmp_path):
    shutil.copytree(sd1 / "unet", tmp_path / "unet")
    store_fp8(tmp_path / "unet" / FILE, E5, scaled=True)
    half = CLASSES["unet"].from_pretrained(tmp_path, subfolder="unet", dtype=torch.float16)
    assert {p.dtype for p in half.parameters()} == {torch.float16}
