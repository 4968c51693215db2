"""The published formulas: from a module's tensors to the difference that they stand for.

LoRA: Hu et al. 2021, arXiv:2106.09685. DoRA: Liu et al. 2024, arXiv:2402.09353. LoHa: Hyeon-Woo et
al. 2021, arXiv:2108.06098. LoKr and the forms for convolutions (Tucker): Yeh et al. 2023,
arXiv:2309.14859 (LyCORIS). All are computed in float32 at least.

A difference stays a pair of factors wherever that takes less memory than the weight itself has;
LoHa of rank r is one of rank r^2, LoKr's of its own. Otherwise it is dense, as large as the weight.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..branches import Difference
from ..errors import CheckpointError

Tensors = Mapping[str, Tensor]

LORA = {"down", "up", "mid", "up_bias"}
HADA = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"}
LOKR = {
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
}  # fmt: skip
FULL = {"diff"}
#: Beside any of them.
BESIDE = {"alpha", "diff_b", "dora_scale", "magnitude"}
KINDS = {"LoRA": LORA, "LoHa": HADA, "LoKr": LOKR, "full": FULL}
#: What a kind cannot do without, one of these sets.
NEEDED = {
    "LoRA": [{"down", "up"}],
    "LoHa": [{"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}],
    "LoKr": [
        {w1, w2} | extra | more
        for w1, extra in (("lokr_w1", set()), ("lokr_w1_a", {"lokr_w1_b"}))
        for w2, more in (("lokr_w2", set()), ("lokr_w2_a", {"lokr_w2_b"}))
    ],
    "full": [{"diff"}],
}
MAX_RANK = 4096


def kind_of(leaves: set[str]) -> str | None:
    """Which of KINDS a module's tensors are, "bias" for a bias alone; None for none of them."""
    own = leaves - BESIDE
    if not own:
        return "bias" if "diff_b" in leaves and leaves <= {"diff_b", "alpha"} else None
    for kind, known in KINDS.items():
        if own <= known and any(needed <= own for needed in NEEDED[kind]):
            return kind
    return None


def difference(t: Tensors, shape: tuple[int, ...], weight: Tensor | None) -> Difference:
    """What a module's tensors, by leaf, are to a layer whose weight has this shape.

    t: of a kind that kind_of knows. weight: the layer's, float32, where t has DoRA's magnitude.
    Raises CheckpointError ("leaf: expected ..., found ...") for shapes that do not fit.
    """
    if len(shape) == 2:  # a 1x1 convolution that is computed as a matrix product
        t = {
            leaf: x.flatten(1) if x.dim() == 4 and x.shape[2:] == (1, 1) else x
            for leaf, x in t.items()
        }
    kind = kind_of(set(t))
    made = _MAKERS[kind](t, shape) if kind in _MAKERS else Difference()
    magnitude = t.get("dora_scale", t.get("magnitude"))
    if magnitude is not None:
        assert weight is not None
        made = _decomposed(made, magnitude, "dora_scale" in t, weight)
    bias = t.get("diff_b")
    if bias is not None:
        _expect("diff_b", bias, (shape[0],))
        made = _with_bias(made, bias.float())
    return made


# --- each kind ------------------------------------------------------------------------------------


def _lora(t: Tensors, shape: tuple[int, ...]) -> Difference:
    down, up, mid = t["down"], t["up"], t.get("mid")
    rank = _rank("down", down)
    if mid is not None:  # 1x1, kxk, 1x1: the first two are one convolution
        _expect("mid", mid, (None, rank, *shape[2:]))
        _expect("down", down, (rank, shape[1], *(1,) * (len(shape) - 2)))
        _check_rank("mid", mid.shape[0])
        down = torch.einsum("ab...,bi->ai...", mid.float(), down.float().flatten(1))
    else:
        _expect_size("down", down, rank, shape)
    out_rank = len(down)
    _expect_flat("up", up, (shape[0], out_rank))
    ratio = _alpha(t, rank)
    bias = t.get("up_bias")
    if bias is not None:
        _expect("up_bias", bias, (shape[0],))
        bias = ratio * bias.float()
    return Difference(
        down.reshape(out_rank, *shape[1:]), up.reshape(shape[0], out_rank), ratio, bias=bias
    )


