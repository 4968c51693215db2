"""An engine as its callers know it: arguments, results, events, its end."""

import asyncio
import gc
import importlib
import os
import re
import subprocess
import sys
import threading
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest

import pyengine
from pyengine.engine import driver
from pyengine.errors import BusyError, CancelledError, RequestError, UnavailableError
from pyengine.jobs.job import Job

SHORT = {"prompt": "a cat", "num_inference_steps": 2, "height": 32, "width": 32, "seed": 1}


@pytest.fixture
def engine(pipes):
    with pyengine.Engine(pipes["sd1"], pipes["gpt"]) as made:
        yield made


def test_models_by_name_path_or_pipeline(engine, pipes):
    first, second = pipes["sd1"], pipes["gpt"]
    assert engine.models == (first.source, second.source)
    for model in (None, first.source, first):
        assert engine.submit(model, **SHORT).result(60).images
    assert engine.submit(model=second.source, prompt="a cat").result(60).tokens is not None
    assert engine.pipeline() is first


@pytest.mark.parametrize(("call", "words"), [
    ({"model": "emojo"}, "model: expected one of"),
    ({"prompt": 7}, "prompt"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"nothing": 1}, "nothing"),
    ({"priority": 11}, "priority: expected a whole number from -10 to 10"),
    ({"deadline": 0}, "deadline: expected a number"),
    ({"deadline": float("nan")}, "deadline: expected a number"),
    ({"previews": -1}, "previews: expected"),
    ({"callback_on_step_end": print}, "callback_on_step_end: expected none"),
])  # fmt: skip
def test_arguments_are_checked_at_once(engine, call, words):
    with pytest.raises(RequestError, match=words):
        engine.submit(**{**SHORT, **call})


@pytest.mark.parametrize(("how", "words"), [
    ({"max_waiting": 0}, "max_waiting"), ({"memory": "lots"}, "memory"),
    ({"longest_step": 0}, "longest_step"),
])  # fmt: skip
def test_its_own_arguments_too(pipes, how, words):
    with pytest.raises(RequestError, match=f"{words}: expected"):
        pyengine.Engine(pipes["sd1"], **how)


def test_models_there_must_be_each_once(pipes):
    with pytest.raises(RequestError, match="models: expected one at least"):
        pyengine.Engine()
    with pytest.raises(RequestError, match="models: expected each once"):
        pyengine.Engine(pipes["sd1"], pipes["sd1"])


def test_result_is_what_the_call_returns(engine, pipes):
    assert isinstance(engine.submit(**SHORT).result(60), pyengine.pipelines.PipelineOutput)
    job = engine.submit(**SHORT, output_type="np", return_dict=False)
    expected = pipes["sd1"](**SHORT, output_type="np", return_dict=False)
    assert np.array_equal(job.result(60)[0], expected[0])
    assert len(job.result(60)) == len(expected)
    assert job.report.steps == 2


def test_a_timeout_ends_the_waiting_not_the_job(manual):
    m = manual("sd1")
    job = m.submit()
    with pytest.raises(BusyError, match=r"timeout: the job was still at work after 0.001 s"):
        job.result(1e-3)
    m.finish()
    assert job.result(0).images


def test_events_of_a_job_that_has_ended(engine):
    job = engine.submit(**SHORT)
    job.result(60)

    async def follow():
        return [event async for event in job], await job

    for _ in range(2):
        events, output = asyncio.run(follow())
        assert [event.type for event in events] == ["queued", "started", "step", "done"]
        assert events[-1].output is output is job.result(0)
        assert events[0].place == 1
        assert (events[2].step, events[2].steps) == (2, 2)


