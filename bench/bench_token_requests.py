"""Sixteen token requests at once, of LlamaGen-B's shape with guidance, against one by one.

    python bench/bench_token_requests.py [--dtype float16] [--tokens 576] [--threads 2]

Prints milliseconds of a token of one request and of sixteen in an engine's step, and how many times
as many tokens a second the sixteen are; over all tokens, since those that come late read more keys
and values.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from pyengine.bench import checkpoints
from pyengine.bench.llamagen import Shape
from pyengine.bench.pictures import SAMPLING
from pyengine.bench.token import pipeline

REQUESTS = 16
#: Tokens of each picture that are drawn before those that are measured.
BEFORE = 4


def measure(pipe, requests, tokens):
    """Seconds of each step of so many requests, up to that token."""
    call = {"prompt": "x", "output_type": "latent", **SAMPLING}
    made = [pipe.prepare(pipe.request(**call, seed=k)) for k in range(requests)]
    jobs = [job for own in made for job in own]
    times = []
    for _ in range(tokens):
        begin = time.perf_counter()
        pipe.step(jobs)
        times.append(time.perf_counter() - begin)
    for job in jobs:
        job.cancel()
        pipe.finish(job)
    return times[BEFORE:]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), action="append")
    parser.add_argument("--tokens", type=int, default=576)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        gpt = checkpoints.write_gpt(folder / "gpt", False, size="b")
        vq = checkpoints.write_vq(folder / "vq")
        for name in options.dtype or ("float32", "float16", "bfloat16"):
            # The checkpoint is float16: in float32 the arithmetic is, and the weights stay.
            weights = "float16" if name == "float32" else name
            pipe = pipeline(gpt, vq, Shape(False, "b", getattr(torch, name)), weights, "cpu")
            found = {n: measure(pipe, n, options.tokens) for n in (1, REQUESTS)}
            mean = {n: statistics.fmean(times) * 1e3 for n, times in found.items()}
            last = {n: statistics.median(times[-32:]) * 1e3 for n, times in found.items()}
            print(
                f"{name}, weights {weights}: one {mean[1]:.1f} ms a token, {REQUESTS}"
                f" {mean[REQUESTS]:.1f} ms: {REQUESTS * mean[1] / mean[REQUESTS]:.2f} times as many"
                f" tokens a second; the last 32 {last[1]:.1f} and {last[REQUESTS]:.1f} ms:"
                f" {REQUESTS * last[1] / last[REQUESTS]:.2f} times",
                flush=True,
            )


if __name__ == "__main__":
    main()
