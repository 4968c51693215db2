"""One call of SDXL's U-Net, random float16 weights (5.1 GB), in float32: 64x64 latents, batch 2.

    python -m bench.sdxl_unet FOLDER pyengine
    python -m bench.sdxl_unet FOLDER diffusers

FOLDER keeps the weights. One contestant a process, since diffusers holds them in float32, 10.3 GB.
Prints seconds of loading and of each call, the most memory held, GEMM's rate before and after, and
the result's norm, by which the two can be compared; FOLDER/NAME.npy has the result.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from pyengine.bench import checkpoints, timing
from pyengine.bench.machine import peak_memory
from pyengine.models import UNet2DConditionModel

CONFIG = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
    "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
LATENTS, BATCH, TOKENS, TIMESTEP = 64, 2, 77, 500


def inputs() -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """(sample, text, added conditions), the same at every call."""
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    size = float(8 * LATENTS)
    ids = torch.tensor([[size, size, 0, 0, size, size]] * BATCH)
    added = {"text_embeds": random(BATCH, 1280), "time_ids": ids}
    return random(BATCH, 4, LATENTS, LATENTS), random(BATCH, TOKENS, 2048), added


def pyengine(folder: Path):
    """The call of a pipeline: text and timesteps are prepared once a prompt."""
    x, text, added = inputs()
    model = UNet2DConditionModel.from_pretrained(folder)
    context = model.encode_context(text)
    times = model.embed_timesteps([TIMESTEP], added_cond_kwargs=added)
    return lambda: model(x, times[0], context).sample


def diffusers(folder: Path):
    """float32, channels_last."""
    from diffusers import UNet2DConditionModel as Model

    x, text, added = inputs()
    model = Model.from_pretrained(folder, torch_dtype=torch.float32).eval()
    model = model.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    return lambda: model(x, TIMESTEP, text, added_cond_kwargs=added).sample


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("contestant", choices=("pyengine", "diffusers", "weights"))
    parser.add_argument("--calls", type=int, default=3)
    arguments = parser.parse_args()
    folder = checkpoints.write_model(
        arguments.folder, UNet2DConditionModel, CONFIG, torch.float16, seed=4
    )
    if arguments.contestant == "weights":
        return
    begin = time.perf_counter()
    call = {"pyengine": pyengine, "diffusers": diffusers}[arguments.contestant](folder)
    print(f"loaded in {time.perf_counter() - begin:.1f} s")
    print(f"GEMM {timing.gemm_peak(torch.float32, 'cpu') / 1e9:.0f} GFLOP/s")
    for _ in range(arguments.calls):
        begin = time.perf_counter()
        result = call()
        print(f"{time.perf_counter() - begin:.2f} s", flush=True)
    print(f"GEMM {timing.gemm_peak(torch.float32, 'cpu') / 1e9:.0f} GFLOP/s")
    print(f"norm {result.norm():.6f}, at most {peak_memory() / 1e9:.2f} GB")
    np.save(arguments.folder / f"{arguments.contestant}.npy", result.numpy())


if __name__ == "__main__":
    main()
