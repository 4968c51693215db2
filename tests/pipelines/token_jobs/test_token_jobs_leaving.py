"""Jobs of token models that end early: cancelled, interrupted, or by a fault."""

import gc
import random
import threading

import pytest
import torch
from test_cuda_calls import Recorder
from token_calls import calls, drive, fitting, makers, prepare, same

from pyengine import ops
from pyengine.decoding.recorded import TokenGraphs
from pyengine.errors import CancelledError, NotFiniteError, OutOfMemoryError
from pyengine.pipelines import Run

# --- leaving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_those_that_stay_do_not_see_that_others_leave(pipe, alone, seed):
    """What a cancelled one has come to are the first of its tokens."""
    chance, made, left = random.Random(seed), {}, []

    def leave(running):
        if running and chance.random() < 0.2:
            left.append(chance.choice(running))
            left[-1].cancel()

    pending = makers(pipe, calls(pipe, output_type="latent"), made)
    chance.shuffle(pending)
    drive(pipe, pending, chance, leave)
    assert left
    for k, want in enumerate(alone):
        job, want = made[k], want.tokens[0].flatten()
        assert job.complete != job.cancelled
        got = pipe.finish(job).flatten()
        assert torch.equal(got[: len(job.tokens)], want[: len(job.tokens)])
        assert (got[len(job.tokens) :] == -1).all()
        assert job.complete == (len(job.tokens) == len(want))
    assert pipe.decoder.pool.held == 0


def test_cancelled_before_during_and_after(gpt):
    call = {"prompt": "a cat", "seed": 1, "output_type": "latent"}
    want = gpt(**call).tokens[0].flatten()
    before, during, after = (prepare(gpt, **call) for _ in range(3))
    before.cancel()
    for _ in range(4):
        gpt.step([before, during, after])
    during.cancel()
    while after.active:
        gpt.step([before, during, after])
    after.cancel()
    assert [job.steps for job in (before, during, after)] == [0, 4, 25]
    assert [job.cancelled for job in (before, during, after)] == [True, True, False]
    assert (gpt.finish(before) == -1).all()
    assert torch.equal(gpt.finish(during).flatten()[:4], want[:4])
    assert torch.equal(gpt.finish(after).flatten(), want)
    assert gpt.decoder.pool.held == 0


def test_cancelled_from_another_thread_while_a_step_runs(gpt, monkeypatch):
    """It ends after that step, and keeps its slots until then."""
    call = {"prompt": "a cat", "output_type": "latent", "guidance_scale": 2.0}
    one, other = (prepare(gpt, seed=k, **call) for k in range(2))
    read, model = gpt.decoder.model.read_tokens, gpt.decoder.model

    def slow(*given):
        thread = threading.Thread(target=one.cancel)
        thread.start()
        thread.join()
        assert gpt.decoder.pool.held == 4
        return read(*given)

    gpt.step([one, other])
    with monkeypatch.context() as patch:
        patch.setattr(model, "read_tokens", slow, raising=False)
        gpt.step([one, other])
    assert (one.steps, one.cancelled, other.active) == (2, True, True)
    assert gpt.decoder.pool.held == 2
    while other.active:
        gpt.step([one, other])
    want = gpt(**{**call, "prompt": ["a cat"] * 2}, seed=[0, 1]).tokens.flatten(1)
    assert torch.equal(gpt.finish(other).flatten(), want[1])
    assert torch.equal(gpt.finish(one).flatten()[:2], want[0, :2])


def test_a_callback_cancels_one_of_its_call(pipe):
    call = fitting(pipe, {"prompt": "a cat", "guidance_scale": 2.0})
    call |= {"seed": 3, "num_images_per_prompt": 3, "output_type": "latent"}
    want = pipe(**call).tokens.flatten(1)

    def cancel(pipe, step, timestep, tensors):
        if step == 3:
            pipe.jobs[1].cancel()

    got = pipe(callback_on_step_end=cancel, **call)
    assert got.report.interrupted
    tokens = got.tokens.flatten(1)
    assert torch.equal(tokens[[0, 2]], want[[0, 2]])
    assert torch.equal(tokens[1, :4], want[1, :4])
    assert (tokens[1, 4:] == -1).all()
    assert pipe.decoder.pool.held == 0


