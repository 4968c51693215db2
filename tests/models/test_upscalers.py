"""Upscalers against plain readings of their papers, in float64."""

import generators
import pytest
import torch
from parity import LIMIT, idle_parameters, noise, relative_l2

from pyengine.errors import ConfigError, RequestError
from pyengine.models import RRDBNet, SRVGGNetCompact
from pyengine.models.upscale.pixels import pixel_shuffle, pixel_unshuffle

CASES = {
    "rrdb x4": ("rrdb", {}),
    "rrdb x2": ("rrdb", {"scale": 2}),
    "rrdb x1": ("rrdb", {"scale": 1, "blocks": 1}),
    "rrdb one doubling": ("rrdb", {"scale": 2, "ups": 1, "feat": 17, "grow": 3}),
    "rrdb three doublings": ("rrdb", {"scale": 8, "ups": 3, "blocks": 1}),
    "compact x4": ("compact", {}),
    "compact x1": ("compact", {"scale": 1, "convs": 1, "feat": 3}),
    "compact x3": ("compact", {"scale": 3, "convs": 0, "feat": 17}),
}
SIZES = [(1, 8, 8), (2, 7, 5), (1, 1, 3)]


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    kind, sizes = CASES[request.param]
    folder = tmp_path_factory.mktemp("upscale") / "m"
    if kind == "rrdb":
        made, cls = generators.make_rrdb(**sizes), RRDBNet
        generators.write_rrdb(folder, **sizes)
    else:
        made, cls = generators.make_compact(**sizes), SRVGGNetCompact
        generators.write_compact(folder, **sizes)
    return made, cls.from_pretrained(folder)


def padded(x, multiple):
    """Reflected below and to the right, as Real-ESRGAN's script does; repeated where too small."""
    for dim in (2, 3):
        missing = -x.shape[dim] % multiple
        size = x.shape[dim]
        rows = [size - 2 - i if missing < size else size - 1 for i in range(missing)]
        x = torch.cat([x, x.index_select(dim, torch.tensor(rows, dtype=torch.long))], dim)
    return x


@pytest.mark.parametrize(("n", "height", "width"), SIZES)
def test_against_the_plain_reading(pair, n, height, width):
    theirs, ours = pair
    x = noise(n, 3, height, width).sigmoid()
    want = theirs.double()(padded(x, ours.multiple).double())
    want = want[:, :, : height * ours.scale, : width * ours.scale]
    got = ours(x)
    theirs.float()
    assert got.shape == (n, 3, height * ours.scale, width * ours.scale)
    assert relative_l2(got.double(), want) < LIMIT


def test_same_bits_alone_in_a_batch_and_on_any_threads(pair, use_threads):
    _, ours = pair
    x = noise(3, 3, 9, 6)
    use_threads(1)
    together = ours(x)
    for threads in (1, 3):
        use_threads(threads)
        assert torch.equal(torch.cat([ours(row[None]) for row in x]), together)


@pytest.mark.parametrize("kind", ["rrdb", "compact"])
def test_every_parameter_matters(kind, tmp_path):
    write = generators.write_rrdb if kind == "rrdb" else generators.write_compact
    cls = RRDBNet if kind == "rrdb" else SRVGGNetCompact
    ours = cls.from_pretrained(write(tmp_path / "m"))
    assert idle_parameters(ours, lambda: (ours(noise(1, 3, 5, 6)),)) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, tmp_path):
    folder = generators.write_rrdb(tmp_path / "m")
    x = noise(1, 3, 6, 7).sigmoid()
    want = generators.make_rrdb()(x)
    got = RRDBNet.from_pretrained(folder, dtype=dtype)(x)
    assert got.dtype == dtype
    assert relative_l2(got.float(), want) < (2e-2 if dtype == torch.bfloat16 else 3e-3)


@pytest.mark.parametrize("name", ["rrdb", "compact"])
def test_the_reach_is_what_a_pixel_depends_on(name, tmp_path):
    """A pixel that far away changes nothing; one of the compact form's reach does."""
    if name == "rrdb":
        folder = generators.write_rrdb(tmp_path / "m", blocks=1, scale=2, ups=1)
        ours = RRDBNet.from_pretrained(folder)
    else:
        ours = SRVGGNetCompact.from_pretrained(generators.write_compact(tmp_path / "m"))
    width = ours.reach + 4
    x = noise(1, 3, 3, width)
    there = x.clone()
    there[..., ours.reach + 1 :] += 1
    column = slice(0, ours.scale)
    assert torch.equal(ours(there)[..., column], ours(x)[..., column])
    if name == "compact":
        there[..., ours.reach :] += 100
        assert not torch.equal(ours(there)[..., column], ours(x)[..., column])


def test_pixels_into_channels_and_back():
    x = noise(2, 5, 6, 9)
    nhwc = x.permute(0, 2, 3, 1).contiguous()
    want = torch.nn.functional.pixel_unshuffle(x, 3).permute(0, 2, 3, 1)
    assert torch.equal(pixel_unshuffle(nhwc, 3), want)
    assert torch.equal(pixel_shuffle(pixel_unshuffle(nhwc, 3), 3), nhwc)


def test_wrong_arguments(pair):
    _, ours = pair
    for shape in [(1, 4, 8, 8), (3, 8, 8), (0, 3, 8, 8), (1, 3, 0, 8)]:
        with pytest.raises(RequestError, match=r"x: expected \[N, 3, H, W\], given"):
            ours(torch.zeros(shape))


@pytest.mark.parametrize(
    ("cls", "change", "text"),
    [
        (RRDBNet, {"scale": 3}, "scale: expected 1, a half or a quarter of 2.num_upsample, 4"),
        (RRDBNet, {"num_block": 0}, "num_block is 0"),
        (RRDBNet, {"num_in_ch": 4}, "num_in_ch is 4"),
        (SRVGGNetCompact, {"act_type": "relu"}, "act_type is 'relu', expected 'prelu'"),
        (SRVGGNetCompact, {"upscale": 17}, "upscale is 17, expected 1 to 16"),
        (SRVGGNetCompact, {"dropout": 1}, "unknown keys 'dropout'"),
    ],
)
def test_wrong_configs(cls, change, text):
    with pytest.raises(ConfigError, match=text):
        cls.from_config(change)
