"""What the rounds of an engine decide: who waits, who joins, who is stepped. No time passes but
the test's.
"""

import numpy as np
import pytest

from pyengine.errors import (
    CancelledError,
    DeadlineError,
    NotFiniteError,
    OutOfMemoryError,
    QueueFullError,
    RequestError,
)


def types(job):
    return [event.type for event in job.events._events]


def same(one, other):
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_jobs_join_and_leave_at_steps(manual):
    m = manual("sd1")
    m.learn()
    jobs = [m.submit(seed=1, steps=6)]
    m.turn(2)
    jobs += [m.submit(seed=2, steps=2), m.submit(seed=3, steps=3)]
    m.finish()
    assert [seeds for _, seeds in m.steps] == [[1], [1], [1, 2, 3], [1, 2, 3], [1, 3], [1]]
    alone = m.engine.pipeline()
    for seed, steps, job in zip((1, 2, 3), (6, 2, 3), jobs, strict=True):
        expected = alone("a cat", seed=seed, num_inference_steps=steps, height=32, width=32)
        assert same(job.result(0).images[0], expected.images[0])
        assert job.report.steps == expected.report.steps
        assert job.report.evaluations == expected.report.evaluations
        assert job.report.kernels == expected.report.kernels


def test_a_join_takes_no_longer_than_a_step(manual):
    """Encodes of 2 ms beside a batch whose step takes 5 ms: three a round, not all nine."""
    m = manual("sd1")
    m.cost = lambda model, n: 0.005
    m.learn(count=8)
    m.submit(seed=0, steps=20)
    m.turn()
    for seed in range(1, 10):
        m.submit(seed=seed, steps=20)
    sizes = []
    for _ in range(4):
        m.turn()
        sizes.append(len(m.steps[-1][1]))
    assert sizes == [4, 7, 10, 10]


@pytest.mark.parametrize(("seconds", "a_round"), [(0.001, 1), (0.003, 2), (2.0, 6)])
def test_decodes_take_no_longer_than_a_step(manual, seconds, a_round):
    """Decodes of 2 ms: one a round beside steps of 1 ms, all of them beside one of 2 s."""
    m = manual("sd1", longest_step=100)
    m.cost = lambda model, n: seconds
    m.learn(count=7)
    for seed in range(6):
        m.submit(seed=seed, steps=2)
    m.submit(seed=9, steps=12)
    while len(m.steps) < 2 or m.steps[-1][1] != [9]:
        assert m.decoded == []
        m.turn()
        if sum(0 in seeds for _, seeds in m.steps) == 2:
            break
    m.turn()
    assert len(m.decoded) == a_round


def test_a_big_step_does_not_hold_up_small_jobs(manual):
    """Steps of 2 s beside those of 10 ms: a job of 10 short steps waits for one of them at most."""
    m = manual("sd1", "gpt")
    m.cost = lambda model, n: 2.0 if model == "sd1" else 0.01
    m.learn("gpt")
    m.learn("sd1")
    m.submit("sd1", steps=50)
    m.turn(3)
    begin = m.now
    short = [m.submit("gpt", seed=k) for k in range(3)]
    while not all(job.done for job in short):
        m.turn()
    assert m.now - begin < 2.0 + 0.5
    assert m.driver.running


def test_no_evaluation_longer_than_asked(manual):
    m = manual("sd1", longest_step=0.1)
    m.cost = lambda model, n: 0.03 * n
    m.learn()
    for seed in range(8):
        m.submit(seed=seed, steps=2)
    m.finish()
    assert max(len(seeds) for _, seeds in m.steps) == 3


def test_many_pictures_of_a_call_are_stepped_in_parts(manual):
    m = manual("sd1", longest_step=0.1)
    m.cost = lambda model, n: 0.04 * n
    m.learn()
    job = m.submit(seed=5, steps=2, num_images_per_prompt=5)
    m.finish()
    assert {len(seeds) for _, seeds in m.steps} == {1, 2}
    expected = m.engine.pipeline()(
        "a cat", seed=5, num_inference_steps=2, height=32, width=32, num_images_per_prompt=5
    )
    output = job.result(0)
    assert output.seeds == expected.seeds
    assert all(same(a, b) for a, b in zip(output.images, expected.images, strict=True))


def test_the_most_urgent_is_started_first(manual):
    m = manual("sd1")
    m.cost = lambda model, n: 1.0  # one at a time
    m.learn()
    m.submit(seed=1)
    m.turn()
    m.submit(seed=2)
    m.submit(seed=3, deadline=50.0)
    m.submit(seed=4, deadline=40.0, priority=-5)
    m.submit(seed=5, priority=5)
    order = [entry.stages.request.seeds[0] for entry in m.driver.waiting]
    assert order == [5, 3, 2, 4]
    m.finish()
    assert m.encoded == [1, 5, 3, 2, 4]


