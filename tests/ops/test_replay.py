"""Functions of ops whose kernels are noted once and called again."""

import pytest
import torch
from instruction_sets import ISAS

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.ops._replay import unrecorded

WIDTH, HEADS, MOST = 24, 3, 12


class Layer:
    """A layer of a decoder, which counts how often it is called itself."""

    def __init__(self, between=lambda x: x):
        self.qkv = ops.pack_weight(torch.randn(3 * WIDTH, WIDTH) / WIDTH**0.5)
        self.out = ops.pack_weight(torch.randn(WIDTH, WIDTH) / WIDTH**0.5)
        self.gain = torch.rand(WIDTH) + 0.5
        self.tables = ops.rotary_table(torch.arange(MOST), WIDTH // HEADS, 1e4)
        self.keys, self.values = torch.zeros(2, 4, MOST, WIDTH)
        self.lengths = torch.tensor([0, 1, 2, 3])
        self.between, self.calls = between, 0
        self.replays = ops.Replays()

    def __call__(self, x):
        self.calls += 1
        y = ops.rms_norm(x, self.gain, 1e-6)
        q, k, v = ops.linear(y, self.qkv, out_features=3 * WIDTH).split(WIDTH, dim=-1)
        cache = self.keys, self.values, self.lengths
        q = ops.rotary_cache(q, k, v, *cache, HEADS, *self.tables)
        y = self.between(ops.decode_attention(q, *cache, HEADS))
        return ops.linear(y, self.out, residual=x, out_features=WIDTH)

    def replayed(self, x):
        return self.replays(self, x, 0, lambda: vars(self).values())


def twins(**options):
    torch.manual_seed(5)
    one = Layer(**options)
    torch.manual_seed(5)
    return one, Layer(**options)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_same_bits_without_calling_the_function(isa, mode, use_isa):
    use_isa(isa)
    (one, other), kept = twins(), []
    with mode():
        for i in range(6):
            x = torch.randn(4, 1, WIDTH)
            with ops.kernels_used() as replayed:
                got = one.replayed(x)
            with ops.kernels_used() as called:
                want = other(x)
            kept.append((got, want))
            assert replayed == called
            assert one.calls == min(i + 1, 2)
            one.lengths += 1
            other.lengths += 1
    assert all(torch.equal(got, want) for got, want in kept)
    assert torch.equal(one.keys, other.keys)
    assert torch.equal(one.values, other.values)


def test_every_shape_number_of_threads_and_instruction_set_has_its_own(use_threads, use_isa):
    one, other = twins()
    with torch.no_grad():
        for _ in range(3):
            for length in (1, 2):
                for threads in (1, 2):
                    for isa in ("portable", "avx2"):
                        use_isa(isa)
                        use_threads(threads)
                        x = torch.randn(4, length, WIDTH)
                        assert torch.equal(one.replayed(x), other(x))
    assert one.calls == 2 * 8


def test_a_full_cache_is_the_same_error():
    (one, _), x = twins(), torch.randn(4, 1, WIDTH)
    with torch.no_grad():
        for _ in range(3):
            one.replayed(x)
        one.lengths[2] = MOST
        before = one.keys.clone()
        with pytest.raises(RequestError, match="rotary_cache: lengths"):
            one.replayed(x)
    assert torch.equal(one.keys, before)


@pytest.mark.parametrize(
    "between", [lambda y: y * 2, lambda y: y.flip(-1), lambda y: torch.cat([y, y])[:4], torch.clone]
)
def test_what_torch_computes_is_not_left_out(between):
    one, other = twins(between=between)
    with torch.no_grad():
        for i in range(4):
            x = torch.randn(4, 1, WIDTH)
            assert torch.equal(one.replayed(x), other(x))
            assert one.calls == i + 1


def test_kernels_that_are_not_known_to_repeat_are_not_left_out():
    x, weight = torch.randn(2, 5, 5, 8), torch.randn(4, 3, 3, 8)
    replays, calls = ops.Replays(), []

    def convolve(x):
        calls.append(x)
        return ops.conv2d(x, weight)

    with torch.no_grad():
        for _ in range(4):
            assert torch.equal(replays(convolve, x, 0, list), ops.conv2d(x, weight))
    assert len(calls) == 4


def test_where_the_function_computes_something_else_nothing_is_noted_or_repeated():
    one, x = Layer(), torch.randn(4, 1, WIDTH)
    with torch.no_grad():
        want = [one.replayed(x) for _ in range(3)][-1]
        assert one.calls == 2
        one.between = lambda y: 2 * y
        with unrecorded():
            other = one.replayed(x)
        assert one.calls == 3
        assert not torch.equal(other, want)
        assert torch.equal(one.replayed(x), want)
        assert one.calls == 3


def test_gradients_other_backends_and_large_tensors_call_the_function():
    (one, _), x = twins(), torch.randn(4, 1, WIDTH)
    for _ in range(3):
        one.replayed(x)
    with torch.no_grad():
        for _ in range(3):
            with ops.force("reference"):
                one.replayed(x)
    assert one.calls == 6
    large, calls = torch.randn(50_000), []
    with torch.no_grad():
        for _ in range(3):
            ops.Replays()(lambda x: calls.append(1) or x, large, 0, list)
    assert len(calls) == 3


def test_memory_does_not_grow_with_shapes():
    one, _ = twins()
    with torch.no_grad():
        for _ in range(2):
            for rows in range(1, 9):
                for width in range(1, 17):
                    one.replays(lambda x: ops.swiglu(x), torch.randn(rows, 2 * width), 0, list)
    assert len(one.replays._known) <= 64


def test_a_shape_that_is_called_stays_while_others_come_and_go():
    (one, other), often = twins(), torch.randn(4, 1, WIDTH)
    with torch.no_grad():
        for _ in range(2):
            one.replayed(often)
        for rows in range(1, 200):
            one.replays(lambda x: ops.swiglu(x), torch.randn(rows, 2), 0, list)
            if rows % 50 == 0:
                assert torch.equal(one.replayed(often), other(often))
    assert one.calls == 2
