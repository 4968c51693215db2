"""Checks that hold for every model that draws token after token."""

import torch

from pyengine.pipelines import StopSampling


def check_stop_within_a_token(ours, prompts, how, size):
    """how: the callback's way to stop, "interrupt" or "exception", after the fourth token."""
    seen = []

    def stop(pipe, step, timestep, tensors):
        seen.append(tensors["tokens"].clone())
        if step == 3:
            if how == "exception":
                raise StopSampling
            pipe.interrupt()

    result = ours(prompts, seed=1, callback_on_step_end=stop)
    assert len(seen) == result.report.steps == 4
    assert result.report.interrupted
    flat = result.tokens.flatten(1)
    assert torch.equal(flat, seen[-1])
    assert (flat[:, :4] >= 0).all()
    assert (flat[:, 4:] == -1).all()
    assert result.images[0].size == size
    assert torch.equal(ours(prompts, seed=1).tokens.flatten(1)[:, :4], flat[:, :4])
