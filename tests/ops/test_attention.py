"""What attention does beyond the promises."""

import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from instruction_sets import ISAS

from pyengine import ops
from pyengine.errors import RequestError, UnavailableError
from pyengine.ops._backend import choose

MODULE = import_module("pyengine.ops.attention")  # pyengine.ops.attention is the function


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
    k[:, 4:] = float("nan")
    assert torch.equal(ops.attention(q, k, v, 2, causal=True)[:, :4], before[:, :4])


def test_masked_keys_do_not_count():
    q, k, v = torch.randn(3, 2, 6, 8)
    mask = torch.zeros(6)
    mask[3:] = float("-inf")
    torch.testing.assert_close(
        ops.attention(q, k, v, 2, mask=mask), ops.attention(q, k[:, :3], v[:, :3], 2)
    )


INFINITY = float("inf")


def _bits(x):
    return x.contiguous().view(torch.int32 if x.dtype == torch.float32 else torch.int16)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(isa, causal, dtype, use_isa):
    """Nor on how many there are: rows are computed in groups, of which the last is not full."""
    use_isa(isa)
    q, k, v = (torch.randn(1, n, 2 * d).to(dtype) for n, d in ((150, 40), (290, 40), (290, 7)))
    whole = ops.attention(q, k, v, 2, causal=causal)
    for first, last in ((0, 1), (0, 37), (0, 149)) if causal else ((0, 1), (33, 34), (5, 150)):
        part = ops.attention(q[:, first:last], k, v, 2, causal=causal)
        assert torch.equal(_bits(part), _bits(whole[:, first:last]))


def test_views_are_read_in_place_and_others_copied():
    fused = torch.randn(2, 9, 3 * 24)
    q, k, v = fused.chunk(3, dim=-1)
    want = ops.attention(q.contiguous(), k.contiguous(), v.contiguous(), 3)
    columns = q.mT.contiguous().mT  # its last dimension is not contiguous
    repeated = k[:1].expand(2, -1, -1)
    assert torch.equal(ops.attention(q, k, v, 3), want)
    assert torch.equal(ops.attention(columns, k, v, 3), want)
    assert torch.equal(
        ops.attention(q, repeated, v, 3), ops.attention(q, repeated.contiguous(), v, 3)
    )


@pytest.mark.parametrize(
    "shape", [(), (6,), (5, 1), (5, 6), (3, 1, 1), (3, 5, 6), (2, 1, 1, 6), (2, 3, 5, 6)]
)
def test_masks_broadcast(shape):
    q, k, v = torch.randn(2, 5, 12), torch.randn(2, 6, 12), torch.randn(2, 6, 12)
    mask = torch.randn(shape)
    arguments = {"heads": 3, "mask": mask}
    want = ops.reference.attention(q, k, v, **arguments)
    torch.testing.assert_close(ops.attention(q, k, v, **arguments), want)


@pytest.mark.parametrize("low", [-INFINITY, torch.finfo(torch.float32).min, -1e30])
def test_hidden_blocks_and_rows(low):
    """A row that sees no key is NaN under -inf and the mean of all values under a finite mask."""
    q, k, v = torch.randn(1, 40, 16), torch.randn(1, 300, 16), torch.randn(1, 300, 16)
    mask = torch.zeros(40, 300)
    mask[:, :150] = low  # the first block is hidden from all
    mask[7] = low
    got = ops.attention(q, k, v, 2, mask=mask)
    want = ops.reference.attention(q.double(), k.double(), v.double(), 2, mask=mask).float()
    torch.testing.assert_close(got, want, equal_nan=True)
    assert got[0, 7].isnan().all() == (low == -INFINITY)
    assert not got[0, 8:].isnan().any()


