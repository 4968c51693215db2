"""guidance_method: CFG++, Perp-Neg and composed negations against the papers' equations, read
plainly over diffusers' U-Nets and schedules.
"""

import diffusers
import if_folders
import pytest
import tiny
import torch
from pairs import generators

import pyengine
from pyengine import metadata
from pyengine.cli import main
from pyengine.errors import RequestError

PROMPTS, NEGATIVES = ["a red heart", "two cats"], ["blue", "a dog"]
STEPS = 3
UNET = {"layers_per_block": 1}
V = {"prediction_type": "v_prediction"}


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    """systems(name): (ours, diffusers')."""
    made = {}
    root = tmp_path_factory.mktemp("methods")
    write = {
        "sd1": lambda f: tiny.write_sd1(f, unet=UNET),
        "sd2": lambda f: tiny.write_sd2(f, unet=UNET),
        "sdxl": lambda f: tiny.write_sdxl(f, unet=UNET),
        "if": lambda f: if_folders.write(f, scheduler=diffusers.DDIMScheduler(clip_sample=False)),
    }

    def find(name):
        if name not in made:
            folder = write[name](root / name)
            theirs = diffusers.DiffusionPipeline.from_pretrained(folder)
            made[name] = pyengine.from_pretrained(folder, device="cpu"), theirs
        return made[name]

    return find


def size_of(pipe):
    factor = getattr(pipe, "vae_scale_factor", 1)
    return {"height": 16 * factor, "width": 16 * factor}


@torch.no_grad()
def outputs(theirs, size):
    """[(x, t) to the U-Net's output] under the empty, the negative and the positive prompts."""
    if isinstance(theirs, diffusers.StableDiffusionXLPipeline):
        text, none, pooled, none_pooled = theirs.encode_prompt(
            PROMPTS, device="cpu", do_classifier_free_guidance=True
        )
        _, negative, _, negative_pooled = theirs.encode_prompt(
            PROMPTS, device="cpu", do_classifier_free_guidance=True, negative_prompt=NEGATIVES
        )
        side = size["height"]
        ids = torch.tensor([[side, side, 0, 0, side, side]] * 2).float()
        keys = [
            {"encoder_hidden_states": rows,
             "added_cond_kwargs": {"text_embeds": p, "time_ids": ids}}
            for rows, p in ((none, none_pooled), (negative, negative_pooled), (text, pooled))
        ]  # fmt: skip
    else:
        place = () if isinstance(theirs, diffusers.IFPipeline) else ("cpu", 1)
        text, none = theirs.encode_prompt(PROMPTS, *place, True)
        negative = theirs.encode_prompt(PROMPTS, *place, True, negative_prompt=NEGATIVES)[1]
        keys = [{"encoder_hidden_states": rows} for rows in (none, negative, text)]
    return [lambda x, t, own=own: theirs.unet(x, t, **own).sample[:, : x.shape[1]] for own in keys]


def begin(theirs, scheduler, size):
    made = generators([7, 8])
    factor = getattr(theirs, "vae_scale_factor", 1)
    shape = (1, 3 if factor == 1 else 4, size["height"] // factor, size["width"] // factor)
    x = torch.cat([torch.randn(shape, generator=g) for g in made])
    scheduler.set_timesteps(STEPS)
    return x * scheduler.init_noise_sigma, made


def draw(pipe, theirs, **call):
    return pipe(
        **{
            "prompt": PROMPTS,
            "negative_prompt": NEGATIVES,
            "seed": [7, 8],
            "output_type": "latent",
            "num_inference_steps": STEPS,
            **size_of(theirs),
            **call,
        }
    ).images


def apart(got, want):
    return float((got - want).norm() / want.norm())


# --- three rows -----------------------------------------------------------------------------------


def perpendicular(negative, positive):
    """Perp-Neg's p, of each picture."""
    rows = [(n.flatten(), c.flatten()) for n, c in zip(negative, positive, strict=True)]
    kept = [n - (n @ c) / (c @ c) * c for n, c in rows]
    return torch.stack(kept).reshape(negative.shape)


@pytest.mark.parametrize("method", ["perp-neg", "composed"])
@pytest.mark.parametrize(("name", "sampler"), [("sd1", "ddim"), ("sd2", "euler"), ("sdxl", "ddim"),
                                               ("if", "ddim")])  # fmt: skip
@torch.no_grad()
def test_three_rows(systems, name, sampler, method):
    ours, theirs = systems(name)
    size = size_of(theirs)
    empty, negative, text = outputs(theirs, size)
    cls = {"ddim": diffusers.DDIMScheduler, "euler": diffusers.EulerDiscreteScheduler}[sampler]
    scheduler = cls.from_config(theirs.scheduler.config)
    x, _ = begin(theirs, scheduler, size)
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(x, t)
        e0, en, ec = (predict(given, t) for predict in (empty, negative, text))
        away = perpendicular(en - e0, ec - e0) if method == "perp-neg" else en - e0
        x = scheduler.step(e0 + 4.0 * (ec - e0 - 0.7 * away), t, x).prev_sample
    call = {"guidance_scale": 4.0, "scheduler": sampler}
    got = draw(ours, theirs, guidance_method=method, negative_scale=0.7, **call)
    assert apart(got, x) < 1e-4
    assert apart(got, draw(ours, theirs, **call)) > 0.0005
    off = draw(ours, theirs, guidance_method=method, negative_scale=0.0, **call)
    assert apart(off, draw(ours, theirs, **{**call, "negative_prompt": None})) < 1e-5


@torch.no_grad()
def test_rescale_counts_from_the_prompts_output(systems):
    """Lin et al. 2023: the guided output's spread is made that of the conditional one."""
    ours, theirs = systems("sd1")
    size = size_of(theirs)
    scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config)
    x, _ = begin(theirs, scheduler, size)
    for t in scheduler.timesteps:
        e0, en, ec = (predict(x, t) for predict in outputs(theirs, size))
        out = e0 + 4.0 * (ec - e0 - 0.7 * (en - e0))
        spread = [o.std(dim=(1, 2, 3), keepdim=True) for o in (ec, out)]
        x = scheduler.step(out * (0.6 * spread[0] / spread[1] + 0.4), t, x).prev_sample
    got = draw(
        ours,
        theirs,
        guidance_method="composed",
        negative_scale=0.7,
        guidance_scale=4.0,
        guidance_rescale=0.6,
        scheduler="ddim",
    )
    assert apart(got, x) < 1e-4


