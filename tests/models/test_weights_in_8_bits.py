"""Models with 8-bit weights: as with the numbers that these stand for."""

import re
from functools import partial

import pytest
import tiny
import torch
from parity import LIMIT, noise, relative_l2
from safetensors.torch import load_file, save_file

import pyengine
from pyengine import ops
from pyengine.errors import CheckpointError, RequestError
from pyengine.models import Janus, PictureGPT, UNet2DConditionModel
from pyengine.ops.reference.linear import prologue, rounded
from pyengine.weights import TIERS, load_json, load_module, open_weights

LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
HEADS = {"janus": {"proj_out", "vision_head"}, "picture_gpt": {"lm_head"}}


def draw(count, *shape):
    return torch.randint(0, count, shape, generator=torch.Generator().manual_seed(1))


def run_janus(janus):
    cache = janus.cache(3, 20)
    return janus.read_text(draw(600, 3, 7), cache), janus.read_tokens(draw(30, 3, 4), cache)


def run_picture_gpt(gpt):
    ids, cache = draw(600, 3, 9), gpt.cache(3, 20)
    return gpt.next_logits(ids, cache), gpt.next_logits(ids, cache, 563, 40)


MODELS = {
    "janus": (Janus, tiny.make_janus, run_janus),
    "picture_gpt": (PictureGPT, lambda: tiny.make_gpt()[0], run_picture_gpt),
}


def load(cls, folder, **options):
    config = cls.config_class.from_dict(load_json(folder / "config.json"))
    with open_weights(folder) as source:
        return load_module(cls.from_config(config), source, dtype=torch.float32, **options)


def is_rounded(name, heads):
    path, _, leaf = name.rpartition(".")
    vq = "vqmodel" in path or "vision_model" in path
    return leaf == "weight" and path.rpartition(".")[2] in LAYERS | heads and not vq


def dequantise(folder, heads, tier):
    """Rounds the checkpoint's own weights as the tier does; returns how many."""
    tensors = load_file(folder / "model.safetensors")
    rounded = [name for name in tensors if is_rounded(name, heads)]
    for name in rounded:
        panels, scale = ops.quantize_weight(tensors[name], TIERS[tier])
        numbers = ops.unpack_weight(panels, len(scale))
        tensors[name] = (numbers.float() * scale[:, None]).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return len(rounded)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
@pytest.mark.parametrize("tier", TIERS)
def test_as_with_the_rounded_weights(tmp_path, name, stored, tier):
    cls, make, run = MODELS[name]
    make().to(stored).save_pretrained(tmp_path)
    rounded = load(cls, tmp_path, keep_narrow=name == "picture_gpt", weights=tier)
    plain = run(load(cls, tmp_path))
    heads = HEADS[name]
    count = dequantise(tmp_path, heads, tier)
    layers = {m for m in rounded.modules() if getattr(m, "weight_scale", None) is not None}
    # Three projections are one weight where they share an input, and so are two of the MLP's.
    assert count == 7 * 2 + len(heads)
    assert len(layers) == 4 * 2 + len(heads)
    assert {m.weight.dtype for m in layers} == {TIERS[tier]}
    assert (rounded.dtype, rounded.weights) == (torch.float32, tier)
    for got, want, exact in zip(run(rounded), run(load(cls, tmp_path)), plain, strict=True):
        assert relative_l2(got, want) < LIMIT
        assert relative_l2(got, exact) > 10 * LIMIT, "nothing was rounded"


@pytest.mark.parametrize("tier", TIERS)
def test_same_bits_alone_and_in_a_batch_on_any_number_of_threads(tmp_path, tier):
    make = MODELS["picture_gpt"][1]
    make().save_pretrained(tmp_path)
    gpt, ids = load(PictureGPT, tmp_path, weights=tier), draw(600, 6, 9)

    def logits(rows):
        return gpt.next_logits(ids[rows], gpt.cache(len(ids[rows]), 20))

    together, threads = logits(slice(None)), torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for i in range(6):
                assert torch.equal(logits(slice(i, i + 1))[0], together[i])
    finally:
        torch.set_num_threads(threads)


