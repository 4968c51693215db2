"""Classifier guidance against a loop of diffusers' network and scheduler and a plain classifier."""

import math

import adm_classifier
import diffusers
import pytest
import tiny
import torch
from pairs import generators
from PIL import Image

import pyengine
from pyengine import metadata
from pyengine.cli import main
from pyengine.errors import NotFiniteError, RequestError
from pyengine.models import EncoderUNetModel
from pyengine.schedules.samplers import SAMPLERS

SAMPLE = {"prediction_type": "sample", "clip_sample": False}
KINDS = {
    "noise": {"scheduler": diffusers.DDPMScheduler(clip_sample=False)},
    "clipped": {"scheduler": diffusers.DDPMScheduler()},
    "sample": {"scheduler": diffusers.DDPMScheduler(**SAMPLE), "gain": 1.0},
    "v": {"scheduler": diffusers.DDPMScheduler(prediction_type="v_prediction")},
    "large": {"scheduler": diffusers.DDPMScheduler(variance_type="fixed_large")},
    "learned": {
        "unet": {"out_channels": 6},
        "scheduler": diffusers.DDPMScheduler(variance_type="learned_range"),
    },
    "classes": {"unet": {"num_class_embeds": 10}},
    "seven": {"unet": {"num_class_embeds": 7}},
    "vectors": {"unet": {"class_embed_type": "identity"}},
}
SCALE = 40.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {}

    def find(name):
        if name not in made:
            made[name] = tiny.write_ddpm(tmp_path_factory.mktemp(name) / name, **KINDS[name])
        return made[name]

    return find


@pytest.fixture(scope="module")
def own(folder):
    made = {}

    def find(name):
        if name not in made:
            made[name] = pyengine.from_pretrained(folder(name), device="cpu")
        return made[name]

    return find


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """(folder, the plain module)."""
    place = tmp_path_factory.mktemp("classifier")
    return place, adm_classifier.write(place)


def gradient(classifier, x, t, labels):
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        log_p = classifier(leaf, t.expand(len(x))).log_softmax(dim=-1)
        return torch.autograd.grad(log_p[torch.arange(len(x)), labels].sum(), leaf)[0]


def without_noise(kind, x, out, alpha, sigma, less):
    """What the network would say had it predicted `less` less noise: through the noise and back."""
    if kind == "epsilon":
        return out - less
    if kind == "sample":
        noise = (x - alpha * out) / sigma - less
        return (x - sigma * noise) / alpha
    noise = alpha * out + sigma * x - less
    return (noise - sigma * x) / alpha


