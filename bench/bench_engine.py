"""Requests at once through the engine, against the same requests as calls one after the other.

    python -m pytest bench/bench_engine.py --benchmark-only

Sixteen emoji pictures of different steps, samplers and guidance; sixteen pictures of tokens by a
GPT of LlamaGen-B's shape, float16 weights, guidance, output_type "latent" (which leaves the
decoder out: it works picture by picture either way).
"""

import pytest

import pyengine
from pyengine.bench import checkpoints, token
from pyengine.bench.llamagen import Shape

REQUESTS = 16
SAMPLERS = ("ddim", "euler_ancestral", "dpmpp_2m_karras", "unipc")
PROMPTS = ("a red heart", "a rocket", "two cats", "a tree")


def emoji(request):
    tiny = request.config.getoption("tiny")
    calls = [
        {
            "prompt": PROMPTS[k % 4],
            "seed": k,
            "scheduler": SAMPLERS[k // 4],
            "num_inference_steps": 2 if tiny else 5 + k % 8,
            "guidance_scale": (1.0, 2.5, 4.0)[k % 3],
        }
        for k in range(2 if tiny else REQUESTS)
    ]
    return pyengine.from_pretrained("emoji", device="cpu"), calls


def tokens(request):
    tiny = request.config.getoption("tiny")
    folder = request.getfixturevalue("tmp_path_factory").mktemp("gpt")
    shape = Shape(tiny)
    gpt = checkpoints.write_gpt(folder / "gpt", tiny)
    vq = checkpoints.write_vq(folder / "vq", tiny)
    pipe = token.pipeline(gpt, vq, shape, "float16", "cpu")
    calls = [
        {"prompt": "x", "seed": k, "guidance_scale": 2.0, "top_k": 5, "output_type": "latent"}
        for k in range(2 if tiny else REQUESTS)
    ]
    return pipe, calls


def one_by_one(pipe, calls):
    return [pipe(**call, progress=False) for call in calls]


def at_once(engine, calls):
    jobs = [engine.submit(**call) for call in calls]
    return [job.result() for job in jobs]


@pytest.mark.parametrize("how", ["one by one", "at once"])
@pytest.mark.parametrize("work", [emoji, tokens], ids=["emoji", "tokens"])
def test_requests(benchmark, work, how, request):
    pipe, calls = work(request)
    rounds = 1 if work is tokens or request.config.getoption("tiny") else 5
    benchmark.extra_info["requests"] = len(calls)
    with pyengine.Engine(pipe) as engine:
        at_once(engine, calls[:2])  # what stages cost is known
        if how == "at once":
            outputs = benchmark.pedantic(at_once, (engine, calls), rounds=rounds)
        else:
            outputs = benchmark.pedantic(one_by_one, (pipe, calls), rounds=rounds)
    assert [output.seeds for output in outputs] == [[call["seed"]] for call in calls]
