"""Requests of many threads and of event loops at once: every picture has the bits of the call."""

import asyncio
import random
import threading
import time

import numpy as np
import pytest
import torch

import pyengine
from pyengine.errors import CancelledError, QueueFullError

PROMPTS = ("a red heart", "a cat", "two dogs and a tree", "the moon")


def request_of(k):
    """(model, call) of the k-th request: any of five models, samplers, steps, guidance, sizes."""
    chance = random.Random(k)
    name = chance.choice(["emoji", "emoji-ar", "sd1", "sd1", "gpt", "gpt", "amused"])
    call = {"prompt": chance.choice(PROMPTS), "seed": k}
    if name in ("emoji", "sd1"):
        call |= {
            "num_inference_steps": chance.randrange(2, 6),
            "scheduler": chance.choice(["ddim", "euler_ancestral", "heun", "dpmpp_2m"]),
            "guidance_scale": chance.choice([1.0, 2.5, 5.0]),
        }
    if name == "sd1":
        side = chance.choice([32, 48])
        call |= {"height": side, "width": 32, "num_images_per_prompt": chance.choice([1, 1, 2])}
    if name == "amused":
        call |= {"num_inference_steps": chance.randrange(2, 6)}
    if name in ("gpt", "emoji-ar"):
        call |= {
            "temperature": chance.choice([0.0, 0.7, 1.0]),
            "top_k": chance.choice([0, 5]),
            "decoding": chance.choice(["sequential", "jacobi"]),
        }
    return name, call


def same(one, other):
    pictures = all(
        np.array_equal(np.asarray(a), np.asarray(b))
        for a, b in zip(one.images, other.images, strict=True)
    )
    tokens = one.tokens is other.tokens or torch.equal(one.tokens, other.tokens)
    return pictures and tokens and one.seeds == other.seeds


@pytest.fixture(scope="module")
def load(pipes):
    """What became of 48 requests: {k: job}, submitted by four threads and an event loop while some
    are cancelled and some have deadlines.
    """
    jobs = {}
    models = list(pipes.values())

    def submit(k):
        name, call = request_of(k)
        how = {"deadline": 600} if k % 5 == 0 else {}
        how |= {"previews": 2} if k % 4 == 0 else {}
        return engine.submit(pipes[name], priority=k % 3, **how, **call)

    def caller(own):
        for k in own:
            jobs[k] = submit(k)
            if k % 7 == 3:
                jobs[k].cancel()

    async def loop_of(own):
        async def follow(k):
            jobs[k] = job = submit(k)
            events = [event async for event in job]
            assert events[0].type in ("queued", "started")
            kinds[k] = [event.type for event in events]
            return await job

        return await asyncio.gather(*map(follow, own))

    kinds = {}
    with pyengine.Engine(*models, max_waiting=100) as engine:
        threads = [threading.Thread(target=caller, args=(range(i, 36, 4),)) for i in range(4)]
        for thread in threads:
            thread.start()
        awaited = asyncio.run(loop_of(range(36, 48)))
        for thread in threads:
            thread.join()
    return jobs, kinds, dict(zip(range(36, 48), awaited, strict=True))


def test_every_picture_has_the_bits_of_the_call(load, pipes):
    jobs, _, awaited = load
    assert sorted(jobs) == list(range(48))
    ended = 0
    for k, job in jobs.items():
        name, call = request_of(k)
        if k < 36 and k % 7 == 3:
            try:
                output = job.result(0)
            except CancelledError:
                ended += 1
                continue
        else:
            output = job.result(0)
        assert same(output, pipes[name](**call)), (k, name, call)
        if k in awaited:
            assert awaited[k] is output
    assert ended > 0


def test_reports_are_those_of_the_call(load, pipes):
    jobs, _, _ = load
    for k in (1, 5, 8, 9, 12, 13, 14, 15, 16, 36, 37, 38):
        name, call = request_of(k)
        mine, theirs = jobs[k].report, pipes[name](**call).report
        for field in ("sampler", "steps", "evaluations", "tokens", "height", "guidance_scale",
                      "decoding", "passes", "interrupted", "warnings", "model"):  # fmt: skip
            assert getattr(mine, field) == getattr(theirs, field), (k, name, field)
        assert set(mine.seconds) == set(theirs.seconds)


def test_events_tell_the_whole_way(load):
    _, kinds, _ = load
    for k, found in kinds.items():
        assert found[0] == "queued"
        assert found.count("started") == found.count("done") == 1
        assert found.index("started") < found.index("step")
        assert found[-1] == "done"
        assert set(found) <= {"queued", "started", "step", "preview", "done"}
        if k % 4 == 0:
            assert "preview" in found


def test_refusals_lose_nothing(pipes):
    """A queue of two and 12 callers: who is refused comes again, and all get their picture."""
    outputs, waits = {}, []

    def caller(k):
        while True:
            try:
                job = engine.submit(
                    prompt="a cat", seed=k, num_inference_steps=2, height=32, width=32
                )
            except QueueFullError as e:
                waits.append(e.retry_after)
                time.sleep(0.02)
                continue
            outputs[k] = job.result()
            return

    with pyengine.Engine(pipes["sd1"], max_waiting=2) as engine:
        threads = [threading.Thread(target=caller, args=(k,)) for k in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for k, output in outputs.items():
        assert same(
            output, pipes["sd1"]("a cat", seed=k, num_inference_steps=2, height=32, width=32)
        )
    assert len(outputs) == 12
    assert all(seconds > 0 for seconds in waits)
