"""Every algorithm of conv2d on the CPU beside torch's: what the table in
csrc/core/conv/algorithm.cc rests on.

    python -m bench.conv_algorithms [LABEL ...] [--rounds 5] [--threads 2]

LABEL: parts of a shape's label; without any, all shapes. Weights are cold; medians, in ms.
"""

import argparse
from functools import partial

import torch

from pyengine.bench import timing
from pyengine.bench.arguments import Shape, conv2d
from pyengine.bench.operations import AGREEMENT, check, inputs_for, packed
from pyengine.bench.peers import torch_ops
from pyengine.bench.shapes import SHAPES
from pyengine.ops.conv2d import _cpu, algorithm_of

ALGORITHMS = ("direct", "winograd4", "winograd2")
#: Besides those of `pyengine bench ops conv2d`: strides, enlargements, few outputs, two inputs.
MORE = [
    conv2d(32, 640, 640, stride=2),
    conv2d(16, 1280, 1280, stride=2),
    conv2d(32, 320, 320, stride=2),
    conv2d(16, 640, 640, stride=2),
    conv2d(8, 1280, 1280, stride=2),
    conv2d(64, 512, 512, upsample=True, batch=1),
    conv2d(32, 640, 640, upsample=True),
    conv2d(8, 1280, 1280, upsample=True),
    conv2d(64, 320, 320, c2=320),
    conv2d(512, 128, 3, batch=1),
]


@torch.no_grad()
def times(shape: Shape, rounds: int) -> dict[str, timing.Times]:
    """Samples of torch and of each algorithm that the shape allows; correctness first."""
    sets = inputs_for(shape, torch.float32, "cpu", cold=True, most=100 << 20)
    ready = [packed("conv2d", one) for one in sets]
    expected = torch_ops.conv2d(**sets[0])
    samplers = {"torch": timing.sampler(torch_ops.conv2d, sets, "cpu")}
    for name in ALGORITHMS if _is_plain(sets[0]) else ALGORITHMS[:1]:
        run = partial(_cpu, algorithm=name)
        check(f"{shape}, {name}", run(**ready[0]), expected, AGREEMENT[torch.float32])
        samplers[name] = timing.sampler(run, ready, "cpu")
    return timing.take_turns(samplers, rounds)


def _is_plain(given: dict) -> bool:
    """3x3 with stride 1: what Winograd's algorithm is for."""
    return given["weight"].shape[1] == 3 and given.get("stride", 1) == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("labels", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"GEMM {timing.gemm_peak(torch.float32, 'cpu') / 1e9:.0f} GFLOP/s")
    for shape in [*SHAPES["conv2d"], *MORE]:
        if given.labels and not any(label in shape.label for label in given.labels):
            continue
        found = times(shape, given.rounds)
        row = [f"{n} {t.median * 1e3:.3g} ±{t.spread:.0%}" for n, t in found.items()]
        chosen = algorithm_of(**packed("conv2d", shape.build(torch.float32, "cpu")))
        gain = found["torch"].median / found[chosen].median
        print(f"{shape.label}: {', '.join(row)}; {chosen} {gain:.2f}x", flush=True)
    print(f"GEMM {timing.gemm_peak(torch.float32, 'cpu') / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
