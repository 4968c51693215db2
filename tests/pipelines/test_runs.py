"""Runs: whose flag ends which, who waits for how long, what a call may lose and what not."""

import copy
import multiprocessing
import os
import pickle
import threading
import warnings

import pytest
import torch

from pyengine.errors import BusyError, CancelledError, OutOfMemoryError, RequestError
from pyengine.ops import _memory
from pyengine.pipelines import Run, StopSampling

KINDS = ("sd1", "amused", "image_gpt", "janus")


def at(wanted, act):
    """A callback that does something at one step."""

    def callback(pipe, step, timestep, tensors):
        return act(pipe) if step == wanted else None

    return callback


def stop(pipe):
    raise StopSampling


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "how", [stop, lambda pipe: pipe.interrupt(), lambda pipe: setattr(pipe, "_interrupt", True)]
)
def test_a_stop_in_a_nested_run_ends_that_one_alone(opened, kind, how):
    pipe, call = opened(kind)
    whole = pipe(**call)
    inner = []

    def nested(pipe):
        inner.append(pipe(callback_on_step_end=at(0, how), **call).report)

    outer = pipe(callback_on_step_end=at(1, nested), **call)
    assert inner[0].interrupted
    assert inner[0].steps == 1
    assert not outer.report.interrupted
    assert torch.equal(outer.images, whole.images)


@pytest.mark.parametrize("kind", KINDS)
def test_a_nested_run_does_not_lose_the_outer_ones_interrupt(opened, kind):
    pipe, call = opened(kind)
    inner = []

    def nested(pipe):
        pipe.interrupt()
        inner.append(pipe(**call).report)

    outer = pipe(callback_on_step_end=at(1, nested), **call)
    assert not inner[0].interrupted
    assert outer.report.interrupted
    assert outer.report.steps == 2
    assert not pipe(**call).report.interrupted


@pytest.mark.parametrize("kind", ["sd1", "image_gpt"])
def test_from_elsewhere_the_run_in_progress_ends_with_those_within(opened, kind):
    pipe, call = opened(kind)
    inner = []

    def elsewhere(pipe):
        thread = threading.Thread(target=pipe.interrupt)
        thread.start()
        thread.join()

    def nested(pipe):
        inner.append(pipe(callback_on_step_end=at(0, elsewhere), **call).report)

    outer = pipe(callback_on_step_end=at(1, nested), **call).report
    assert (inner[0].steps, outer.steps) == (1, 2)


class Waiting:
    """A call in another thread, which waits for the one that this stands around."""

    def __init__(self, pipe, **call):
        self.result, self.pipe, self.call = None, pipe, call
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            self.result = self.pipe(**self.call)
        except Exception as e:
            self.result = e

    def start(self):
        self.thread.start()
        while not self.pipe._runs._waiting and self.thread.is_alive():
            self.thread.join(0.001)


@pytest.mark.parametrize("kind", ["sd1", "janus"])
def test_a_run_is_ended_by_name_while_another_goes_on(opened, kind):
    pipe, call = opened(kind)
    run = Run()
    waiting = Waiting(pipe, run=run, **call)

    def act(pipe):
        waiting.start()
        run.interrupt()
        waiting.thread.join(30)
        assert not waiting.thread.is_alive()

    assert not pipe(callback_on_step_end=at(1, act), **call).report.interrupted
    assert isinstance(waiting.result, CancelledError)
    with pytest.raises(RequestError, match="run: "):
        pipe(run=run, **call)


def test_an_interrupt_of_the_running_call_leaves_the_waiting_one(opened):
    pipe, call = opened("sd1")
    waiting = Waiting(pipe, **call)

    def act(pipe):
        waiting.start()
        pipe.interrupt()

    assert pipe(callback_on_step_end=at(1, act), **call).report.steps == 2
    waiting.thread.join(30)
    assert waiting.result.report.steps == 6


def test_a_run_that_was_ended_before_it_began(opened):
    pipe, call = opened("sd1")
    run = Run()
    run.interrupt()
    with pytest.raises(CancelledError, match="before its run began"):
        pipe(run=run, **call)
    used = Run()
    pipe(run=used, **call)
    with pytest.raises(RequestError, match="a Run of its own"):
        pipe(run=used, **call)


@pytest.mark.parametrize("kind", KINDS)
def test_waiting_has_an_end(opened, kind):
    pipe, call = opened(kind)
    waiting = Waiting(pipe, timeout=0.05, **call)

    def act(pipe):
        waiting.start()
        waiting.thread.join(30)
        assert not pipe(timeout=0, **call).report.interrupted  # a nested call never waits

    assert not pipe(callback_on_step_end=at(1, act), **call).report.interrupted
    assert isinstance(waiting.result, BusyError)
    assert isinstance(waiting.result, TimeoutError)
    assert "0.05 s" in str(waiting.result)
    assert pipe(timeout=0, **call).report.steps


@pytest.mark.parametrize("value", [-1, float("nan"), "5", True, [1]])
def test_a_timeout_that_is_none(opened, value):
    for kind in ("sd1", "janus"):
        pipe, call = opened(kind)
        with pytest.raises(RequestError, match="timeout: "):
            pipe(timeout=value, **call)


