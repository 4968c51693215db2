"""Gradients through whole models, which only `differentiable` lets through."""

import copy
import statistics
import threading

import pytest
import tiny
import torch
from parity import LIMIT, load_pair, noise, relative_l2
from test_branches import SCALE, lora, merged
from test_unet import conditions, context_dim
from test_unet_seams import controls, inputs

from pyengine import ops
from pyengine.branches import Adapter, adapted
from pyengine.models import (
    AutoencoderKL,
    CLIPTextModel,
    UNet2DConditionModel,
    differentiable,
)

KINDS = {"sd1": {}, "sd2": tiny.SD2_UNET, "sdxl": tiny.SDXL_UNET}


def leaf(*shape, seed=0):
    return noise(*shape, seed=seed).requires_grad_()


def gradients(y, *inputs):
    """Of a weighted sum of y, so that no two of its elements can be taken for each other."""
    return torch.autograd.grad((y * noise(*y.shape, seed=99)).sum(), inputs)


def double(value):
    """A float64 copy of a network, a tensor or a dictionary of them."""
    if isinstance(value, dict):
        return {name: double(inner) for name, inner in value.items()}
    copied = copy.deepcopy(value).double()
    return copied.detach().requires_grad_() if isinstance(copied, torch.Tensor) else copied


@pytest.fixture(scope="module", params=KINDS)
def unets(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    theirs, ours = load_pair(tiny.make_unet(**KINDS[request.param]), UNet2DConditionModel, folder)
    return theirs.requires_grad_(False), ours


def test_a_unets_gradients_to_sample_and_text(unets):
    theirs, ours = unets
    x, text = leaf(2, 4, 7, 6), leaf(2, 5, context_dim(theirs.config), seed=1)
    times, given = torch.tensor([901, 17]), conditions(theirs.config, 2)
    want = gradients(theirs(x, times, text, **given).sample, x, text)
    with differentiable():
        got = gradients(ours(x, times, text, **given).sample, x, text)
    for one, other in zip(got, want, strict=True):
        assert relative_l2(one, other) < LIMIT


def test_gradients_to_residuals(unets):
    """To what a ControlNet puts in."""
    theirs, ours = unets
    control = controls(theirs)
    down = [tensor.requires_grad_() for tensor in control["down_block_additional_residuals"]]
    mid = control["mid_block_additional_residual"].requires_grad_()
    given = conditions(theirs.config, 2)
    want = gradients(theirs(*inputs(theirs), **given, **control).sample, mid, *down)
    with differentiable():
        got = gradients(ours(*inputs(theirs), **given, **control).sample, mid, *down)
    for one, other in zip(got, want, strict=True):
        assert relative_l2(one, other) < LIMIT


def test_gradients_beside_an_adapter(unets):
    theirs, ours = unets
    weights = lora(ours, 5)
    x, times, text = inputs(theirs)
    given = conditions(theirs.config, 2)
    whole = copy.deepcopy(theirs)
    whole.load_state_dict(merged(whole.state_dict(), weights, SCALE))
    x.requires_grad_()
    want = gradients(whole(x, times, text, **given).sample, x)
    with adapted([[(Adapter(ours, weights), SCALE)]] * 2), differentiable():
        got = gradients(ours(x, times, text, **given).sample, x)
    assert relative_l2(got[0], want[0]) < LIMIT
    assert relative_l2(gradients(theirs(x, times, text, **given).sample, x)[0], want[0]) > 0.05


def test_an_autoencoders_gradients(tmp_path):
    theirs, ours = load_pair(tiny.make_vae(), AutoencoderKL, tmp_path)
    theirs.requires_grad_(False)
    z, picture = leaf(2, 4, 3, 2), leaf(2, 3, 24, 16, seed=1)
    want = gradients(theirs.decode(z).sample, z)
    want += gradients(theirs.encode(picture).latent_dist.mean, picture)
    want += gradients(theirs.encode(picture).latent_dist.std, picture)
    with differentiable():
        got = gradients(ours.decode(z).sample, z)
        got += gradients(ours.encode(picture).latent_dist.mean, picture)
        got += gradients(ours.encode(picture).latent_dist.std, picture)
    for one, other in zip(got, want, strict=True):
        assert relative_l2(one, other) < LIMIT


def test_a_text_encoders_gradient_to_its_table(tmp_path):
    """What an embedding is learned by."""
    theirs, ours = load_pair(tiny.make_text_encoder(), CLIPTextModel, tmp_path)
    table = theirs.get_input_embeddings().weight.requires_grad_()
    own = ours.text_model.embeddings.token_embedding.weight.requires_grad_()
    ids = torch.arange(14).view(2, 7) % 5
    want = gradients(theirs(ids).last_hidden_state, table)
    with differentiable():
        got = gradients(ours(ids).last_hidden_state, own)
    assert relative_l2(got[0], want[0]) < LIMIT


def test_through_the_decoder_and_the_unet(unets, tmp_path):
    """As guidance by CLIP needs it: the gradient of a picture's number to the latents.

    Against float64: the chain is so long that two float32 gradients lie up to 1.3e-5 apart. The
    middle of five draws, since one may lie where the chain is steep: torch's own is 2e-5 off then.
    """
    theirs, ours = unets
    their_vae, our_vae = load_pair(tiny.make_vae(), AutoencoderKL, tmp_path)
    given = conditions(theirs.config, 1)
    exact_unet, exact_vae, exact_given = double(theirs), double(their_vae), double(given)

    def picture(unet, vae, x, text, given):
        return vae.decode(0.9 * x - 0.4 * unet(x, 500, text, **given).sample).sample

    def off(seed):
        x, text = (
            leaf(1, 4, 4, 4, seed=seed),
            noise(1, 5, context_dim(theirs.config), seed=seed + 1),
        )
        exact = double(x)
        want = gradients(picture(exact_unet, exact_vae, exact, double(text), exact_given), exact)
        with differentiable():
            got = gradients(picture(ours, our_vae, x, text, given), x)
        return relative_l2(got[0].double(), want[0])

    assert statistics.median(off(10 * draw) for draw in range(5)) < LIMIT


def test_outside_of_the_block_nothing_is_kept(unets):
    _, ours = unets
    x, text = leaf(1, 4, 8, 8), noise(1, 5, context_dim(ours.config), seed=1)
    given = conditions(ours.config, 1)

    def run(x):
        with ops.kernels_used() as used:
            return ours(x, 500, text, **given).sample, used.summary()

    plain, kernels = run(x)
    assert not plain.requires_grad
    assert all("reference" not in labels for labels in kernels.values())
    with differentiable():
        # Nothing asks for a gradient: the same kernels.
        constant, same = run(x.detach())
        assert not constant.requires_grad
        with torch.no_grad():
            held, held_kernels = run(x)
        traced, slow = run(x)
    assert torch.equal(constant, plain)
    assert torch.equal(held, plain)
    assert same == kernels == held_kernels
    assert traced.requires_grad
    assert "reference" in slow["conv2d"]
    assert relative_l2(traced.detach(), plain) < LIMIT
    after, kernels_after = run(x)
    assert torch.equal(after, plain)
    assert kernels_after == kernels


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_whatever_mode_the_caller_is_in(unets, mode):
    _, ours = unets
    x, text = leaf(1, 4, 8, 8), noise(1, 5, context_dim(ours.config), seed=1)
    with mode(), differentiable():
        y = ours(x, 500, text, **conditions(ours.config, 1)).sample
        assert gradients(y, x)[0].norm() > 0
    with mode():
        assert not ours(x, 500, text, **conditions(ours.config, 1)).sample.requires_grad


def test_other_threads_are_as_ever(unets):
    _, ours = unets
    x, text = leaf(1, 4, 8, 8), noise(1, 5, context_dim(ours.config), seed=1)
    found = []

    def run():
        found.append(ours(x, 500, text, **conditions(ours.config, 1)).sample.requires_grad)

    with differentiable():
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        run()
    assert found == [False, True]
