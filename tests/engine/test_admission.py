"""What an engine refuses before there is a job, whose turn shares make it, and who is told."""

import os
import subprocess
import sys

import pytest

from pyengine.engine.costs import Curve
from pyengine.errors import DeadlineError, QueueFullError, RequestError, TooLongError

BIG = {"height": 512, "width": 512}


def warm(m, seconds=0.01):
    """The engine knows what a step of 32x32 costs."""
    m.cost = lambda model, n: seconds
    m.submit(steps=3)
    m.finish()


def test_what_takes_too_long_alone_is_told_apart(manual):
    m = manual("sd1")
    warm(m)
    with pytest.raises(TooLongError, match="takes with nothing beside it") as caught:
        m.submit(steps=200, deadline=1.0)
    assert caught.value.retry_after > 0
    for seed in range(3):
        m.submit(seed=seed, steps=40)
    m.turn()
    with pytest.raises(DeadlineError, match="is likely to take now") as caught:
        m.submit(seed=9, steps=40, deadline=0.5)
    assert not isinstance(caught.value, TooLongError)
    m.finish()


def test_a_size_that_was_never_seen(manual):
    """Of a picture of 256 times the pixels a step takes 128 times as long, at least."""
    m = manual("sd1")
    warm(m)
    with pytest.raises(TooLongError):
        m.submit(steps=20, deadline=20.0, **BIG)
    m.submit(steps=20, deadline=40.0, **BIG).cancel()
    m.submit(steps=20, deadline=0.5, height=16, width=16)  # a smaller one may be quicker


def test_a_machine_that_was_busy_refuses_nothing_for_ever(manual):
    m = manual("sd1")
    warm(m)
    m.cost = lambda model, n: 5.0
    slow = m.submit(steps=3)
    m.finish()
    assert slow.done
    m.cost = lambda model, n: 0.01
    job = m.submit(steps=20, deadline=2.0)  # by the mean it would take half a minute
    m.finish()
    assert job.result(0).images


def test_the_least_of_a_number_that_was_never_measured():
    curve = Curve()
    assert curve.least(3) is None
    curve.add(2, 0.2)
    curve.add(2, 0.1)
    curve.add(4, 0.15)
    assert [curve.least(n) for n in (1, 2, 3, 4, 8)] == [0.0375, 0.1, 0.1, 0.15, 0.15]


def test_what_does_not_fit_into_memory_by_a_smaller_one(manual):
    m = manual("emoji", memory="1TB")
    m.learn("emoji")
    size = m.driver.costs.bytes(next(iter(m.driver.shapes.values())))
    assert size > 0
    m.engine.limit_memory(int(size * 20))
    with pytest.raises(RequestError, match="memory: expected pictures that fit"):
        m.submit("emoji", **BIG)
    m.submit("emoji", height=128, width=128).cancel()


def test_a_check_of_ones_own(manual):
    m = manual("sd1")
    seen = []

    def check(request):
        seen.append((request.height, request.width, request.count))
        raise QueueFullError("no", 2.0)

    with pytest.raises(QueueFullError, match="no"):
        m.submit(check=check, num_images_per_prompt=3)
    assert seen == [(32, 32, 3)]
    assert m.engine.waiting == 0


def test_a_share_waits_for_its_own_work(manual):
    """Who has six jobs of half a second in the queue goes behind who has none."""
    m = manual("sd1")
    warm(m)
    many = [m.submit(seed=k, steps=50, share="a") for k in range(6)]
    one = m.submit(seed=9, steps=2, share="b")
    assert m.engine.waiting_of("a") == 6
    while not one.done:
        m.turn()
    assert not any(job.done for job in many[1:])
    m.finish()


def test_room_is_asked_for_before_a_job_is_made(manual):
    m = manual("sd1", max_waiting=1)
    m.engine.check_room()
    m.submit()
    with pytest.raises(QueueFullError) as caught:
        m.engine.check_room()
    assert caught.value.retry_after > 0
    m.finish()
    m.engine.check_room()


def test_who_is_told(manual):
    m = manual("sd1")
    steps, ends = [], []
    m.engine.observe(lambda model, pictures, seconds: steps.append((pictures, seconds)))
    job = m.submit(steps=3, num_images_per_prompt=2, previews=1)
    job.when_done(lambda: ends.append(job.done))
    assert list(job.times) == ["queued"]
    m.finish()
    job.when_done(lambda: ends.append("late"))
    assert ends == [True, "late"]
    assert sum(pictures for pictures, _ in steps) == 6
    assert list(job.times) == ["queued", "started", "step", "preview", "done"]
    assert sorted(job.times.values()) == list(job.times.values())


TWICE = """
import os, signal, threading, pyengine
def again():
    os.kill(os.getpid(), signal.SIGINT)
try:
    with pyengine.Engine("emoji") as engine:
        jobs = [engine.submit(prompt="a", seed=k, num_inference_steps=1000, height=256, width=256)
                for k in range(8)]
        threading.Timer(1.0, again).start()
        again()
        jobs[0].result()
except KeyboardInterrupt:
    print(all(job.done for job in jobs), engine.running, engine.waiting)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as Unix has them")
def test_a_second_ctrl_c_stops():
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", TWICE], env=paths, timeout=100, capture_output=True, text=True
    )
    assert done.stdout.strip() == "True 0 0", done.stderr
