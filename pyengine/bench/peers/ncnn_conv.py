"""ncnn's convolution (Winograd where it chooses it), in float32.

As a chain of convolutions with different weights: ncnn's own layout is then made once, not for
each, and weights are as cold as a model's. It takes one picture at a time.
"""

import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..worker import Notes, Run


def supports(inputs: dict[str, Any]) -> bool:
    """Whether a Shape's arguments of conv2d make a plain square convolution that can be chained."""
    plain = set(inputs) == {"x", "weight", "bias", "padding"}
    return plain and inputs["weight"].shape[0] == inputs["weight"].shape[3]


def chain(
    notes: Notes,
    *,
    threads: int,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    length: int,
) -> Run:
    """The result is the first convolution's, [N, H, W, C]; a call runs all `length` of them.

    x: [N, H, W, C]; weight: [C, KH, KW, C]. The others' weights are the first's, rolled.
    """
    import ncnn  # type: ignore[import-not-found,unused-ignore]  # optional

    net = ncnn.Net()
    net.opt.num_threads = threads
    for name in dir(net.opt):
        if name.startswith(("use_fp16", "use_bf16", "use_int8", "use_vulkan")):
            setattr(net.opt, name, False)
    with tempfile.TemporaryDirectory() as folder:
        param, model = Path(folder) / "chain.param", Path(folder) / "chain.bin"
        param.write_text(_layers(x, weight, length))
        with open(model, "wb") as file:
            for i in range(length):
                ordered = np.roll(weight, i, axis=0).transpose(0, 3, 1, 2)
                file.write(struct.pack("<I", 0))  # raw float32 follows
                file.write(np.ascontiguousarray(ordered, np.float32).data)
                file.write(np.ascontiguousarray(bias, np.float32).data)
        if net.load_param(str(param)) or net.load_model(str(model)):
            raise RuntimeError("ncnn does not load the chain of convolutions")
    arrays = [np.ascontiguousarray(p.transpose(2, 0, 1)) for p in x]
    # Clones, since a Mat over an array does not keep it alive.
    pictures = [ncnn.Mat(array).clone() for array in arrays]
    first = [True]

    def run() -> np.ndarray | None:
        wanted = "out0" if first else f"out{length - 1}"
        found = []
        for picture in pictures:
            extractor = net.create_extractor()
            extractor.input("in", picture)
            status, out = extractor.extract(wanted)
            if status:
                raise RuntimeError(f"ncnn's extract returns {status}")
            if first:
                found.append(np.array(out).transpose(1, 2, 0))
        first.clear()
        return np.stack(found) if found else None

    return run


def _layers(x: np.ndarray, weight: np.ndarray, length: int) -> str:
    _, height, width, c = x.shape
    k = weight.shape[1]
    lines = ["7767517", f"{length + 1} {length + 1}", f"Input in 0 1 in 0={width} 1={height} 2={c}"]
    before = "in"
    for i in range(length):
        lines.append(
            f"Convolution conv{i} 1 1 {before} out{i} 0={c} 1={k} 11={k} 4={k // 2} 14={k // 2}"
            f" 5=1 6={weight.size}"
        )
        before = f"out{i}"
    return "\n".join(lines) + "\n"
