"""`pyengine info --plan`: what it tells is what runs."""

import json

import generators
import kandinsky_folders
import pytest
import tiny
import torch

import pyengine
from pyengine.ops._core import core
from pyengine.ops._op import Op


def plan(run, folder, *options):
    status, out, err = run("info", folder, "--plan", "--json", *options)
    assert (status, err) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize("write", [tiny.write_sd1, tiny.write_sd2, tiny.write_sdxl])
@pytest.mark.parametrize("dtype", [None, torch.float16], ids=str)
def test_it_lists_the_ops_that_run(run, tmp_path, monkeypatch, write, dtype):
    """Op by op, shape by shape, in the order of a run of one step."""
    folder = write(tmp_path / "m", dtype=dtype)
    told = plan(run, folder, "--height", "72", "--width", "40")
    pipe = pyengine.from_pretrained(folder, device="cpu")
    ran = []
    true_run = Op.run

    def noted(self, x, *args, **kwargs):
        y = true_run(self, x, *args, **kwargs)
        first = y[0] if isinstance(y, tuple) else y
        ran.append([self.name, list(first.shape)])
        return y

    monkeypatch.setattr(Op, "run", noted)
    pipe("a cat", negative_prompt="a dog", num_inference_steps=1, height=72, width=40, seed=0)
    ran = [step for step in ran if step[0] != "sampler_step"]
    network = [[s["op"], s["shape"]] for s in told["steps"] if not s["part"].startswith("text")]
    ours = ran[-len(network) :]  # the texts come first
    assert sorted(map(str, map(_rows, ours))) == sorted(map(str, map(_rows, network)))


def _rows(step):
    """A schedule's embeddings come as [T, 1, C] in a run and as [1, C] in a plan."""
    name, shape = step
    return name, [n for n in shape if n != 1]


def test_a_convolutions_numbers_are_those_of_its_shape(run, tmp_path):
    told = plan(run, tiny.write_sd1(tmp_path / "m"), "--height", "64", "--width", "64")
    assert told["isa"] == core().isa()
    step = next(s for s in told["steps"] if s["part"] == "unet" and s["layer"] == "conv_in")
    assert (step["op"], step["shape"]) == ("conv2d", [2, 8, 8, 16])
    shape = core().ConvShape(
        height_out=8,
        width_out=8,
        channels=4,
        channels_out=16,
        kernel_height=3,
        kernel_width=3,
        stride=1,
        weight_dtype=0,
        dtype=0,
    )
    assert step["algorithm"] == core().conv2d_algorithm(shape)
    assert step["gflop"] == 2 * (2 * 8 * 8 * 16) * 9 * 4 / 1e9
    # The weight is packed: 16 channels are one panel.
    assert step["mbytes"] == 4 * (2 * 8 * 8 * (4 + 16) + 16 * 9 * 4 + 16) / 1e6


def test_half_precision_halves_the_weights_bytes(run, tmp_path):
    sizes = []
    for dtype in (torch.float32, torch.float16):
        told = plan(run, tiny.write_sd1(tmp_path / "m", dtype=dtype))
        step = next(s for s in told["steps"] if s["layer"] == "mid_block.resnets.0.conv1")
        sizes.append(step["mbytes"] * 1e6)
    assert sizes[0] - sizes[1] == 2 * 32 * 9 * 32


def test_totals_and_table(run, tmp_path):
    folder = tiny.write_sd1(tmp_path / "m")
    told = plan(run, folder, "--batch", "4")
    for part, total in told["parts"].items():
        own = [s for s in told["steps"] if s["part"] == part]
        assert total["steps"] == len(own) > 5
        assert total["gflop"] == pytest.approx(sum(s["gflop"] for s in own))
        assert {s["bound"] for s in own} <= {"compute", "memory"}
    status, out, _ = run("info", folder, "--plan", "--batch", "4")
    assert status == 0
    assert len(out.splitlines()) == 2 + len(told["steps"]) + len(told["parts"])


def test_a_size_that_does_not_fit_is_refused(run, tmp_path):
    status, out, err = run("info", tiny.write_sd1(tmp_path / "m"), "--plan", "--height", "60")
    assert (status, out) == (2, "")
    assert "height: expected a multiple of 8, given 60" in err


@pytest.mark.parametrize(
    ("write", "result"),
    [
        (generators.write_dcgan, [2, 32, 32, 3]),
        (generators.write_biggan, [2, 16, 16, 3]),
        (generators.write_rrdb, [2, 96, 128, 3]),
        (generators.write_compact, None),
        (kandinsky_folders.write_prior, [2, 32]),
    ],
)
def test_networks_of_one_evaluation(run, tmp_path, write, result):
    """Generators, upscalers and priors: what runs last is what they give."""
    place = tmp_path / ("m.safetensors" if write in UPSCALERS else "m")
    size = ["--height", "24", "--width", "32"] if write in UPSCALERS else []
    told = plan(run, write(place), *size)
    assert all(step["gflop"] >= 0 and step["mbytes"] > 0 for step in told["steps"])
    assert len(told["steps"]) > 3
    if result is not None:
        assert told["steps"][-1]["shape"] == result
    half = plan(run, place, *size, "--batch", "1")
    assert len(half["steps"]) == len(told["steps"])
    assert half["steps"][-1]["gflop"] == pytest.approx(told["steps"][-1]["gflop"] / 2)


UPSCALERS = (generators.write_rrdb, generators.write_compact)


def test_sizes_that_have_no_meaning_are_refused(run, tmp_path):
    dcgan = generators.write_dcgan(tmp_path / "m")
    status, out, err = run("info", dcgan, "--plan", "--width", "60")
    assert (status, out) == (2, "")
    assert "width: expected 32, all that this model makes, given 60" in err
    prior = kandinsky_folders.write_prior(tmp_path / "prior")
    status, out, err = run("info", prior, "--plan", "--height", "64")
    assert (status, out) == (2, "")
    assert "height: expected none, since a prior makes no picture" in err