def test_the_end_of_a_run_ends_all_jobs_of_its_call(gpt):
    run = Run()
    jobs = gpt.prepare(gpt.request(["a cat", "a dog"], seed=1, run=run))
    other = prepare(gpt, prompt="x", seed=5)
    gpt.step([*jobs, other])
    run.interrupt()
    gpt.step([*jobs, other])
    assert [job.steps for job in (*jobs, other)] == [1, 1, 2]
    assert all(job.cancelled for job in jobs)
    ended = Run()
    ended.interrupt()
    with pytest.raises(CancelledError):
        gpt.prepare(gpt.request("a cat", run=ended))


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoding", ["sequential", "jacobi", "jacobi-gumbel"])
def test_a_fault_in_one_leaves_the_others(pipe, alone, decoding, monkeypatch):
    """Also whoever has its slots next, in which lie numbers that are none."""
    given = calls(pipe)
    bad = prepare(pipe, **{**given[0], "decoding": decoding})
    made = {}
    rest = [make() for make in makers(pipe, given, made)]
    pipe.step([bad, *rest[:4]])
    key = pipe.decoder.pool.cache.memory.tensor[bad.slots[0]]
    key[:, 1, 0] = torch.nan
    pipe.step([bad, *rest[:4]])
    assert isinstance(bad.error, NotFiniteError)
    assert f"picture 0 at step {len(bad.tokens)}" in str(bad.error)
    assert not bad.active
    with pytest.raises(NotFiniteError, match="logits"):
        pipe.finish(bad)
    while any(job.active for job in rest):
        pipe.step([bad, *rest])
    for k, want in enumerate(alone):
        same(pipe, made[k], want)
    assert pipe.decoder.pool.held == 0
    assert torch.equal(pipe(**given[0]).images, alone[0].images)


def test_a_prepare_that_fails_gives_its_slots_back(gpt, monkeypatch):
    def fail(*_):
        raise RuntimeError("of a test")

    with monkeypatch.context() as patch:
        patch.setattr(gpt.decoder.model, "read_text", fail, raising=False)
        with pytest.raises(RuntimeError, match="of a test"):
            gpt(["a cat", "a dog"])
    gc.collect()
    assert gpt.decoder.pool.held == 0


@pytest.mark.parametrize("at", ["read_tokens", "sample_token", "filter_logits"])
def test_a_step_that_fails_can_be_taken_again(pipe, alone, at, monkeypatch):
    """Where memory ran out: what was drawn before stays, and nothing is drawn twice."""
    made = {}
    jobs = [make() for make in makers(pipe, calls(pipe), made)]
    where = pipe.decoder.model if at == "read_tokens" else ops
    function, chance = getattr(where, at), random.Random(2)

    def sometimes(*given, **more):
        if chance.random() < 0.4:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried")
        return function(*given, **more)

    monkeypatch.setattr(where, at, sometimes, raising=False)
    failed = 0
    while any(job.active for job in jobs):
        try:
            pipe.step(jobs)
        except OutOfMemoryError:
            failed += 1
    assert failed > 3
    for k, want in enumerate(alone):
        assert torch.equal(pipe.finish(made[k]), want.images[0])


@pytest.mark.parametrize("graphs", [False, True])
def test_an_error_that_somebody_keeps_holds_no_slots(pipe, graphs, monkeypatch):
    if graphs:
        monkeypatch.setattr(pipe, "graphs", TokenGraphs(Recorder()))

    def fail(pipe, step, timestep, tensors):
        if step == 2:
            raise ZeroDivisionError

    call = fitting(pipe, {"prompt": "a cat"})
    with pytest.raises(ZeroDivisionError) as kept:
        pipe(callback_on_step_end=fail, **call)
    assert pipe.decoder.pool.held == 0
    assert kept.value.__traceback__ is not None
