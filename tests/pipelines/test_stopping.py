"""Callbacks, and the ways to end a run early."""

import signal
import threading

import pytest
import torch

from pyengine.errors import RequestError
from pyengine.pipelines import StopSampling

CALL = {"seed": 1, "num_inference_steps": 6, "output_type": "latent", "height": 32, "width": 32}


def test_a_callback_sees_what_diffusers_shows(pair):
    seen = {}

    def watch(name):
        def callback(pipe, step, timestep, tensors):
            entry = (step, float(timestep), tensors["latents"].clone())
            seen.setdefault(name, []).append(entry)
            return {}

        return callback

    for scheduler in (None, "heun"):
        seen.clear()
        reference = pair("sd1").text_to_image
        before = reference.scheduler
        if scheduler is not None:
            import diffusers

            reference.scheduler = diffusers.HeunDiscreteScheduler.from_config(before.config)
        generator = torch.Generator().manual_seed(1)
        call = {"num_inference_steps": 4, "output_type": "latent"}
        reference("a cat", generator=generator, callback_on_step_end=watch("theirs"), **call)
        reference.scheduler = before
        pair("sd1").own(
            "a cat", seed=1, scheduler=scheduler, callback_on_step_end=watch("ours"), **call
        )
        assert len(seen["ours"]) == len(seen["theirs"]) > 3
        for ours, theirs in zip(seen["ours"], seen["theirs"], strict=True):
            assert ours[:2] == theirs[:2]
            torch.testing.assert_close(ours[2], theirs[2], rtol=1e-3, atol=1e-3)


def test_latents_that_a_callback_returns_are_used(pair):
    own = pair("sd1").own
    plain = own("a cat", **CALL).images

    def zero_at(wanted):
        def callback(pipe, step, timestep, tensors):
            return {"latents": torch.zeros_like(tensors["latents"])} if step == wanted else None

        return callback

    assert torch.equal(own("a cat", callback_on_step_end=zero_at(99), **CALL).images, plain)
    assert not own("a cat", callback_on_step_end=zero_at(5), **CALL).images.any()
    assert not torch.equal(own("a cat", callback_on_step_end=zero_at(2), **CALL).images, plain)


def test_a_prompt_that_a_callback_returns_is_used(pair):
    own = pair("sd1").own
    plain = own("a cat", **CALL).images

    def callback(pipe, step, timestep, tensors):
        return {"prompt_embeds": tensors["prompt_embeds"] * (0.5 if step == 2 else 1)}

    changed = own(
        "a cat",
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
        **CALL,
    )
    assert not torch.equal(changed.images, plain)


@pytest.mark.parametrize(
    "answer", [3, {"latents": None}, {"latents": torch.zeros(1)}, {"prompt_embeds": "x"}], ids=str
)
def test_a_callback_that_returns_nonsense(pair, answer):
    with pytest.raises(RequestError, match="callback_on_step_end"):
        pair("sd1").own("a cat", callback_on_step_end=lambda *a: answer, **CALL)


@pytest.mark.parametrize("how", ["interrupt", "flag", "exception"])
def test_a_callback_stops_within_the_step(pair, how):
    own = pair("sd1").own
    latents = []

    def stop(pipe, step, timestep, tensors):
        latents.append(tensors["latents"])
        if step < 2:
            return None
        if how == "exception":
            raise StopSampling
        if how == "flag":
            pipe._interrupt = True
        else:
            pipe.interrupt()
        return {}

    result = own("a cat", callback_on_step_end=stop, **CALL)
    assert result.report.interrupted
    assert (result.report.steps, len(latents)) == (3, 3)
    assert torch.equal(result.images, latents[-1])
    again = own("a cat", **CALL)
    assert not again.report.interrupted
    assert again.report.steps == 6


def test_another_thread_stops_it(pair):
    own = pair("sd1").own
    started, stopped = threading.Event(), threading.Event()

    def wait(pipe, step, timestep, tensors):
        started.set()
        assert stopped.wait(30)

    def stop():
        assert started.wait(30)
        own.interrupt()
        stopped.set()

    thread = threading.Thread(target=stop)
    thread.start()
    result = own("a cat", callback_on_step_end=wait, **CALL)
    thread.join()
    assert result.report.steps == 1


def test_ctrl_c_stops_within_the_step_and_the_pipeline_lives(pair):
    own = pair("sd1").own
    steps = []

    def press(pipe, step, timestep, tensors):
        steps.append(step)
        if step == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        own("a cat", callback_on_step_end=press, **CALL)
    assert steps == [0, 1]
    assert own("a cat", **CALL).report.steps == 6


def test_what_a_callback_raises_comes_out(pair):
    def fail(*args):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        pair("sd1").own("a cat", callback_on_step_end=fail, **CALL)


def test_no_progress_bar_without_a_terminal(pair, capfd):
    pair("sd1").own("a cat", **CALL)
    assert capfd.readouterr() == ("", "")


def test_a_progress_bar_where_it_is_asked_for(pair, capfd):
    pair("sd1").own("a cat", progress=True, **CALL)
    out, err = capfd.readouterr()
    assert out == ""
    assert "denoising" in err


def test_a_callback_may_draw_a_picture_of_its_own(pair):
    own = pair("sd1").own
    inner = []

    def draw(pipe, step, timestep, tensors):
        if step == 1:
            inner.append(pipe("a dog", **CALL).images)

    outer = own("a cat", callback_on_step_end=draw, **CALL).images
    assert torch.equal(inner[0], own("a dog", **CALL).images)
    assert torch.equal(outer, own("a cat", **CALL).images)
