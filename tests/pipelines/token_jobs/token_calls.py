"""Calls of token models of all kinds, as jobs that are stepped together in random order."""

import tiny
import torch

WRITERS = {
    "gpt": tiny.write_picture_gpt,
    "drafts": tiny.write_picture_gpt,
    "janus": tiny.write_janus,
    "imagegpt": tiny.write_image_gpt,
}
#: Prompts of several lengths, of which two are equal.
CALLS = [
    {"prompt": "a red heart"},
    {"prompt": "two big blue dogs with a moon", "decoding": "jacobi", "window": 3,
     "guidance_scale": 7.0},
    {"prompt": "x", "guidance_scale": 1.0, "temperature": 0},
    {"prompt": "a cat", "decoding": "jacobi", "window": 8, "guidance_scale": 1.0, "top_k": 9},
    {"prompt": "a red heart", "prefix": [1, 2, 3], "guidance_scale": 2.0, "min_p": 0.02},
    {"prompt": "a dog", "decoding": "jacobi-gumbel", "window": 4, "top_p": 0.9,
     "guidance_scale": 3.0},
    {"prompt": "a blue cat and a dog", "decoding": "jacobi-gumbel", "window": 8,
     "temperature": 0.7, "guidance_scale": 1.0, "prefix": [5]},
    {"prompt": "x", "decoding": "jacobi", "window": 3, "prefix": [4, 0], "temperature": 0.5,
     "negative_prompt": "a very long text of other things"},
]  # fmt: skip


def fitting(pipe, call):
    """The call without what this model does not take."""
    others = () if pipe.takes_prompt else ("prompt", "negative_prompt", "guidance_scale")
    return {name: value for name, value in call.items() if name not in others}


def calls(pipe, **more):
    return [
        {**fitting(pipe, call), "seed": k, "output_type": "pt", **more}
        for k, call in enumerate(CALLS)
    ]


def prepare(pipe, **call):
    """The only job of a call."""
    (job,) = pipe.prepare(pipe.request(**call))
    return job


def drive(pipe, pending, chance, leave=lambda running: None):
    """Steps jobs to the end, which are made and join at random ticks; returns how many shared a
    step. pending: functions that make a job.
    """
    running, shared = [], []
    while pending or running:
        while pending and (not running or chance.random() < 0.4):
            running.insert(chance.randrange(len(running) + 1), pending.pop()())
        chance.shuffle(running)
        leave(running)
        pipe.step(running)
        shared.append(len(running))
        running = [job for job in running if job.active]
    return shared


def makers(pipe, given, made):
    """Functions that make the job of a call, and put it into `made` at the call's position."""

    def maker(k):
        def make():
            made[k] = prepare(pipe, **given[k])
            return made[k]

        return make

    return [maker(k) for k in range(len(given))]


def same(pipe, job, want):
    assert job.complete
    assert (job.steps, job.evaluations) == (want.report.steps, want.report.evaluations)
    assert torch.equal(pipe.finish(job), want.images[0])
