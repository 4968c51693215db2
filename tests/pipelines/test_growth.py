"""Call after call: no thread, file or memory more."""

import gc
import os
import re
from pathlib import Path

import pytest
import tiny
import torch

import pyengine

CALLS = 200
#: What the allocators may still take between the 20th and the last call.
SLACK = 4 << 20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc"),
]


def status(key):
    return int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def resources():
    gc.collect()
    return status("VmRSS") << 10, status("Threads"), len(os.listdir("/proc/self/fd"))


def check(call):
    for _ in range(20):
        call()
    memory, threads, files = resources()
    for _ in range(CALLS - 20):
        call()
    after = resources()
    assert after[0] <= memory + SLACK
    assert after[1:] == (threads, files)


def test_of_the_network(pair):
    unet = pair("sd1").own.unet
    context = unet.encode_context(torch.randn(2, 77, unet.config.cross_attention_dim))
    x = torch.randn(2, 4, 32, 32)
    check(lambda: unet(x, 500, context))
    facts = unet.arena.statistics()
    assert facts["used"] == 0
    assert 0 < facts["peak"] < 64 << 20


def test_of_the_pipeline(pair):
    pipe = pair("sd1").own
    sizes = [(32, 32), (40, 64), (64, 48)]

    def call():
        height, width = sizes[0]
        sizes.append(sizes.pop(0))
        pipe("a red heart", seed=1, num_inference_steps=1, height=height, width=width)

    check(call)
    facts = pipe.unet.arena.statistics()
    assert (facts["used"], facts["touched"]) == (0, 0)  # given back after every run


@pytest.mark.parametrize(
    ("write", "hows"),
    [
        (tiny.write_picture_gpt, [{}, {"decoding": "jacobi"}, {"decoding": "jacobi-gumbel"}]),
        (tiny.write_amused, [{"num_inference_steps": 2}, {"num_inference_steps": 3}]),
    ],
)
def test_of_token_pipelines(tmp_path, write, hows):
    pipe = pyengine.from_pretrained(write(tmp_path / "model"), device="cpu")

    def call():
        pipe("a red heart", seed=1, **hows[0])
        hows.append(hows.pop(0))

    check(call)