def test_calls_take_their_turns(opened):
    pipe, call = opened("sd1")
    order, threads = [], []

    def act(pipe):
        for i in range(3):
            one = Waiting(pipe, callback_on_step_end=at(0, lambda _, i=i: order.append(i)), **call)
            one.thread.start()
            threads.append(one.thread)
            while len(pipe._runs._waiting) <= i:
                one.thread.join(0.001)

    pipe(callback_on_step_end=at(0, act), **call)
    for thread in threads:
        thread.join(30)
    assert order == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_does_not_wait_for_threads_that_it_has_not(opened):
    """The lock alone: pyengine's threads and a fork are tested in tests/ops."""
    pipe, _ = opened("sd1")
    begun, end = threading.Event(), threading.Event()

    def hold():
        with pipe._runs.begin(Run()):
            begun.set()
            end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(30)
    with pytest.raises(BusyError), pipe._runs.begin(Run(), timeout=0):
        pass
    child = multiprocessing.get_context("fork").Process(target=take_turn, args=(pipe,))
    child.start()
    child.join(30)
    end.set()
    thread.join()
    assert child.exitcode == 0


def take_turn(pipe):
    with pipe._runs.begin(Run(), timeout=0):
        pass


# --- memory ---------------------------------------------------------------------------------------

ALLOCATORS = [
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you"
        " tried to allocate 68719476736 bytes."
    ),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:83] err == 0. DefaultCPUAllocator: can't allocate memory:"
        " you tried to allocate 68719476736 bytes. Error code 12 (Cannot allocate memory)"
    ),
    MemoryError("std::bad_alloc"),
    MemoryError(),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", ALLOCATORS, ids=["torch", "linux", "kernel", "python"])
def test_too_little_memory_on_the_cpu(opened, kind, error, monkeypatch):
    pipe, call = opened(kind)
    before = pipe(**call).images

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(_memory, "empty", fail)
        patch.setattr(torch, "empty", fail)
        patch.setattr(torch.nn.functional, "embedding", fail)
        with pytest.raises(OutOfMemoryError, match="fewer at a time, smaller ones") as caught:
            pipe(**call)
    assert str(caught.value).startswith("out of memory")
    assert caught.value.__context__ is None or not caught.value.__suppress_context__
    assert torch.equal(pipe(**call).images, before)


def test_memory_that_the_machine_does_not_have(opened):
    """The real allocator's error, by a tensor of 2^60 bytes in a callback."""
    pipe, call = opened("sd1")
    with pytest.raises(OutOfMemoryError, match=r"^out of memory: 1,152,921,504,606,846,976 more"):
        pipe(callback_on_step_end=at(1, lambda _: torch.empty(1 << 58)), **call)
    assert pipe(**call).report.steps == 6


# --- warnings -------------------------------------------------------------------------------------

LONG = "a red cat and " * 40


@pytest.mark.parametrize("kind", ["sd1", "amused"])
def test_warnings_name_the_callers_line(opened, kind):
    pipe, call = opened(kind)
    with pytest.warns(UserWarning, match="was cut") as caught:
        result = pipe(**{**call, "prompt": LONG})
    assert {w.filename for w in caught} == {__file__}
    assert len(caught) == len(result.report.warnings) == 1


@pytest.mark.parametrize("kind", ["sd1", "amused"])
def test_a_warning_that_is_an_error_comes_before_the_work(opened, kind):
    pipe, call = opened(kind)
    steps = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="was cut"):
            pipe(
                **{**call, "prompt": LONG},
                callback_on_step_end=lambda pipe, step, *_: steps.append(step),
            )
        assert not steps
        assert pipe(**call).report.steps == 6


@pytest.mark.parametrize("name", ["sd1", "sdxl", "inpaint", "lcm_own"])
def test_nothing_warns_without_a_reason(pair, photo, mask, name):
    """Of torch, NumPy and Pillow either: each would end a caller's run under -W error."""
    own = pair(name).own
    pictures = {"image": photo, "mask_image": mask}
    calls = [pictures] if name == "inpaint" else [{}, {"image": photo}, pictures]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in calls:
            for kind in ("pil", "np", "pt", "latent"):
                own("a cat", num_inference_steps=4, output_type=kind, **call)


def test_a_late_warning_costs_no_picture(opened, monkeypatch):
    pipe, call = opened("sd1")
    decode = pipe._decode

    def warn(*args, **more):
        reports[0].warnings.append("late")
        return decode(*args, **more)

    reports, report = [], pipe._report
    monkeypatch.setattr(pipe, "_report", lambda *a: reports.append(report(*a)) or reports[0])
    monkeypatch.setattr(pipe, "_decode", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pipe(**call).report.warnings == ["late"]
    reports.clear()
    with pytest.warns(UserWarning, match="late"):
        pipe(**call)


# --- copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_pipelines_are_not_copied_and_say_what_to_do(opened, kind):
    pipe, call = opened(kind)
    pipe(**call)
    for copying in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"load it where it is needed: pyengine\.from_pretr"):
            copying(pipe)


@pytest.mark.parametrize("kind", KINDS)
def test_models_are_copied_before_a_call_and_after(opened, kind):
    pipe, call = opened(kind)
    model = pipe.unet if kind == "sd1" else pipe.model
    for _ in range(2):
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert other.arena is not model.arena
            ours, theirs = model.state_dict(), other.state_dict()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
            assert all(ours[n].data_ptr() != theirs[n].data_ptr() for n in ours if ours[n].numel())
        pipe(**call)


def test_a_copy_computes_the_same(opened):
    pipe, _ = opened("sd1")
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 32)
    want = pipe.unet(x, 5, text).sample
    for _ in range(2):
        other = copy.deepcopy(pipe.unet)
        for _ in range(2):
            assert torch.equal(other(x, 5, text).sample, want)