def test_age_counts(manual):
    """A job without a deadline goes before those that come a minute later with tight ones."""
    m = manual("sd1")
    m.learn()
    m.submit(seed=1)
    m.now += 61.0
    m.submit(seed=2, deadline=1.0)
    assert [entry.stages.request.seeds[0] for entry in m.driver.waiting] == [1, 2]


def test_a_full_queue_says_when_to_come_again(manual):
    m = manual("sd1", max_waiting=2)
    m.submit(), m.submit()
    with pytest.raises(QueueFullError, match="max_waiting: expected at most 2") as refused:
        m.submit()
    assert refused.value.retry_after > 0
    m.turn()
    m.submit()
    m.finish()


def test_a_deadline_that_cannot_be_met_is_refused(manual):
    m = manual("sd1")
    m.cost = lambda model, n: 1.0
    m.learn()
    with pytest.raises(DeadlineError, match="deadline: expected at least") as refused:
        m.submit(steps=10, deadline=5.0)
    assert 4.0 < refused.value.retry_after < 7.0
    job = m.submit(steps=10, deadline=12.0)
    m.finish()
    assert job.result(0)


def test_deadlines_reckon_with_those_before(manual):
    m = manual("sd1")
    m.cost = lambda model, n: 1.0 * n
    m.learn()
    m.submit(steps=10, deadline=20)
    m.turn()
    with pytest.raises(DeadlineError):
        m.submit(steps=10, deadline=15)
    m.submit(steps=10, deadline=45)
    m.finish()


def test_a_model_that_was_never_run_refuses_what_no_model_could_do(manual):
    m = manual("sd1")
    with pytest.raises(DeadlineError) as refused:
        m.submit(steps=20, deadline=0.001)
    assert refused.value.retry_after > 0


@pytest.mark.parametrize("running", [False, True])
def test_a_deadline_that_passes_fails_the_job(manual, running):
    m = manual("sd1")
    if not running:
        m.submit(seed=1, steps=8)
        m.turn()
    job, other = m.submit(seed=2, steps=4, deadline=1.0), m.submit(seed=3)
    if running:
        m.turn(2)
    m.now += 2.0
    m.finish()
    with pytest.raises(DeadlineError, match="deadline: passed after 1 s") as failed:
        job.result(0)
    assert failed.value.retry_after > 0
    assert types(job)[-1] == "failed"
    assert other.result(0)


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_cancel_at_any_time(manual, rounds):
    m = manual("sd1")
    m.learn()
    job, other = m.submit(seed=1), m.submit(seed=2)
    m.turn(rounds)
    for _ in range(3):
        job.cancel()
    taken = len(m.steps)
    m.turn()
    assert job.done
    assert all(1 not in seeds for _, seeds in m.steps[taken:])
    with pytest.raises(CancelledError, match="the job was cancelled"):
        job.result(0)
    job.cancel()
    assert types(job)[-1] == "cancelled"
    m.finish()
    expected = m.engine.pipeline()("a cat", seed=2, num_inference_steps=3, height=32, width=32)
    assert same(other.result(0).images[0], expected.images[0])


def test_cancel_after_the_end_changes_nothing(manual):
    m = manual("sd1")
    job = m.submit()
    m.finish()
    job.cancel()
    assert job.result(0).images
    assert types(job)[-1] == "done"


def test_a_waiting_job_ends_without_a_round(manual):
    m = manual("sd1")
    job = m.submit()
    job.cancel()
    assert job.done
    assert m.engine.waiting == 0


@pytest.mark.parametrize("name", ["sd1", "gpt"])
def test_an_interrupted_job_gives_what_there_is(manual, name):
    m = manual(name)
    job, other = m.submit(name, seed=1, steps=6), m.submit(name, seed=2, steps=6)
    m.turn(2)
    job.interrupt()
    m.turn()
    output = job.result(0)
    assert job.report.interrupted
    assert job.report.evaluations == 2
    assert m.steps[-1][1] == [2]
    m.finish()
    assert not other.result(0).report.interrupted
    steps = m.pipes[name].steps(
        "a cat",
        seed=1,
        **({"num_inference_steps": 6, "height": 32, "width": 32} if name == "sd1" else {}),
    )
    next(steps), next(steps)
    assert same(output.images[0], steps.output.images[0])
    job.interrupt()  # nothing


def test_an_interrupted_job_that_waits_is_cancelled(manual):
    m = manual("sd1")
    job = m.submit()
    job.interrupt()
    with pytest.raises(CancelledError):
        job.result(0)
    m.turn()
    assert not m.encoded


def test_a_preview_that_is_asked_for_on_the_way(manual):
    m = manual("sd1")
    job = m.submit(seed=1, steps=6)
    m.turn(2)
    job.ask_preview(), job.ask_preview()
    m.turn()
    shown = job.events.last("preview")
    assert (shown.step, shown.steps) == (3, 6)
    m.finish()
    assert job.events.last("preview") is shown
    assert job.events.last("failed") is None
    job.ask_preview()  # nothing


