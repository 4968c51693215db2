"""Pictures in the making: prepared, stepped with others of any calls, cancelled, finished."""

import random

import pytest
import torch

from pyengine.branches import Adapter, targets
from pyengine.guidance import Guidance, Term

SIZE = {"height": 48, "width": 80, "output_type": "latent"}


def short_text(pipe, prompt, length):
    """The prompt's embeddings cut to `length` tokens, as a call takes them."""
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    found = dict(zip(names, pipe.encode_prompt(prompt), strict=False))
    return {n: t[:, :length] if t.dim() == 3 else t for n, t in found.items() if t is not None}


@pytest.fixture
def calls(pair, photo, mask):
    """calls(name): eight calls of eight samplers, 3 to 20 steps, guidance 1 to 8, two lengths of
    text; some begin from a picture, with and without a mask, one has two pictures of one generator.
    """

    def get(name):
        pipe = pair(name).own
        return pipe, [
            {"prompt": "a cat", "scheduler": "ddim", "num_inference_steps": 20,
             "guidance_scale": 1.0, "eta": 0.5},
            {"prompt": "a red heart", "scheduler": "euler_ancestral", "num_inference_steps": 7,
             "guidance_scale": 3.5, "negative_prompt": "blue"},
            {**short_text(pipe, "two dogs", 20), "scheduler": "heun", "num_inference_steps": 5,
             "guidance_scale": 8.0},
            {"prompt": ["a fox", "a bee"], "scheduler": "dpmpp_2m", "num_inference_steps": 9,
             "guidance_scale": [2.0, 1.0], "guidance_rescale": 0.7},
            {"prompt": "the moon", "scheduler": "unipc", "num_inference_steps": 3,
             "guidance_scale": 5.0, "image": photo, "strength": 0.9},
            {"prompt": "a boat", "scheduler": "dpmpp_sde", "num_inference_steps": 6,
             "guidance_scale": 2.0, "image": photo, "mask_image": mask, "strength": 0.8},
            {**short_text(pipe, "a tree", 20), "scheduler": "pndm", "num_inference_steps": 4,
             "guidance_scale": 6.5, "image": photo, "mask_image": mask},
            {"prompt": "a house", "scheduler": "lcm", "num_inference_steps": 3,
             "guidance_scale": 1.5, "num_images_per_prompt": 2,
             "generator": torch.Generator().manual_seed(5)},
        ]  # fmt: skip

    return get


def seeded(call, seed):
    if "generator" in call:
        return {**call, **SIZE, "generator": torch.Generator().manual_seed(seed)}
    return {**call, **SIZE, "seed": seed}


def alone(pipe, call, seed):
    return pipe(**seeded(call, seed)).images


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("order", [1, 2])
def test_eight_calls_in_one_batch(calls, name, order):
    """Each has the bits that it has alone, though they join at random ticks."""
    pipe, wanted = calls(name)
    expected = [alone(pipe, call, seed) for seed, call in enumerate(wanted)]
    chance = random.Random(order)
    joins = [(chance.randrange(6), k) for k in range(len(wanted))]
    jobs, tick = {}, 0
    while len(jobs) < len(wanted) or any(job.active for own in jobs.values() for job in own):
        for when, k in joins:
            if when == tick:
                jobs[k] = pipe.prepare(pipe.request(**seeded(wanted[k], k)))
        now = [job for own in jobs.values() for job in own]
        chance.shuffle(now)
        pipe.step(now)
        tick += 1
    for k, latents in enumerate(expected):
        for job, want in zip(jobs[k], latents, strict=True):
            assert torch.equal(pipe.finish(job), want), (k, job.index)
            assert job.complete
            assert not job.cancelled


def test_an_inpainting_unet_beside_others_of_its_kind(pair, photo, mask):
    pipe = pair("inpaint").own
    wanted = [
        {"prompt": "a cat", "image": photo, "mask_image": mask, "num_inference_steps": steps,
         "guidance_scale": scale, "scheduler": sampler}
        for steps, scale, sampler in ((4, 1.0, "ddim"), (6, 4.0, "euler"), (3, 2.0, "dpmpp_2m"))
    ]  # fmt: skip
    expected = [alone(pipe, call, seed) for seed, call in enumerate(wanted)]
    jobs = [
        job
        for k, call in enumerate(wanted)
        for job in pipe.prepare(pipe.request(**seeded(call, k)))
    ]
    while any(job.active for job in jobs):
        pipe.step(jobs)
    for job, want in zip(jobs, expected, strict=True):
        assert torch.equal(pipe.finish(job), want[0])


def test_distilled_models_scales_side_by_side(pair):
    pipe = pair("lcm").own
    wanted = [
        {"prompt": "a cat", "num_inference_steps": 2 + k, "guidance_scale": 2.0 + 3 * k}
        for k in range(3)
    ]
    expected = [alone(pipe, call, seed) for seed, call in enumerate(wanted)]
    jobs = [pipe.prepare(pipe.request(**seeded(c, k)))[0] for k, c in enumerate(wanted)]
    while any(job.active for job in jobs):
        pipe.step(jobs)
    for job, want in zip(jobs, expected, strict=True):
        assert torch.equal(pipe.finish(job), want[0])


