"""Llama decoders with 8-bit weights: as with the numbers that these stand for."""

import pytest
import tiny
import torch
from parity import LIMIT, relative_l2
from safetensors.torch import load_file, save_file

import pyengine
from pyengine import ops
from pyengine.errors import RequestError
from pyengine.models import Janus, PictureGPT
from pyengine.weights import load_json, load_module, open_weights

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


def dequantise(folder, heads):
    """Rounds the checkpoint's own weights as int8 does; returns how many."""
    tensors = load_file(folder / "model.safetensors")
    rounded = [name for name in tensors if is_rounded(name, heads)]
    for name in rounded:
        panels, scale = ops.quantize_weight(tensors[name])
        numbers = ops.unpack_weight(panels, len(scale))
        tensors[name] = (numbers.float() * scale[:, None]).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return len(rounded)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_as_with_the_rounded_weights(tmp_path, name, stored):
    cls, make, run = MODELS[name]
    make().to(stored).save_pretrained(tmp_path)
    int8 = load(cls, tmp_path, keep_narrow=name == "picture_gpt", int8=True)
    plain = run(load(cls, tmp_path))
    heads = HEADS[name]
    count = dequantise(tmp_path, heads)
    layers = {m for m in int8.modules() if getattr(m, "weight_scale", None) is not None}
    # Three projections are one weight where they share an input, and so are two of the MLP's.
    assert count == 7 * 2 + len(heads)
    assert len(layers) == 4 * 2 + len(heads)
    assert {m.weight.dtype for m in layers} == {torch.int8}
    assert (int8.dtype, int8.weights) == (torch.float32, "int8")
    for got, want, exact in zip(run(int8), run(load(cls, tmp_path)), plain, strict=True):
        assert relative_l2(got, want) < LIMIT
        assert relative_l2(got, exact) > 10 * LIMIT, "nothing was rounded"


def test_same_bits_alone_and_in_a_batch_on_any_number_of_threads(tmp_path):
    make = MODELS["picture_gpt"][1]
    make().save_pretrained(tmp_path)
    gpt, ids = load(PictureGPT, tmp_path, int8=True), draw(600, 6, 9)

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


def test_from_pretrained_says_so_in_the_report(tmp_path):
    folder = tiny.write_picture_gpt(tmp_path / "gpt")
    pipe = pyengine.from_pretrained(folder, device="cpu", weights="int8")
    again = pyengine.from_pretrained(folder, device="cpu")
    assert pipe("a red heart", seed=1).report.weights == "int8"
    assert again("a red heart", seed=1).report.weights is None


@pytest.mark.parametrize(
    ("write", "weights", "complaint"),
    [
        (tiny.write_picture_gpt, "int4", "weights: expected int8 or None, given 'int4'"),
        (tiny.write_image_gpt, "int8", "weights: expected None for ImageGPT.* on cpu, given int8"),
    ],
)
def test_refusals(tmp_path, write, weights, complaint):
    folder = write(tmp_path / "model")
    with pytest.raises(RequestError, match=complaint):
        pyengine.from_pretrained(folder, device="cpu", weights=weights)
