"""DDPM and DDIM against diffusers' pipelines over the same checkpoints."""

import diffusers
import pytest
import tiny
import torch
from pairs import LEAST_PSNR, generators, psnr

import pyengine
from pyengine.errors import ConfigError, RequestError
from pyengine.models import UNet2DModel
from pyengine.pipelines.registry import pipeline_named
from pyengine.schedules import SAMPLER_NAMES
from pyengine.schedules.samplers import SAMPLERS

#: Of networks that give the clean picture: their pictures are not black and white alone.
SAMPLE = {"prediction_type": "sample", "clip_sample": False}
LEARNED = {"variance_type": "learned_range"}
ADM = {
    "block_out_channels": (16, 24, 32),
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "num_class_embeds": 10,
    "out_channels": 6,
}


def write(folder, name):
    ddpm = diffusers.DDPMScheduler
    made = {
        "ddpm": {},
        "ddim": {"kind": "DDIMPipeline"},
        "sample": {"scheduler": ddpm(**SAMPLE), "gain": 1.0},
        "ddim_sample": {"scheduler": ddpm(**SAMPLE), "gain": 1.0, "kind": "DDIMPipeline"},
        "learned": {"unet": {"out_channels": 6}, "scheduler": ddpm(**LEARNED)},
        "learned_sample": {
            "unet": {"out_channels": 6}, "scheduler": ddpm(**SAMPLE, **LEARNED), "gain": 1.0,
        },
        "adm": {"unet": ADM, "scheduler": ddpm(**LEARNED)},
        "classes": {"unet": {"num_class_embeds": 10}, "scheduler": ddpm(**SAMPLE), "gain": 1.0},
        "grey": {"unet": {"in_channels": 1, "out_channels": 1, "sample_size": (12, 8)}},
    }  # fmt: skip
    return tiny.write_ddpm(folder, **made[name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """folder(name): of a tiny checkpoint."""
    made = {}

    def find(name):
        if name not in made:
            made[name] = write(tmp_path_factory.mktemp(name) / name, name)
        return made[name]

    return find


@pytest.fixture(scope="module")
def own(folder):
    """own(name): pyengine's pipeline of it."""
    made = {}

    def find(name):
        if name not in made:
            made[name] = pyengine.from_pretrained(folder(name), device="cpu")
        return made[name]

    return find


def theirs(folder, cls=diffusers.DiffusionPipeline):
    pipe = cls.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# --- parity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("name", ["ddpm", "sample", "ddim", "ddim_sample", "learned"])
def test_pictures_are_diffusers(folder, own, name, steps):
    call = {"batch_size": 2, "num_inference_steps": steps, "output_type": "np"}
    expected = theirs(folder(name))(generator=generators([7, 8]), **call).images
    got = own(name)(generator=generators([7, 8]), **call).images
    assert expected.std() > 0.1
    assert psnr(expected, got) >= LEAST_PSNR


@pytest.mark.parametrize("clipped", [None, True, False])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_with_noise_and_clipped_outputs(folder, own, eta, clipped):
    call = {"eta": eta, "num_inference_steps": 9, "use_clipped_model_output": clipped}
    expected = theirs(folder("ddim"))(generator=generators(7), output_type="np", **call).images
    got = own("ddim")(generator=generators(7), output_type="np", **call).images
    assert psnr(expected, got) >= LEAST_PSNR


def test_the_clipped_output_matters(own):
    draw = [own("ddim")(seed=3, num_inference_steps=9, output_type="pt",
                        use_clipped_model_output=c).images for c in (False, True)]  # fmt: skip
    assert (draw[0] - draw[1]).abs().max() > 0.1


def test_one_generator_for_all_draws_as_diffusers(folder, own):
    call = {"batch_size": 3, "num_inference_steps": 6, "output_type": "np"}
    expected = theirs(folder("sample"))(generator=torch.Generator().manual_seed(5), **call).images
    got = own("sample")(generator=torch.Generator().manual_seed(5), **call)
    assert got.seeds == [None] * 3
    assert psnr(expected, got.images) >= LEAST_PSNR


#: Samplers whose step is told generators.
DRAW = ("ddpm", "euler_ancestral", "ddim", "dpmpp_2m_sde")


@torch.no_grad()
def loop(folder, sampler, steps, labels=None, count=2, **keys):
    """diffusers' own network and scheduler in a plain loop: latents [count, C, h, w]."""
    pipe = theirs(folder)
    cls = getattr(diffusers, SAMPLERS[sampler].class_name)
    scheduler = cls.from_config(pipe.scheduler.config, **dict(SAMPLERS[sampler].keys), **keys)
    made, side = generators([7, 8][:count]), pipe.unet.config.sample_size
    shape = (1, pipe.unet.config.in_channels, side, side)
    x = torch.cat([torch.randn(shape, generator=g) for g in made])
    scheduler.set_timesteps(steps)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        out = pipe.unet(scheduler.scale_model_input(x, t), t, labels).sample
        given = {"generator": made} if sampler in DRAW else {}
        x = scheduler.step(out, t, x, **given).prev_sample
    return x


@pytest.mark.parametrize(
    "sampler", ["ddpm", "ddim", "heun", "dpmpp_2m", "unipc", "dpmpp_2m_karras"]
)
def test_classes_by_several_samplers(folder, own, sampler):
    labels = torch.tensor([3, 8])
    want = loop(folder("classes"), sampler, 8, labels)
    got = own("classes")(
        class_labels=[3, 8], generator=generators([7, 8]), num_inference_steps=8, scheduler=sampler,
        output_type="latent",
    ).images  # fmt: skip
    assert float((got - want).norm() / want.norm()) < 1e-4
    assert (got[0] - got[1]).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["learned", "learned_range"])
def test_a_variance_that_the_network_predicts(folder, own, kind):
    """A whole loop of diffusers' scheduler; "learned" takes its root, of positive numbers."""
    pipe = theirs(folder("learned_sample"))
    if kind == "learned":  # the predicted variance must be positive
        pipe.unet.conv_out.weight.data[3:] *= 0.02
        pipe.unet.conv_out.bias.data[3:] = 0.4
    place = folder("learned_sample").parent / kind
    pipe.save_pretrained(place)
    want = loop(place, "ddpm", 12, variance_type=kind)
    got = pyengine.from_pretrained(
        place, device="cpu", scheduler=diffusers.DDPMScheduler(**{**SAMPLE, "variance_type": kind})
    )(
        batch_size=2, generator=generators([7, 8]), num_inference_steps=12, output_type="latent"
    ).images
    assert float((got - want).norm() / want.norm()) < 1e-4
    fixed = own("learned_sample")(
        batch_size=2, generator=generators([7, 8]), num_inference_steps=12, output_type="latent",
        scheduler="ddim",
    ).images  # fmt: skip
    assert float((fixed - want).norm() / want.norm()) > 0.01


@pytest.mark.parametrize("kind", ["learned", "learned_range"])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s"])
def test_solvers_leave_a_learned_variance_out(folder, tmp_path, sampler, kind):
    """variance_type says that there is one; diffusers' solvers then take the first half alone."""
    pipe = theirs(folder("learned"))
    keys = {"variance_type": kind}
    cls = getattr(diffusers, SAMPLERS[sampler].class_name)
    pipe.scheduler = cls.from_config(pipe.scheduler.config, **dict(SAMPLERS[sampler].keys), **keys)
    pipe.save_pretrained(tmp_path)
    want = loop(tmp_path, sampler, 8, **keys)
    call = {"batch_size": 2, "num_inference_steps": 8, "output_type": "latent"}
    ours = pyengine.from_pretrained(tmp_path, device="cpu")
    got = ours(generator=generators([7, 8]), **call).images
    assert float((got - want).norm() / want.norm()) < 1e-4
    by_name = ours(generator=generators([7, 8]), scheduler=sampler, **call).images
    assert torch.equal(got, by_name)


def test_sa_solver_leaves_a_learned_variance_out(folder):
    """diffusers' draws noise for the variance's channels too, and ends: ours against itself."""
    pipe = pyengine.from_pretrained(folder("learned"), device="cpu")
    call = {"seed": 4, "num_inference_steps": 5, "output_type": "latent"}
    got = pipe(scheduler="sa_solver", **call).images
    keys = {k: v for k, v in pipe.scheduler.config.items() if k != "variance_type"}
    pipe.scheduler = diffusers.SASolverScheduler.from_config(keys)
    assert torch.equal(got, pipe(**call).images)


def test_a_variance_that_no_schedule_asks_for_is_left_out(folder, own):
    """With a fixed one, and by samplers that have none: the other channels alone count."""
    pipe = own("learned_sample")
    plain = UNet2DModel.from_config(
        {**{k: v for k, v in theirs(folder("learned_sample")).unet.config.items()
            if not k.startswith("_")}, "out_channels": 3}
    )  # fmt: skip
    state = theirs(folder("learned_sample")).unet.state_dict()
    state |= {name: state[name][:3] for name in ("conv_out.weight", "conv_out.bias")}
    plain.load_state_dict(state, assign=True)
    plain.requires_grad_(False)
    plain.pack()
    for sampler in ("ddim", "euler_ancestral"):
        call = {"seed": 4, "num_inference_steps": 5, "scheduler": sampler, "output_type": "pt"}
        other = pyengine.from_pretrained(folder("sample"), device="cpu", unet=plain)
        # Not the same bits: a convolution of 6 channels may be computed by another algorithm.
        assert torch.allclose(pipe(**call).images, other(**call).images, atol=1e-5)


def test_learned_variance_needs_a_network_that_predicts_one(folder):
    pipe = pyengine.from_pretrained(folder("sample"), device="cpu")
    pipe.scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    with pytest.raises(ConfigError, match="variance_type 'learned_range' is for models that pred"):
        pipe(num_inference_steps=3)


# --- layouts, classes, parts ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["DDPMPipeline", "DDIMPipeline"])
def test_flat_folders(tmp_path, kind):
    """All files in one folder, as google/ddpm-* has them; diffusers reads them so, too."""
    folders = [tiny.write_ddpm(tmp_path / str(flat), kind=kind, flat=flat) for flat in (0, 1)]
    assert sorted(p.name for p in folders[1].iterdir()) == [
        "config.json", "diffusion_pytorch_model.safetensors", "model_index.json",
        "scheduler_config.json",
    ]  # fmt: skip
    call = {"num_inference_steps": 4, "output_type": "np"}
    pipes = [pyengine.from_pretrained(f, device="cpu") for f in folders]
    drawn = [pipe(seed=3, **call).images for pipe in pipes]
    assert (drawn[0] == drawn[1]).all()
    assert pipes[0].model_hash == pipes[1].model_hash
    expected = theirs(folders[1])(generator=generators(3), **call).images
    assert psnr(expected, drawn[1]) >= LEAST_PSNR
    pipes[1].save_pretrained(tmp_path / "saved")
    again = pyengine.from_pretrained(tmp_path / "saved", device="cpu")
    assert type(again).__name__ == kind
    assert (again(seed=3, **call).images == drawn[0]).all()
    assert psnr(theirs(tmp_path / "saved")(generator=generators(3), **call).images, expected) > 99


def test_either_class_draws_with_either_checkpoint(folder):
    ddpm, ddim = (pipeline_named(f"{name}Pipeline") for name in ("DDPM", "DDIM"))
    pipe = ddim.from_pretrained(folder("ddpm"), device="cpu")
    assert (pipe.scheduler.name, pipe.defaults.num_inference_steps) == ("ddim", 50)
    call = {"num_inference_steps": 5, "output_type": "np"}
    want = theirs(folder("ddpm"), diffusers.DDIMPipeline)(generator=generators(2), **call).images
    assert psnr(want, pipe(seed=2, **call).images) >= LEAST_PSNR
    shared = ddim.from_pipe(ddpm.from_pretrained(folder("ddpm"), device="cpu"))
    assert (shared.scheduler.name, shared.defaults.num_inference_steps) == ("ddim", 50)
    assert (shared(seed=2, **call).images == pipe(seed=2, **call).images).all()
    back = ddpm.from_pretrained(folder("ddim"), device="cpu")
    assert (back.scheduler.name, back.defaults.num_inference_steps) == ("ddim", 1000)


def test_arguments_by_position_are_diffusers(own, folder):
    made = torch.Generator().manual_seed(1)
    a = own("ddpm")(2, made, 3, "np", False)[0]
    b = own("ddpm")(batch_size=2, generator=torch.Generator().manual_seed(1),
                    num_inference_steps=3, output_type="np").images  # fmt: skip
    assert (a == b).all()
    made = generators([1, 2])
    a = own("ddim")(2, made, 0.3, 3, True, "np", False)[0]
    b = own("ddim")(batch_size=2, generator=generators([1, 2]), eta=0.3, num_inference_steps=3,
                    use_clipped_model_output=True, output_type="np").images  # fmt: skip
    assert (a == b).all()


def test_parts_and_scheduler(folder):
    unet = UNet2DModel.from_pretrained(folder("sample"), subfolder="unet")
    pipe = pyengine.from_pretrained(folder("ddpm"), device="cpu", unet=unet, scheduler="heun")
    assert (pipe.unet, pipe.scheduler.name, pipe.model_hash) == (unet, "heun", "")
    assert set(pipe.components) == {"unet", "scheduler"}
    with pytest.raises(RequestError, match="save_pretrained: unet came as objects"):
        pipe.save_pretrained(folder("ddpm").parent / "never")
    for given, text in (
        ({"vae": unet}, "vae: expected none for a DDPMPipeline"),
        ({"unet": theirs(folder("ddpm")).unet}, "unet: expected pyengine's UNet2DModel"),
    ):
        with pytest.raises(RequestError, match=text):
            pyengine.from_pretrained(folder("ddpm"), device="cpu", **given)


# --- sizes, colours, labels, errors ---------------------------------------------------------------


def test_grey_pictures_and_sizes(own, folder):
    pipe = own("grey")
    assert pipe.default_size == (12, 8)
    picture = pipe(seed=1, num_inference_steps=2).images[0]
    assert (picture.size, picture.mode) == ((8, 12), "RGB")
    assert pipe(seed=1, num_inference_steps=2, output_type="latent").images.shape == (1, 1, 12, 8)
    larger = pipe(seed=1, num_inference_steps=2, height=15, width=22, output_type="pt").images
    assert larger.shape == (1, 3, 15, 22)


def test_labels_and_counts(own):
    pipe, call = own("classes"), {"seed": 3, "num_inference_steps": 2, "output_type": "pt"}
    four = pipe(class_labels=[1, 2], num_images_per_prompt=2, **call)
    assert four.seeds == [3, 4, 5, 6]
    same = pipe(class_labels=torch.tensor([1, 1, 2, 2]), **call).images
    assert torch.equal(four.images, same)
    assert torch.equal(pipe(class_labels=1, batch_size=2, **call).images, same[:2])


WRONG = [
    ("classes", {}, "class_labels: this model draws classes: expected whole numbers from 0 to 9"),
    ("classes", {"class_labels": 10}, "class_labels: expected a whole number from 0 to 9, given"),
    ("classes", {"class_labels": [1, -1]}, "class_labels: expected a whole number from 0 to 9"),
    ("classes", {"class_labels": [1.5]}, "class_labels: expected a whole number from 0 to 9"),
    ("classes", {"class_labels": []}, "class_labels: expected .*given '0 of them'"),
    ("classes", {"class_labels": [1, 2], "batch_size": 3}, "batch_size: expected 1, or 2 as of"),
    ("ddpm", {"class_labels": 1}, "class_labels: this model knows no classes"),
    ("ddpm", {"batch_size": 0}, "batch_size: expected a whole number from 1"),
    ("ddpm", {"num_inference_steps": 0}, "num_inference_steps: expected a whole number"),
    ("ddpm", {"num_inference_steps": 1001}, "num_inference_steps: expected a whole number from 1"),
    ("ddpm", {"eta": 2}, "eta: expected a number from 0 to 1"),
    ("ddpm", {"prompt": "a cat"}, "prompt: this model has no such argument"),
    ("ddpm", {"batch_sise": 3}, "batch_sise: .* did you mean batch_size"),
    ("ddpm", {"use_clipped_model_output": True}, "use_clipped_model_output: ddpm has no such"),
    ("ddpm", {"use_clipped_model_output": 3}, "use_clipped_model_output: expected True, False or"),
    ("ddpm", {"use_clipped_model_output": torch.ones(2)}, "use_clipped_model_output: expected T"),
    ("ddpm", {"height": 1}, "height: expected at least 2, given 1"),
    ("ddpm", {"latents": torch.zeros(1, 3, 4, 4)}, r"latents: expected shape \[1, 3, 16, 16\]"),
    ("ddpm", {"scheduler": "eulr"}, "scheduler: .*did you mean euler"),
    ("ddpm", {"timesteps": [5, 9]}, "timesteps: expected a descending list"),
    ("ddpm", {"callback_on_step_end": 3}, "callback_on_step_end: expected a function"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "call", "text"), WRONG)
def test_wrong_arguments(own, name, call, text):
    with pytest.raises(RequestError, match=text):
        own(name)(**call)


def test_a_network_of_other_channels_is_refused(tmp_path):
    made = tiny.write_ddpm(tmp_path / "rgba", unet={"in_channels": 4, "out_channels": 4})
    with pytest.raises(ConfigError, match="unet: in_channels 4, out_channels 4: expected 1 or 3"):
        pyengine.from_pretrained(made, device="cpu")


# --- bits -----------------------------------------------------------------------------------------


def draw(pipe, **call):
    labels = {} if pipe.known_labels is None else {"class_labels": [k % 10 for k in call["seed"]]}
    labels |= {"batch_size": len(call["seed"])} if pipe.known_labels is None else {}
    return pipe(**{"num_inference_steps": 4, "output_type": "pt", **labels, **call}).images


@pytest.mark.parametrize("name", ["ddpm", "adm", "classes"])
def test_same_bits_alone_in_a_batch_and_on_any_threads(own, use_threads, name):
    pipe, seeds = own(name), [3, 14, 15, 92, 65]
    use_threads(1)
    with pyengine.ops.kernels_used() as used:
        alone = [draw(pipe, seed=[s])[0] for s in seeds]
    assert {*used.summary().values()} == {f"cpu-{pyengine.ops.isa()}"}
    assert (alone[0] - alone[1]).abs().max() > 0.02
    for threads, size in ((1, 2), (3, 3), (2, 5)):
        use_threads(threads)
        for k, picture in enumerate(draw(pipe, seed=seeds[:size])):
            assert torch.equal(picture, alone[k])


@pytest.mark.filterwarnings("ignore:scheduler")
@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_every_sampler_draws_the_same_bits_in_a_batch(own, sampler):
    pipe = own("ddpm")
    whole = draw(pipe, seed=[3, 14, 15], scheduler=sampler)
    assert whole.isfinite().all()
    assert torch.equal(draw(pipe, seed=[14], scheduler=sampler)[0], whole[1])


def test_eight_jobs_of_eight_calls_in_one_step(own):
    """Of other classes, samplers, lengths and variances; some join later."""
    pipe = own("adm")
    calls = [
        {"class_labels": k, "seed": 10 * k, "num_inference_steps": 3 + k % 4,
         "scheduler": ("ddpm", "ddim", "heun", None)[k % 4], "output_type": "pt"}
        for k in range(8)
    ]  # fmt: skip
    wanted = [pipe(**call).images[0] for call in calls]
    jobs = [pipe.prepare(pipe.request(**call))[0] for call in calls]
    waiting = jobs[5:]
    for tick in range(40):
        active = [job for job in (jobs[:5] if tick < 2 else [*waiting, *jobs[:5]]) if job.active]
        if not active:
            break
        pipe.step(active)
    for job, want in zip(jobs, wanted, strict=True):
        assert torch.equal(pipe.finish(job), want)


def test_steps_and_callbacks(own):
    pipe, call = own("learned"), {"seed": [5, 6], "num_inference_steps": 4, "output_type": "pt"}
    whole = draw(pipe, **call)
    steps = pipe.steps(batch_size=2, **call)
    seen = [(s.step, int(s.timestep), s.preview("pt").shape) for s in steps]
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    assert seen[-1][2] == (2, 3, 16, 16)
    assert torch.equal(steps.output.images, whole)

    def change(pipe, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 3 else None

    assert (draw(pipe, callback_on_step_end=change, **call) == 0.5).all()
    report = pipe(batch_size=2, **call).report
    assert (report.steps, report.evaluations, report.sampler) == (4, 4, "ddpm")
