"""Slots and recordings of token models' jobs, and calls that are watched step by step."""

import gc
import random
import shutil
import weakref

import pytest
import tiny
import torch
from test_cuda_calls import Recorder
from token_calls import calls, drive, fitting, makers, prepare

import pyengine
from pyengine import ops
from pyengine.decoding import slots
from pyengine.decoding.recorded import TokenGraphs
from pyengine.errors import RequestError

# --- slots ----------------------------------------------------------------------------------------


def test_jobs_that_are_let_go_give_their_slots_back(gpt):
    jobs = gpt.prepare(gpt.request(["a cat", "a dog"], seed=1, guidance_scale=2.0))
    gpt.step(jobs)
    pool = gpt.decoder.pool
    held = [slot for job in jobs for slot in job.slots]
    assert pool.held == len(held) == 4
    assert pool.cache.memory.tensor[held].any()
    del jobs
    gc.collect()
    assert pool.held == 0
    assert not pool.cache.memory.tensor[held].any()  # the pages are new ones


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("most", [1, 64])
def test_a_cache_that_grows_under_its_jobs(pipe, alone, most, graphs, monkeypatch):
    """Twice as large whenever there is no slot left, or where a text is longer; what was recorded
    with the smaller one is void, and what a GPU has drawn there stays.
    """
    if graphs:
        monkeypatch.setattr(pipe, "graphs", TokenGraphs(Recorder()))
    monkeypatch.setattr(slots, "ROOM", most)
    pool = pipe.decoder.pool
    pool.clear()
    monkeypatch.setattr(pool, "_least", 1)
    made, sizes = {}, set()
    drive(
        pipe,
        makers(pipe, calls(pipe), made),
        random.Random(4),
        lambda _: sizes.add(tuple(pool.cache.memory.tensor.shape[::3])),
    )
    assert len(sizes) > 1
    for k, want in enumerate(alone):
        assert torch.equal(pipe.finish(made[k]), want.images[0])
        assert (made[k].steps, made[k].evaluations) == (want.report.steps, want.report.evaluations)
    pool.clear()


@pytest.mark.parametrize("graphs", [False, True])
def test_where_memory_does_not_suffice_the_cache_goes(gpt, graphs, monkeypatch):
    """But for what jobs hold."""
    if graphs:
        monkeypatch.setattr(gpt, "graphs", TokenGraphs(Recorder()))
    want = gpt("a cat", seed=1).tokens[0]
    cache = weakref.ref(gpt.decoder.pool.cache)
    job = prepare(gpt, prompt="a cat", seed=1, output_type="latent")
    for _ in range(5):
        gpt.step([job])
    gpt._release()
    assert cache() is gpt.decoder.pool.cache
    while job.active:
        gpt.step([job])
    assert torch.equal(gpt.finish(job), want)
    gpt._release()
    gc.collect()
    assert cache() is None
    assert torch.equal(gpt("a cat", seed=1).tokens[0], want)


def test_jobs_without_guidance_take_one_slot_and_one_row(gpt, monkeypatch):
    read, rows = gpt.decoder.model.read_tokens, []
    monkeypatch.setattr(
        gpt.decoder.model,
        "read_tokens",
        lambda tokens, *given: rows.append(tuple(tokens.shape)) or read(tokens, *given),
        raising=False,
    )
    jobs = [
        prepare(gpt, prompt="a cat", seed=k, guidance_scale=scale)
        for k, scale in enumerate((1.0, 4.0, 1.0))
    ]
    jobs.append(prepare(gpt, prompt="x", decoding="jacobi", window=3))
    assert [len(job.slots) for job in jobs] == [1, 2, 1, 1]
    for _ in range(3):
        gpt.step(jobs)
    assert rows == [(4, 1), (1, 3)] * 2  # the first tokens come of the texts


def test_prompts_are_read_together_and_equal_ones_once(gpt, monkeypatch):
    reader = gpt.decoder.model
    read, seen = reader.read_text, []
    monkeypatch.setattr(
        reader,
        "read_text",
        lambda ids, *given, **more: seen.append(ids.tolist()) or read(ids, *given, **more),
        raising=False,
    )
    prompts = ["a red heart", "x", "a red heart", "two cats"]
    texts = {tuple(gpt._ids("prompt", prompt)) for prompt in (*prompts, "")}
    call = {"seed": 1, "num_images_per_prompt": 2, "guidance_scale": 3.0}
    whole = gpt(prompts, **call).tokens
    first = gpt._ids("prompt", "x")[0]
    text = [tuple(row) for ids in seen if ids[0][0] == first for row in ids]
    assert len(text) == len(texts) == 4
    monkeypatch.setattr("pyengine.decoding.decoder.TOGETHER", 8)  # each by itself
    assert torch.equal(gpt(prompts, **call).tokens, whole)


# --- recordings -----------------------------------------------------------------------------------


@pytest.fixture
def noted(monkeypatch):
    """A list that grows with every recording of kernels on the CPU."""
    note, found = ops._replay._Recording.note, []
    monkeypatch.setattr(
        ops._replay._Recording, "note", lambda self, *given: found.append(1) or note(self, *given)
    )
    return found


