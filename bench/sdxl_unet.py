"""One call of SDXL's U-Net, random float16 weights (5.1 GB), in float32: 64x64 latents, batch 2.

    python -m bench.sdxl_unet FOLDER pyengine
    python -m bench.sdxl_unet FOLDER diffusers

`pyengine bench unet --model sdxl` for machines that cannot hold both: one contestant a process,
since diffusers keeps the weights in float32, 10.3 GB. FOLDER keeps the checkpoint. Prints seconds
of loading and of each call, the most memory held, GEMM's rate before and after, and the result's
norm, by which the two can be compared; FOLDER/NAME.npy has the result.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from pyengine.bench import models, tasks, timing
from pyengine.bench.machine import cores, peak_memory
from pyengine.bench.peers import diffusers_models

TASK = tasks.Task("unet", 64, 2, model="sdxl")
MAKERS = {"pyengine": models.ours, "diffusers": diffusers_models.eager}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("contestant", choices=(*MAKERS, "weights"))
    parser.add_argument("--calls", type=int, default=3)
    arguments = parser.parse_args()
    folder = TASK.write(arguments.folder)
    if arguments.contestant == "weights":
        return
    notes: dict = {}
    run = MAKERS[arguments.contestant](
        notes,
        threads=cores(),
        folder=folder,
        kind=TASK.kind,
        inputs=TASK.inputs(),
        device=TASK.device,
        dtype=TASK.dtype,
    )
    print(f"loaded in {notes['load_seconds']:.1f} s")
    print(f"GEMM {timing.gemm_peak(torch.float32, 'cpu') / 1e9:.0f} GFLOP/s")
    for _ in range(arguments.calls):
        begin = time.perf_counter()
        result = run()
        print(f"{time.perf_counter() - begin:.2f} s", flush=True)
    print(f"GEMM {timing.gemm_peak(torch.float32, 'cpu') / 1e9:.0f} GFLOP/s")
    print(f"norm {result.norm():.6f}, at most {peak_memory() / 1e9:.2f} GB")
    np.save(arguments.folder / f"{arguments.contestant}.npy", result.numpy())


if __name__ == "__main__":
    main()