def test_two_loops_follow_one_job(engine):
    job, found = engine.submit(**{**SHORT, "num_inference_steps": 20}), {}

    def follow(name):
        async def events():
            return [event.type async for event in job][-1], await job

        found[name] = asyncio.run(events())

    threads = [threading.Thread(target=follow, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found["a"] == found["b"] == ("done", job.result(0))


def test_a_loop_that_has_ended_holds_nothing_up(engine):
    job = engine.submit(**{**SHORT, "num_inference_steps": 30})

    async def leave():
        async for event in job:
            return event.type

    assert asyncio.run(leave()) in ("queued", "started", "step")
    assert job.result(60).images


def test_who_awaits_may_be_cancelled_and_the_job_goes_on(manual):
    m = manual("sd1")
    job = m.submit()

    async def wait():
        return await job

    async def give_up():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wait(), 1e-3)

    asyncio.run(give_up())
    m.finish()
    assert job.result(0).images


def test_async_with(pipes):
    async def main():
        async with pyengine.Engine(pipes["sd1"]) as engine:
            jobs = [engine.submit(**{**SHORT, "seed": k}) for k in range(4)]
        assert all(job.done for job in jobs)
        return await jobs[0]

    assert asyncio.run(main()).images


def test_drain_ends_what_was_taken_and_takes_no_more(pipes):
    engine = pyengine.Engine(pipes["sd1"])
    jobs = [engine.submit(**{**SHORT, "seed": k}) for k in range(6)]
    engine.drain()
    assert all(job.result(0).images for job in jobs)
    with pytest.raises(UnavailableError, match="engine: it has been closed"):
        engine.submit(**SHORT)
    engine.drain()
    engine.stop()


def test_stop_cancels(pipes, monkeypatch):
    """Of six jobs none ends before the engine is told to stop."""
    stopping = threading.Event()
    real = driver.step

    def step(pipe, pictures):
        assert stopping.wait(60)
        return real(pipe, pictures)

    monkeypatch.setattr(driver, "step", step)
    engine = pyengine.Engine(pipes["sd1"])
    jobs = [engine.submit(**{**SHORT, "num_inference_steps": 50, "seed": k}) for k in range(6)]
    close = engine._driver.close
    monkeypatch.setattr(engine._driver, "close", lambda stop: (close(stop=stop), stopping.set()))
    engine.stop()
    for job in jobs:
        with pytest.raises(CancelledError):
            job.result(0)
    assert not engine._thread.is_alive()


def test_an_engine_that_nobody_has_ends(pipes):
    engine = pyengine.Engine(pipes["sd1"])
    job, thread, gone = engine.submit(**SHORT), engine._thread, weakref.ref(engine)
    job.result(60)
    del engine
    gc.collect()
    assert gone() is None
    assert not thread.is_alive()


def test_jobs_hold_no_pictures_in_the_making(engine):
    job = engine.submit(**SHORT, previews=1)
    stages = weakref.ref(job.stages)
    job.result(60)
    engine.submit(**SHORT).result(60)  # the thread has gone on
    gc.collect()
    assert stages() is None


def test_an_interrupted_block_drains(pipes):
    jobs = []

    def interrupted():
        with pyengine.Engine(pipes["sd1"]) as engine:
            jobs.extend(engine.submit(**{**SHORT, "seed": k}) for k in range(4))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(jobs) == 4
    assert all(job.result(0).images for job in jobs)


def run(code, *arguments):
    """A Python process that runs the code."""
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=paths,
        timeout=120,
        capture_output=True,
        text=True,
    )


INTERRUPTED = """
import signal, os, sys, pyengine
try:
    with pyengine.Engine("emoji-ar") as engine:
        jobs = [engine.submit(prompt="a cat", seed=k) for k in range(int(sys.argv[1]))]
        os.kill(os.getpid(), signal.SIGINT)
        jobs[0].result()
except KeyboardInterrupt:
    print(sum(bool(job.result(0).images) for job in jobs))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as Unix has them")
def test_ctrl_c_drains():
    done = run(INTERRUPTED, "5")
    assert done.stdout.strip() == "5", done.stderr


def test_a_process_that_forgets_it_ends():
    code = """
import pyengine
engine = pyengine.Engine("emoji")
jobs = [engine.submit(prompt="a cat", num_inference_steps=500) for _ in range(9)]
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told(engine):
    engine.submit(**SHORT).result(60)
    child = os.fork()
    if child == 0:
        try:
            engine.submit(**SHORT)
        except UnavailableError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


FORKED = """
import os, sys, threading, pyengine
with pyengine.Engine("emoji-ar") as engine:
    job = engine.submit(prompt="a cat", seed=1)
    held, forked = threading.Event(), threading.Event()
    def hold():
        with engine._driver.lock:
            held.set()
            forked.wait()
    threading.Thread(target=hold).start()
    held.wait()
    child = os.fork()
    forked.set()
if child:
    print(os.waitpid(child, 0)[1], len(job.result().images))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_ends_without_the_engine():
    """It leaves the block and the process, though another thread had the lock as it forked."""
    done = run(FORKED)
    assert done.stdout.strip() == "0 1", done.stderr


def test_a_fault_of_its_own_leaves_nobody_waiting(pipes, monkeypatch):
    engine = pyengine.Engine(pipes["sd1"])
    monkeypatch.setattr(threading, "excepthook", lambda args: None)

    def broken():
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(engine._driver, "turn", broken)
    job = engine.submit(**SHORT)
    with pytest.raises(UnavailableError, match="engine: it has failed: ZeroDivisionError"):
        job.result(60)
    with pytest.raises(UnavailableError):
        engine.submit(**SHORT)
    engine.stop()


def test_every_kind_of_job_can_be_scheduled():
    """Each tells whom it shares an evaluation with, and how much is left to do."""
    root, kinds = Path(pyengine.__file__).parent, set()
    for path in root.rglob("*.py"):
        if re.search(r"^class \w+\(\w*Job\):", path.read_text(encoding="utf-8"), re.MULTILINE):
            names = path.relative_to(root.parent).with_suffix("").parts
            module = importlib.import_module(".".join(names))
            kinds |= {
                kind
                for kind in vars(module).values()
                if isinstance(kind, type) and issubclass(kind, Job) and kind is not Job
            }
    assert len(kinds) >= 5
    for kind in kinds:
        assert kind.left is not Job.left, kind
        assert kind.shape is not Job.shape, kind


def test_warnings_of_a_request_are_its_report_s_alone(pipes):
    """They quote prompts, which a server's log must not have."""
    heard = []
    with pyengine.Engine(pipes["sd1"]) as engine, warnings.catch_warnings():
        warnings.showwarning = lambda *given: heard.append(given)
        warnings.simplefilter("always")
        job = engine.submit(**{**SHORT, "prompt": "secret " * 200})
        job.result(60)
    assert any("secret" in text for text in job.report.warnings)
    assert heard == []
