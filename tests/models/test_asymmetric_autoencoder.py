"""AsymmetricAutoencoderKL against diffusers'."""

import diffusers
import pytest
import tiny
import torch
from parity import LIMIT, idle_parameters, load_pair, noise, relative_l2

from pyengine.errors import ConfigError, RequestError
from pyengine.models import AsymmetricAutoencoderKL, AutoencoderKL

SMALL = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "down_block_out_channels": [4, 8, 8, 12],
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "up_block_out_channels": [8, 16, 32, 32],
    "layers_per_up_block": 2,
    "norm_num_groups": 4,
    "sample_size": 32,
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    theirs = tiny.randomise(diffusers.AsymmetricAutoencoderKL(**SMALL), 5)
    return load_pair(theirs, AsymmetricAutoencoderKL, tmp_path_factory.mktemp("asymmetric"))


@torch.no_grad()
def test_encode_and_decode(pair):
    theirs, ours = pair
    assert isinstance(ours, AutoencoderKL)
    x, z = noise(2, 3, 24, 40), noise(2, 4, 3, 5)
    want = theirs.encode(x).latent_dist.parameters
    assert relative_l2(ours.encode(x).latent_dist.parameters, want) < LIMIT
    assert relative_l2(ours.decode(z).sample, theirs.decode(z).sample) < LIMIT


@pytest.mark.parametrize(("n", "height", "width"), [(1, 16, 16), (2, 24, 40), (3, 8, 16)])
@torch.no_grad()
def test_decode_around_a_mask(pair, n, height, width, use_threads):
    theirs, ours = pair
    z = noise(n, 4, height // 8, width // 8)
    image, mask = noise(n, 3, height, width).tanh(), (noise(n, 1, height, width, seed=2) > 0)
    mask = mask.float()
    want = theirs.decode(z, image=image, mask=mask).sample
    got = ours.decode(z, image=image, mask=mask).sample
    assert relative_l2(got, want) < LIMIT
    assert relative_l2(got, theirs.decode(z).sample) > 0.05
    for threads in (1, 3):
        use_threads(threads)
        alone = [
            ours.decode(z[i : i + 1], image=image[i : i + 1], mask=mask[i : i + 1]).sample
            for i in range(n)
        ]
        assert torch.equal(torch.cat(alone), got)


@torch.no_grad()
def test_every_parameter_matters(pair):
    _, ours = pair
    z, image = noise(1, 4, 4, 3), noise(1, 3, 32, 24)
    mask = (noise(1, 1, 32, 24) > 0).float()

    def run():
        return ours.encode(image).latent_dist.parameters, ours.decode(
            z, image=image, mask=mask
        ).sample

    assert idle_parameters(ours, run) == []


@torch.no_grad()
def test_wrong_arguments(pair):
    _, ours = pair
    z, image, mask = noise(1, 4, 2, 2), noise(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
    for given, text in (
        ({"image": image}, r"mask: expected \[1, 1, 16, 16\], given None"),
        ({"mask": mask}, r"image: expected \[1, 3, 16, 16\], given None"),
        ({"mask": mask[:, :, 1:], "image": image}, r"mask: expected \[1, 1, 16, 16\], given"),
    ):
        with pytest.raises(RequestError, match=text):
            ours.decode(z, **given)


def test_configs(tmp_path):
    for change, text in (
        ({"up_block_out_channels": [32]}, "expected as many items, found 4 and 1"),
        ({"up_block_out_channels": [8, 16, 30, 32]}, "is no multiple of norm_num_groups"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "up_block_types has 1 items, expected 4"),
        ({"mid": True}, "unknown keys 'mid'"),
    ):
        with pytest.raises(ConfigError, match=text):
            AsymmetricAutoencoderKL.from_config({**SMALL, **change})
    sizes = {**SMALL, "up_block_out_channels": [8, 8, 8, 8]}
    theirs = tiny.randomise(diffusers.AsymmetricAutoencoderKL(**sizes), 1)
    _, ours = load_pair(theirs, AsymmetricAutoencoderKL, tmp_path)
    z, image, mask = noise(1, 4, 2, 2), noise(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
    with torch.no_grad():
        want = theirs.decode(z, image=image, mask=mask).sample
    assert relative_l2(ours.decode(z, image=image, mask=mask).sample, want) < LIMIT
