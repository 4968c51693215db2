"""What the rows promise by themselves: batches, guidance, limits, precision, identities."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from sampler_runs import SHAPE, config_of, distance, draw, model, our_run

from pyengine.ops import COLUMNS
from pyengine.schedules import SAMPLER_NAMES, State, from_config, stack_rows, step_rows
from pyengine.schedules.dpmsolver import phi

AT = {name: i for i, name in enumerate(COLUMNS)}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def equal(a: State, b: State) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(State)]
    return all((p is None and q is None) or torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize("keys", [{}, {"thresholding": True, "sample_max_value": 3.0}], ids=str)
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_a_picture_is_the_same_alone_and_in_a_batch(name, keys):
    if name == "deis" and keys:
        pytest.skip("is refused there")
    plan = from_config(config_of(name, **keys)).plan(6)
    size, first = 5, normal(5, 4, 7, 3)
    whole, alone = plan.start(first), [plan.start(first[k : k + 1]) for k in range(size)]
    guidance, rescale = [1.5, 7.0, 0.0, 3.0, 12.0], [0.0, 0.7, 1.0, 0.0, 0.3]
    for i in range(len(plan)):
        out, noise = normal(2 * size, 4, 7, 3, seed=i), normal(size, 4, 7, 3, seed=99 + i)
        whole = plan.step(i, whole, out, guidance, noise, rescale)
        for k in range(size):
            pair = out[[k, size + k]]
            one = noise[k : k + 1]
            alone[k] = plan.step(i, alone[k], pair, guidance[k], one, rescale[k])
            assert equal(whole.pick([k]), alone[k]), f"picture {k} after evaluation {i}"


def test_pictures_of_every_sampler_share_a_batch():
    """Each at its own step, with its own guidance; as if it had been alone."""
    plans = [from_config(config_of(name)).plan(7) for name in SAMPLER_NAMES]
    states = [plan.start(normal(1, 4, 5, 5, seed=k)) for k, plan in enumerate(plans)]
    n = len(plans)
    at = [0] * n
    for k in range(n):  # begin at different evaluations
        at[k] = k % 5
        for i in range(at[k]):
            states[k] = plans[k].step(i, states[k], normal(1, 4, 5, 5), 1.0, normal(1, 4, 5, 5))
    guidance = np.linspace(1, 9, n)
    together = State.join(states)
    for _ in range(2):
        rows = stack_rows(list(zip(plans, at, strict=True)), guidance)
        told = torch.tensor([float(p.timesteps[i]) for p, i in zip(plans, at, strict=True)])
        assert torch.equal(rows.timesteps, told)
        scaled = rows.scale_input(together.x)
        out, noise = normal(2 * n, 4, 5, 5, seed=5), normal(n, 4, 5, 5, seed=6)
        together = step_rows(together, out, rows, noise, 0.5)
        for k, plan in enumerate(plans):
            assert distance(scaled[k : k + 1], plan.scale_input(at[k], states[k].x)) < 1e-7
            pair = out[[k, n + k]]
            states[k] = plan.step(at[k], states[k], pair, guidance[k], noise[k : k + 1], 0.5)
            assert torch.equal(together.x[k : k + 1], states[k].x), plan.sampler
            at[k] += 1


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_guidance(name):
    """A guided output acts as u + g (c - u) does without guidance, rescaled as Lin et al. do."""
    plan = from_config(config_of(name)).plan(5)
    for rescale in (0.0, 0.6):
        guided = plain = plan.start(normal(*SHAPE))
        for i in range(len(plan)):
            u, c = normal(*SHAPE, seed=i).double(), 1.5 * normal(*SHAPE, seed=50 + i).double()
            m = u + 4.0 * (c - u)
            spread = c.std(dim=(1, 2, 3), keepdim=True) / m.std(dim=(1, 2, 3), keepdim=True)
            m = rescale * m * spread + (1 - rescale) * m
            noise = normal(*SHAPE, seed=77 + i)
            both = torch.cat([u, c]).float()
            guided = plan.step(i, guided, both, 4.0, noise, rescale)
            plain = plan.step(i, plain, m.float(), noise=noise)
        assert distance(guided.x, plain.x) < 2e-6


@pytest.mark.parametrize("name", ["ddpm", "ddim", "lcm", "dpmpp_2m", "unipc"])
def test_dynamic_thresholding_limits_the_clean_sample(name):
    keys = {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 2.0}
    plan = from_config(config_of(name, prediction_type="sample", **keys)).plan(3)
    state = plan.start(normal(*SHAPE))
    clean = normal(*SHAPE, seed=3)
    clean[0] *= 0.1  # below 1: untouched
    clean[1] *= 1.4
    state = plan.step(0, state, clean, noise=normal(*SHAPE))
    limit = torch.quantile(clean[1].abs().flatten(), 0.8)
    assert 1 < limit < 2
    if plan.depth:  # D is remembered: d1
        assert torch.equal(state.d1[0], clean[0])
        assert torch.allclose(state.d1[1], clean[1].clamp(-limit, limit) / limit, rtol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_float32_follows_float64(name, prediction):
    """Also at a sigma of 4096 (zero terminal SNR), where diffusers' own loss is 1e-4."""
    if (name, prediction) in {
        ("pndm", "sample"),
        ("edm_euler", "sample"),
        ("edm_dpmpp_2m", "sample"),
    }:
        pytest.skip("not defined")
    variants = [{}]
    if prediction != "epsilon" and name not in ("pndm", "heun"):
        variants.append({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"})
    for keys in variants:
        scheduler = from_config(config_of(name, prediction_type=prediction, **keys))
        for steps in (1, 4, 30):
            if (name, steps) == ("ipndm", 1):
                continue  # gives zeros
            plan = scheduler.plan(steps)
            runs = []
            for dtype in (torch.float32, torch.float64):
                rng, noise = draw(3)
                state = plan.start(noise.to(dtype))
                runs.append(our_run(plan, state, rng, drawn_in=torch.float32))
            # They divide x - clean by the last sigma, 0.03, where the model predicts clean.
            slopes = prediction == "sample" and name in ("heun", "lms", "dpm2", "dpm2_ancestral")
            within = 3e-5 if slopes else 5e-6
            assert distance(*runs) < within, (keys, steps)


DETERMINISTIC = [
    *(("ddim", {}), ("euler", {}), ("heun", {}), ("heun", {"clip_sample": True}), ("pndm", {})),
    *(
        ("pndm", {"skip_prk_steps": False}),
        ("dpm2", {}),
        ("lms", {}),
        ("deis", {"solver_order": 3}),
    ),
    *(
        ("dpmpp_2s", {"solver_order": k, "solver_type": t})
        for k in (1, 2, 3)
        for t in ("midpoint", "heun")
    ),
    ("euler", {"use_karras_sigmas": True}),
    ("dpmpp_2m_karras", {}),
    *(
        (name, {"solver_order": order, "final_sigmas_type": final, **kind})
        for order in (1, 2, 3)
        for name, final, kind in (
            ("dpmpp_2m", "zero", {}),
            ("dpmpp_2m", "zero", {"solver_type": "heun"}),
            ("dpmpp_2m", "sigma_min", {"algorithm_type": "dpmsolver"}),
            ("dpmpp_2m", "sigma_min", {"algorithm_type": "dpmsolver", "solver_type": "heun"}),
            ("unipc", "zero", {}),
            ("unipc", "zero", {"solver_type": "bh1"}),
            ("unipc", "zero", {"predict_x0": False}),
            ("unipc", "sigma_min", {"predict_x0": False, "solver_type": "bh1"}),
        )
    ),
]


def perfect(prediction: str, level: tuple[float, float]) -> torch.Tensor:
    """The right output at a level, in coordinates (clean, noise)."""
    scale = np.hypot(*level)
    alpha, sigma = level[0] / scale, level[1] / scale
    return torch.tensor(
        [{"epsilon": [0, 1], "v_prediction": [-sigma, alpha], "sample": [1, 0]}[prediction]],
        dtype=torch.float64,
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("name", "keys"), DETERMINISTIC, ids=str)
def test_a_perfect_model_is_followed_exactly(name, keys, prediction):
    """With clean and noise held fixed the sample is a clean + b noise at every level."""
    if name == "pndm" and prediction != "epsilon":
        pytest.skip("sample is not defined; v is averaged over levels, so is not exact")
    plan = from_config(config_of(name, prediction_type=prediction, **keys)).plan(11)
    state = State(torch.tensor([plan.level], dtype=torch.float64))
    for i, (level, after) in enumerate(
        pairwise([*[e.level for e in plan.evaluations], (1.0, 0.0)])
    ):
        state = plan.step(i, state, perfect(prediction, level))
        ends_at_noise = keys.get("final_sigmas_type") == "sigma_min"
        ends_at_noise = ends_at_noise or name in ("pndm", "ddim", "deis")
        if i < len(plan) - 1 or not ends_at_noise:
            wanted = torch.tensor([after], dtype=torch.float64)
            assert torch.allclose(state.x, wanted, rtol=1e-9, atol=1e-9), f"evaluation {i}"
    assert abs(state.x[0, 0] - 1) < 1e-3
    assert abs(state.x[0, 1]) < 0.05


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    ("name", "keys", "eta"),
    [
        ("ddpm", {}, 0.0),
        ("ddim", {}, 0.4),
        ("ddim", {}, 1.0),
        ("euler_ancestral", {}, 0.0),
        ("tcd", {}, 0.3),
        ("dpmpp_2m", {"algorithm_type": "sde-dpmsolver++"}, 0.0),
    ],
    ids=str,
)
def test_fresh_noise_makes_up_for_what_was_taken(name, keys, eta, prediction):
    """Old and fresh noise together have the next level's variance, whatever the step."""
    plan = from_config(config_of(name, prediction_type=prediction, **keys)).plan(9, eta=eta)
    for i, after in enumerate(plan.renoise[:-1]):
        level = plan.evaluations[i].level
        clean = torch.tensor([[1.0, 0.0]], dtype=torch.float64)  # what D was before, too
        state = State(torch.tensor([level], dtype=torch.float64), clean, clean, clean)
        new = plan.step(i, state, perfect(prediction, level), noise=torch.zeros_like(clean)).x
        assert abs(new[0, 0].item() - after[0]) < 1e-9
        fresh = plan.rows[i, AT["x_noise"]]
        assert fresh > 0
        assert abs(new[0, 1].item() ** 2 + fresh**2 - after[1] ** 2) < 1e-9 * max(1, after[1] ** 2)


@pytest.mark.parametrize(
    "name",
    [
        *("ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras", "unipc"),
        *("dpmpp_2s", "dpmpp_sde", "dpmpp_2m_sde", "edm_euler", "edm_dpmpp_2m"),
    ],
)
def test_the_last_step_returns_the_clean_sample(name):
    last = from_config(config_of(name, steps_offset=0)).plan(12).rows[-1]
    ones = [AT[c] for c in ("x_d",)]
    zeros = [AT[c] for c in COLUMNS if c.startswith("x_") and c != "x_d"]
    assert np.allclose(last[ones], 1, atol=1e-12)
    assert np.allclose(last[zeros], 0, atol=1e-12)


def test_unipc_ends_at_sigma_zero_where_diffusers_divides_by_it():
    for keys in ({"predict_x0": False}, {"solver_type": "bh1"}):
        plan = from_config(config_of("unipc", **keys)).plan(8)
        _, noise = draw(0)
        assert torch.isfinite(our_run(plan, plan.start(noise), None)).all()


def test_euler_ancestral_from_predicted_samples():
    """diffusers lacks it; the same run through epsilon, as k-diffusion defines the step."""
    by_sample = from_config(config_of("euler_ancestral", prediction_type="sample")).plan(8)
    by_noise = from_config(config_of("euler_ancestral")).plan(8)
    _, noise = draw(0, torch.float64)
    a = b = by_sample.start(noise)
    for i in range(8):
        sigma = by_sample.evaluations[i].level[1]
        clean, fresh = torch.tanh(a.x), normal(*SHAPE, seed=i).double()
        a = by_sample.step(i, a, clean, noise=fresh)
        b = by_noise.step(i, b, (b.x - clean) / sigma, noise=fresh)
    assert distance(a.x, b.x) < 1e-12


def test_phi():
    """Against its recursion in exact arithmetic, on both sides of where the series takes over."""
    from fractions import Fraction
    from math import factorial

    for z in (-3.0, -1.0, -0.999, -1e-3, -1e-9, 0.0, 1e-9, 0.5, 0.999, 1.0, 4.0):
        for k in range(5):
            exact = sum(Fraction(z) ** j / factorial(j + k) for j in range(60))
            assert abs(phi(k, z) - float(exact)) <= 1e-13 * float(exact), (k, z)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_samples_stay_narrow(dtype):
    plan = from_config(config_of("unipc")).plan(6)
    _, noise = draw(0)
    state = plan.start(noise.to(dtype))
    for i, t in enumerate(plan.timesteps):
        state = plan.step(i, state, model(plan.scale_input(i, state.x), t))
        assert {t.dtype for t in (state.x, state.d1, state.base)} == {dtype}
    wide = our_run(plan, plan.start(noise), None)
    assert distance(state.x, wide) < 30 * torch.finfo(dtype).eps


def test_a_state_that_skipped_evaluations_is_refused():
    plan = from_config(config_of("dpmpp_2m")).plan(5)
    with pytest.raises(ValueError, match="d1"):
        plan.step(2, plan.start(normal(*SHAPE)), normal(*SHAPE))


def test_missing_noise_and_wrong_shapes_are_refused():
    plan = from_config(config_of("euler_ancestral")).plan(5)
    state = plan.start(normal(*SHAPE))
    with pytest.raises(ValueError, match="noise"):
        plan.step(0, state, normal(*SHAPE))
    with pytest.raises(ValueError, match="step: expected output of 2 or 4 pictures"):
        plan.step(0, state, normal(3, 4, 6, 5), noise=normal(*SHAPE))
    with pytest.raises(ValueError, match="guidance_scale"):
        plan.step(0, state, normal(*SHAPE), [1.0, 2.0, 3.0], normal(*SHAPE))


def test_describe_shows_every_evaluation():
    plan = from_config(config_of("heun")).plan(4, strength=0.5)
    text = plan.describe().splitlines()
    assert text[0].startswith("heun: 2 steps, 3 model evaluations")
    assert len(text) == 2 + len(plan)
    assert [line.split()[0] for line in text[2:]] == ["4", "5", "6"]
    assert "x_base" in text[1]
    assert "x_d2" not in text[1]
