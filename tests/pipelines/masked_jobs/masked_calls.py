"""Calls of a masked token model, as jobs that are stepped together in random order."""

import drawn

PROMPTS = ["a red heart", "a photo of the big blue house in style"]


def picture():
    return drawn.photo(12, 12, tile=4)


def hole():
    return drawn.hole(12, 12, 5, 3, 12, 9)


CALLS = [
    {"prompt": PROMPTS[0], "num_inference_steps": 12},
    {"prompt": PROMPTS[1], "num_inference_steps": 3, "guidance_scale": 1.0},
    {
        "prompt": "a cat",
        "num_inference_steps": 7,
        "guidance_scale": 3.5,
        "top_k": 7,
        "negative_prompt": "a blue dog",
    },
    {"prompt": "a dog", "num_inference_steps": 9, "image": picture(), "strength": 0.7},
    {
        "prompt": "a dog",
        "num_inference_steps": 5,
        "image": picture(),
        "mask_image": hole(),
        "guidance_scale": 1.0,
        "top_p": 0.8,
    },
    {"prompt": "x", "num_inference_steps": 4, "prefix": list(range(9)), "min_p": 0.02},
    {
        "prompt": "two cats",
        "num_inference_steps": 6,
        "temperature": (0.5, 3.0),
        "micro_conditioning_aesthetic_score": 3,
    },
    {"prompt": PROMPTS[0], "num_inference_steps": 8, "height": 8, "width": 16, "top_k": 7},
]


def calls(**more):
    return [{**call, "seed": k, "output_type": "pt", **more} for k, call in enumerate(CALLS)]


def prepare(pipe, **call):
    """The only job of a call."""
    (job,) = pipe.prepare(pipe.request(**call))
    return job


def drive(pipe, pending, chance):
    """Steps jobs to the end, which join at random ticks; returns how many shared a step."""
    running, shared = [], []
    while pending or running:
        while pending and (not running or chance.random() < 0.5):
            running.insert(chance.randrange(len(running) + 1), pending.pop())
        chance.shuffle(running)
        pipe.step(running)
        shared.append(len(running))
        running = [job for job in running if job.active]
    return shared
