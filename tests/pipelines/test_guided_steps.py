"""guidance_start, guidance_end and guidance_method in the calls of every guided pipeline: each is
the same loop over the same network, whose guidance is another, so it is told by what the network
is asked and what it answers.
"""

import functools
from dataclasses import dataclass
from typing import Any

import if_folders
import kandinsky_folders
import numpy as np
import picture_folders
import pytest
import test_depth_to_image
import test_instruct_pix2pix
import test_sd_upscale
import tiny
import torch
import unclip_folders
from PIL import Image

import pyengine
from pyengine.errors import RequestError

EMBEDS = torch.linspace(-2, 2, 2 * kandinsky_folders.WIDTH).reshape(2, 1, -1)
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
SMALL = torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
STEPS = {"num_inference_steps": 5}
PROMPT = {"prompt": "a red heart", "negative_prompt": "blue"}
UNCLIP = {
    "prior_num_inference_steps": 5,
    "decoder_num_inference_steps": 5,
    "super_res_num_inference_steps": 2,
}
SCALES = {"guidance_scale": 4.0}
ALL = ("cfg++", "perp-neg", "composed")
WEIGHT = 0.5


@dataclass(frozen=True)
class Case:
    """write: of its folder, or the name of a model that ships. call: five steps of one guided
    picture. networks: those that `scales` guide. rows: of a guided evaluation. kind: what the
    networks predict.
    """

    write: Any
    call: dict[str, Any]
    networks: tuple[str, ...]
    scales: dict[str, float]
    methods: tuple[str, ...] = ()
    rows: int = 2
    kind: str = "epsilon"


CASES = {
    "sdxl": Case(
        functools.partial(tiny.write_sdxl, unet={"layers_per_block": 1}),
        {**PROMPT, "height": 16, "width": 16, **STEPS},
        ("unet",),
        SCALES,
    ),
    "depth": Case(
        test_depth_to_image.write,
        {
            **PROMPT,
            "image": PHOTO,
            "depth_map": torch.rand(32, 32),
            "strength": 1.0,
            **STEPS,
        },
        ("unet",),
        SCALES,
        ALL,
        kind="v_prediction",
    ),
    "x4": Case(
        test_sd_upscale.write,
        {
            **PROMPT,
            "image": PHOTO.resize((8, 8)),
            **STEPS,
        },
        ("unet",),
        SCALES,
        ALL,
    ),
    "x2": Case(
        picture_folders.write_latent_upscaler,
        {
            **PROMPT,
            "image": torch.zeros(1, 4, 8, 8),
            **STEPS,
        },
        ("unet",),
        SCALES,
    ),
    "instruct": Case(
        test_instruct_pix2pix.write,
        {
            **PROMPT,
            "image": PHOTO,
            **STEPS,
        },
        ("unet",),
        SCALES,
        rows=3,
    ),
    "variation": Case(
        picture_folders.write_variation,
        {
            "image": PHOTO,
            "height": 16,
            "width": 16,
            "scheduler": "ddim",
            **STEPS,
        },
        ("unet",),
        SCALES,
    ),
    "dit": Case(tiny.write_dit, {"class_labels": 3, **STEPS}, ("transformer",), SCALES, ("cfg++",)),
    "if": Case(if_folders.write, {**PROMPT, **STEPS}, ("unet",), SCALES),
    "if-2": Case(
        if_folders.write_super_resolution, {**PROMPT, "image": SMALL, **STEPS}, ("unet",), SCALES
    ),
    "kandinsky": Case(
        kandinsky_folders.write,
        {
            "image_embeds": EMBEDS[0],
            "negative_image_embeds": EMBEDS[1],
            "height": 16,
            "width": 16,
            "scheduler": "euler",
            **STEPS,
        },
        ("unet",),
        SCALES,
        ("cfg++",),
    ),
    "prior": Case(
        kandinsky_folders.write_prior, {"prompt": "a red heart", **STEPS}, ("prior",), SCALES
    ),
    "unclip": Case(
        unclip_folders.write,
        {"prompt": "a red heart", **UNCLIP},
        ("prior", "decoder"),
        {"prior_guidance_scale": 3.0, "decoder_guidance_scale": 3.0},
    ),
    "unclip variation": Case(
        functools.partial(unclip_folders.write, variation=True),
        {
            "image": PHOTO,
            "decoder_num_inference_steps": 5,
            "super_res_num_inference_steps": 2,
        },
        ("decoder",),
        {"decoder_guidance_scale": 3.0},
    ),
    "emoji-ddpm": Case("emoji-ddpm", {**PROMPT, **STEPS}, ("network",), SCALES, ALL, kind="sample"),
    "emoji-cascade": Case(
        "emoji-cascade",
        {**PROMPT, "super_res_num_inference_steps": 2, **STEPS},
        ("base",),
        SCALES,
        ALL,
        kind="sample",
    ),
    "emoji-prior": Case(
        "emoji-prior",
        {**PROMPT, "prior_num_inference_steps": 5, **STEPS},
        ("prior", "decoder"),
        {"guidance_scale": 3.0, "prior_guidance_scale": 3.0},
        ("cfg++",),
        kind="sample",
    ),
}
METHODS = [(name, method) for name, case in CASES.items() for method in case.methods]


