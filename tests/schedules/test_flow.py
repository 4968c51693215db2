"""Flow matching against diffusers' FlowMatchEulerDiscreteScheduler."""

import pytest
import torch
from sampler_runs import compare, config_of, draw

from pyengine.errors import ConfigError
from pyengine.schedules import State, from_config

#: Largest relative error in float32; what is measured is below 4e-7.
WITHIN = 1e-6


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"shift_terminal": 0.1},
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"num_train_timesteps": 400},
    ],
    ids=str,
)
def test_diffusers_samples(shift, stochastic, keys):
    config = config_of("flow_euler", shift=shift, stochastic_sampling=stochastic, **keys)
    for steps in (1, 2, 4, 28, 50):
        if steps == 1 and set(keys) & {"shift_terminal", "use_karras_sigmas"}:
            continue  # diffusers divides by zero
        compare(config, steps, within=WITHIN)


def test_a_straight_flow_is_followed_exactly():
    """A model that knows the picture: from anywhere on the line the run ends in it."""
    clean, noise = torch.randn(2, 3, 4, 6, 5, dtype=torch.float64)
    for strength in (1.0, 0.4):
        plan = from_config(config_of("flow_euler", shift=3.0)).plan(7, strength=strength)
        state = plan.start(noise, clean)
        for i, evaluation in enumerate(plan.evaluations):
            a, b = evaluation.level
            assert a + b == pytest.approx(1)
            torch.testing.assert_close(state.x, a * clean + b * noise)
            state = plan.step(i, state, noise - clean)
            assert not plan.draws_noise[i]
        torch.testing.assert_close(state.x, clean)


def test_the_predicted_clean_sample():
    """D, which previews show."""
    _, x = draw(3, torch.float64)
    plan = from_config(config_of("flow_euler", stochastic_sampling=True)).plan(5)
    sigma = plan.evaluations[2].level[1]
    velocity = torch.ones_like(x)
    got = plan.step(2, State(x), velocity, noise=torch.zeros_like(x)).x
    after = plan.evaluations[3].level[1]
    torch.testing.assert_close(got, (1 - after) * (x - sigma))


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting is True, which is not supported"),
        ({"invert_sigmas": True}, "invert_sigmas is True, which is not supported"),
        ({"use_karras_sigmas": True, "use_beta_sigmas": True}, "exclude each other"),
        ({"shift": 0}, "shift"),
        ({"time_shift_type": "square"}, "time_shift_type"),
    ],
)
def test_refusals(keys, named):
    with pytest.raises(ConfigError, match=named):
        from_config(config_of("flow_euler", **keys))


def test_a_checkpoint_of_another_kind_is_warned_of():
    told = from_config(config_of("ddim"), "flow_euler").warnings
    assert any("flow matching" in warning for warning in told)
    assert not from_config(config_of("flow_euler")).warnings
