"""VQModel against diffusers' on the same weights."""

import pytest
import tiny
import torch
from parity import LIMIT, idle_parameters, load_pair, noise, relative_l2

from pyengine.errors import RequestError
from pyengine.models import VQModel

TWO = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
VARIANTS = {
    "amused": {},
    "narrow_codes": {"vq_embed_dim": 3, "latent_channels": 8},
    "wide_codes": {"vq_embed_dim": 13, "num_vq_embeddings": 5},
    "one_entry": {"num_vq_embeddings": 1},
    "no_attention": {"mid_block_add_attention": False, "layers_per_block": 2},
    "vqgan": {
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    },
    "attention_outside": {
        "down_block_types": ("AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
        "act_fn": "swish",
    },
    "grey_with_alpha": {"in_channels": 2, "out_channels": 5},
    "three_levels": {
        "block_out_channels": (4, 8, 12),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    },
}
SIZES = [(1, 16, 16), (2, 6, 10), (3, 13, 9)]


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vq")
    return load_pair(tiny.make_vq(**VARIANTS[request.param]), VQModel, folder)


def same_tokens(ours, theirs, latents, codebook):
    """Equal but where the two best distances differ by less than 1e-5, in float64."""
    z = latents.permute(0, 2, 3, 1).flatten(0, 2).double()
    distances = torch.cdist(z, codebook.double())
    if codebook.shape[0] == 1:
        return not ours.any() and not theirs.any()
    best, second = distances.topk(2, largest=False).values.unbind(1)
    clear = (second - best) > 1e-5 * best
    exact = distances.argmin(1)
    ours, theirs = ours.flatten(), theirs.flatten()
    assert clear.sum() >= 0.9 * len(clear)
    return torch.equal(ours[clear], exact[clear]) and torch.equal(theirs[clear], exact[clear])


@pytest.mark.parametrize(("n", "height", "width"), SIZES)
@torch.no_grad()
def test_encode_and_quantise(pair, n, height, width):
    theirs, ours = pair
    x = noise(n, ours.config.in_channels, height, width)
    want = theirs.encode(x).latents
    got = ours.encode(x).latents
    assert relative_l2(got, want) < LIMIT
    indices = theirs.quantize(want)[2][2].reshape(n, *want.shape[2:])
    tokens = ours.encode_tokens(x)
    assert tokens.shape == indices.shape
    assert tokens.dtype == torch.int64
    assert same_tokens(tokens, indices, want, theirs.quantize.embedding.weight)
    assert torch.equal(tokens, ours.quantize_latents(got))


@pytest.mark.parametrize(("n", "height", "width"), [(1, 4, 4), (3, 5, 7), (1, 1, 2)])
@torch.no_grad()
def test_decode(pair, n, height, width):
    theirs, ours = pair
    z = noise(n, ours.config.embed_dim, height, width)
    assert relative_l2(ours.decode(z).sample, theirs.decode(z).sample) < LIMIT
    want = theirs.decode(z, force_not_quantize=True).sample
    assert relative_l2(ours.decode(z, force_not_quantize=True).sample, want) < LIMIT
    # Latents that lie on entries are entries.
    tokens = torch.randint(0, ours.config.num_vq_embeddings, (n, height, width))
    z = theirs.quantize.embedding.weight[tokens].permute(0, 3, 1, 2)
    want = theirs.decode(z, force_not_quantize=True).sample
    assert relative_l2(ours.decode_tokens(tokens).sample, want) < LIMIT
    assert torch.equal(ours.decode(z).sample, ours.decode_tokens(tokens).sample)


@torch.no_grad()
def test_tokens_as_diffusers_takes_them(tmp_path):
    theirs = tiny.make_vq(lookup_from_codebook=True)
    theirs, ours = load_pair(theirs, VQModel, tmp_path)
    tokens = torch.randint(0, 40, (2, 3, 5))
    width = theirs.config.latent_channels
    want = theirs.decode(tokens, force_not_quantize=True, shape=(2, 3, 5, width)).sample
    assert relative_l2(ours.decode_tokens(tokens).sample, want) < LIMIT
    assert ours.config.lookup_from_codebook


@torch.no_grad()
def test_alone_and_in_a_batch(pair):
    _, ours = pair
    x = noise(3, ours.config.in_channels, 12, 8)
    tokens = ours.encode_tokens(x)
    assert torch.equal(tokens[1:2], ours.encode_tokens(x[1:2]))
    alone, beside = ours.decode_tokens(tokens[1:2]).sample, ours.decode_tokens(tokens).sample[1:2]
    assert relative_l2(alone, beside) < LIMIT


def test_every_parameter_matters(tmp_path):
    theirs = tiny.make_vq(**VARIANTS["vqgan"])
    _, ours = load_pair(theirs, VQModel, tmp_path)
    x = noise(1, 3, 6, 8)
    tokens = torch.arange(40).view(1, 5, 8)

    def run():
        ours.pack()
        return ours.encode(x).latents, ours.decode_tokens(tokens).sample

    assert idle_parameters(ours, run) == []


def test_equal_entries_give_the_lower_index(tmp_path):
    theirs = tiny.make_vq()
    with torch.no_grad():
        theirs.quantize.embedding.weight[20:] = theirs.quantize.embedding.weight[:20].clone()
    _, ours = load_pair(theirs, VQModel, tmp_path)
    tokens = ours.encode_tokens(noise(4, 3, 16, 16))
    assert int(tokens.max()) < 20
    assert len(tokens.unique()) > 3


def test_wrong_arguments(pair):
    _, ours = pair
    c = ours.config
    last = c.num_vq_embeddings - 1
    for tokens, message in (
        (torch.zeros(2, 3, dtype=torch.long), r"tokens: expected integers \[N, h, w\]"),
        (torch.zeros(1, 2, 3), r"tokens: expected integers .* torch.float32 \[1, 2, 3\]"),
        (torch.full((1, 2, 2), last + 1), f"tokens: expected 0 to {last}, got {last + 1}"),
        (torch.full((1, 2, 2), -1), f"tokens: expected 0 to {last}, got -1"),
    ):
        with pytest.raises(RequestError, match=message):
            ours.decode_tokens(tokens)
    with pytest.raises(RequestError, match=rf"h: expected \[N, {c.embed_dim}, H, W\]"):
        ours.decode(noise(1, c.embed_dim + 1, 4, 4), force_not_quantize=True)
    with pytest.raises(RequestError, match=rf"latents: expected \[N, {c.embed_dim}, H, W\]"):
        ours.decode(noise(1, c.embed_dim + 1, 4, 4))
    with pytest.raises(RequestError, match=f"x: 1x16 pixels, expected at least {c.downscale}x"):
        ours.encode(noise(1, c.in_channels, 1, 16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype, tmp_path):
    theirs, ours = load_pair(tiny.make_vq(), VQModel, tmp_path, dtype=dtype)
    z = noise(2, 4, 3, 4)
    want = theirs.decode(z, force_not_quantize=True).sample
    halved = theirs.to(dtype).decode(z.to(dtype), force_not_quantize=True).sample.float()
    got = ours.decode(z.to(dtype), force_not_quantize=True).sample
    assert got.dtype == ours.dtype == dtype
    assert relative_l2(got.float(), want) < 1.5 * relative_l2(halved, want)