# --- CFG++ ----------------------------------------------------------------------------------------


@torch.no_grad()
def cfg_plus_plus(theirs, sampler, scale):
    """Algorithm 2 of the paper for DDIM, and the same in sigmas for Euler's."""
    size = size_of(theirs)
    _, negative, text = outputs(theirs, size)
    cls = {
        "ddim": diffusers.DDIMScheduler,
        "euler": diffusers.EulerDiscreteScheduler,
        "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    }[sampler]
    scheduler = cls.from_config(theirs.scheduler.config)
    kind = scheduler.config.prediction_type
    x, made = begin(theirs, scheduler, size)
    for i, t in enumerate(scheduler.timesteps):
        if sampler == "ddim":
            stride = scheduler.config.num_train_timesteps // STEPS
            after = t - stride
            abar = scheduler.alphas_cumprod[t]
            abar_next = (
                scheduler.alphas_cumprod[after] if after >= 0 else (scheduler.final_alpha_cumprod)
            )
        else:
            abar, abar_next = (1 / (1 + s**2) for s in scheduler.sigmas[i : i + 2])
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        given = x if sampler == "ddim" else alpha * x
        noises = []
        for out in (negative(given, t), text(given, t)):
            noises.append(out if kind == "epsilon" else alpha * out + sigma * given)
        guided = noises[0] + scale * (noises[1] - noises[0])
        clean = (given - sigma * guided) / alpha
        if sampler == "ddim":
            x = abar_next.sqrt() * clean + (1 - abar_next).sqrt() * noises[0]
        elif sampler == "euler":
            x = clean + scheduler.sigmas[i + 1] * noises[0]
        else:
            here, down = scheduler.sigmas[i], scheduler.sigmas[i + 1]
            up = (down**2 * (here**2 - down**2) / here**2).sqrt()
            fresh = torch.cat([torch.randn((1, *x.shape[1:]), generator=g) for g in made])
            x = clean + (down**2 - up**2).sqrt() * noises[0] + up * fresh
    return x


@pytest.mark.parametrize(("name", "sampler"), [
    ("sd1", "ddim"), ("sd1", "euler"), ("sd1", "euler_ancestral"), ("sd2", "ddim"),
    ("sd2", "euler"), ("sdxl", "euler"), ("if", "ddim"),
])  # fmt: skip
def test_cfg_plus_plus(systems, name, sampler):
    ours, theirs = systems(name)
    call = {"guidance_scale": 0.8, "scheduler": sampler}
    got = draw(ours, theirs, guidance_method="cfg++", **call)
    assert apart(got, cfg_plus_plus(theirs, sampler, 0.8)) < 1e-4
    assert apart(got, draw(ours, theirs, **call)) > 0.0005


def test_the_ends_of_its_scale(systems):
    """0: the negative prompt alone; unless told 0.6."""
    ours, theirs = systems("sd1")
    none = draw(ours, theirs, guidance_method="cfg++", guidance_scale=0, scheduler="ddim")
    away = draw(
        ours, theirs, prompt=NEGATIVES, negative_prompt=None, guidance_scale=1, scheduler="ddim"
    )
    assert apart(none, away) < 1e-5
    default = draw(ours, theirs, guidance_method="cfg++", scheduler="ddim")
    told = draw(ours, theirs, guidance_method="cfg++", scheduler="ddim", guidance_scale=0.6)
    assert torch.equal(default, told)


# --- together -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd1", "sdxl", "if"])
def test_bits_alone_and_beside_others(systems, use_threads, name):
    ours, theirs = systems(name)
    methods = ("cfg", "perp-neg", "cfg++", "composed")
    calls = [
        {
            "guidance_method": methods[k % 4],
            "guidance_scale": 0.7 if k % 4 == 2 else 2.0 + k,
            "num_inference_steps": 3 + k % 2,
            "prompt": PROMPTS[k % 2],
            "seed": k,
            "negative_prompt": NEGATIVES[k % 2],
            "output_type": "latent",
            "scheduler": "euler",
            **size_of(theirs),
        }
        for k in range(6)
    ]
    use_threads(1)
    wanted = [ours(**call).images for call in calls]
    use_threads(3)
    jobs = [ours.prepare(ours.request(**call))[0] for call in calls]
    while active := [job for job in jobs if job.active]:
        ours.step(active)
    for job, want in zip(jobs, wanted, strict=True):
        assert torch.equal(ours.finish(job).reshape(want.shape), want)


def test_rows_of_a_step(systems, monkeypatch):
    ours, theirs = systems("sd1")
    rows, evaluate = [], ours.unet.evaluate

    def counted(x, times, context):
        rows.append(len(x))
        return evaluate(x, times, context)

    monkeypatch.setattr(ours.unet, "evaluate", counted)
    call = {"guidance_method": "perp-neg", "scheduler": "ddim", "num_inference_steps": 5}
    draw(ours, theirs, **call, guidance_scale=[4.0, 1.0])
    draw(ours, theirs, **call, guidance_scale=4.0, guidance_start=0.2, guidance_end=0.6)
    assert rows == [4] * 5 + [2, 6, 6, 2, 2]


def test_a_callback_ends_guidance(systems):
    ours, theirs = systems("sd1")

    def unguided(pipe, step, timestep, tensors):
        if step == 1:
            pipe._guidance_scale = 1.0
            assert len(tensors["prompt_embeds"]) == 6
            return {"prompt_embeds": tensors["prompt_embeds"][-2:]}
        return {}

    call = {
        "guidance_method": "perp-neg",
        "scheduler": "ddim",
        "guidance_scale": 4.0,
        "num_inference_steps": 5,
    }
    got = draw(
        ours,
        theirs,
        **call,
        callback_on_step_end=unguided,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )
    want = draw(ours, theirs, **call, guidance_end=0.4)
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("name", "call", "text"),
    [
        ("sd1", {"guidance_method": "apg"}, "guidance_method: expected one of cfg, cfg\\+\\+, per"),
        ("sd1", {"negative_scale": 2}, "negative_scale: expected None with guidance_method 'cfg'"),
        ("sd1", {"guidance_method": "composed", "negative_scale": -1},
         "negative_scale: expected a number from 0 to 1000, given -1"),
        ("sd1", {"guidance_method": "perp-neg", "negative_prompt": None},
         "negative_prompt: expected one with guidance_method 'perp-neg', given None"),
        ("if", {"guidance_method": "composed", "negative_prompt": None},
         "negative_prompt: expected one with guidance_method 'composed', given None"),
        ("sd1", {"guidance_method": "cfg++", "guidance_scale": 7.5},
         "guidance_scale: expected at most 1 with guidance_method 'cfg\\+\\+', given 7.5"),
        ("sd1", {"guidance_method": "cfg++", "guidance_rescale": 0.5},
         "guidance_rescale: expected 0 with guidance_method 'cfg\\+\\+', given 0.5"),
        ("sd1", {"guidance_method": "cfg++", "scheduler": "dpmpp_2m"},
         "guidance_method: 'cfg\\+\\+' is for ddim, ddpm, euler, euler_ancestral, given dpmpp_2m"),
        ("if", {"guidance_method": "cfg++",
                "scheduler": diffusers.DDPMScheduler(thresholding=True)},
         "that do not clip the clean sample, given one that does \\(thresholding"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(systems, name, call, text):
    ours, theirs = systems(name)
    scheduler = call.get("scheduler")
    if scheduler is not None and not isinstance(scheduler, str):
        before, call = ours.scheduler, {k: v for k, v in call.items() if k != "scheduler"}
        ours.scheduler = scheduler
    try:
        with pytest.raises(RequestError, match=text):
            draw(ours, theirs, **call)
    finally:
        if scheduler is not None and not isinstance(scheduler, str):
            ours.scheduler = before


def test_the_command_line(tmp_path):
    folder = tiny.write_sd1(tmp_path / "sd", unet=UNET)
    made, again = tmp_path / "a.png", tmp_path / "b.png"
    options = ["--steps", "2", "--seed", "5", "--device", "cpu", "--negative", "blue"]
    how = ["--guidance-method", "perp-neg", "--negative-scale", "0.5", "--guidance", "3"]
    assert main(["generate", "a tree", "-m", str(folder), *options, *how, "-o", str(made)]) == 0
    settings = metadata.read(made)
    assert (settings.guidance_method, settings.negative_scale) == ("perp-neg", 0.5)
    assert main(["generate", "--from", str(made), "-m", str(folder), "-o", str(again)]) == 0
    assert made.read_bytes() == again.read_bytes()