def test_latents_of_other_shapes(pair):
    pipe = pair("sd1").own
    sizes = [{"height": 32, "width": 32}, {"height": 48, "width": 32}]
    given = {"prompt": "a cat", "num_inference_steps": 3, "output_type": "latent", "seed": 4}
    jobs = [pipe.prepare(pipe.request(**given, **size))[0] for size in sizes]
    for _ in range(3):
        pipe.step(jobs)
    for job, size in zip(jobs, sizes, strict=True):
        assert torch.equal(pipe.finish(job), pipe(**given, **size).images[0])


def test_a_picture_without_guidance_takes_one_row(pair, monkeypatch):
    pipe = pair("sd1").own
    rows = []
    inner = type(pipe.unet).forward

    def counted(self, sample, *args, **kwargs):
        rows.append(len(sample))
        return inner(self, sample, *args, **kwargs)

    monkeypatch.setattr(type(pipe.unet), "forward", counted)
    pipe(["a", "b", "c"], guidance_scale=[1.0, 4.0, 0.5], num_inference_steps=2, seed=1, **SIZE)
    assert set(rows) == {4}


def test_hooks_of_the_network_are_called(pair):
    pipe, seen = pair("sd1").own, []
    hook = pipe.unet.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    try:
        pipe("a cat", guidance_scale=3.0, num_inference_steps=2, seed=1, **SIZE)
    finally:
        hook.remove()
    assert seen == [2, 2]


def test_a_third_condition(pair):
    """Guidance by two terms: base + 1.5 (image - base) + 6 (text - image), as InstructPix2Pix."""
    pipe = pair("sd1").own
    request = pipe.request(
        "a cat", negative_prompt="a dog", num_inference_steps=3, seed=3, scheduler="ddim", **SIZE
    )
    plain, guided = (
        pipe.prepare(pipe.request("a fox", num_inference_steps=3, seed=3, **SIZE))[0],
        pipe.prepare(request)[0],
    )
    c = guided.conditions
    third = pipe.encode_prompt("a picture")[0]
    c.text = torch.cat([c.text, third])
    c.names = (*c.names, "image")
    c.changed(pipe.unet)
    terms = Term(1.5, "image", "negative"), Term(6.0, "text", "image")
    guided.guidance = Guidance("negative", terms)
    assert guided.guidance.conditions == ("negative", "image", "text")
    x, plan = guided.latents.clone(), guided.plan
    unguided = plain.latents.clone()
    for i in range(3):
        timestep = plan.timesteps[i]
        base, text, image = (
            pipe.unet(plan.scale_input(i, x), timestep, c.text[row : row + 1]).sample
            for row in range(3)
        )
        out = base + 1.5 * (image - base) + 6.0 * (text - image)
        x = plan.step(i, type(guided.batch.state)(x), out).x
        pipe.step([plain, guided])
        assert torch.equal(guided.latents, x)
    assert not torch.equal(plain.latents, unguided)
    want = pipe("a fox", num_inference_steps=3, seed=3, **SIZE).images
    assert torch.equal(plain.latents, want)


def test_an_adapter_of_one_call_beside_others(pair):
    """A side branch on layers of every kind: each call has its bits alone, and one without any has
    those of the network as it is.
    """
    pipe = pair("sd1").own
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.2

    weights = {
        name: (random(2, *target.shape[1:]), random(target.shape[0], 2))
        for name, target in targets(pipe.unet).items()
        if name.endswith(("to_q", "to_k", "to_out.0", "time_emb_proj", "conv1", "ff.net.2"))
    }
    style = Adapter(pipe.unet, weights)
    wanted = [("a cat", 4.0, ()), ("a dog", 1.0, [(style, 0.7)]), ("a fox", 3.0, [(style, -0.4)])]

    def prepared_one(k):
        prompt, scale, adapters = wanted[k]
        (job,) = pipe.prepare(
            pipe.request(prompt, guidance_scale=scale, num_inference_steps=3, seed=k, **SIZE)
        )
        job.conditions.adapters = [adapters]
        job.conditions.changed(pipe.unet)
        return job

    def drawn(jobs):
        while any(job.active for job in jobs):
            pipe.step(jobs)
        return [pipe.finish(job) for job in jobs]

    alone = [drawn([prepared_one(k)])[0] for k in range(3)]
    together = drawn([prepared_one(k) for k in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    plain = pipe("a cat", guidance_scale=4.0, num_inference_steps=3, seed=0, **SIZE).images[0]
    assert torch.equal(together[0], plain)
    other = pipe("a dog", guidance_scale=1.0, num_inference_steps=3, seed=1, **SIZE).images[0]
    assert (together[1] - other).abs().max() > 0.01