@pytest.mark.parametrize("how", [{}, {"decoding": "jacobi", "window": 3}])
def test_what_is_recorded_serves_the_next_calls(pipe, noted, how):
    call = fitting(pipe, {"prompt": "a cat", "guidance_scale": 2.0}) | how
    pipe.decoder.pool.clear()
    pipe(seed=1, num_images_per_prompt=2, **call)
    pipe(seed=2, num_images_per_prompt=2, **call)
    assert noted
    before = len(noted)
    for seed in (3, 4):
        pipe(seed=seed, num_images_per_prompt=2, temperature=0.5, **call)
        prefix = {} if pipe.takes_prompt else {"prefix": [1, 2]}
        pipe(seed=seed, num_images_per_prompt=2, **call, **prefix)
    assert len(noted) <= before + 1  # a batch of one picture that was left alone


def test_joins_and_leaves_record_nothing_anew(gpt, noted):
    """Batches of one to six jobs; the second time that a number of rows comes is recorded."""
    gpt.decoder.pool.clear()
    counts = []
    for seed in range(4):
        made = {}
        given = [{"prompt": "a cat", "seed": k, "guidance_scale": 1.0 + k % 2} for k in range(6)]
        drive(gpt, makers(gpt, given, made), random.Random(seed))
        counts.append(len(noted))
    assert counts[0] > 2
    assert counts[3] - counts[1] <= 2
    assert counts[3] <= 9  # rows: 1 to 9


# --- watching -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"decoding": "jacobi", "window": 3}])
@pytest.mark.parametrize("graphs", [False, True])
def test_steps(pipe, how, graphs, monkeypatch):
    call = fitting(pipe, {"prompt": "a cat"}) | {"seed": 2, "num_images_per_prompt": 2} | how
    want = pipe(output_type="latent", **call)
    if graphs:
        monkeypatch.setattr(pipe, "graphs", TokenGraphs(Recorder()))
    steps = pipe.steps(output_type="latent", **call)
    seen = []
    for step in steps:
        known = step.latents >= 0
        assert torch.equal(step.latents[known], want.tokens[known])
        assert step.timestep == int(known.flatten(1).sum(dim=1).max()) - 1
        seen.append(int(known.sum()))
        if step.step == 2:
            pictures = step.preview()
            height, width = pipe.default_size
            assert [p.size for p in pictures] == [(width, height)] * 2
            assert step.preview("pt").shape == (2, 3, height, width)
    assert len(seen) == want.report.evaluations
    assert seen == sorted(set(seen))
    assert torch.equal(steps.output.tokens, want.tokens)
    assert steps.output.report.tokens == want.report.tokens


def test_steps_that_are_left(gpt):
    steps = gpt.steps("a cat", seed=1)
    for step in steps:
        if step.step == 3:
            break
    output = steps.output
    assert output.report.interrupted
    assert int((output.tokens >= 0).sum()) == 4
    assert torch.equal(output.tokens.flatten()[:4], gpt("a cat", seed=1).tokens.flatten()[:4])
    assert gpt.decoder.pool.held == 0


def test_a_picture_that_ends_leaves_the_others(tmp_path):
    """The job whose token ends it gives its slots back; the others go on, with the same bits."""
    folder = tiny.write_image_gpt(tmp_path / "plain")
    tokens = pyengine.from_pretrained(folder, device="cpu")(seed=1, num_images_per_prompt=4).tokens
    end = int(tokens[0].flatten()[9])
    ends = shutil.copytree(folder, tmp_path / "ends")
    config = (ends / "config.json").read_text()
    config = config.replace('"eos_token_id": null', f'"eos_token_id": {end}')
    if f'"eos_token_id": {end}' not in config:
        config = config.replace("{", f'{{"eos_token_id": {end}, "pad_token_id": 7,', 1)
    (ends / "config.json").write_text(config)
    pipe = pyengine.from_pretrained(ends, device="cpu")
    hows = [{}, {"decoding": "jacobi", "window": 5}, {}, {"decoding": "jacobi-gumbel"}]
    wants = [pipe(seed=k, output_type="latent", **how) for k, how in enumerate(hows)]
    jobs = [prepare(pipe, seed=k, output_type="latent", **how) for k, how in enumerate(hows)]
    drive(pipe, [lambda job=job: job for job in jobs], random.Random(1))
    assert any(job.ended for job in jobs)
    for job, want in zip(jobs, wants, strict=True):
        assert torch.equal(pipe.finish(job), want.tokens[0])
        assert job.steps == want.report.tokens
    assert pipe.decoder.pool.held == 0


def test_refused(gpt):
    job = prepare(gpt, prompt="a cat")
    with pytest.raises(RequestError, match="job: expected one that is complete or cancelled"):
        gpt.finish(job)
    with pytest.raises(RequestError, match="jobs: expected each of them once"):
        gpt.step([job, job])
