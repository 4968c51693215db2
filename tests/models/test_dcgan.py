"""DCGAN's generator against PyTorch's own layers, in float64."""

import os
from pathlib import Path

import generators
import pytest
import torch
from parity import LIMIT, noise, relative_l2
from safetensors.torch import load_file

import pyengine
from pyengine.errors import ConfigError, RequestError
from pyengine.models import DCGANGenerator
from pyengine.models.gan.transposed import TransposedConv2d

#: A real generator, where this machine has one: see docs/checkpoints.md.
PUBLISHED = os.environ.get(
    "PYENGINE_DCGAN",
    str(Path(__file__).parents[2].parent / "shared/data/published/dcgan_faces64.safetensors"),
)
SHAPES = [
    {},
    {"latent": 1, "widths": (5,), "out": 1},
    {"latent": 100, "widths": (33, 17, 8, 4), "out": 3},
]


@pytest.fixture(params=SHAPES, ids=lambda s: "x".join(map(str, s.get("widths", ["tiny"]))))
def pair(request, tmp_path):
    sizes = {**generators.DCGAN, **request.param}
    folder = generators.write_dcgan(tmp_path / "m", **sizes)
    return generators.make_dcgan(**sizes), DCGANGenerator.from_pretrained(folder)


def test_against_torchs_layers(pair):
    theirs, ours = pair
    z = noise(3, ours.config.latent_channels, 1, 1)
    want = theirs.double()(z.double())
    got = ours(z)
    assert got.shape == (3, ours.config.out_channels, *[ours.config.sample_size] * 2)
    assert relative_l2(got.double(), want) < LIMIT
    plain = DCGANGenerator.from_config(ours.config)
    plain.load_state_dict(theirs.float().state_dict(), strict=False, assign=True)
    assert torch.equal(plain(z), got), "a generator that is not packed computes the same"


@pytest.mark.parametrize(("n", "height", "width"), [(1, 1, 1), (2, 3, 5), (1, 8, 1)])
@pytest.mark.parametrize(("relu", "out"), [(False, 5), (True, 4), (False, 1), (True, 19)])
def test_transposed_convolution(n, height, width, relu, out):
    layer = TransposedConv2d(6, out)
    weight, bias, x = noise(6, out, 4, 4), noise(out, seed=1), noise(n, 6, height, width, seed=2)
    layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    want = torch.nn.functional.conv_transpose2d(
        x.double(), weight.double(), bias.double(), stride=2, padding=1
    )
    want = want.relu() if relu else want
    nhwc = x.permute(0, 2, 3, 1).contiguous()
    loose = layer(nhwc, relu=relu)
    layer.pack()
    packed = layer(nhwc, relu=relu)
    assert torch.equal(packed, loose)
    assert relative_l2(packed.permute(0, 3, 1, 2).double(), want) < LIMIT


def test_alone_in_a_batch_and_on_any_threads(pair, use_threads):
    _, ours = pair
    z = noise(5, ours.config.latent_channels, 1, 1)
    use_threads(1)
    together = ours(z)
    for threads in (1, 2, 3):
        use_threads(threads)
        assert torch.equal(ours(z), together)
        assert torch.equal(torch.cat([ours(row[None]) for row in z]), together)


def test_every_tensor_matters(tmp_path):
    folder = generators.write_dcgan(tmp_path / "m")
    z = noise(2, 7, 1, 1)
    before = DCGANGenerator.from_pretrained(folder)(z)
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if name.endswith("num_batches_tracked"):
            continue
        changed = {n: t * 1.5 if n == name else t for n, t in tensors.items()}
        generators.save_file(changed, folder / "model.safetensors")
        assert not torch.equal(DCGANGenerator.from_pretrained(folder)(z), before), name


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_half_precision(tmp_path, dtype, limit):
    ours = DCGANGenerator.from_pretrained(generators.write_dcgan(tmp_path / "m"), dtype=dtype)
    z = noise(2, 7, 1, 1)
    want = generators.make_dcgan(**generators.DCGAN)(z)
    assert ours(z).dtype == dtype
    assert relative_l2(ours(z).float(), want) < limit


def test_wrong_arguments(tmp_path):
    ours = DCGANGenerator.from_pretrained(generators.write_dcgan(tmp_path / "m"))
    for shape in [(1, 8, 1, 1), (7,), (1, 7), (0, 7, 1, 1), (1, 7, 2, 1)]:
        with pytest.raises(RequestError, match=r"latents: expected \[N, 7, 1, 1\], given"):
            ours(torch.zeros(shape))
    for change, text in (
        ({"block_out_channels": []}, "block_out_channels: expected at least one"),
        ({"out_channels": 2}, "out_channels"),
        ({"latent_channels": 0}, "latent_channels"),
        ({"upsampling": "bilinear"}, "unknown keys 'upsampling'"),
    ):
        with pytest.raises(ConfigError, match=text):
            DCGANGenerator.from_config({"model_type": "dcgan", **change})


@pytest.mark.skipif(
    not Path(PUBLISHED).is_file(), reason="no published generator: PYENGINE_DCGAN names none"
)
def test_published_faces():
    tensors = load_file(PUBLISHED)
    widths = (512, 256, 128, 64)
    theirs = generators.make_dcgan(100, widths, 3)
    theirs.load_state_dict(tensors)
    pipe = pyengine.from_pretrained(PUBLISHED, device="cpu")
    z = noise(4, 100, 1, 1)
    got = pipe(latents=z, output_type="pt").images
    want = theirs(z) * 0.5 + 0.5
    assert float((got - want).abs().max()) < 1e-5
    assert relative_l2(got, want) < 1e-5
    assert want.std() > 0.15, "faces, not grey"
