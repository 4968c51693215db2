"""U-Nets whose kernels are noted once for each shape and called again without Python between."""

import copy
import threading

import pytest
import tiny
import torch
from parity import load_pair, noise

from pyengine.models import UNet2DConditionModel, UNet2DModel
from pyengine.ops._replay import unrecorded

WIDTH = 32


def load(folder, **stored):
    """(a model, how often its blocks were called from Python)."""
    made = tiny.make_unet(cross_attention_dim=WIDTH)
    _, model = load_pair(made, UNet2DConditionModel, folder, **stored)
    return model, counted(model)


def counted(model) -> list[int]:
    calls, run = [], model._run

    def counting(*args):
        calls.append(1)
        return run(*args)

    model._run = counting
    return calls


def plainly(model, *args, **kwargs):
    with unrecorded():
        return model(*args, **kwargs).sample


def inputs(i: int, n: int = 2, side: int = 8, tokens: int = 7):
    x = noise(n, 4, side, side + 4, seed=i)
    return x, torch.tensor([37 * i + 3.0] * n), noise(n, tokens, WIDTH, seed=100 + i)


def test_the_same_bits_without_calling_the_blocks(tmp_path):
    model, calls = load(tmp_path)
    kept = []
    for i in range(6):
        with_own = inputs(i)
        kept.append((model(*with_own).sample, plainly(model, *with_own)))
        assert len(calls) - (i + 1) == min(i + 1, 2)  # the plain ones besides
    assert all(torch.equal(got, want) for got, want in kept)


def test_a_text_that_stays_and_one_that_comes_anew(tmp_path):
    model, _ = load(tmp_path)
    contexts = [model.encode_context(inputs(i)[2]) for i in range(2)]
    for step, which in enumerate([0, 0, 0, 0, 1, 1, 0]):
        x, t, _ = inputs(step)
        assert torch.equal(
            model(x, t, contexts[which]).sample, plainly(model, x, t, contexts[which])
        )


@pytest.mark.parametrize("classes", [None, 10])
def test_of_pixel_diffusion(classes, tmp_path):
    _, model = load_pair(tiny.make_unet2d(num_class_embeds=classes), UNet2DModel, tmp_path)
    calls = counted(model)
    for i in range(5):
        labels = None if classes is None else torch.tensor([i, 2 * i])
        given = noise(2, 3, 12, 8, seed=i), torch.tensor([5.0 * i, 900.0]), labels
        assert torch.equal(model(*given).sample, plainly(model, *given))
    assert len(calls) == 5 + 2


def test_every_shape_and_number_of_threads_has_its_own(tmp_path):
    model, calls = load(tmp_path)
    before = torch.get_num_threads()
    try:
        for _ in range(3):
            for threads in (1, 2):
                torch.set_num_threads(threads)
                for n, side, tokens in [(1, 8, 7), (3, 8, 7), (3, 9, 7), (1, 8, 9)]:
                    given = inputs(1, n, side, tokens)
                    assert torch.equal(model(*given).sample, plainly(model, *given))
    finally:
        torch.set_num_threads(before)
    assert len(calls) == 3 * 8 + 2 * 8


def test_weights_that_were_written_to_or_replaced_are_seen(tmp_path):
    model, _ = load(tmp_path)
    for i in range(3):
        model(*inputs(i))
    given = inputs(4)
    with torch.no_grad():
        model.conv_out.bias.add_(1)
    written = model(*given).sample
    assert torch.equal(written, plainly(model, *given))
    model.conv_out.bias = torch.nn.Parameter(model.conv_out.bias + 2, requires_grad=False)
    replaced = [model(*given).sample for _ in range(3)]
    assert all(torch.equal(got, plainly(model, *given)) for got in replaced)
    torch.testing.assert_close(replaced[0], written + 2)


def test_hooks_of_parts_are_called(tmp_path):
    model, _ = load(tmp_path)
    for i in range(3):
        model(*inputs(i))
    seen = []
    handle = model.mid_block.register_forward_hook(lambda *_: seen.append(1))
    for i in range(3):
        model(*inputs(i))
    handle.remove()
    for i in range(3):
        assert torch.equal(model(*inputs(i)).sample, plainly(model, *inputs(i)))
    assert len(seen) == 3


def test_threads_at_once(tmp_path):
    model, _ = load(tmp_path)
    want = [plainly(model, *inputs(i)) for i in range(4)]
    wrong = []

    def run(i):
        for _ in range(20):
            if not torch.equal(model(*inputs(i)).sample, want[i]):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_copy_computes_with_its_own_weights(tmp_path):
    model, _ = load(tmp_path)
    for i in range(3):
        model(*inputs(i))
    del model._run  # the counter, a closure over the first
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.conv_out.bias.add_(1)
    for i in range(4):
        assert torch.equal(other(*inputs(i)).sample, plainly(other, *inputs(i)))
        assert torch.equal(model(*inputs(i)).sample, plainly(model, *inputs(i)))


def test_gradients_go_through(tmp_path):
    from pyengine.models import differentiable

    model, _ = load(tmp_path)
    x, t, text = inputs(0)
    for _ in range(3):
        model(x, t, text)
    x.requires_grad_(True)
    with differentiable():
        model(x, t, text).sample.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