def _loha(t: Tensors, shape: tuple[int, ...]) -> Difference:
    """(A1 B1) * (A2 B2), element by element; with t1, t2 each is a Tucker product."""
    a1, b1, a2, b2 = (t[f"hada_w{n}"].float() for n in ("1_a", "1_b", "2_a", "2_b"))
    rank = _rank("hada_w1_b", b1)
    other = _rank("hada_w2_b", b2)
    ratio = _alpha(t, rank)
    if "hada_t1" in t or "hada_t2" in t:
        factors = []
        for n, a, b, r in ((1, a1, b1, rank), (2, a2, b2, other)):
            core = t.get(f"hada_t{n}")
            if core is None:
                raise CheckpointError(f"hada_t{3 - n}: expected hada_t{n} with it, found none")
            factors.append(_tucker(core.float(), a, b, shape, f"hada_t{n}", f"hada_w{n}", r))
        return Difference(dense=ratio * factors[0] * factors[1])
    size = math.prod(shape[1:])
    for name, a, b, r in (("hada_w1", a1, b1, rank), ("hada_w2", a2, b2, other)):
        _expect(f"{name}_a", a, (shape[0], r))
        _expect_flat(f"{name}_b", b, (r, size))
    b1, b2 = b1.flatten(1), b2.flatten(1)
    if _pays(rank * other, shape):
        up = (a1[:, :, None] * a2[:, None, :]).flatten(1)
        down = (b1[:, None, :] * b2[None, :, :]).flatten(0, 1)
        return Difference(down.reshape(-1, *shape[1:]), up, ratio)
    return Difference(dense=(ratio * (a1 @ b1) * (a2 @ b2)).reshape(shape))