@pytest.fixture(scope="module")
def pipes(tmp_path_factory):
    """pipes(name): of CASES, loaded once; "combined": Kandinsky's two as one."""
    root, made = tmp_path_factory.mktemp("guided"), {}

    def find(name):
        if name in made:
            return made[name]
        if name == "combined":
            made[name] = pyengine.from_pretrained(
                find("kandinsky").source, prior=find("prior").source, device="cpu"
            )
            return made[name]
        place = CASES[name].write
        if not isinstance(place, str):
            CASES[name].write(root / name)
            place = root / name
        made[name] = pyengine.from_pretrained(place, device="cpu")
        return made[name]

    return find


def draw(pipe, name, seed=7, **call):
    shown = "pt" if name in ("prior", "unclip", "unclip variation") else "latent"
    return pipe(**{"seed": seed, "output_type": shown, **CASES[name].call, **call}).images


def network_of(pipe, name):
    """What the evaluator asks."""
    stages = [stage for stage in getattr(pipe, "stages", ()) if stage.main_part == name]
    return (stages[0].evaluate if stages else pipe._evaluate).unet


def watched(pipe, names, monkeypatch):
    """{network: rows of its evaluations so far}."""
    rows = {name: [] for name in names}
    for name in names:
        network = network_of(pipe, name)

        def counted(x, *others, evaluate=network.evaluate, own=rows[name]):
            own.append(len(x))
            return evaluate(x, *others)

        monkeypatch.setattr(network, "evaluate", counted)
    return rows


@pytest.mark.parametrize("name", CASES)
def test_the_steps_between_are_guided(pipes, monkeypatch, name):
    """Steps 1 and 2 of 5; the others take one row, and the ends are the plain calls' bits."""
    case, pipe = CASES[name], pipes(name)
    guided = draw(pipe, name, **case.scales)
    unguided = draw(pipe, name, **dict.fromkeys(case.scales, 1.0))
    assert not torch.equal(guided, unguided)
    whole = {"guidance_start": 0.0, "guidance_end": 1.0}
    assert torch.equal(draw(pipe, name, **case.scales, **whole), guided)
    none = {"guidance_start": 0.4, "guidance_end": 0.4}
    assert torch.equal(draw(pipe, name, **case.scales, **none), unguided)
    rows = watched(pipe, case.networks, monkeypatch)
    some = draw(pipe, name, **case.scales, guidance_start=0.2, guidance_end=0.6)
    assert not torch.equal(some, guided)
    assert not torch.equal(some, unguided)
    expected = [1, case.rows, case.rows, 1, 1]
    assert rows == dict.fromkeys(case.networks, expected)


@pytest.mark.parametrize("name", CASES)
def test_bits_alone_and_beside_others(pipes, use_threads, name):
    """Pictures with intervals and methods of their own, at steps of their own, in one `step`."""
    case, pipe = CASES[name], pipes(name)
    methods = ("cfg", *case.methods)
    calls = []
    for k in range(4):
        method = methods[k % len(methods)]
        scale = 0.7 if method == "cfg++" else 2.0 + k
        how = {"guidance_method": method} if case.methods else {}
        calls.append(
            {
                "guidance_start": 0.1 * k,
                "guidance_end": 0.5 + 0.1 * k,
                **dict.fromkeys(case.scales, scale),
                **how,
            }
        )
    if name == "depth":
        calls = [{**call, "scheduler": "ddim"} for call in calls]
    use_threads(1)
    wanted = [draw(pipe, name, seed=k, **call) for k, call in enumerate(calls)]
    use_threads(3)
    shown = "pt" if name in ("prior", "unclip", "unclip variation") else "latent"
    jobs = [
        pipe.prepare(pipe.request(**{"seed": k, "output_type": shown, **case.call, **call}))[0]
        for k, call in enumerate(calls)
    ]
    while active := [job for job in jobs if job.active]:
        pipe.step(active)
    for job, want in zip(jobs, wanted, strict=True):
        assert torch.equal(pipe.finish(job).reshape(want.shape), want)


def clean_and_noise(kind, x, out, a, b):
    """Of x = a clean + b noise, a a + b b = 1, and what a network says of it."""
    if kind == "sample":
        return out, (x - a * out) / b
    if kind == "v_prediction":
        return a * x - b * out, a * out + b * x
    return (x - b * out) / a, out


