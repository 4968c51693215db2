"""AutoencoderKL against diffusers' on the same weights."""

import pytest
import tiny
import torch
from parity import LIMIT, idle_parameters, load_pair, noise, relative_l2
from safetensors.torch import load_file, save_file

from pyengine.errors import RequestError
from pyengine.models import AutoencoderKL

ONE = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
TWO = {name: types * 2 for name, types in ONE.items()}
VARIANTS = {
    "sd": {},
    "sdxl": {"scaling_factor": 0.13025, "layers_per_block": 2},
    "no_quant_convs": {"use_quant_conv": False, "use_post_quant_conv": False},
    "sixteen_channels": {"latent_channels": 16, "shift_factor": 0.0609, "use_quant_conv": False},
    "no_attention": {"mid_block_add_attention": False},
    "one_level": {"block_out_channels": (8,), **ONE},
    "emoji": {"block_out_channels": (16, 24), "norm_num_groups": 8, **TWO},
    "grey_with_alpha": {"in_channels": 2, "out_channels": 5, "act_fn": "swish"},
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    return load_pair(tiny.make_vae(**VARIANTS[request.param]), AutoencoderKL, folder)


@pytest.mark.parametrize(
    ("n", "height", "width"), [(1, 32, 32), (2, 40, 72), (5, 17, 29), (1, 8, 9)]
)
@torch.no_grad()
def test_encode(pair, n, height, width):
    theirs, ours = pair
    x = noise(n, ours.config.in_channels, height, width)
    want, got = theirs.encode(x).latent_dist, ours.encode(x).latent_dist
    for name in ("parameters", "mean", "logvar", "std"):
        assert relative_l2(getattr(got, name), getattr(want, name)) < LIMIT
    assert torch.equal(got.mode(), got.mean)


@pytest.mark.parametrize(("n", "height", "width"), [(1, 4, 4), (3, 5, 7), (5, 1, 3), (1, 1, 1)])
@torch.no_grad()
def test_decode(pair, n, height, width):
    theirs, ours = pair
    z = noise(n, ours.config.latent_channels, height, width)
    assert relative_l2(ours.decode(z).sample, theirs.decode(z).sample) < LIMIT


@torch.no_grad()
def test_samples_are_those_of_diffusers(pair):
    theirs, ours = pair
    x = noise(3, ours.config.in_channels, 16, 24)
    want, got = theirs.encode(x).latent_dist, ours.encode(x).latent_dist

    def seeded(*seeds):
        return [torch.Generator().manual_seed(s) for s in seeds]

    assert relative_l2(got.sample(*seeded(5)), want.sample(*seeded(5))) < LIMIT
    mine = got.sample(seeded(1, 2, 3))
    assert relative_l2(mine, want.sample(seeded(1, 2, 3))) < LIMIT
    alone = ours.encode(x[1:2]).latent_dist.sample(seeded(2))
    assert relative_l2(mine[1:2], alone) < LIMIT
    with pytest.raises(RequestError, match="generator: expected one or 3, got 2"):
        got.sample(seeded(1, 2))


# Pictures of the 2-level autoencoder with 16-pixel tiles that begin every 12.
@pytest.mark.parametrize(
    ("height", "width"), [(18, 16), (32, 34), (16, 50), (24, 12), (10, 10), (27, 39)]
)
@torch.no_grad()
def test_tiling(height, width, tmp_path):
    theirs = tiny.make_vae(sample_size=16, block_out_channels=(8, 16), **TWO)
    theirs, ours = load_pair(theirs, AutoencoderKL, tmp_path)
    x, z = noise(2, 3, height, width), noise(2, 4, height // 2, width // 2)
    whole = ours.decode(z).sample
    theirs.enable_tiling()
    ours.enable_tiling()
    got, want = ours.encode(x).latent_dist, theirs.encode(x).latent_dist
    assert relative_l2(got.parameters, want.parameters) < LIMIT
    tiled = ours.decode(z).sample
    assert relative_l2(tiled, theirs.decode(z).sample) < LIMIT
    assert torch.equal(tiled, whole) == (max(height, width) // 2 <= 8)
    ours.disable_tiling()
    assert torch.equal(ours.decode(z).sample, whole)


@torch.no_grad()
def test_tiling_at_factor_8(tmp_path):
    theirs, ours = load_pair(tiny.make_vae(sample_size=64), AutoencoderKL, tmp_path)
    theirs.enable_tiling()
    ours.enable_tiling()
    x, z = noise(1, 3, 72, 120), noise(1, 4, 9, 13)
    got, want = ours.encode(x).latent_dist, theirs.encode(x).latent_dist
    assert relative_l2(got.parameters, want.parameters) < LIMIT
    assert relative_l2(ours.decode(z).sample, theirs.decode(z).sample) < LIMIT
    with pytest.raises(RequestError, match="leave a tile of 1"):
        ours.encode(noise(1, 3, 145, 97))


@pytest.mark.parametrize("sample_size", [32, 40, 50])
@torch.no_grad()
def test_tiles_that_do_not_fit(sample_size, tmp_path):
    """Tile sizes that are no power of two, where overlaps and crops are rounded."""
    theirs = tiny.make_vae(sample_size=sample_size, block_out_channels=(8, 16), **TWO)
    theirs, ours = load_pair(theirs, AutoencoderKL, tmp_path)
    theirs.enable_tiling()
    ours.enable_tiling()
    x, z = noise(1, 3, 88, 66), noise(1, 4, 45, 31)
    got, want = ours.encode(x).latent_dist, theirs.encode(x).latent_dist
    assert relative_l2(got.parameters, want.parameters) < LIMIT
    assert relative_l2(ours.decode(z).sample, theirs.decode(z).sample) < LIMIT


def test_tiles_too_small(tmp_path):
    _, ours = load_pair(tiny.make_vae(sample_size=8), AutoencoderKL, tmp_path)
    with pytest.raises(RequestError, match="tiling: tiles of 8 pixels"):
        ours.enable_tiling()


@torch.no_grad()
def test_names_of_older_checkpoints(tmp_path):
    """SD 1.5's autoencoder is saved with attention names that diffusers has changed since."""
    theirs = tiny.make_vae()
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in tensors.items():
        for new_part, old_part in old.items():
            name = name.replace(f"attentions.0.{new_part}.", f"attentions.0.{old_part}.")
        renamed[name] = tensor
    assert len(renamed.keys() - tensors.keys()) == 16
    save_file(renamed, file)
    ours = AutoencoderKL.from_pretrained(tmp_path)
    z = noise(1, 4, 3, 5)
    assert relative_l2(ours.decode(z).sample, theirs.decode(z).sample) < LIMIT


def test_every_parameter_matters(tmp_path):
    theirs = tiny.make_vae(block_out_channels=(8, 16), **TWO)
    _, ours = load_pair(theirs, AutoencoderKL, tmp_path)
    x, z = noise(1, 3, 6, 8), noise(1, 4, 2, 3)

    def run():
        return ours.encode(x).latent_dist.parameters, ours.decode(z).sample

    assert idle_parameters(ours, run) == []


def test_wrong_arguments(pair):
    _, ours = pair
    c = ours.config
    with pytest.raises(RequestError, match=r"z: expected \[N, "):
        ours.decode(noise(1, c.latent_channels + 1, 4, 4))
    with pytest.raises(RequestError, match=r"x: expected \[N, "):
        ours.encode(noise(c.in_channels, 16, 16))
    if c.downscale > 2:
        with pytest.raises(RequestError, match="expected at least 8"):
            ours.encode(noise(1, c.in_channels, 7, 16))


def test_tuples(pair):
    _, ours = pair
    z = noise(1, ours.config.latent_channels, 2, 2)
    (sample,) = ours.decode(z, return_dict=False)
    assert torch.equal(sample, ours.decode(z)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype, tmp_path):
    theirs, ours = load_pair(tiny.make_vae(), AutoencoderKL, tmp_path, dtype=dtype)
    z = noise(2, 4, 3, 4)
    want = theirs.decode(z).sample
    halved = theirs.to(dtype).decode(z.to(dtype)).sample.float()
    got = ours.decode(z.to(dtype)).sample
    assert got.dtype == ours.dtype == dtype
    assert relative_l2(got.float(), want) < 1.5 * relative_l2(halved, want)


@torch.no_grad()
def test_memory_at_the_end_of_the_decoder(tmp_path):
    """A residual block's input of twice the channels, what its convolutions made and its result are
    four times the last result; what blocks around it were given would be held beside them.
    """
    _, ours = load_pair(tiny.make_vae(block_out_channels=(16, 32), **TWO), AutoencoderKL, tmp_path)
    ours.decode(noise(1, ours.config.latent_channels, 64, 64))
    facts = ours.arena.statistics()
    last = 128 * 128 * 16 * 4
    assert facts["peak"] < 4.2 * last
    assert facts["touched"] < 4.7 * last