UNETS = {"sd1": {}, "sd2": tiny.SD2_UNET, "sdxl": tiny.SDXL_UNET}
_LINEAR = r"attn1\.to_[qkv]|attn2\.to_q|attn[12]\.to_out\.0|ff\.net\.(0\.proj|2)|proj_in|proj_out"
_CONVOLUTIONS = r"resnets\.\d\.conv[12]|(down|up)samplers\.0\.conv"
#: What the tiers round of a U-Net, and no other tensor.
ROUNDED = {
    "fp8": re.compile(rf".*\.({_LINEAR})\.weight"),
    "int8": re.compile(rf".*\.({_LINEAR}|{_CONVOLUTIONS})\.weight"),
}


def run_unet(unet):
    c = unet.config
    xl = {"text_embeds": noise(2, 40), "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)}
    added = {"added_cond_kwargs": xl} if c.addition_embed_type else {}
    text = noise(2, 7, c.cross_attention_dim, seed=1)
    return unet(noise(2, 4, 8, 12), torch.tensor([3, 700]), text, **added).sample


def with_rounded_weights(folder, tier):
    """The U-Net in `folder`, whose weights become in float32 what the tier makes of them."""
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for weight in filter(ROUNDED[tier].fullmatch, list(tensors)):
        matrix = tensors[weight].flatten(1)
        panels, scale = ops.quantize_weight(matrix, TIERS[tier])
        matrix = ops.unpack_weight(panels, len(scale)).float() * scale[:, None]
        tensors[weight] = matrix.view(tensors[weight].shape).contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    return UNet2DConditionModel.from_pretrained(folder)


def scaled_layers(model):
    return {p for p, m in model.named_modules() if getattr(m, "weight_scale", None) is not None}


@pytest.mark.parametrize("name", UNETS)
def test_unets_round_weights_and_inputs_of_their_transformer_blocks(tmp_path, name, monkeypatch):
    tiny.make_unet(**UNETS[name]).save_pretrained(tmp_path)
    fp8 = UNet2DConditionModel.from_pretrained(tmp_path, weights="fp8")
    assert (fp8.weights, fp8.dtype) == ("fp8", torch.float32)
    got, exact = run_unet(fp8), run_unet(UNet2DConditionModel.from_pretrained(tmp_path))

    # The same with the rounded weights in float32, and with these layers' inputs rounded.
    plain = with_rounded_weights(tmp_path, "fp8")
    chosen = {plain.get_submodule(path).weight.data_ptr() for path in scaled_layers(fp8)}
    linear = ops.linear

    def rounding(x, weight, *args, scale=None, shift=None, **rest):
        if weight.data_ptr() in chosen:
            x, scale, shift = rounded(prologue(x, None, scale, shift), x.dtype), None, None
        return linear(x, weight, *args, scale=scale, shift=shift, **rest)

    monkeypatch.setattr(ops, "linear", rounding)
    assert torch.equal(run_unet(plain), got)
    assert relative_l2(got, exact) > 10 * LIMIT, "nothing was rounded"


@pytest.mark.parametrize("name", UNETS)
def test_unets_in_int8_layer_by_layer(tmp_path, name, monkeypatch):
    """Each against float32 products of the rounded weight and inputs: sums' last bits would turn
    ties in the layers behind.
    """
    tiny.make_unet(**UNETS[name]).save_pretrained(tmp_path)
    int8 = UNet2DConditionModel.from_pretrained(tmp_path, weights="int8")
    assert (int8.weights, int8.dtype) == ("int8", torch.float32)
    exact = run_unet(UNet2DConditionModel.from_pretrained(tmp_path))
    plain, paths = with_rounded_weights(tmp_path, "int8"), scaled_layers(int8)
    stands_for = {
        int8.get_submodule(path).weight.data_ptr(): plain.get_submodule(path).weight
        for path in paths
    }
    distances, linear, conv2d = {}, ops.linear, ops.conv2d

    def watched(op, x, weight, *args, **given):
        got = op(x, weight, *args, **given)
        if weight.data_ptr() in stands_for:
            names = ("x2", "scale", "shift", "input_activation", "weight_scale", "quantize_x")
            x2, scale, shift, activation, *_ = (given.pop(name, None) for name in names)
            x = prologue(x, x2, scale, shift)
            x = torch.nn.functional.silu(x) if activation == "silu" else x
            want = op(
                rounded(x, x.dtype, torch.int8), stands_for[weight.data_ptr()], *args, **given
            )
            distances[weight.data_ptr()] = relative_l2(got, want)
        return got

    monkeypatch.setattr(ops, "linear", partial(watched, linear))
    monkeypatch.setattr(ops, "conv2d", partial(watched, conv2d))
    got = run_unet(int8)
    assert len(distances) == len(paths)
    assert max(distances.values()) < 5e-3, "more than a few ties of the prologue"
    assert sorted(distances.values())[len(distances) // 2] < 1e-5
    assert 1e-3 < relative_l2(got, exact) < 0.15


@pytest.mark.parametrize("write", [tiny.write_sd1, tiny.write_sdxl])
@pytest.mark.parametrize("tier", TIERS)
def test_diffusion_pipelines_take_tiers(tmp_path, write, tier):
    folder = write(tmp_path / "model")
    pipe = pyengine.from_pretrained(folder, device="cpu", weights=tier)
    call = {"seed": 1, "num_inference_steps": 3, "output_type": "pt", "height": 64, "width": 64}
    result = pipe("a red heart", **call)
    plain = pyengine.from_pretrained(folder, device="cpu")("a red heart", **call)
    assert (result.report.weights, plain.report.weights) == (tier, None)
    assert not torch.equal(result.images, plain.images)
    again = pipe(["a cat", "a red heart"], **{**call, "seed": 0})
    assert torch.equal(again.images[1], result.images[0])


@pytest.mark.parametrize("tier", TIERS)
def test_from_pretrained_says_so_in_the_report(tmp_path, tier):
    folder = tiny.write_picture_gpt(tmp_path / "gpt")
    pipe = pyengine.from_pretrained(folder, device="cpu", weights=tier)
    again = pyengine.from_pretrained(folder, device="cpu")
    assert pipe("a red heart", seed=1).report.weights == tier
    assert again("a red heart", seed=1).report.weights is None


@pytest.mark.parametrize(
    ("write", "weights", "complaint"),
    [
        (tiny.write_picture_gpt, "fp4", "weights: expected int8, fp8 or None, given 'fp4'"),
        (tiny.write_picture_gpt, ["int8"], "weights: expected int8, fp8 or None, given"),
        (tiny.write_image_gpt, "int8", "weights: expected None for ImageGPT.*, given 'int8'"),
    ],
)
def test_refusals(tmp_path, write, weights, complaint):
    folder = write(tmp_path / "model")
    with pytest.raises(RequestError, match=complaint):
        pyengine.from_pretrained(folder, device="cpu", weights=weights)


def test_a_models_own_from_pretrained_takes_its_tiers(tmp_path):
    MODELS["picture_gpt"][1]().save_pretrained(tmp_path)
    assert PictureGPT.from_pretrained(tmp_path, weights="fp8").weights == "fp8"
    assert PictureGPT.from_pretrained(tmp_path).weights is None
    with pytest.raises(RequestError, match="weights: expected int8, fp8 or None for PictureGPT"):
        PictureGPT.from_pretrained(tmp_path, weights="fp4")


UP = ("transformer/model.safetensors", "model.layers.1.mlp.up_proj.weight")
PROJ_IN = ("unet/diffusion_pytorch_model.safetensors", "mid_block.attentions.0.proj_in.weight")


@pytest.mark.parametrize(
    ("write", "tier", "where"),
    [
        *((tiny.write_picture_gpt, tier, UP) for tier in TIERS),
        *((tiny.write_sd1, tier, PROJ_IN) for tier in TIERS),
    ],
)
@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_cannot_be_rounded(tmp_path, write, tier, where, odd):
    folder, (file, name) = write(tmp_path / "model"), where
    tensors = load_file(folder / file)
    tensors[name][3, 2] = odd
    save_file(tensors, folder / file, metadata={"format": "pt"})
    pyengine.from_pretrained(folder, device="cpu")
    complaint = f"{file}: tensor '{name}': expected finite numbers, .* to {tier}, found NaN or inf"
    with pytest.raises(CheckpointError, match=complaint):
        pyengine.from_pretrained(folder, device="cpu", weights=tier)
