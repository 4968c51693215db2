"""Pictures in the making: prepared, stepped with others of any calls, cancelled, finished."""

import gc
import random
import threading
import weakref

import numpy as np
import pytest
import torch

from pyengine.branches import Adapter, targets
from pyengine.errors import CancelledError, NotFiniteError, RequestError
from pyengine.guidance import Guidance, Term
from pyengine.pipelines import Run

SIZE = {"height": 48, "width": 80, "output_type": "latent"}


def short_text(pipe, prompt, length):
    """The prompt's embeddings cut to `length` tokens, as a call takes them."""
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds",
             "negative_pooled_prompt_embeds")  # fmt: skip
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
    jobs = [job for k, call in enumerate(wanted) for job in pipe.prepare(
        pipe.request(**seeded(call, k)))]  # fmt: skip
    while any(job.active for job in jobs):
        pipe.step(jobs)
    for job, want in zip(jobs, expected, strict=True):
        assert torch.equal(pipe.finish(job), want[0])


def test_distilled_models_scales_side_by_side(pair):
    pipe = pair("lcm").own
    wanted = [{"prompt": "a cat", "num_inference_steps": 2 + k, "guidance_scale": 2.0 + 3 * k}
              for k in range(3)]  # fmt: skip
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


def test_a_third_condition(pair):
    """Guidance by two terms: base + 1.5 (image - base) + 6 (text - image), as InstructPix2Pix."""
    pipe = pair("sd1").own
    request = pipe.request("a cat", negative_prompt="a dog", num_inference_steps=3, seed=3,
                           scheduler="ddim", **SIZE)  # fmt: skip
    plain, guided = (pipe.prepare(pipe.request("a fox", num_inference_steps=3, seed=3, **SIZE))[0],
                     pipe.prepare(request)[0])  # fmt: skip
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
        (job,) = pipe.prepare(pipe.request(prompt, guidance_scale=scale, num_inference_steps=3,
                                           seed=k, **SIZE))  # fmt: skip
        job.conditions.adapters = adapters
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


# --- cancelled ------------------------------------------------------------------------------------

CALL = {"prompt": ["a cat", "a dog", "a fox"], "num_inference_steps": 4, "seed": 1, **SIZE}


def prepared(pipe, **more):
    return pipe.prepare(pipe.request(**{**CALL, **more}))


def test_a_job_is_cancelled_alone(pair):
    pipe = pair("sd1").own
    whole = pipe(**CALL).images
    before, during, after = jobs = prepared(pipe)
    before.cancel()
    pipe.step(jobs)
    thread = threading.Thread(target=during.cancel)
    thread.start()
    thread.join()
    while after.active:
        pipe.step(jobs)
    after.cancel()
    assert [job.steps for job in jobs] == [0, 1, 4]
    assert [job.cancelled for job in jobs] == [True, True, False]
    assert torch.equal(pipe.finish(after), whole[2])
    assert pipe.finish(during).shape == whole[1].shape
    assert torch.isfinite(pipe.finish(before)).all()


def test_a_job_is_cancelled_by_a_callback_and_the_others_go_on(pair):
    pipe = pair("sd1").own
    whole = pipe(**CALL).images
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append(pipe.jobs)
        if step == 1:
            pipe.jobs[1].cancel()

    result = pipe(**CALL, callback_on_step_end=callback)
    assert [len(jobs) for jobs in seen] == [3] * 4
    assert torch.equal(result.images[0], whole[0])
    assert torch.equal(result.images[2], whole[2])
    assert not torch.equal(result.images[1], whole[1])
    assert result.report.interrupted
    assert result.report.steps == 4


def test_a_run_ends_all_its_jobs_and_no_others(pair):
    pipe = pair("sd1").own
    run = Run()
    mine, others = prepared(pipe, run=run), prepared(pipe)
    pipe.step([*mine, *others])
    run.interrupt()
    assert all(job.cancelled for job in mine)
    assert run.jobs == tuple(mine)
    while any(job.active for job in others):
        pipe.step([*mine, *others])
    assert {job.steps for job in mine} == {1}
    whole = pipe(**CALL).images
    assert all(torch.equal(pipe.finish(job), whole[k]) for k, job in enumerate(others))


def test_a_nested_call_between_steps(pair):
    pipe = pair("sd1").own
    whole = pipe(**CALL).images
    jobs = prepared(pipe)
    while any(job.active for job in jobs):
        pipe.step(jobs)
        pipe("something else", num_inference_steps=1, seed=9, **SIZE)
    assert all(torch.equal(pipe.finish(job), whole[k]) for k, job in enumerate(jobs))


def test_threads_step_their_own_jobs(pair):
    pipe = pair("sd1").own
    whole, found = pipe(**CALL).images, {}

    def work(name):
        jobs = prepared(pipe)
        while any(job.active for job in jobs):
            pipe.step(jobs)
        found[name] = torch.stack([pipe.finish(job) for job in jobs])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(latents, whole) for latents in found.values())
    assert len(found) == 3


