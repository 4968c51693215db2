"""Jobs of models that draw token after token: whoever shares a step, each picture is its call's."""

import gc
import random
import shutil
import threading

import pytest
import tiny
import torch
from test_cuda_calls import Recorder
from test_jacobi import write_drafts

import pyengine
from pyengine import ops
from pyengine.decoding import slots
from pyengine.decoding.recorded import TokenGraphs
from pyengine.errors import CancelledError, NotFiniteError, OutOfMemoryError, RequestError
from pyengine.pipelines import Run

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


@pytest.fixture(scope="module", params=WRITERS)
def pipe(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / request.param
    WRITERS[request.param](folder)
    if request.param == "drafts":
        noise = torch.randint(40, (7, 5, 5), generator=torch.Generator().manual_seed(1))
        write_drafts(folder, noise.short())
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    folder = tiny.write_picture_gpt(tmp_path_factory.mktemp("checkpoints") / "gpt")
    return pyengine.from_pretrained(folder, device="cpu")


def fitting(pipe, call):
    """The call without what this model does not take."""
    others = () if pipe.takes_prompt else ("prompt", "negative_prompt", "guidance_scale")
    return {name: value for name, value in call.items() if name not in others}


def calls(pipe, **more):
    return [{**fitting(pipe, call), "seed": k, "output_type": "pt", **more}
            for k, call in enumerate(CALLS)]  # fmt: skip


def prepare(pipe, **call):
    """The only job of a call."""
    (job,) = pipe.prepare(pipe.request(**call))
    return job


@pytest.fixture(scope="module")
def alone(pipe):
    """Of each of `calls`, what the call gives."""
    return [pipe(**call) for call in calls(pipe)]


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


@pytest.mark.parametrize("seed", range(5))
def test_each_job_is_the_picture_of_its_call(pipe, alone, seed):
    chance, made = random.Random(seed), {}
    pending = makers(pipe, calls(pipe), made)
    chance.shuffle(pending)
    shared = drive(pipe, pending, chance)
    assert max(shared) > 2
    for k, want in enumerate(alone):
        same(pipe, made[k], want)
    assert pipe.decoder.pool.held == 0


def test_by_graphs_too(pipe, alone, monkeypatch):
    """Those that draw one after another are not looked at until they are finished."""
    recorder = Recorder()
    monkeypatch.setattr(pipe, "graphs", TokenGraphs(recorder))
    made = {}
    for seed in range(3):
        drive(pipe, makers(pipe, calls(pipe), made), random.Random(seed))
        for k, want in enumerate(alone):
            assert torch.equal(pipe.finish(made[k]), want.images[0])
            assert (made[k].steps, made[k].evaluations) == (
                want.report.steps, want.report.evaluations
            )  # fmt: skip
    assert recorder.recorded
    assert recorder.replayed > 3 * recorder.recorded
    assert pipe.decoder.pool.held == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision(pipe, dtype):
    half = pyengine.from_pretrained(pipe.source, device="cpu", dtype=dtype)
    wants, made = [half(**call) for call in calls(half)], {}
    drive(half, makers(half, calls(half), made), random.Random(7))
    for k, want in enumerate(wants):
        same(half, made[k], want)


@pytest.mark.parametrize("shared", [False, True])
def test_pictures_of_several_calls(pipe, shared):
    """Each has its seed and position; where one generator serves a call, its pictures draw from it
    in the call's order, though they come to their tokens at different steps.
    """
    given = [
        {"prompt": ["a red heart", "a dog"], "num_images_per_prompt": 2, "seed": [4, 9, 2, 7]},
        {"prompt": "a cat", "num_images_per_prompt": 3, "seed": 5, "decoding": "jacobi",
         "window": 3},
        {"prompt": "a cat", "num_images_per_prompt": 2, "seed": 6, "guidance_scale": 1.0},
    ]  # fmt: skip
    given = [fitting(pipe, call) for call in given]
    if not pipe.takes_prompt:
        given[0]["num_images_per_prompt"] = 4

    def with_generators(call, k):
        if not shared:
            return call
        others = {name: value for name, value in call.items() if name != "seed"}
        return others | {"generator": torch.Generator().manual_seed(k)}

    wants = [pipe(**with_generators(call, k)) for k, call in enumerate(given)]
    groups = [pipe.prepare(pipe.request(**with_generators(c, k))) for k, c in enumerate(given)]
    if not shared:
        assert [(job.index, job.seed) for job in groups[1]] == [(0, 5), (1, 6), (2, 7)]
    chance = random.Random(3)
    pending = [lambda job=job: job for group in groups for job in group]
    chance.shuffle(pending)
    drive(pipe, pending, chance)
    for group, want in zip(groups, wants, strict=True):
        drawn = torch.tensor([job.tokens for job in group])
        assert torch.equal(drawn, want.tokens.flatten(1))


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


@pytest.mark.parametrize("most", [1, 64])
def test_a_cache_that_grows_under_its_jobs(pipe, alone, most, monkeypatch):
    """Twice as large whenever there is no slot left, or where a text is longer."""
    monkeypatch.setattr(slots, "ROOM", most)
    pool = pipe.decoder.pool
    pool.clear()
    monkeypatch.setattr(pool, "_least", 1)
    made, sizes = {}, set()
    drive(pipe, makers(pipe, calls(pipe), made), random.Random(4),
          lambda _: sizes.add(tuple(pool.cache.memory.tensor.shape[::3])))  # fmt: skip
    assert len(sizes) > 1
    for k, want in enumerate(alone):
        same(pipe, made[k], want)
    pool.clear()


def test_jobs_without_guidance_take_one_slot_and_one_row(gpt, monkeypatch):
    read, rows = gpt.decoder.model.read_tokens, []
    monkeypatch.setattr(gpt.decoder.model, "read_tokens",
                        lambda tokens, *given: rows.append(tuple(tokens.shape))
                        or read(tokens, *given), raising=False)  # fmt: skip
    jobs = [prepare(gpt, prompt="a cat", seed=k, guidance_scale=scale)
            for k, scale in enumerate((1.0, 4.0, 1.0))]  # fmt: skip
    jobs.append(prepare(gpt, prompt="x", decoding="jacobi", window=3))
    assert [len(job.slots) for job in jobs] == [1, 2, 1, 1]
    for _ in range(3):
        gpt.step(jobs)
    assert rows == [(4, 1), (1, 3)] * 2  # the first tokens come of the texts


def test_prompts_are_read_together_and_equal_ones_once(gpt, monkeypatch):
    reader = gpt.decoder.model
    read, seen = reader.read_text, []
    monkeypatch.setattr(
        reader, "read_text",
        lambda ids, *given, **more: seen.append(ids.tolist()) or read(ids, *given, **more),
        raising=False,
    )  # fmt: skip
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
