"""What attention does beyond the promises."""

import pytest
import torch

from pyengine import ops
from pyengine.errors import RequestError


def test_heads_lie_side_by_side_in_the_last_dimension():
    """Each head alone gives its own columns."""
    q, k, v = torch.randn(2, 5, 24), torch.randn(2, 7, 24), torch.randn(2, 7, 12)
    together = ops.attention(q, k, v, 3)
    for head in range(3):
        wide, narrow = slice(8 * head, 8 * head + 8), slice(4 * head, 4 * head + 4)
        alone = ops.attention(q[..., wide], k[..., wide], v[..., narrow], 1)
        torch.testing.assert_close(together[..., narrow], alone)


def test_a_causal_row_does_not_see_what_follows():
    q, k, v = torch.randn(3, 1, 6, 8)
    before = ops.attention(q, k, v, 2, causal=True)
    k[:, 4:], v[:, 4:] = 99.0, -99.0
    assert torch.equal(ops.attention(q, k, v, 2, causal=True)[:, :4], before[:, :4])


def test_masked_keys_do_not_count():
    q, k, v = torch.randn(3, 2, 6, 8)
    mask = torch.zeros(6)
    mask[3:] = float("-inf")
    torch.testing.assert_close(
        ops.attention(q, k, v, 2, mask=mask), ops.attention(q, k[:, :3], v[:, :3], 2)
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"heads": 3}, "q: expected a width divisible by 3 heads"),
        ({"heads": 0}, "heads: expected at least 1, got 0"),
        ({"k": torch.ones(2, 5, 4)}, r"k: expected shape \[2, \*, 8\], got \[2, 5, 4\]"),
        ({"v": torch.ones(2, 4, 8)}, r"v: expected shape \[2, 6, \*\], got \[2, 4, 8\]"),
        ({"k": torch.ones(2, 0, 8)}, "k: expected at least one key"),
        ({"mask": torch.ones(2, 3)}, r"mask: expected a shape broadcastable to \[2, 2, 6, 6\]"),
        ({"mask": torch.ones(6, dtype=torch.bool)}, "mask: expected a floating-point dtype"),
        ({"q": torch.ones(6, 8)}, r"q: expected 3 dimensions"),
    ],
)
def test_refusals(change, complaint):
    x = torch.ones(2, 6, 8)
    arguments = {"q": x, "k": x, "v": x, "heads": 2} | change
    with pytest.raises(RequestError, match=f"attention: {complaint}"):
        ops.attention(**arguments)