def _lokr(t: Tensors, shape: tuple[int, ...]) -> Difference:
    """w1 kron w2, either of which may be a product. Alpha counts where one of them is."""
    w1 = t.get("lokr_w1")
    rank = None
    if w1 is None:
        a, b = t["lokr_w1_a"].float(), t["lokr_w1_b"].float()
        rank = _rank("lokr_w1_b", b)
        _expect("lokr_w1_a", a, (None, rank))
        _expect("lokr_w1_b", b, (rank, None))
        w1 = a @ b
    w1 = w1.float()
    _expect("lokr_w1", w1, (None, None))
    out1, in1 = w1.shape
    if not out1 or not in1 or shape[0] % out1 or shape[1] % in1:
        raise _wrong("lokr_w1", f"sizes that divide {shape[0]} and {shape[1]}", w1)
    small = (shape[0] // out1, shape[1] // in1, *shape[2:])
    if "lokr_w2" in t:
        w2 = t["lokr_w2"].float()
        _expect_size("lokr_w2", w2, small[0], small)
        ratio = 1.0 if rank is None else _alpha(t, rank)
        return _kron(w1, w2.reshape(small), ratio, shape)
    a, b = t["lokr_w2_a"].float(), t["lokr_w2_b"].float()
    rank = _rank("lokr_w2_b", b)
    ratio = _alpha(t, rank)
    if "lokr_t2" in t:
        core = t["lokr_t2"].float()
        w2 = _tucker(core, a, b, small, "lokr_t2", "lokr_w2", rank)
        return _kron(w1, w2, ratio, shape)
    _expect("lokr_w2_a", a, (small[0], rank))
    _expect_flat("lokr_w2_b", b, (rank, math.prod(small[1:])))
    b = b.flatten(1)
    if _pays(in1 * rank, shape):
        # w1 kron (a b) = (w1 kron a) (identity kron b)
        down = torch.kron(torch.eye(in1), b).reshape(in1 * rank, *shape[1:])
        return Difference(down, torch.kron(w1, a), ratio)
    return _kron(w1, (a @ b).reshape(small), ratio, shape)


def _kron(w1: Tensor, w2: Tensor, ratio: float, shape: tuple[int, ...]) -> Difference:
    w1 = w1.reshape(*w1.shape, *(1,) * (w2.dim() - 2))
    return Difference(dense=(ratio * torch.kron(w1, w2.contiguous())).reshape(shape))


def _full(t: Tensors, shape: tuple[int, ...]) -> Difference:
    diff = t["diff"]
    _expect_flat("diff", diff, shape)
    return Difference(dense=diff.reshape(shape))


_MAKERS = {"LoRA": _lora, "LoHa": _loha, "LoKr": _lokr, "full": _full}


def _tucker(
    core: Tensor, a: Tensor, b: Tensor, shape: tuple[int, ...], name: str, factor: str, rank: int
) -> Tensor:
    """core [r', r, kh, kw] between a [r', out] and b [r, in]."""
    _expect(name, core, (None, rank, *shape[2:]))
    _check_rank(name, core.shape[0])
    _expect(f"{factor}_a", a, (core.shape[0], shape[0]))
    _expect(f"{factor}_b", b, (rank, shape[1]))
    return torch.einsum("ij...,jr,ip->pr...", core, b, a)


# --- DoRA -----------------------------------------------------------------------------------------


def _decomposed(d: Difference, magnitude: Tensor, lycoris: bool, weight: Tensor) -> Difference:
    """m (W + D) / |W + D|, less W. The norm is of an output's weights, or of an input's.

    lycoris: whether the magnitude is LyCORIS' dora_scale, [out, 1...] or [1, in, 1...]; peft's
    lora_magnitude_vector is [out], of a convolution [1, out, 1, 1].
    """
    changed = weight.double()
    if d.down is not None and d.up is not None:
        product = d.up.double() @ d.down.double().flatten(1)
        changed = changed + d.ratio * product.view(weight.shape)
    if d.dense is not None:
        changed = changed + d.dense.double()
    out, m = weight.shape[0], magnitude.double()
    per_input = lycoris and m.dim() >= 2 and m.shape[0] == 1 and m.numel() == weight.shape[1]
    per_input = per_input and (out != 1 or m.numel() != 1)
    if not per_input and (m.numel() != out or max(m.shape, default=0) != out):
        name = "dora_scale" if lycoris else "lora_magnitude_vector"
        raise _wrong(name, f"[{out}], one for each output", magnitude)
    if per_input:
        norm = changed.transpose(0, 1).flatten(1).norm(dim=1)
        factor = (m.flatten() / norm).view(1, -1, *(1,) * (weight.dim() - 2))
        return Difference(dense=(factor * changed - weight).float(), bias=d.bias)
    factor = m.flatten() / changed.flatten(1).norm(dim=1)
    column = factor.view(-1, *(1,) * (weight.dim() - 1))
    return Difference(
        d.down,
        None if d.up is None else (factor[:, None] * d.up).float(),
        d.ratio,
        None if d.dense is None else (column * d.dense).float(),
        (factor - 1).float(),
        d.bias,
    )


def _with_bias(d: Difference, bias: Tensor) -> Difference:
    total = bias if d.bias is None else d.bias + bias
    return Difference(d.down, d.up, d.ratio, d.dense, d.gain, total)


# --- checks ---------------------------------------------------------------------------------------


def _alpha(t: Tensors, rank: int) -> float:
    """alpha / rank; 1 without an alpha, whatever other modules have."""
    return float(t["alpha"]) / rank if "alpha" in t else 1.0


def _pays(rank: int, shape: tuple[int, ...]) -> bool:
    """Whether factors of this rank take less memory than a weight."""
    return rank * (shape[0] + math.prod(shape[1:])) <= math.prod(shape)


def _rank(name: str, tensor: Tensor) -> int:
    if tensor.dim() < 2:
        raise _wrong(name, "two dimensions at least", tensor)
    return _check_rank(name, tensor.shape[0])


def _check_rank(name: str, rank: int) -> int:
    if not 1 <= rank <= MAX_RANK:
        raise CheckpointError(f"{name}: expected a rank from 1 to {MAX_RANK}, found {rank}")
    return rank


def _expect(name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> None:
    fits = tensor.dim() == len(shape) and all(
        want is None or n == want for n, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        raise _wrong(name, f"[{', '.join('n' if n is None else str(n) for n in shape)}]", tensor)


def _expect_flat(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """A tensor of that shape, or one with dimensions of 1 behind it or its own flattened."""
    given = [*tensor.shape]
    while len(given) > len(shape) and given[-1] == 1:
        given.pop()
    wide = [*shape[:1], math.prod(shape[1:])]
    flat = [*given[:1], math.prod(given[1:])]
    if given != [*shape] and flat != wide:
        raise _wrong(name, f"[{', '.join(map(str, shape))}]", tensor)


def _expect_size(name: str, tensor: Tensor, rows: int, shape: tuple[int, ...]) -> None:
    """[rows, what a layer of that weight reads], possibly flattened."""
    _expect_flat(name, tensor, (rows, *shape[1:]))


def _wrong(name: str, expected: str, tensor: Tensor) -> CheckpointError:
    return CheckpointError(f"{name}: expected {expected}, found {[*tensor.shape]}")
