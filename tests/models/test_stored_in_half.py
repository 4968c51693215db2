"""Token models stored in 16 bits compute in float32: as with the same weights stored in 32."""

import pytest
import tiny
import torch
from parity import LIMIT, noise, relative_l2

from pyengine.models import ImageGPT, Janus, PictureGPT, UVit2DModel, VQModel


def draw(count, *shape):
    return torch.randint(0, count, shape, generator=torch.Generator().manual_seed(1))


def run_vq(vq):
    x = noise(2, 3, 12, 10)
    tokens = vq.encode_tokens(x)
    return tokens, vq.encode(x).latents, vq.decode_tokens(tokens).sample


def run_image_gpt(gpt):
    ids, cache = draw(17, 3, 9), gpt.cache(3, 20)
    return gpt(ids), gpt.next_logits(ids, cache), gpt.next_logits(ids, cache)


def run_janus(janus):
    cache = janus.cache(3, 20)
    text = janus.read_text(draw(600, 3, 7), cache)
    side, factor = janus.config.side, janus.vq.config.downscale
    tokens = janus.vq.encode_tokens(noise(3, 3, side * factor, side * factor))
    after = janus.read_tokens(tokens.flatten(1), cache)
    return tokens, text, after, janus.vq.decode_tokens(tokens)


def run_picture_gpt(gpt):
    ids, cache = draw(600, 3, 9), gpt.cache(3, 20)
    return gpt.next_logits(ids, cache), gpt.next_logits(ids, cache, 5, 40)


def run_uvit(uvit):
    c = uvit.config
    text, pooled = noise(2, 5, c.encoder_hidden_size), noise(2, c.cond_embed_dim, seed=1)
    return (uvit(draw(c.vocab_size, 2, 6, 4), text, pooled, torch.full((2, 5), 3.0)),)


MODELS = {
    "vq": (VQModel, tiny.make_vq, run_vq),
    "uvit": (UVit2DModel, tiny.make_uvit, run_uvit),
    "imagegpt": (ImageGPT, tiny.make_image_gpt, run_image_gpt),
    "janus": (Janus, tiny.make_janus, run_janus),
    "picture_gpt": (PictureGPT, lambda: tiny.make_gpt()[0], run_picture_gpt),
}


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_as_stored_in_32_bits(tmp_path, name, stored):
    cls, make, run = MODELS[name]
    theirs = make().to(stored)
    theirs.save_pretrained(tmp_path / "half")
    theirs.float().save_pretrained(tmp_path / "whole")
    half, whole = (cls.from_pretrained(tmp_path / folder) for folder in ("half", "whole"))
    assert half.dtype == torch.float32
    assert stored in {p.dtype for p in half.parameters()}, "no weight is kept as stored"
    for got, want in zip(run(half), run(whole), strict=True):
        if want.is_floating_point():
            assert got.dtype == torch.float32
            assert relative_l2(got, want) < LIMIT
        else:
            assert torch.equal(got, want)