def test_large_scores_neither_overflow_nor_drown():
    q, k, v = torch.randn(3, 1, 260, 16)
    for scale in (1e4, -1e4, 1e30):
        got = ops.attention(q, k, v, 1, scale=scale)
        want = ops.reference.attention(q.double(), k.double(), v.double(), 1, scale=scale)
        # Where two keys tie to within rounding, that decides.
        best = (q.double() @ k.double().mT * scale).topk(2).values
        clear = (best[..., 0] - best[..., 1] >= 30 + 1e-5 * best[..., 0].abs()).squeeze(0)
        assert clear.float().mean() > 0.9
        torch.testing.assert_close(got[:, clear], want[:, clear].float(), rtol=1e-4, atol=1e-4)
        assert got.abs().max() <= v.abs().max() * (1 + 1e-6)
    got = ops.attention(q, k, v, 1, scale=0.0)
    torch.testing.assert_close(got, v.mean(dim=1, keepdim=True).expand_as(v), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
def test_nan_and_infinity_reach_their_rows_alone(isa, use_isa):
    use_isa(isa)
    q, k, v = torch.randn(1, 20, 8), torch.randn(1, 130, 8), torch.randn(1, 130, 8)
    q[0, 3, 5], q[0, 17, 0] = float("nan"), INFINITY
    got = ops.attention(q, k, v, 1)
    assert got[0, [3, 17]].isnan().all()
    assert not got[0, [0, 1, 2, 4, 16, 18, 19]].isnan().any()
    k[0, 129, 2] = float("nan")
    assert ops.attention(q, k, v, 1).isnan().all()


@pytest.mark.parametrize("isa", ISAS)
def test_weights_are_exact_to_the_last_places(isa, use_isa):
    """Two keys, one of score 0 and weight 1, so that the other's is exp of its score."""
    use_isa(isa)
    x = torch.cat([torch.linspace(-87, 0, 4001), torch.tensor([-88.0, -1e3, -INFINITY])])
    q = torch.ones(1, 1, 1)
    k, v = torch.zeros(1, 2, 1), torch.tensor([[[0.0], [1.0]]])
    mask = torch.stack([torch.zeros_like(x), x], dim=-1)
    got = ops.attention(q.expand(1, len(x), 1), k, v, 1, mask=mask)[0, :, 0].double()
    want = x.double().sigmoid()
    # x * log2(e) is rounded to float32: half a unit of at most 64 there, times ln 2.
    assert ((got[:-3] - want[:-3]).abs() <= want[:-3] * (2**-22 + x[:-3].abs() * 2**-23)).all()
    assert got[-2:].eq(0).all()


def test_many_heads_are_packed_in_several_waves():
    """More keys and values than are packed at once: 40 heads of 2 x 1040 x 64 floats."""
    q, k, v = torch.randn(2, 3, 20 * 64), torch.randn(2, 1040, 1280), torch.randn(2, 1040, 1280)
    together = ops.attention(q, k, v, 20)
    for head in (0, 19):
        columns = slice(64 * head, 64 * head + 64)
        alone = ops.attention(q[..., columns], k[..., columns], v[..., columns], 1)
        assert torch.equal(together[..., columns], alone)


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


@pytest.mark.parametrize(
    ("dtype", "width", "mask", "name"),
    [
        (torch.bfloat16, 40, None, "triton"),
        (torch.float16, 64, torch.zeros(9), "triton"),
        (torch.float16, 64, None, "torch"),
        (torch.bfloat16, 80, None, "torch"),
        (torch.float16, 512, torch.zeros(9), "torch"),
        (torch.float32, 40, torch.zeros(9), "torch"),
        (torch.float64, 40, None, "reference"),
    ],
)
@pytest.mark.parametrize("batch", [1, 30])
def test_a_gpus_backend_is_chosen_by_one_pictures_shape(dtype, width, mask, name, batch):
    q = torch.empty(batch, 9, 2 * width, dtype=dtype, device="meta")
    assert chosen_for_gpus(q, q, mask=mask) == name


def chosen_for_gpus(q, k, **more):
    return choose(
        "attention",
        ops.OPS["attention"].table,
        "cuda",
        q.dtype,
        False,
        lambda row: row.serves is None or row.serves(q, k, k, 2, **more),
    ).name


@pytest.fixture
def flash_3(monkeypatch):
    """A stand-in for FlashAttention 3 on a Hopper GPU: its signature, layout and causal corner."""
    module, calls = ModuleType(MODULE.FLASH_3), []

    def flash_attn_func(q, k, v, softmax_scale=None, causal=False, *, num_splits=0):
        calls.append(num_splits)
        assert {t.stride(3) for t in (q, k, v)} == {1}
        assert not any(t.stride(i) * t.itemsize % 16 for t in (q, k, v) for i in range(3))
        dtype, (q, k, v) = q.dtype, (t.transpose(1, 2).double() for t in (q, k, v))
        lower_right = torch.ones(q.shape[2], k.shape[2]).tril(k.shape[2] - q.shape[2]).bool()
        mask = lower_right if causal else None
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=softmax_scale)
        return module.answer(y.transpose(1, 2).to(dtype))

    module.flash_attn_func, module.answer, module.calls = flash_attn_func, lambda y: y, calls
    monkeypatch.setitem(sys.modules, MODULE.FLASH_3, module)
    monkeypatch.setattr(MODULE, "_flash_3_installed", lambda: True)
    monkeypatch.setattr(MODULE, "_is_hopper", lambda device: True)
    return module


