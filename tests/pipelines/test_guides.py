"""Gradients of a CLIP and of classifiers in every pipeline that denoises, against plain loops."""

import adm_classifier
import diffusers
import if_folders
import kandinsky_folders
import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from pairs import generators
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

import pyengine
from pyengine.errors import RequestError

CLASSIFIER_SCALE, STEPS = 200.0, 3
PROMPTS = ["a red heart", "two cats"]
DDIM = {"clip_sample": False, "beta_schedule": "linear"}
MEAN, STD = (
    torch.tensor(v).view(1, 3, 1, 1)
    for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
)


def noise_picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((60, 48), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """(folder, with a tokenizer, and the CLIP)."""
    place = tmp_path_factory.mktemp("clip")
    text = tiny.make_text_encoder().config.to_dict()
    vision = tiny.make_image_encoder().config.to_dict()
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    model = tiny.randomise(CLIPModel(config), 3).requires_grad_(False).eval()
    model.save_pretrained(place)
    tiny.write_tokenizer(place)
    return place, model


def embedded(found):
    return found if isinstance(found, torch.Tensor) else found.pooler_output


@torch.no_grad()
def of_texts(model, place, texts):
    tokenizer = CLIPTokenizer.from_pretrained(place)
    ids = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    return embedded(model.get_text_features(ids))


@torch.no_grad()
def of_images(model, images):
    side = model.config.vision_config.image_size
    size = {"shortest_edge": side}
    process = CLIPImageProcessor(size=size, crop_size={"height": side, "width": side})
    return embedded(model.get_image_features(process(images, return_tensors="pt").pixel_values))


def clip_gradient(model, x, clean, decode, targets, scale):
    """Of minus the summed squared distances of each picture to its targets [N, T, P], scaled."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        image = (decode(clean(leaf)) / 2 + 0.5).clamp(0, 1).expand(-1, 3, -1, -1)
        h, w = image.shape[2:]
        side = model.config.vision_config.image_size
        size = [side * s // min(h, w) for s in (h, w)]
        image = F.interpolate(image, size=size, mode="bilinear", antialias=True)
        top, left = ((s - side) // 2 for s in size)
        image = (image[..., top : top + side, left : left + side] - MEAN) / STD
        own = F.normalize(embedded(model.get_image_features(image)), dim=-1)
        chord = (own[:, None] - F.normalize(targets, dim=-1)).norm(dim=-1)
        loss = scale * (chord / 2).arcsin().pow(2).mul(2).sum()
        return -torch.autograd.grad(loss, leaf)[0]


def class_gradient(classifier, x, t, labels):
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        log_p = classifier(leaf, t.expand(len(x))).log_softmax(dim=-1)
        total = CLASSIFIER_SCALE * log_p[torch.arange(len(x)), labels].sum()
        return torch.autograd.grad(total, leaf)[0]


@torch.no_grad()
def loop(
    scheduler, shape, told, guided, decode, clip=None, targets=None, classifier=None, labels=None
):
    """Latents by DDIM, whose predicted noise is less by sigma gradient, or by DDPM, whose mean is
    more by variance gradient. told, guided: (x, t) to the network's output and the guided one.
    clip: a CLIP and its scale.
    """
    made = generators([7, 8])
    x = torch.cat([torch.randn((1, *shape), generator=g) for g in made])
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        abar = scheduler.alphas_cumprod[t]
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()

        def clean(leaf, t=t, alpha=alpha, sigma=sigma):
            predicted = (leaf - sigma * told(leaf, t)[:, : leaf.shape[1]]) / alpha
            return sigma * predicted + (1 - sigma) * leaf

        g = 0
        if clip is not None:
            g = g + clip_gradient(clip[0], x, clean, decode, targets, clip[1])
        if classifier is not None:
            g = g + class_gradient(classifier, x, t, labels)
        out = guided(x, t)[:, : x.shape[1]]
        if isinstance(scheduler, diffusers.DDPMScheduler):
            variance = scheduler._get_variance(t)
            x = scheduler.step(out, t, x, generator=made).prev_sample + variance * g
        else:
            x = scheduler.step(out - sigma * g, t, x).prev_sample
    return x


def both(unet, scale, away, towards):
    """(told, guided) of a network with classifier-free guidance; away, towards: its arguments."""

    def told(x, t):
        return unet(x, t, **towards).sample

    def guided(x, t):
        u, c = unet(x, t, **away).sample, told(x, t)
        return u + scale * (c - u)

    return told, guided


# --- each pipeline: (ours, its call, scheduler, shape, told, guided, decode) ----------------------


def stable_diffusion(place):
    folder = tiny.write_sd1(place, unet={"layers_per_block": 1})
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    text, negative = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    keys = [{"encoder_hidden_states": rows} for rows in (negative, text)]
    factor = pipe.vae_scale_factor
    call = {"prompt": PROMPTS, "height": 8 * factor, "width": 8 * factor, "guidance_scale": 3.0}
    decode = pipe.vae
    return (
        folder,
        pipe,
        call,
        (4, 8, 8),
        *both(pipe.unet, 3.0, *keys),
        lambda z: decode.decode(z / decode.config.scaling_factor).sample,
    )


def deepfloyd_if(place):
    # The encoder's mask is part of IF's prompt; ours are held to it by tests of their own.
    folder = if_folders.write(place, scheduler=diffusers.DDIMScheduler(**DDIM))
    pipe = diffusers.IFPipeline.from_pretrained(folder)
    text, negative = pipe.encode_prompt(PROMPTS, True)
    keys = [{"encoder_hidden_states": rows} for rows in (negative, text)]
    call = {"prompt": PROMPTS, "guidance_scale": 3.0}
    return (folder, pipe, call, (3, 16, 16), *both(pipe.unet, 3.0, *keys), lambda z: z)


def ddpm(place):
    folder = tiny.write_ddpm(place, scheduler=diffusers.DDIMScheduler(**DDIM))
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)

    def told(x, t):
        return pipe.unet(x, t).sample

    return folder, pipe, {"batch_size": 2}, (3, 16, 16), told, told, lambda z: z


def dit(place):
    folder = tiny.write_dit(place)
    pipe = diffusers.DiTPipeline.from_pretrained(folder)
    net = pipe.transformer
    side, none = net.config.sample_size, net.config.num_embeds_ada_norm
    labels = torch.tensor([1, 2])

    def predict(classes):
        return lambda x, t: net(x, t.expand(2), class_labels=classes).sample[:, :4]

    away, towards = predict(torch.tensor([none, none])), predict(labels)

    def guided(x, t):
        return away(x, t) + 3.0 * (towards(x, t) - away(x, t))

    call = {"class_labels": [1, 2], "guidance_scale": 3.0}
    return (
        folder,
        pipe,
        call,
        (4, side, side),
        towards,
        guided,
        lambda z: pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample,
    )


def kandinsky(place):
    folder = kandinsky_folders.write(
        place, scheduler=diffusers.DDIMScheduler(**kandinsky_folders.SCHEDULER)
    )
    pipe = diffusers.KandinskyV22Pipeline.from_pretrained(folder)
    rows = torch.randn(2, 2, kandinsky_folders.WIDTH, generator=torch.Generator().manual_seed(1))
    keys = [{"encoder_hidden_states": None, "added_cond_kwargs": {"image_embeds": r}} for r in rows]
    call = {
        "image_embeds": rows[1],
        "negative_image_embeds": rows[0],
        "guidance_scale": 3.0,
        "height": 16,
        "width": 16,
    }
    factor = 2 ** (len(pipe.movq.config.block_out_channels) - 1)
    return (
        folder,
        pipe,
        call,
        (4, 16 // factor, 16 // factor),
        *both(pipe.unet, 3.0, *keys),
        lambda z: pipe.movq.decode(z, force_not_quantize=True).sample,
    )


KINDS = (stable_diffusion, deepfloyd_if, ddpm, dit, kandinsky)
#: Of a random MoVQ's steep gradients a loop of more than that is chaos.
SCALES = dict.fromkeys(KINDS, 300.0) | {kandinsky: 0.3}


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    """systems(kind): (ours, the rest of what the kind's function gives)."""
    made = {}

    def find(kind):
        if kind not in made:
            folder, *rest = kind(tmp_path_factory.mktemp(kind.__name__) / "model")
            for part in rest[0].components.values():
                if isinstance(part, torch.nn.Module):
                    part.requires_grad_(False).eval()
            made[kind] = pyengine.from_pretrained(folder, device="cpu"), *rest
        return made[kind]

    return find


def draw(pipe, call, **more):
    return pipe(
        **{
            "seed": [7, 8],
            "num_inference_steps": STEPS,
            "output_type": "latent",
            "scheduler": "ddim",
            **call,
            **more,
        }
    ).images


def apart(got, want):
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_clip_guides_to_texts_and_pictures(systems, clip, kind):
    pipe, theirs, call, shape, told, guided, decode = systems(kind)
    place, model = clip
    images = [noise_picture(1), noise_picture(2)]
    targets = torch.stack(
        [of_texts(model, place, ["a tree", "a boat"]), of_images(model, images)], dim=1
    )
    scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config)
    given = {"clip_model": place, "clip_guidance_scale": SCALES[kind]}
    calls = [({"clip_prompt": ["a tree", "a boat"], "clip_image": images}, targets)]
    if kind is ddpm:
        calls.append(({"clip_image": images}, targets[:, 1:]))
    for more, wanted in calls:
        want = loop(scheduler, shape, told, guided, decode, (model, SCALES[kind]), wanted)
        got = draw(pipe, call, **given, **more)
        assert apart(got, want) < 1e-3
    plain = draw(pipe, call)
    assert apart(got, plain) > 0.004
    off = {**given, "clip_guidance_scale": 0, "clip_image": images}
    assert torch.equal(draw(pipe, call, **off), plain)


@pytest.mark.parametrize("sampler", ["DDIMScheduler", "DDPMScheduler"])
@pytest.mark.parametrize("kind", [stable_diffusion, deepfloyd_if, kandinsky])
def test_classifiers_beside_prompts(systems, clip, tmp_path, kind, sampler):
    """With a CLIP besides: both gradients are added up."""
    pipe, theirs, call, shape, told, guided, decode = systems(kind)
    plain = adm_classifier.write(
        tmp_path, in_channels=shape[0], image_size=shape[1], pool="adaptive"
    )
    scheduler = getattr(diffusers, sampler).from_config(theirs.scheduler.config)
    labels = torch.tensor([3, 8])
    given = {
        "classifier": tmp_path,
        "classifier_scale": CLASSIFIER_SCALE,
        "class_labels": [3, 8],
        "scheduler": sampler,
    }
    want = loop(scheduler, shape, told, guided, decode, classifier=plain, labels=labels)
    got = draw(pipe, call, **given)
    assert apart(got, want) < 1e-4
    unguided = draw(pipe, call, scheduler=sampler)
    assert apart(got, unguided) > 0.004
    assert torch.equal(draw(pipe, call, **given | {"classifier_scale": 0}), unguided)
    if sampler == "DDIMScheduler":
        targets = of_images(clip[1], [noise_picture(1), noise_picture(2)])[:, None]
        own = clip[1], SCALES[kind]
        want = loop(scheduler, shape, told, guided, decode, own, targets, plain, labels)
        got = draw(
            pipe,
            call,
            **given,
            clip_model=clip[0],
            clip_guidance_scale=own[1],
            clip_image=[noise_picture(1), noise_picture(2)],
        )
        assert apart(got, want) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_bits(systems, clip, use_threads, kind):
    """Alone, on other threads and beside unguided ones: the same."""
    pipe, _, call, *_ = systems(kind)
    given = {
        "clip_model": clip[0],
        "clip_guidance_scale": SCALES[kind],
        "clip_prompt": "a tree",
        "clip_image": noise_picture(3),
    }
    use_threads(1)
    pair, plain = draw(pipe, call, **given), draw(pipe, call)
    use_threads(3)
    first = {name: v[:1] if isinstance(v, list | torch.Tensor) else v for name, v in call.items()}
    first |= {"batch_size": 1} if "batch_size" in call else {}
    shared = {"seed": 7, "num_inference_steps": STEPS, "output_type": "latent", "scheduler": "ddim"}
    jobs = [pipe.prepare(pipe.request(**{**shared, **first, **own}))[0] for own in (given, {})]
    while any(job.active for job in jobs):
        pipe.step([job for job in jobs if job.active])
    for job, want in zip(jobs, (pair, plain), strict=True):
        assert torch.equal(pipe.finish(job).reshape(want[0].shape), want[0])


# --- what is kept, what is refused ----------------------------------------------------------------


def test_models_are_loaded_once(systems, clip, monkeypatch, tmp_path):
    """A folder is read again only after its files have changed; two are held, not more."""
    from pyengine.pipelines import clip_guides

    pipe, _, call, *_ = systems(ddpm)
    loads = []
    load = clip_guides.load_clip
    monkeypatch.setattr(clip_guides, "load_clip", lambda *a: loads.append(a) or load(*a))
    given = {"clip_prompt": "a tree", "clip_guidance_scale": 300}
    places = []
    for k in range(3):
        place = tmp_path / str(k)
        place.mkdir()
        for file in clip[0].iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        places.append(place)
    want = draw(pipe, call, clip_model=places[0], **given)
    assert torch.equal(draw(pipe, call, clip_model=str(places[0]), **given), want)
    assert len(loads) == 1
    for place in places[1:]:
        draw(pipe, call, clip_model=place, **given)
    assert len(pipe._kept._found) == pipe._kept.MOST
    draw(pipe, call, clip_model=places[0], **given)
    assert len(loads) == 4
    other = tiny.randomise(CLIPModel(clip[1].config), 9)
    other.save_pretrained(places[0])
    changed = draw(pipe, call, clip_model=places[0], **given)
    assert len(loads) == 5
    assert not torch.equal(changed, want)


@pytest.mark.parametrize(
    ("kind", "call", "text"),
    [
        (ddpm, {}, "clip_model: expected a prompt in words with it, or clip_prompt or clip_image"),
        (dit, {"clip_prompt": ["a"] * 3}, "clip_prompt: expected 1 or 2 texts, given '3 texts'"),
        (kandinsky, {"clip_image": [noise_picture(1)] * 3}, "clip_image: expected 1 or 2 pictures"),
        (deepfloyd_if, {"clip_image": 3}, "clip_image: expected a PIL picture"),
        (stable_diffusion, {"clip_model": None, "clip_image": noise_picture(1)},
         "clip_image: expected a clip_model with it, given none"),
        (stable_diffusion, {"clip_model": None, "clip_prompt": "a"},
         "clip_prompt: expected a clip_model with it, given none"),
        (stable_diffusion, {"clip_model": None, "class_labels": 3},
         "class_labels: this model knows no classes: expected a classifier with them"),
        (deepfloyd_if, {"clip_model": None, "class_labels": 3},
         "class_labels: this model knows no classes: expected a classifier with them"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(systems, clip, kind, call, text):
    pipe, _, own, *_ = systems(kind)
    with pytest.raises(RequestError, match=text):
        draw(pipe, own, **{"clip_model": clip[0], **call})


def test_classes_of_a_call_with_prompts(systems, tmp_path):
    pipe, _, call, *_ = systems(deepfloyd_if)
    adm_classifier.write(tmp_path, image_size=16, pool="adaptive")
    given = {"classifier": tmp_path, "num_images_per_prompt": 2, "seed": [1, 2, 3, 4]}
    one = draw(pipe, call, **given, class_labels=3)
    assert torch.equal(draw(pipe, call, **given, class_labels=[3, 3]), one)
    mixed = draw(pipe, call, **given, class_labels=[3, 3, 3, 5])
    assert torch.equal(mixed[:3], one[:3])
    assert not torch.equal(mixed[3], one[3])
    for labels, text in (
        ([1, 2, 3], "class_labels: expected 1 or 2 or 4 classes, given '3 classes'"),
        (None, "class_labels: this model draws classes"),
        (10, "class_labels: expected a whole number from 0 to 9"),
    ):
        with pytest.raises(RequestError, match=text):
            draw(pipe, call, **given, class_labels=labels)
    with pytest.raises(RequestError, match="expected one that reads 3 channels of 20x16"):
        draw(pipe, call, **given, class_labels=3, height=20)


def test_an_inpainting_unet(clip, tmp_path):
    """Its input beside the latents is told to the gradient's network, too."""
    folder = tiny.write_sd1(tmp_path, unet={"in_channels": 9, "layers_per_block": 1})
    pipe = pyengine.from_pretrained(folder, device="cpu")
    mask = Image.fromarray(np.repeat([[0, 255]], 32, axis=0).astype(np.uint8)).resize((32, 32))
    call = {
        "prompt": PROMPTS,
        "image": noise_picture(4),
        "mask_image": mask,
        "height": 32,
        "width": 32,
    }
    plain = draw(pipe, call)
    got = draw(pipe, call, clip_model=clip[0], clip_guidance_scale=300)
    assert apart(got, plain) > 0.001
    first = {**call, "prompt": PROMPTS[1:], "seed": 8}
    alone = draw(pipe, first, clip_model=clip[0], clip_guidance_scale=300)
    assert torch.equal(alone[0], got[1])
