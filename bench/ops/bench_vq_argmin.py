"""vq_argmin against torch.cdist + argmin; against faiss too, where faiss-cpu is installed:

python -m bench.ops.bench_vq_argmin
"""

import sys

import torch

from pyengine import ops
from pyengine.bench.operations import inputs_for
from pyengine.bench.peers.torch_ops import EAGER
from pyengine.bench.shapes import SHAPES
from pyengine.bench.timing import gemm_peak, sampler, take_turns

from .contest import benchmark_op

test_vq_argmin = benchmark_op("vq_argmin")


def _faiss(codebook):
    """faiss's exact search of an index that was filled beforehand."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(codebook.shape[1])
    index.add(codebook.numpy())
    return lambda x, codebook: index.search(x.numpy(), 1)


def main(labels):
    torch.set_num_threads(2)
    torch.manual_seed(0)
    print("GFLOP/s of a GEMM:", round(gemm_peak(torch.float32, "cpu") / 1e9))
    for shape in SHAPES["vq_argmin"]:
        if labels and shape.label.replace(" ", "") not in labels:
            continue
        [inputs] = inputs_for(shape, torch.float32, "cpu", cold=False)
        runs = {
            "faiss": _faiss(inputs["codebook"]),
            "cdist": EAGER["vq_argmin"],
            "pyengine": ops.vq_argmin,
        }
        samplers = {name: sampler(run, [inputs], "cpu") for name, run in runs.items()}
        times = take_turns(samplers, 5 if shape.flops > 1e11 else 7)
        ours = times["pyengine"].median
        best = min(times[name].median for name in ("faiss", "cdist"))
        cells = ", ".join(f"{n} {t.median * 1e3:.4g} ms ±{t.spread:.0%}" for n, t in times.items())
        rate = shape.flops / ours / 1e9
        print(f"{shape.label}: {cells}: {best / ours:.2f}x, {rate:.0f} GFLOP/s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
