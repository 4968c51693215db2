"""InceptionV3 against a plain reading of its layout, and torch-fidelity's own where it is there."""

import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from pyengine.errors import CheckpointError, RequestError
from pyengine.metrics import InceptionV3
from pyengine.metrics.inception import OUTPUTS, resized


@pytest.fixture(scope="module")
def weights():
    """Random weights whose features neither vanish nor explode, batch norms included."""
    torch.manual_seed(0)
    state = {}
    for name, t in InceptionV3(None).state_dict().items():
        shape = t.shape
        if name.endswith("conv.weight") or name == "fc.weight":
            state[name] = torch.randn(shape) * (2 / shape[1:].numel()) ** 0.5
        elif name.endswith("running_var") or name.endswith("bn.weight"):
            state[name] = torch.rand(shape) + 0.5
        elif not name.endswith("num_batches_tracked"):
            state[name] = torch.randn(shape) * 0.1
    return state


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    save_file(weights, path)
    return path


@pytest.fixture(scope="module")
def images():
    return torch.randint(
        0, 256, (2, 3, 50, 71), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )


def _reference(w, x):
    """The layout written out block by block, from the weights' names, in float64."""
    w = {k: v.double() for k, v in w.items()}

    def conv(x, name, stride=1, padding=0):
        x = F.conv2d(x, w[f"{name}.conv.weight"], stride=stride, padding=padding)
        n = [w[f"{name}.bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *n, eps=1e-3))

    def mean(x):
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def a(x, n):
        b5 = conv(conv(x, f"{n}.branch5x5_1"), f"{n}.branch5x5_2", padding=2)
        b3 = conv(conv(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", padding=1)
        b3 = conv(b3, f"{n}.branch3x3dbl_3", padding=1)
        return torch.cat([conv(x, f"{n}.branch1x1"), b5, b3, conv(mean(x), f"{n}.branch_pool")], 1)

    def c(x, n):
        b7 = conv(conv(x, f"{n}.branch7x7_1"), f"{n}.branch7x7_2", padding=(0, 3))
        b7 = conv(b7, f"{n}.branch7x7_3", padding=(3, 0))
        bb = conv(x, f"{n}.branch7x7dbl_1")
        for i, p in ((2, (3, 0)), (3, (0, 3)), (4, (3, 0)), (5, (0, 3))):
            bb = conv(bb, f"{n}.branch7x7dbl_{i}", padding=p)
        return torch.cat([conv(x, f"{n}.branch1x1"), b7, bb, conv(mean(x), f"{n}.branch_pool")], 1)

    def e(x, n, pooled):
        def pair(x, m):
            return [conv(x, f"{m}a", padding=(0, 1)), conv(x, f"{m}b", padding=(1, 0))]

        b3 = pair(conv(x, f"{n}.branch3x3_1"), f"{n}.branch3x3_2")
        bb = conv(conv(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", padding=1)
        bb = pair(bb, f"{n}.branch3x3dbl_3")
        pool = conv(pooled(x), f"{n}.branch_pool")
        return torch.cat([conv(x, f"{n}.branch1x1"), *b3, *bb, pool], 1)

    out = {}
    x = conv((x.double() - 128) / 128, "Conv2d_1a_3x3", 2)
    x = conv(conv(x, "Conv2d_2a_3x3"), "Conv2d_2b_3x3", padding=1)
    x = F.max_pool2d(x, 3, 2)
    out["64"] = x.mean((2, 3))
    x = F.max_pool2d(conv(conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"), 3, 2)
    out["192"] = x.mean((2, 3))
    for n in "bcd":
        x = a(x, f"Mixed_5{n}")
    n = "Mixed_6a"
    bb = conv(conv(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", padding=1)
    bb = conv(bb, f"{n}.branch3x3dbl_3", 2)
    x = torch.cat([conv(x, f"{n}.branch3x3", 2), bb, F.max_pool2d(x, 3, 2)], 1)
    for n in "bcde":
        x = c(x, f"Mixed_6{n}")
    out["768"] = x.mean((2, 3))
    n = "Mixed_7a"
    b3 = conv(conv(x, f"{n}.branch3x3_1"), f"{n}.branch3x3_2", 2)
    b7 = conv(conv(x, f"{n}.branch7x7x3_1"), f"{n}.branch7x7x3_2", padding=(0, 3))
    b7 = conv(conv(b7, f"{n}.branch7x7x3_3", padding=(3, 0)), f"{n}.branch7x7x3_4", 2)
    x = torch.cat([b3, b7, F.max_pool2d(x, 3, 2)], 1)
    x = e(x, "Mixed_7b", mean)
    x = e(x, "Mixed_7c", lambda x: F.max_pool2d(x, 3, 1, 1))
    out["2048"] = x = x.mean((2, 3))
    out["logits_unbiased"] = x @ w["fc.weight"].T
    out["logits"] = out["logits_unbiased"] + w["fc.bias"]
    return out


def _close(ours, theirs, limit=1e-5):
    assert ours.shape == theirs.shape
    assert (ours.double() - theirs.double()).norm() <= limit * theirs.double().norm()


def test_it_is_the_layout_written_out(weights, file, images):
    expected = _reference(weights, resized(images, "tensorflow"))
    for output in OUTPUTS:
        _close(InceptionV3(file, output)(images), expected[output])


def test_it_is_torch_fidelitys(weights, file, images, tmp_path, monkeypatch):
    """Where it is installed by itself: it asks for torchvision, which it needs for data sets."""
    for name in ("", ".datasets", ".transforms", ".transforms.functional"):
        stub = types.ModuleType(f"torchvision{name}")
        stub.__path__ = []
        stub.__dict__.update(CIFAR10=object, CIFAR100=object, STL10=object)
        monkeypatch.setitem(sys.modules, stub.__name__, stub)
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as e:
        pytest.skip(f"torch-fidelity, which would bring torchvision, is not installed: {e}")
    torch.save(weights, tmp_path / "weights.pth")
    theirs = FeatureExtractorInceptionV3("test", list(OUTPUTS), str(tmp_path / "weights.pth"))
    for output, expected in zip(OUTPUTS, theirs(images), strict=True):
        _close(InceptionV3(file, output)(images), expected)


def test_tensorflows_resizing_samples_at_corners():
    x = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 3, 4, 4).mul(60).to(torch.uint8)
    out = resized(x, "tensorflow")
    at = np.minimum(np.arange(299) * (4 / 299), 3)  # the last pixel is held
    assert torch.allclose(out[0, 0, 0].double(), torch.from_numpy(60 * at), atol=1e-3)


def test_pils_resizing_is_bicubic_in_floating_point(images):
    plane = Image.fromarray(images[1, 2].numpy().astype(np.float32))
    expected = np.asarray(plane.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
    assert np.array_equal(resized(images, "pil")[1, 2].numpy(), expected)
    assert (resized(images, "pil") != resized(images, "pil").round()).any()


def test_a_batch_is_its_pictures(file, images):
    model = InceptionV3(file, "64", batch=1)
    assert torch.equal(model(images), torch.cat([model(images[:1]), model(images[1:])]))
    assert model(images[:0]).shape == (0, 64)


def test_bad_files_and_pictures_are_refused_in_words(weights, file, tmp_path):
    with pytest.raises(CheckpointError, match="pickle"):
        InceptionV3(tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"expected a \.safetensors file"):
        InceptionV3(tmp_path / "none.safetensors")
    save_file({k: v for k, v in weights.items() if k != "fc.bias"}, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"fc\.bias"):
        InceptionV3(tmp_path / "less.safetensors")
    with pytest.raises(RequestError, match="output: expected one of 64"):
        InceptionV3(file, "pool3")
    with pytest.raises(RequestError, match=r"uint8 \[N, 3, H, W\], given float32"):
        InceptionV3(file)(torch.rand(1, 3, 8, 8))