def test_a_fault_of_one_job_ends_no_other(pair):
    pipe = pair("sd1").own
    whole = pipe(**CALL).images
    jobs = prepared(pipe)
    pipe.step(jobs)
    jobs[1].batch.state.x[1, 0, 0, 0] = float("nan")
    while any(job.active for job in jobs):
        pipe.step(jobs)
    with pytest.raises(NotFiniteError, match=r"unet: .* NaN in picture 1 at step 1 \(timestep"):
        pipe.finish(jobs[1])
    assert torch.equal(pipe.finish(jobs[0]), whole[0])
    assert torch.equal(pipe.finish(jobs[2]), whole[2])


def test_pictures_of_each_kind(pair):
    pipe = pair("sd1").own
    for output_type in ("pil", "np", "pt", "latent"):
        call = {**CALL, "output_type": output_type, "num_inference_steps": 1}
        jobs = pipe.prepare(pipe.request(**call))
        pipe.step(jobs)
        for job, want in zip(jobs, pipe(**call).images, strict=True):
            assert np.array_equal(np.asarray(pipe.finish(job)), np.asarray(want))


def test_what_is_refused(pair):
    pipe, other = pair("sd1").own, pair("sd2").own
    jobs = prepared(pipe)
    with pytest.raises(RequestError, match="job: expected one that is complete or cancelled"):
        pipe.finish(jobs[0])
    with pytest.raises(RequestError, match="jobs: expected each of them once"):
        pipe.step([jobs[0], jobs[0]])
    with pytest.raises(RequestError, match="jobs: expected jobs that this pipeline prepared"):
        other.step(jobs)
    with pytest.raises(RequestError, match=r"jobs: expected what pipe.prepare\(...\) gives"):
        pipe.step(["a"])
    with pytest.raises(RequestError, match=r"request: expected what pipe.request\(...\) gives"):
        pipe.prepare("a cat")
    with pytest.raises(RequestError, match="num_inference_steps"):
        pipe.request("a cat", num_inference_steps=0)
    with pytest.raises(RequestError, match="hieght"):
        pipe.request("a cat", hieght=8)
    with pytest.raises(RequestError, match="request: "):
        pipe.request(*range(99))
    run = Run()
    request = pipe.request(**CALL, run=run)
    pipe.prepare(request)
    with pytest.raises(RequestError, match="run: expected a Run of its own"):
        pipe.prepare(request)
    run = Run()
    run.interrupt()
    with pytest.raises(CancelledError):
        pipe.prepare(pipe.request(**CALL, run=run))


def test_jobs_let_go_of_their_memory(pair):
    """No reference cycle: what is not held is freed at once."""
    pipe = pair("sd1").own
    gc.collect()
    gc.disable()
    try:
        jobs = prepared(pipe)
        pipe.step(jobs)
        pipe.step(jobs[1:])
        gone = [weakref.ref(job) for job in jobs]
        gone += [weakref.ref(jobs[0].batch), weakref.ref(jobs[1].batch)]
        gone.append(weakref.ref(jobs[0].conditions))
        del jobs
        assert [there() for there in gone] == [None] * len(gone)
    finally:
        gc.enable()


# --- watched --------------------------------------------------------------------------------------


def test_steps_one_by_one(pair):
    pipe = pair("sd1").own
    whole = pipe(**CALL)
    seen = []
    steps = pipe.steps(**CALL)
    for step in steps:
        seen.append(step)
        pipe("something else", num_inference_steps=1, seed=9, **SIZE)
    assert [step.step for step in seen] == [0, 1, 2, 3]
    assert [step.timestep for step in seen] == pipe.scheduler.plan(4).timesteps
    assert torch.equal(seen[-1].latents, whole.images)
    assert not torch.equal(seen[0].latents, seen[1].latents)
    assert torch.equal(steps.output.images, whole.images)
    assert steps.output.report.steps == 4
    assert not steps.output.report.interrupted
    assert steps.output.report.kernels == whole.report.kernels
    assert [p.size for p in seen[0].preview()] == [(80, 48)] * 3


def test_steps_that_are_left(pair):
    pipe = pair("sd1").own
    steps = pipe.steps(**CALL)
    for step in steps:
        if step.step == 1:
            break
    output = steps.output
    assert torch.equal(output.images, step.latents)
    assert output.report.interrupted
    assert output.report.steps == 2
    assert next(steps, None) is None
    with pytest.raises(CancelledError):
        pipe.steps(**CALL).output  # noqa: B018 - ended before its first step
    run = Run()
    for _ in pipe.steps(**CALL, run=run):
        run.interrupt()
    assert {job.steps for job in run.jobs} <= {1}


def test_steps_with_a_callback(pair):
    pipe = pair("sd1").own
    got = []

    def callback(pipe, step, timestep, tensors):
        got.append((step, timestep, len(pipe.jobs)))
        pipe._guidance_scale = 1.0

    call = {**CALL, "callback_on_step_end": callback}
    assert torch.equal(list(pipe.steps(**call))[-1].latents, pipe(**call).images)
    assert got[:4] == got[4:]
