"""What vq_decode does beyond the promises."""

import pytest
import torch

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.ops import reference


def test_a_gather_has_the_codebooks_bits():
    codebook = torch.randn(30, 11)
    index = torch.randint(0, 30, (3, 4, 5))
    assert torch.equal(ops.vq_decode(index, codebook), codebook[index])
    assert torch.equal(ops.vq_decode(torch.tensor(7), codebook), codebook[7])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folded_codebook_has_the_bits_of_the_convolution(dtype):
    torch.manual_seed(1)
    codebook, weight = torch.randn(30, 11).to(dtype), torch.randn(20, 11, dtype=dtype)
    bias, index = torch.randn(20, dtype=dtype), torch.randint(0, 30, (3, 40))
    folded = ops.fold_codebook(codebook, weight, bias)
    assert folded.shape == (30, 20)
    assert torch.equal(ops.vq_decode(index, folded), ops.vq_decode(index, codebook, weight, bias))


@pytest.mark.parametrize("residual", [False, True])
def test_codebooks_of_several_parts_fold_to_a_sum(residual):
    torch.manual_seed(2)
    codebook, index = torch.randn(3, 30, 5), torch.randint(0, 30, (7, 3))
    weight, bias = torch.randn(20, 5 if residual else 15), torch.randn(20)
    folded = ops.fold_codebook(codebook, weight, bias, residual=residual)
    assert folded.shape == (3, 30, 20)
    want = reference.vq_decode(
        index, codebook.double(), weight.double(), bias.double(), residual=residual
    )
    got = ops.vq_decode(index, folded, residual=True)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def test_what_was_quantised_comes_back():
    torch.manual_seed(3)
    codebook = torch.randn(50, 6)
    index = torch.randint(0, 50, (40,))
    assert torch.equal(ops.vq_argmin(ops.vq_decode(index, codebook), codebook), index)


@pytest.mark.parametrize("bad", [-1, 9, 2**40, -(2**62)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_index_outside_is_refused_before_it_is_used(bad, dtype):
    index = torch.tensor([[0, 8], [bad, 3]])
    with pytest.raises(RequestError, match=rf"indices: expected values from 0 to 8, got {bad}"):
        ops.vq_decode(index, torch.ones(9, 4, dtype=dtype))
    with pytest.raises(RequestError, match="indices: expected values from 0 to 8"):
        ops.vq_decode(index, torch.ones(2, 9, 4, dtype=dtype), residual=True)


def test_gradients_reach_the_codebook():
    codebook = torch.randn(5, 3, requires_grad=True)
    ops.vq_decode(torch.tensor([1, 1, 4]), codebook).sum().backward()
    assert torch.equal(codebook.grad.sum(dim=1), torch.tensor([0.0, 6.0, 0.0, 0.0, 3.0]))


def test_empty_batches_and_strides():
    codebook = torch.randn(9, 4)
    assert ops.vq_decode(torch.empty(0, 3, dtype=torch.int64), codebook).shape == (0, 3, 4)
    index = torch.randint(0, 9, (6, 5))
    assert torch.equal(ops.vq_decode(index.T, codebook.T.contiguous().T), codebook[index.T])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"indices": torch.ones(3)}, "indices: expected dtype torch.int64, got torch.float32"),
        ({"codebook": torch.ones(9)}, r"codebook: expected shape \[K, d\] or \[G, K, d\]"),
        ({"codebook": torch.ones(2, 9, 4)}, "indices: expected 2 in the last dimension"),
        ({"residual": True}, r"codebook: expected shape \[G, K, d\] for residual levels"),
        ({"weight": torch.ones(7, 5)}, r"weight: expected shape \[\*, 4\], got \[7, 5\]"),
        ({"bias": torch.ones(7)}, "bias: expected a weight with it"),
        ({"weight": torch.ones(7, 4), "bias": torch.ones(4)}, r"bias: expected shape \[7\]"),
        ({"codebook": torch.ones(9, 4).int()}, "expected a floating-point dtype"),
    ],
)
def test_refusals(change, complaint):
    arguments = {"indices": torch.zeros(3, dtype=torch.int64), "codebook": torch.ones(9, 4)}
    with pytest.raises(RequestError, match=f"vq_decode: .*{complaint}|{complaint}"):
        ops.vq_decode(**arguments | change)
