"""Gradients that guide unCLIP's decoder, against diffusers' pipeline with its means moved."""

import adm_classifier
import pytest
import tiny
import torch
import torch.nn.functional as F
import unclip_folders
from pairs import generators, psnr
from transformers import CLIPConfig, CLIPModel

import pyengine
from pyengine.errors import RequestError

PROMPTS = ["a photo of the red cat", "the dog"]
FEW = {
    "prior_num_inference_steps": 2,
    "decoder_num_inference_steps": 4,
    "super_res_num_inference_steps": 2,
}
LABELS = [3, 8]
SCALE, CLIP_SCALE = 20.0, 300.0
MEAN, STD = (
    torch.tensor(v).view(1, 3, 1, 1)
    for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    return unclip_folders.pipeline(tmp_path_factory.mktemp("unclip"))


@pytest.fixture(scope="module")
def own(tmp_path_factory, theirs):
    place = tmp_path_factory.mktemp("unclip") / "u"
    theirs.save_pretrained(place)
    return pyengine.from_pretrained(place, device="cpu")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """(folder, the plain module), of the decoder's pictures."""
    place = tmp_path_factory.mktemp("classifier")
    side = unclip_folders.SMALL
    return place, adm_classifier.write(place, image_size=side, attention_resolutions=[2])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """(folder, transformers' model)."""
    place = tmp_path_factory.mktemp("clip")
    text = tiny.make_text_encoder().config.to_dict()
    vision = tiny.make_image_encoder().config.to_dict()
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    model = tiny.randomise(CLIPModel(config), 3).requires_grad_(False).eval()
    model.save_pretrained(place)
    return place, model


def embedded(found):
    return F.normalize(found if isinstance(found, torch.Tensor) else found.pooler_output, dim=-1)


class Moved:
    """The decoder's scheduler, means moved by variance * gradient(x, t): Dhariwal & Nichol
    2021, algorithm 1.
    """

    def __init__(self, scheduler, gradient):
        self.inner, self.gradient = scheduler, gradient

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def step(self, out, t, x, prev_timestep=None, **others):
        made = self.inner.step(out, t, x, prev_timestep=prev_timestep, **others)
        logarithm = self.inner._get_variance(
            t, predicted_variance=out[:, 3:], prev_timestep=prev_timestep
        )
        made.prev_sample = made.prev_sample + logarithm.exp() * self.gradient(x, t)
        return made


def of_classifier(module):
    def gradient(x, t):
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            log_p = module(leaf, torch.as_tensor(t).expand(len(x))).log_softmax(dim=-1)
            picked = log_p[torch.arange(len(x)), torch.tensor(LABELS)].sum()
            return SCALE * torch.autograd.grad(picked, leaf)[0]

    return gradient


def of_clip(pipe, model, words):
    """words: the texts to follow. The decoder is told what it was told last, without guidance."""
    told = {}
    pipe.decoder.register_forward_pre_hook(
        lambda _, args, kwargs: told.update(kwargs), with_kwargs=True
    )
    ids = pipe.tokenizer(words, padding="max_length", return_tensors="pt").input_ids
    wanted = embedded(model.get_text_features(ids))

    def gradient(x, t):
        abar = pipe.decoder_scheduler.alphas_cumprod[t]
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        half = {
            k: v.chunk(2)[1]
            for k, v in told.items()
            if isinstance(v, torch.Tensor) and v.dim() and k not in ("sample", "timestep")
        }
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            clean = (leaf - sigma * pipe.decoder(leaf, t, **half).sample[:, :3]) / alpha
            shown = ((sigma * clean + (1 - sigma) * leaf) / 2 + 0.5).clamp(0, 1)
            pixels = F.interpolate(shown, size=(32, 32), mode="bilinear", antialias=True)
            found = embedded(model.get_image_features((pixels - MEAN) / STD))
            loss = ((found - wanted).norm(dim=-1) / 2).arcsin().pow(2).mul(2).sum()
            return -CLIP_SCALE * torch.autograd.grad(loss, leaf)[0]

    return gradient


def draw(pipe, prompts=PROMPTS, seed=(7, 8), **call):
    given = {"decoder_guidance_scale": 3.0, "output_type": "np", **FEW, **call}
    return pipe(prompts, generator=generators(list(seed)), **given).images


@pytest.mark.parametrize("kind", ["classifier", "clip", "both"])
def test_pictures_are_the_papers(own, theirs, classifier, clip, kind):
    parts, call = [], {}
    if kind != "clip":
        parts.append(of_classifier(classifier[1]))
        call |= {"classifier": classifier[0], "classifier_scale": SCALE, "class_labels": LABELS}
    if kind != "classifier":
        parts.append(of_clip(theirs, clip[1], PROMPTS))
        call |= {"clip_model": clip[0], "clip_guidance_scale": CLIP_SCALE}
    plain, before = draw(theirs), theirs.decoder_scheduler
    theirs.decoder_scheduler = Moved(before, lambda x, t: sum(part(x, t) for part in parts))
    try:
        want = draw(theirs)
    finally:
        theirs.decoder_scheduler = before
        theirs.decoder._forward_pre_hooks.clear()
        theirs.decoder._forward_pre_hooks_with_kwargs.clear()
    assert psnr(draw(own, **call), want) >= 40
    assert psnr(plain, want) < 35


def test_bits(own, classifier, clip, use_threads):
    """Scale 0 is unguided; alone, in a batch, on other numbers of threads: the same."""
    guides = {"classifier": classifier[0], "class_labels": LABELS, "clip_model": clip[0]}
    on = {"classifier_scale": SCALE, "clip_guidance_scale": CLIP_SCALE}
    use_threads(1)
    call = {"output_type": "pt"}
    plain = draw(own, **call)
    off = dict.fromkeys(on, 0)
    assert torch.equal(draw(own, **call, **guides, **off), plain)
    both = draw(own, **call, **guides, **on)
    assert not torch.allclose(both, plain, rtol=1e-3)
    use_threads(3)
    alone = draw(own, PROMPTS[1], [8], **call, **on, **{**guides, "class_labels": LABELS[1]})
    assert torch.equal(alone[0], both[1])


def test_pictures_share_steps_with_unguided_ones(own, classifier):
    call = {"decoder_guidance_scale": 3.0, "output_type": "pt", **FEW}
    guide = {"classifier": classifier[0], "classifier_scale": SCALE, "class_labels": 3}
    jobs = [
        own.prepare(own.request(p, seed=s, **call, **more))[0]
        for p, s, more in zip(PROMPTS, (7, 8), (guide, {}), strict=True)
    ]
    while any(job.active for job in jobs):
        own.step([job for job in jobs if job.active])
    assert torch.equal(own.finish(jobs[0]), own(PROMPTS[0], seed=7, **call, **guide).images[0])
    assert torch.equal(own.finish(jobs[1]), own(PROMPTS[1], seed=8, **call).images[0])


def test_variations_are_guided(tmp_path, clip):
    place = unclip_folders.write(tmp_path / "v", variation=True)
    pipe = pyengine.from_pretrained(place, device="cpu")
    steps = {name: count for name, count in FEW.items() if not name.startswith("prior")}
    call = {
        "image_embeddings": torch.randn(1, unclip_folders.WIDTH, generator=generators(1)),
        "seed": 3,
        "output_type": "pt",
        **steps,
    }
    guides = {"clip_model": clip[0], "clip_guidance_scale": CLIP_SCALE}
    plain = pipe(**call).images
    assert not torch.allclose(
        pipe(**call, **guides, clip_prompt="the dog").images, plain, rtol=1e-3
    )
    with pytest.raises(RequestError, match="clip_model: expected a prompt in words with it"):
        pipe(**call, **guides)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"classifier_scale": 2.0}, "classifier_scale: expected a classifier with it"),
        ({"class_labels": 3}, "class_labels: this model knows no classes"),
        ({"clip_prompt": "a cat"}, "clip_prompt: expected a clip_model with it"),
    ],
)
def test_what_does_not_fit_is_refused(own, call, words):
    with pytest.raises(RequestError, match=words):
        own(PROMPTS, **FEW, **call)


def test_a_classifier_of_other_pictures_is_refused(own, tmp_path):
    adm_classifier.write(tmp_path)
    side = unclip_folders.SMALL
    with pytest.raises(RequestError, match=f"reads 3 channels of {side}x{side}, given one that"):
        own(PROMPTS, classifier=tmp_path, class_labels=LABELS, **FEW)
