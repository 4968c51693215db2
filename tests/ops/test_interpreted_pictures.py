"""Whole pictures by the GPU's backends: what models hand to the kernels is what these take.

Triton's kernels run in its interpreter, what is torch's on GPUs is torch's on the CPU, and the
pictures are those of the CPU's kernels.
"""

import pytest
import tiny
import torch

import pyengine

pytest.importorskip("triton", reason="Triton is not installed")
pytest.importorskip("diffusers", reason="the checkpoints are written by diffusers")

STEPS = {"seed": 3, "num_inference_steps": 1, "height": 16, "width": 16}
#: Each with the greatest distance of a pixel, of 0 to 1, from the CPU's kernels'. With factors of 8
#: bits and sums in 16 it is rounding that a network of random weights makes larger.
PICTURES = {
    "latent diffusion": (tiny.write_sd1, "float32", {"prompt": "x", **STEPS}, 1e-4),
    "latent diffusion, fp8": (
        tiny.write_sd1, "bfloat16", {"prompt": "x", "weights": "fp8", **STEPS}, 0.03,
    ),
    "masked": (tiny.write_amused, "float32", {"prompt": "x", **STEPS}, 1e-4),
    "tokens, int8": (
        tiny.write_picture_gpt, "float32",
        {"prompt": "x", "seed": 3, "prefix": [1] * 23, "weights": "int8"}, 1e-4,
    ),
    "a window of tokens": (
        tiny.write_picture_gpt, "float32",
        {"prompt": "x", "seed": 3, "prefix": [1] * 20, "decoding": "jacobi", "guidance_scale": 2.0},
        1e-4,
    ),
    "pixels": (tiny.write_image_gpt, "float32", {"seed": 3, "prefix": [1] * 20}, 1e-4),
}  # fmt: skip


def draw(folder, dtype, call, gpu):
    """(pictures, tokens, {op: backend}); gpu: by the rows that stand in a GPU's column."""
    from pyengine import layers, ops
    from pyengine.ops import _pack

    torch.set_num_threads(1)
    if gpu:
        for op in ops.OPS.values():
            op.table["cpu"] = op.table["cuda"]
        layers._for_cpu = lambda weight: False
        _pack.pack_weight = lambda weight: weight
    call = dict(call)
    weights = {"weights": call.pop("weights")} if "weights" in call else {}
    pipe = pyengine.from_pretrained(folder, device="cpu", dtype=dtype, **weights)
    got = pipe(**call, output_type="pt", progress=False)
    return got.images, got.tokens, got.report.kernels


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_of_the_cpu(interpreted, tmp_path, name):
    write, dtype, call, most = PICTURES[name]
    folder = write(tmp_path / "checkpoint")
    images, tokens, kernels = draw(folder, dtype, call, gpu=False)
    got, drawn, ran = interpreted.run(draw, folder, dtype, call, True)
    assert (got - images).abs().max() <= most
    assert tokens is None or torch.equal(drawn, tokens)
    assert ran.keys() == kernels.keys()
    assert "triton" in ran["linear"]
    assert not any("cpu" in label or "reference" in label for label in ran.values())
    assert images.std() > 0.01