@pytest.mark.parametrize(
    ("dtype", "width", "more", "name"),
    [
        (torch.bfloat16, 64, {}, "flash-attention-3"),
        (torch.float16, 256, {"causal": True}, "flash-attention-3"),
        (torch.bfloat16, 40, {}, "triton"),
        (torch.float16, 64, {"mask": torch.zeros(9)}, "triton"),
        (torch.bfloat16, 32, {}, "torch"),
        (torch.bfloat16, 50, {}, "torch"),
        (torch.bfloat16, 264, {}, "torch"),
        (torch.float32, 64, {}, "torch"),
    ],
)
def test_where_flash_attention_3_runs(dtype, width, more, name, flash_3, monkeypatch):
    q = torch.empty(3, 9, 2 * width, dtype=dtype, device="meta")
    assert chosen_for_gpus(q, q, **more) == name
    if name == "flash-attention-3":
        assert chosen_for_gpus(q[:, :4], q, causal=True) == "torch"
        assert chosen_for_gpus(q[:, :4], q) == name
        monkeypatch.setattr(MODULE, "_is_hopper", lambda device: False)
        assert chosen_for_gpus(q, q, **more) == "torch"


@pytest.mark.parametrize("answer", [lambda y: y, lambda y: (y, y.sum(-1))], ids=["y", "y-and-lse"])
@pytest.mark.parametrize("more", [{}, {"causal": True}, {"scale": 0.3}], ids=str)
def test_what_flash_attention_3_is_asked(answer, more, flash_3):
    flash_3.answer = answer
    function = MODULE._load_flash_3()
    fused = torch.randn(2, 9, 3 * 2 * 56, dtype=torch.bfloat16)
    q, k, v = fused.chunk(3, dim=-1)
    off = torch.randn(2 * 9 * 112 + 1, dtype=torch.bfloat16)[1:].view(2, 9, 112)
    for operands in ((q, k, v), (q, off, off), (q, k.mT.contiguous().mT, v)):
        expected = ops.attention(*(t.double() for t in operands), 2, **more).bfloat16()
        torch.testing.assert_close(function(*operands, 2, **more), expected)
    assert set(flash_3.calls) == {1}


def test_a_flash_attention_3_that_is_broken_or_old_is_told(flash_3, monkeypatch):
    flash_3.flash_attn_func = lambda q, k, v, softmax_scale=None, causal=False: None
    with pytest.raises(UnavailableError, match=r"is no use .*num_splits"):
        MODULE._load_flash_3()
    monkeypatch.setitem(sys.modules, MODULE.FLASH_3, None)
    with pytest.raises(UnavailableError, match=r"is no use .*ModuleNotFoundError"):
        MODULE._load_flash_3()


def test_flash_attention_3_is_not_imported_before_it_runs(tmp_path):
    (tmp_path / f"{MODULE.FLASH_3}.py").write_text("raise SystemExit('imported')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import torch, pyengine.ops\n"
        "module = sys.modules['pyengine.ops.attention']\n"
        "assert module._flash_3_installed()\n"
        "x = torch.randn(1, 4, 128, dtype=torch.bfloat16)\n"
        "pyengine.ops.attention(x, x, x, 2)\n"
        "assert not module._flash_3_serves(x, x, x, 2)  # no GPU"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