@torch.no_grad()
def loop(folder, classifier, sampler, labels, steps=6):
    """Algorithms 1 and 2 of the paper around diffusers' own schedulers: latents."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    cls = getattr(diffusers, SAMPLERS[sampler].class_name)
    scheduler = cls.from_config(pipe.scheduler.config, **dict(SAMPLERS[sampler].keys))
    made = generators([7, 8])
    x = torch.cat([torch.randn((1, 3, 16, 16), generator=g) for g in made])
    scheduler.set_timesteps(steps)
    x = x * scheduler.init_noise_sigma
    told = labels if pipe.unet.config.num_class_embeds else None
    for i, t in enumerate(scheduler.timesteps):
        given = scheduler.scale_model_input(x, t)
        out = pipe.unet(given, t, told).sample
        g = SCALE * gradient(classifier, given, t, labels)
        extra = {"generator": made} if sampler in ("ddpm", "euler_ancestral") else {}
        if sampler == "ddpm":
            variance = scheduler._get_variance(t, predicted_variance=out[:, 3:])
            if scheduler.config.variance_type == "learned_range":
                variance = variance.exp()
            x = scheduler.step(out, t, x, **extra).prev_sample + variance * g
            continue
        if hasattr(scheduler, "sigmas"):
            level = float(scheduler.sigmas[i])
            alpha, sigma = 1 / math.hypot(1, level), level / math.hypot(1, level)
        else:
            a = float(scheduler.alphas_cumprod[t])
            alpha, sigma = math.sqrt(a), math.sqrt(1 - a)
        out = without_noise(scheduler.config.prediction_type, given, out, alpha, sigma, sigma * g)
        x = scheduler.step(out, t, x, **extra).prev_sample
    return x


def draw(pipe, place, seeds=(7, 8), labels=(3, 8), **call):
    return pipe(
        **{
            "class_labels": list(labels),
            "seed": list(seeds),
            "num_inference_steps": 6,
            "output_type": "latent",
            "classifier": place,
            "classifier_scale": SCALE,
            **call,
        }
    ).images


@pytest.mark.parametrize(
    ("kind", "sampler"),
    [
        *((kind, "ddpm") for kind in ("noise", "clipped", "sample", "v", "large", "learned")),
        *(("noise", s) for s in ("ddim", "euler", "euler_ancestral", "dpmpp_2m", "unipc")),
        *((kind, s) for kind in ("sample", "v") for s in ("ddim", "euler")),
        *(("classes", s) for s in ("ddpm", "ddim")),
    ],
)
def test_pictures_are_the_papers(folder, own, classifiers, kind, sampler):
    place, plain = classifiers
    want = loop(folder(kind), plain, sampler, torch.tensor([3, 8]))
    got = draw(own(kind), place, scheduler=sampler)
    assert float((got - want).norm() / want.norm()) < 1e-4
    labels = (3, 8) if kind == "classes" else None
    without = own(kind)(
        **({"batch_size": 2} if labels is None else {"class_labels": list(labels)}),
        seed=[7, 8],
        num_inference_steps=6,
        output_type="latent",
        scheduler=sampler,
    ).images
    assert float((got - without).norm() / without.norm()) > 0.004


def test_scale_0_is_unguided_to_the_bit(own, classifiers):
    plain = own("noise")(batch_size=2, seed=[7, 8], num_inference_steps=6, output_type="latent")
    got = draw(own("noise"), classifiers[0], classifier_scale=0)
    assert torch.equal(got, plain.images)


@pytest.mark.parametrize(("kind", "sampler"), [("learned", "ddpm"), ("classes", "heun")])
def test_same_bits_alone_in_a_batch_and_on_any_threads(
    own, classifiers, use_threads, kind, sampler
):
    pipe = own(kind)
    model = EncoderUNetModel.from_pretrained(classifiers[0])
    use_threads(1)
    alone = [draw(pipe, model, [s], [s % 10], scheduler=sampler)[0] for s in (3, 14, 15)]
    for threads in (2, 3, 4):
        use_threads(threads)
        whole = draw(pipe, model, [3, 14, 15], [3, 4, 5], scheduler=sampler)
        for one, other in zip(whole, alone, strict=True):
            assert torch.equal(one, other)


def test_jobs_with_and_without_share_steps(own, classifiers):
    pipe = own("classes")
    model = EncoderUNetModel.from_pretrained(classifiers[0])
    calls = [
        {
            "class_labels": k,
            "seed": k,
            "num_inference_steps": 3 + k % 3,
            "output_type": "pt",
            "scheduler": ("ddpm", "ddim", "euler")[k % 3],
            **({"classifier": model, "classifier_scale": 30 * k} if k % 2 else {}),
        }
        for k in range(6)
    ]
    wanted = [pipe(**call).images[0] for call in calls]
    jobs = [pipe.prepare(pipe.request(**call))[0] for call in calls]
    while active := [job for job in jobs if job.active]:
        pipe.step(active)
    for job, want in zip(jobs, wanted, strict=True):
        assert torch.equal(pipe.finish(job), want)


def test_a_gradient_that_is_not_finite_is_named(own, classifiers):
    model = EncoderUNetModel.from_pretrained(classifiers[0])
    model.time_embed["0"].bias.data.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="the gradient of classifier"):
        draw(own("noise"), model)


@pytest.mark.parametrize(
    ("kind", "changes", "call", "text"),
    [
        ("noise", {}, {"class_labels": 10}, "class_labels: expected a whole number from 0 to 9"),
        ("noise", {}, {"class_labels": None}, "class_labels: this model draws classes"),
        ("noise", {}, {"classifier_scale": -1}, "classifier_scale: expected a number from 0 to"),
        ("noise", {}, {"classifier": None, "classifier_scale": 2.0},
         "classifier_scale: expected a classifier with it, given none"),
        ("noise", {}, {"classifier": 3}, "classifier: expected a folder or an EncoderUNetModel"),
        ("noise", {}, {"scheduler": "edm_euler"}, "classifier: expected None for the sampler edm"),
        ("noise", {}, {"height": 20}, "expected one that reads 3 channels of 20x16, given one that"
                                      " reads 3 channels of 16x16"),
        ("noise", {"in_channels": 1}, {}, "given one that reads 1 channels of 16x16"),
        ("seven", {}, {}, "class_labels, which are 7 classes, given one of 10 classes"),
        ("vectors", {}, {}, "which are vectors, no classes, given one of 10"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:scheduler")
def test_what_does_not_fit_is_refused(own, tmp_path, kind, changes, call, text):
    adm_classifier.write(tmp_path, **changes)
    with pytest.raises(RequestError, match=text):
        draw(own(kind), tmp_path, **call)


@torch.no_grad()
def test_beside_classifier_free_guidance_of_latents(tmp_path):
    """DiT: both guide, the guided noise less the gradient; one picture has neither."""
    pipe = pyengine.from_pretrained(tiny.write_dit(tmp_path / "dit"), device="cpu")
    net, side = pipe.transformer, pipe.transformer.config.sample_size
    count = net.config.num_embeds_ada_norm
    plain = adm_classifier.write(
        tmp_path / "c", in_channels=4, image_size=side, out_channels=count, pool="adaptive"
    )
    call = {
        "seed": [3, 4],
        "class_labels": [1, 2],
        "num_inference_steps": 4,
        "scheduler": "ddim",
        "output_type": "latent",
    }
    model = EncoderUNetModel.from_pretrained(tmp_path / "c")
    got = pipe(**call, guidance_scale=[3.0, 1.0], classifier=model, classifier_scale=SCALE).images
    x = torch.cat([torch.randn((1, 4, side, side), generator=g) for g in generators([3, 4])])
    labels, none = torch.tensor([1, 2]), torch.tensor([count, count])
    scheduler = diffusers.DDIMScheduler.from_config(
        diffusers.DiffusionPipeline.from_pretrained(tmp_path / "dit").scheduler.config
    )
    scheduler.set_timesteps(4)
    for t in scheduler.timesteps:
        away, towards = (net(x, t.expand(2), k).sample[:, :4] for k in (none, labels))
        scale = torch.tensor([3.0, 1.0])[:, None, None, None]
        g = SCALE * gradient(plain, x, t, labels)
        sigma = (1 - scheduler.alphas_cumprod[t]).sqrt()
        x = scheduler.step(away + scale * (towards - away) - sigma * g, t, x).prev_sample
    assert float((got - x).norm() / x.norm()) < 1e-4
    other = pipe(**call, guidance_scale=[3.0, 1.0]).images
    assert float((got - other).norm() / other.norm()) > 0.004


def test_the_command_line(folder, classifiers, tmp_path, capsys):
    """A picture remembers by what it was guided, and is made again by that alone."""
    place, made = str(classifiers[0]), tmp_path / "a.png"
    options = "--steps 3 --seed 5 --device cpu --classifier-scale 30 --class-label 3"
    first = ["generate", "-m", str(folder("noise")), "--classifier", place, *options.split()]
    assert main([*first, "-o", str(made)]) == 0
    settings = metadata.read(made)
    assert (settings.classifier_scale, settings.class_labels) == (30, 3)
    assert len(settings.classifier) == 64
    again = ["generate", "--from", str(made), "-m", str(folder("noise")), "-o"]
    assert main([*again, str(tmp_path / "b.png"), "--classifier", place]) == 0
    assert Image.open(made).tobytes() == Image.open(tmp_path / "b.png").tobytes()
    capsys.readouterr()
    assert main([*again, str(tmp_path / "c.png")]) == 2
    assert "the picture was guided by a classifier" in capsys.readouterr().err
