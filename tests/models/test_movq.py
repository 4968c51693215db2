"""MoVQ, whose norms are told the code, against diffusers' VQModel with norm_type "spatial"."""

import json

import pytest
import tiny
import torch
from parity import LIMIT, idle_parameters, load_pair, noise, relative_l2

from pyengine.errors import ConfigError
from pyengine.models import VQModel

#: Kandinsky's arrangement. The groups of spatial norms are 32, so that no level is narrower.
MOVQ = {
    "norm_type": "spatial",
    "norm_num_groups": 32,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    "latent_channels": 4,
    "vq_embed_dim": 4,
    "layers_per_block": 1,
    "num_vq_embeddings": 29,
}
CONFIGS = {
    "movq": {},
    "two layers": {"layers_per_block": 2, "mid_block_add_attention": False},
    "three levels": {
        "block_out_channels": (32, 64, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    },
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    theirs = tiny.make_vq(**{**MOVQ, **CONFIGS[request.param]})
    return load_pair(theirs, VQModel, tmp_path_factory.mktemp("movq"))


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (4, 4)])
@torch.no_grad()
def test_decode(pair, size):
    theirs, ours = pair
    z = noise(3, 4, *size)
    for given in ({"force_not_quantize": True}, {}):
        got, want = ours.decode(z, **given).sample, theirs.decode(z, **given).sample
        # A norm over two numbers, a group of one pixel, makes much of how they were rounded.
        assert relative_l2(got, want) < (1e-4 if size == (1, 1) else LIMIT)
        assert torch.equal(ours.decode(z[-1:], **given).sample, got[-1:])


@torch.no_grad()
def test_encode_and_tokens(pair):
    theirs, ours = pair
    pictures = noise(2, 3, 24, 36)
    latents = ours.encode(pictures).latents
    assert relative_l2(latents, theirs.encode(pictures).latents) < LIMIT
    tokens = ours.encode_tokens(pictures)
    assert relative_l2(ours.decode_tokens(tokens).sample, theirs.decode(latents).sample) < LIMIT


@torch.no_grad()
def test_against_float64(pair):
    theirs, ours = pair
    z = noise(2, 4, 6, 5)
    want = theirs.double().decode(z.double(), force_not_quantize=True).sample.float()
    theirs.float()
    assert relative_l2(ours.decode(z, force_not_quantize=True).sample, want) < LIMIT


@torch.no_grad()
def test_the_same_bits_on_any_number_of_threads(pair, use_threads):
    _, ours = pair
    results = []
    for threads in (1, 3):
        use_threads(threads)
        results.append(ours.decode(noise(2, 4, 24, 24), force_not_quantize=True).sample)
    assert torch.equal(*results)


def test_every_parameter_of_the_decoder_matters(tmp_path):
    _, ours = load_pair(tiny.make_vq(**MOVQ), VQModel, tmp_path)
    z = noise(1, 4, 4, 4)
    idle = idle_parameters(ours.decoder, lambda: ours.decode(z, True, return_dict=False))
    # A key's bias adds the same to all scores of a row.
    assert [name for name in idle if "to_k.bias" not in name] == []


@torch.no_grad()
def test_half_precision(tmp_path):
    theirs, ours = load_pair(tiny.make_vq(**MOVQ), VQModel, tmp_path, dtype=torch.bfloat16)
    z = noise(2, 4, 6, 6)
    want = theirs.decode(z, force_not_quantize=True).sample
    halved = theirs.to(torch.bfloat16).decode(z.bfloat16(), force_not_quantize=True).sample.float()
    got = ours.decode(z, force_not_quantize=True).sample
    assert got.dtype == torch.bfloat16
    assert relative_l2(got.float(), want) < 1.5 * relative_l2(halved, want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_type": "layer"}, "norm_type is 'layer', expected 'group' or 'spatial'"),
        ({"vq_embed_dim": 3}, "vq_embed_dim is 3, expected latent_channels 4 beside norm_type"),
        (
            {"block_out_channels": [48, 64], "norm_num_groups": 16},
            r"block_out_channels\[0\] 48 is no multiple of the 32 groups of norm_type 'spatial'",
        ),
    ],
)
def test_refused_configs(change, message, tmp_path):
    tiny.make_vq(**MOVQ).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ConfigError, match=message):
        VQModel.from_pretrained(tmp_path)
