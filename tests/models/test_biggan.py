"""BigGAN-deep against pytorch-pretrained-biggan, in float64."""

import generators
import pytest
import torch
from parity import LIMIT, noise, relative_l2
from safetensors.torch import load_file

from pyengine.errors import ConfigError, RequestError
from pyengine.models import BigGAN
from pyengine.models.gan.biggan_layers import position_of

if not generators.installed("pytorch_pretrained_biggan"):
    pytest.skip("pytorch-pretrained-biggan is not installed", allow_module_level=True)
CASES = {
    "tiny": {},
    "attention first": {"attention_layer_position": 0, "channel_width": 8},
    "no attention": {"attention_layer_position": 6},
    "few statistics": {"n_stats": 3, "eps": 1e-3, "num_classes": 1},
}


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    sizes = CASES[request.param]
    folder = generators.write_biggan(tmp_path_factory.mktemp("biggan") / "m", **sizes)
    return generators.make_biggan(**sizes), BigGAN.from_pretrained(folder)


@pytest.mark.parametrize("truncation", [0.03, 0.14, 0.4, 0.777, 1.0])
def test_against_the_package(pair, truncation):
    theirs, ours = pair
    c = ours.config
    z = truncation * noise(3, c.z_dim)
    classes = torch.tensor([0, c.num_classes - 1, c.num_classes // 2])
    one_hot = torch.nn.functional.one_hot(classes, c.num_classes)
    want = theirs.double()(z.double(), one_hot.double(), truncation)
    theirs.float()
    got = ours(z, classes, truncation)
    assert got.shape == (3, 3, c.sample_size, c.sample_size)
    assert relative_l2(got.double(), want) < 1e-4
    assert relative_l2(got.double(), want) < LIMIT
    assert torch.equal(ours(z, one_hot.float(), truncation), got)
    mixed = torch.softmax(noise(3, c.num_classes, seed=1), dim=1)
    want = theirs.double()(z.double(), mixed.double(), truncation)
    theirs.float()
    assert relative_l2(ours(z, mixed, truncation).double(), want) < LIMIT


@pytest.mark.parametrize("n_stats", [2, 3, 50, 51])
def test_rows_of_statistics_are_the_packages(n_stats):
    norm = generators.biggan_package().model.BigGANBatchNorm(1, n_stats=n_stats, conditional=False)
    norm.running_means.copy_(torch.arange(n_stats, dtype=torch.float32)[:, None])
    norm.requires_grad_(False)
    norm.weight.fill_(1), norm.bias.fill_(0)
    for step in range(1, 1001):
        truncation = step / 1000
        try:
            want = -float(norm.double()(torch.zeros(1, 1, 1, 1).double(), truncation))
        except IndexError:  # a truncation of 1 that rounds beyond the last row
            want = (n_stats - 1) / (1 + norm.eps) ** 0.5
        first, second, share = position_of(truncation, n_stats)
        got = first * share + second * (1 - share)
        assert got == pytest.approx(want * (1 + norm.eps) ** 0.5, abs=1e-9)
    # It looks reversed, and is what the published weights expect.
    assert position_of(0.41, 51)[:2] == (20, 21)
    assert position_of(0.403, 51)[2] == pytest.approx(0.15)


def test_a_picture_is_the_same_with_others_of_other_truncations(pair, use_threads):
    _, ours = pair
    z, truncations = noise(4, ours.config.z_dim), [0.3, 1.0, 0.02, 0.511]
    classes = torch.arange(4) % ours.config.num_classes
    use_threads(1)
    together = ours(z, classes, truncations)
    for threads in (1, 3):
        use_threads(threads)
        assert torch.equal(ours(z, classes, truncations), together)
        for i, truncation in enumerate(truncations):
            alone = ours(z[i : i + 1], classes[i : i + 1], truncation)
            assert torch.equal(alone[0], together[i])


def test_every_tensor_matters(tmp_path):
    folder = generators.write_biggan(tmp_path / "m")
    z, classes = noise(2, 6), torch.tensor([1, 2])
    plain = BigGAN.from_config(BigGAN.from_pretrained(folder).config)
    tensors = load_file(folder / "model.safetensors")
    plain.load_state_dict(tensors, assign=True)
    before = plain(z, classes, 0.41)
    assert torch.equal(BigGAN.from_pretrained(folder)(z, classes, 0.41), before)
    for name, tensor in plain.state_dict().items():
        kept = tensor.clone()
        tensor.add_(0.3 * noise(*tensor.shape))
        assert not torch.equal(plain(z, classes, 0.41), before), name
        tensor.copy_(kept)
    assert plain.state_dict().keys() == tensors.keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(tmp_path, dtype):
    ours = BigGAN.from_pretrained(generators.write_biggan(tmp_path / "m"), dtype=dtype)
    z, classes = noise(2, 6), torch.tensor([1, 2])
    want = generators.make_biggan()(z, torch.nn.functional.one_hot(classes, 11).float(), 0.5)
    got = ours(z, classes, 0.5)
    assert got.dtype == dtype
    assert relative_l2(got.float(), want) < (0.06 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ((torch.zeros(1, 7), torch.tensor([1]), 0.5), r"z: expected \[N, 6\], given \[1, 7\]"),
        ((torch.zeros(1, 6), torch.tensor([11]), 0.5), "class_label: expected .1. integers from 0"),
        ((torch.zeros(1, 6), torch.tensor([1, 2]), 0.5), "class_label: expected"),
        ((torch.zeros(1, 6), torch.zeros(1, 10), 0.5), "class_label: expected"),
        ((torch.zeros(1, 6), torch.tensor([1]), 0.0), "truncation: expected a number above 0"),
        ((torch.zeros(1, 6), torch.tensor([1]), 1.1), "truncation: expected a number above 0"),
        ((torch.zeros(1, 6), torch.tensor([1]), [0.5, 0.5]), "truncation: expected"),
    ],
)
def test_wrong_arguments(tmp_path, call, text):
    ours = BigGAN.from_pretrained(generators.write_biggan(tmp_path / "m"))
    with pytest.raises(RequestError, match=text):
        ours(*call)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"layers": [[False, 16, 3]]}, "layers: 0 has 3 channels, expected 16 or half of it"),
        ({"layers": [[False, 8, 8]]}, "layers: 0 reads 8 channels, what comes before has 16"),
        ({"layers": [[1, 16, 16]]}, "layers"),
        ({"layers": [[True, 16]]}, "layers"),
        ({"output_dim": 256}, "output_dim is 256, but layers make 128"),
        ({"class_embed_dim": 64}, "class_embed_dim is 64, expected z_dim, 128"),
        ({"channel_width": 6}, "channel_width is 6, expected a multiple of 4"),
        ({"n_stats": 1}, "n_stats is 1, expected 2 to"),
        ({"sharpness": 2}, "unknown keys 'sharpness'"),
    ],
)
def test_wrong_configs(change, text):
    with pytest.raises(ConfigError, match=text):
        BigGAN.from_config(change)


def test_the_published_configs():
    for side, more in ((128, 0), (256, 1), (512, 2)):
        layers = [[False, 16, 16], [True, 16, 16], [False, 16, 16], [True, 16, 8]]
        layers += [[False, 8, 8], [True, 8, 8]][: 2 * (more > 0)]
        layers += [[False, 8, 8], [True, 8, 4], [False, 4, 4], [True, 4, 2], [False, 2, 2],
                   [True, 2, 1]]  # fmt: skip
        layers += [[False, 1, 1], [True, 1, 1]][: 2 * (more > 1)]
        model = BigGAN.from_config({"output_dim": side, "layers": layers})
        assert model.config.sample_size == side
