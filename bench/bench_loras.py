"""Eight pictures with eight LoRAs of rank 16 in one evaluation, against the same batch without any
and against eight evaluations of one picture.

    python -m pytest bench/bench_loras.py --benchmark-only

Stable Diffusion 1.5's U-Net at 32x32 latents, random weights; every LoRA lies beside all layers of
the attentions and their feed-forwards. With guidance: two rows a picture.
"""

import pytest
import torch

from pyengine.bench import checkpoints
from pyengine.branches import Adapter, adapted, targets
from pyengine.models import UNet2DConditionModel

PICTURES, RANK = 8, 16
BESIDE = ("attn1", "attn2", "ff", "proj_in", "proj_out")


@pytest.fixture(scope="module")
def unet(request, tmp_path_factory):
    """(the U-Net, its eight adapters)."""
    tiny = request.config.getoption("tiny")
    folder = checkpoints.write_unet(tmp_path_factory.mktemp("unet") / "unet", tiny)
    model = UNet2DConditionModel.from_pretrained(folder)
    torch.manual_seed(0)
    return model, [lora(model) for _ in range(PICTURES)]


def lora(model):
    return Adapter(
        model,
        {
            name: (
                torch.randn(RANK, *target.shape[1:]) / 100,
                torch.randn(target.width, RANK) / 100,
            )
            for name, target in targets(model).items()
            if any(part in name.split(".") for part in BESIDE)
        },
    )


def evaluation(model, rows, side=32):
    """An evaluation of these rows, as a pipeline's step has it."""
    n = len(rows)
    text = torch.randn(n, 77, model.config.cross_attention_dim)
    x = torch.randn(n, 4, side, side)
    with adapted(rows):
        context, times = model.encode_context(text), model.embed_timesteps([500.0])

    def run():
        with adapted(rows):
            return model.evaluate(x, times[0], context)

    return run


@pytest.mark.parametrize("guided", [1, 2], ids=["unguided", "guided"])
@pytest.mark.parametrize("how", ["without", "together", "one-by-one"])
def test_loras(unet, benchmark, how, guided):
    model, loras = unet
    benchmark.group = f"loras, {('unguided', 'guided')[guided - 1]}"
    rows = [[(own, 0.8)] for own in loras for _ in range(guided)]
    if how == "without":
        rows = [[]] * len(rows)
    each = guided if how == "one-by-one" else len(rows)
    runs = [evaluation(model, rows[i : i + each]) for i in range(0, len(rows), each)]
    benchmark.pedantic(lambda: [run() for run in runs], rounds=3, warmup_rounds=1)