def test_out_of_memory_halves_the_batch(manual):
    m = manual("sd1")
    m.learn()

    def faults(model, pictures):
        if len(pictures) > 3:
            raise OutOfMemoryError("no room")

    m.faults = faults
    jobs = [m.submit(seed=seed, scheduler="euler_ancestral") for seed in range(10)]
    m.finish()
    assert max(len(seeds) for _, seeds in m.steps) <= 3
    assert any(len(seeds) == 2 for _, seeds in m.steps)
    alone = m.engine.pipeline()
    for seed, job in enumerate(jobs):
        expected = alone(
            "a cat",
            seed=seed,
            num_inference_steps=3,
            height=32,
            width=32,
            scheduler="euler_ancestral",
        )
        assert same(job.result(0).images[0], expected.images[0])


def test_one_picture_that_does_not_fit_fails_alone(manual):
    m = manual("sd1", "gpt")
    m.learn()

    def faults(model, pictures):
        if model == "sd1":
            raise OutOfMemoryError("no room")

    m.faults = faults
    job, other = m.submit(), m.submit("gpt")
    m.finish()
    with pytest.raises(OutOfMemoryError, match="no room"):
        job.result(0)
    assert other.result(0).images


def test_a_failure_fails_one_job(manual):
    m = manual("sd1")
    m.learn()

    def faults(model, pictures):
        if any(picture.seed == 2 and picture.steps == 1 for picture in pictures):
            raise ValueError("the second")

    m.faults = faults
    jobs = {seed: m.submit(seed=seed) for seed in (1, 2, 3)}
    m.finish()
    with pytest.raises(ValueError, match="the second"):
        jobs.pop(2).result(0)
    alone = m.engine.pipeline()
    for seed, job in jobs.items():
        expected = alone("a cat", seed=seed, num_inference_steps=3, height=32, width=32)
        assert same(job.result(0).images[0], expected.images[0])


def test_numbers_that_are_none_fail_one_job(manual):
    m = manual("sd1")
    m.learn()
    bad, good = m.submit(seed=1), m.submit(seed=2)
    m.turn()
    (picture,) = m.driver.running[0].stages.pictures
    picture.batch.set_latents(picture.row, picture.latents * float("nan"))
    m.finish()
    with pytest.raises(NotFiniteError):
        bad.result(0)
    assert good.result(0).images


def test_what_fails_before_its_first_step_fails_alone(manual, monkeypatch):
    m = manual("sd1")
    m.learn()
    pipe = m.engine.pipeline()
    bad, good = m.submit(seed=1), m.submit(seed=2)
    real = type(pipe)._begin

    def begin(self, r, report):
        if r.seeds == [1]:
            raise NotFiniteError("text encoder")
        return real(self, r, report)

    monkeypatch.setattr(type(pipe), "_begin", begin)
    m.finish()
    with pytest.raises(NotFiniteError, match="text encoder"):
        bad.result(0)
    assert good.result(0).images


def test_previews_are_of_their_step(manual):
    m = manual("sd1")
    job = m.submit(seed=4, steps=8, previews=3)
    other = m.submit(seed=5, steps=8)
    seen = []
    add = job.events.add
    job.events.add = lambda event: (seen.append(event), add(event))
    m.finish()
    shown = [event for event in seen if event.type == "preview"]
    assert [event.step for event in shown] == [2, 4, 6]
    steps = m.engine.pipeline().steps("a cat", seed=4, num_inference_steps=8, height=32, width=32)
    expected = {step.step + 1: step.preview()[0] for step in steps}
    assert all(same(event.images[0], expected[event.step]) for event in shown)
    assert job.result(0).images
    assert other.result(0).images


def test_a_job_that_does_not_fit_is_refused_early(manual):
    m = manual("emoji", memory="1KB")
    m.learn("emoji")
    with pytest.raises(RequestError, match="memory: expected pictures that fit into 1,000 bytes"):
        m.submit("emoji")


def test_memory_caps_the_batch(manual):
    m = manual("emoji", memory="1TB")
    m.learn("emoji")
    shape = m.driver.costs._of(next(iter(m.driver.shapes.values())))
    assert shape.bytes > 0
    m.driver.costs.memory = int(2.5 * shape.bytes)
    for seed in range(6):
        m.submit("emoji", seed=seed)
    m.finish()
    assert max(len(seeds) for _, seeds in m.steps) == 2


def test_the_first_token_which_costs_nothing_teaches_nothing(manual):
    """Its logits are there from when the texts were read, and a step of it reads no model."""
    m = manual("gpt")
    m.cost = lambda model, n: 1.0 if len(m.steps) else 1e-6
    job = m.submit("gpt")
    m.turn()
    shape = m.driver.shapes[job.stages.queue]
    assert m.driver.cap(job.stages.queue) == 1
    m.turn()
    assert m.driver.costs.step(shape, 1) == pytest.approx(1.0)
    m.finish()