def combined(case, method, scale, asked, out, plan):
    """(the first step's result by the paper's equation of a method, or None; else what the step is
    told). asked, out: of its evaluation, a row each of base, prompt and perhaps negative prompt.
    """
    x = asked[:1, : out.shape[1]]
    base, text = out[:1], out[1:2]
    if method == "cfg++":
        (a, b), (a_next, b_next) = (e.level for e in plan.evaluations[:2])
        norm = (a * a + b * b) ** 0.5
        guided = base + scale * (text - base)
        clean = clean_and_noise(case.kind, x, guided, a / norm, b / norm)[0]
        noise = clean_and_noise(case.kind, x, base, a / norm, b / norm)[1]
        return a_next * clean + b_next * noise, None
    away, along = out[2:3] - base, text - base
    if method == "perp-neg":
        away = away - (away * along).sum() / (along * along).sum() * along
    return None, base + scale * (along - WEIGHT * away)


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_methods_by_the_networks_answers(pipes, monkeypatch, name, method):
    """The first step of a network is the papers' equation of what it answers: of CFG++ the whole
    step, else a plain step that is told what the equation makes of them.
    """
    case, pipe = CASES[name], pipes(name)
    network = network_of(pipe, case.networks[-1])
    own = {"scheduler": "ddim"} if name in ("depth", "x4") else {}
    scale = 0.6 if method == "cfg++" else 3.0
    how = {"guidance_method": method, **dict.fromkeys(case.scales, scale), **own}
    if method != "cfg++":
        how["negative_scale"] = WEIGHT
    answers, seen, evaluate = [], [], network.evaluate

    def noted(x, *others):
        out = evaluate(x, *others)
        answers.append((x.clone(), out.clone()))
        return out

    def look(pipe, step, timestep, tensors):
        seen.append(tensors["latents"].clone())

    monkeypatch.setattr(network, "evaluate", noted)
    draw(pipe, name, **how, callback_on_step_end=look)
    first = 5 * (len(case.networks) - 1)
    got, (asked, out) = seen[first], answers[0]
    channels = got.shape[1]
    job = pipe.prepare(pipe.request(**{**case.call, "seed": 7, **how}))[0]
    plan = job.course.r.plans[len(case.networks) - 1] if hasattr(job, "course") else job.plan
    want, told = combined(case, method, scale, asked, out[:, :channels], plan)
    if want is None:
        told = torch.cat([told, out[1:2, channels:]], dim=1)
        monkeypatch.setattr(network, "evaluate", lambda *_: told)
        seen.clear()
        plain = {**dict.fromkeys(case.scales, 1.0), **own}
        draw(pipe, name, **plain, callback_on_step_end=look)
        want = seen[first]
    assert float((got - want).norm() / want.norm()) < 1e-5


def test_both_stages_as_one_take_the_decoders(pipes, monkeypatch):
    pipe = pipes("combined")
    rows = watched(pipe, ("prior", "unet"), monkeypatch)
    call = {"seed": 3, "height": 16, "width": 16, "prior_num_inference_steps": 3, **STEPS}
    pipe("a red heart", guidance_start=0.2, guidance_end=0.6, **call)
    assert rows == {"prior": [2] * 3, "unet": [1, 2, 2, 1, 1]}


@pytest.mark.parametrize("name", CASES)
def test_what_does_not_fit_is_refused(pipes, name):
    pipe = pipes(name)
    for call, text in (
        ({"guidance_start": -0.1}, "guidance_start: expected a number from 0 to 1, given -0.1"),
        ({"guidance_end": float("nan")}, "guidance_end: expected a number from 0 to 1, given nan"),
        ({"guidance_start": 0.7, "guidance_end": 0.5},
         "guidance_start: expected at most guidance_end 0.5, given 0.7"),
    ):  # fmt: skip
        with pytest.raises(RequestError, match=text):
            draw(pipe, name, **call)


@pytest.mark.parametrize(
    ("name", "call", "text"),
    [
        ("dit", {"guidance_method": "perp-neg"},
         "guidance_method: expected 'cfg' or 'cfg\\+\\+' for a model that is guided away from no"),
        ("kandinsky", {"guidance_method": "composed"}, "guidance_method: expected 'cfg' or 'cfg"),
        ("dit", {"guidance_method": "cfg++", "guidance_scale": 4.0},
         "guidance_scale: expected at most 1 with guidance_method 'cfg\\+\\+', given 4"),
        ("dit", {"guidance_method": "cfg++", "scheduler": "dpmpp_2m"},
         "guidance_method: 'cfg\\+\\+' is for ddim"),
        ("unclip", {"guidance_method": "cfg++"}, "guidance_method: this model has no such"),
        ("emoji-prior", {"guidance_method": "cfg++", "prior_guidance_scale": 2.0},
         "guidance_scale: expected at most 1 with guidance_method 'cfg\\+\\+', given 2"),
        ("emoji-ddpm", {"guidance_method": "perp-neg", "negative_prompt": None},
         "negative_prompt: expected one with guidance_method 'perp-neg', given None"),
        ("emoji-cascade", {"negative_scale": 2.0}, "negative_scale: expected None with guidance_m"),
    ],
)  # fmt: skip
def test_methods_that_do_not_fit_are_refused(pipes, name, call, text):
    with pytest.raises(RequestError, match=text):
        draw(pipes(name), name, **call)
