"""Random LoRA files of every kind, and the weight differences that they stand for, in float64.

The formulas here are the papers' and LyCORIS', written out for themselves: matrices are multiplied
and added, whatever form the engine keeps them in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from safetensors.torch import load_file, save_file

from pyengine.branches import norm_targets, targets

RANK = 4
PREFIX = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}


@dataclass
class Made:
    """tensors: the file's. deltas: {part: {tensor's name in the checkpoint: float64}}."""

    tensors: dict = field(default_factory=dict)
    deltas: dict = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)

    def save(self, path):
        tensors = {name: t.contiguous() for name, t in self.tensors.items()}
        save_file(tensors, path, metadata=self.metadata or None)
        return path


class Random:
    """Tensors one after the other."""

    def __init__(self, seed):
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape, scale=1.0):
        fan = max(1, torch.Size(shape[1:]).numel()) ** 0.5
        return torch.randn(shape, generator=self._generator) * scale / fan


# --- kinds: (random, shape, weight) -> ({leaf: tensor}, difference, the bias's or None) -----------


def lora(random, shape, weight, rank=RANK, alpha=3.0):
    out, *rest = shape
    down, up = random(rank, *rest), random(out, rank, *(1,) * (len(rest) - 1), scale=0.6)
    leaves = {"lora_down.weight": down, "lora_up.weight": up}
    if alpha is not None:
        leaves["alpha"] = torch.tensor(alpha)
    scale = 1.0 if alpha is None else alpha / rank
    return leaves, scale * _product(up, down, shape), None


def lora_without_alpha(random, shape, weight):
    return lora(random, shape, weight, alpha=None)


def lora_mid(random, shape, weight):
    if len(shape) == 2:
        return lora(random, shape, weight)
    out, inputs, *kernel = shape
    down, up = random(3, inputs, 1, 1), random(out, 5, 1, 1, scale=0.6)
    mid = random(5, 3, *kernel)
    delta = torch.zeros(shape, dtype=torch.float64)
    for a in range(5):
        for b in range(3):
            pair = torch.outer(up[:, a, 0, 0].double(), down[b, :, 0, 0].double())
            delta += pair[:, :, None, None] * mid[a, b].double()
    leaves = {"lora_down.weight": down, "lora_up.weight": up, "lora_mid.weight": mid}
    return {**leaves, "alpha": torch.tensor(2.0)}, delta * 2.0 / 3, None


def dora(random, shape, weight):
    leaves, delta, _ = lora(random, shape, weight)
    changed = weight + delta
    norm = changed.flatten(1).norm(dim=1).view(-1, *(1,) * (len(shape) - 1))
    magnitude = (norm * (1 + 0.3 * random(*norm.shape).double())).float()
    return {**leaves, "dora_scale": magnitude}, magnitude.double() * changed / norm - weight, None


def dora_per_input(random, shape, weight):
    leaves, delta, _ = lora(random, shape, weight)
    changed = weight + delta
    norm = changed.transpose(0, 1).flatten(1).norm(dim=1).view(1, -1, *(1,) * (len(shape) - 2))
    magnitude = (norm * (1 + 0.3 * random(*norm.shape).double())).float()
    return {**leaves, "dora_scale": magnitude}, magnitude.double() * changed / norm - weight, None


def loha(random, shape, weight, rank=2):
    out, *rest = shape
    size = torch.Size(rest).numel()
    a1, a2 = random(out, rank), random(out, rank)
    b1, b2 = random(rank, size), random(rank, size, scale=2.0)
    leaves = {
        "hada_w1_a": a1,
        "hada_w1_b": b1,
        "hada_w2_a": a2,
        "hada_w2_b": b2,
        "alpha": torch.tensor(1.5),
    }
    delta = (a1.double() @ b1.double()) * (a2.double() @ b2.double()) * 1.5 / rank
    return leaves, delta.view(shape), None


def loha_of_high_rank(random, shape, weight):
    return loha(random, shape, weight, rank=12)


def loha_tucker(random, shape, weight):
    if len(shape) == 2:
        return loha(random, shape, weight)
    out, inputs, *kernel = shape
    leaves, parts = {"alpha": torch.tensor(3.0)}, []
    for n in (1, 2):
        t, a, b = random(3, 3, *kernel), random(3, out), random(3, inputs)
        leaves |= {f"hada_t{n}": t, f"hada_w{n}_a": a, f"hada_w{n}_b": b}
        parts.append(torch.einsum("ijkl,ip,jr->prkl", t.double(), a.double(), b.double()))
    return leaves, parts[0] * parts[1], None


def lokr(random, shape, weight, w1="full", w2="full", alpha=5.0):
    """alpha counts only where a factor is a product."""
    out, inputs, *kernel = shape
    first = (2, 4 if inputs % 4 == 0 else 1)
    second = (out // first[0], inputs // first[1])
    leaves, rank = {"alpha": torch.tensor(alpha)}, None
    if w1 == "full":
        leaves["lokr_w1"] = one = random(*first)
    else:
        rank = 2
        leaves["lokr_w1_a"], leaves["lokr_w1_b"] = a, b = random(first[0], 2), random(2, first[1])
        one = a.double() @ b.double()
    if w2 == "full":
        leaves["lokr_w2"] = two = random(*second, *kernel)
    elif w2 == "tucker" and kernel:
        rank = 3
        t, a, b = random(3, 3, *kernel), random(3, second[0]), random(3, second[1])
        leaves |= {"lokr_t2": t, "lokr_w2_a": a, "lokr_w2_b": b}
        two = torch.einsum("ijkl,ip,jr->prkl", t.double(), a.double(), b.double())
    else:
        rank = 3 if w1 == "full" else rank
        a, b = random(second[0], rank), random(rank, torch.Size([second[1], *kernel]).numel())
        leaves |= {"lokr_w2_a": a, "lokr_w2_b": b}
        two = (a.double() @ b.double()).view(*second, *kernel)
    one, two = one.double(), two.double()
    ratio = 1.0 if rank is None else alpha / rank
    delta = torch.einsum("ab,cd...->acbd...", one, two).reshape(shape)
    return leaves, ratio * delta, None


def lokr_of_products(random, shape, weight):
    return lokr(random, shape, weight, "product", "product")


def lokr_low(random, shape, weight):
    return lokr(random, shape, weight, "full", "product")


def lokr_tucker(random, shape, weight):
    return lokr(random, shape, weight, "full", "tucker")


def full(random, shape, weight):
    diff, bias = random(*shape, scale=0.5), random(shape[0], scale=0.2)
    return {"diff": diff, "diff_b": bias}, diff.double(), bias.double()


KINDS = {
    f.__name__: f
    for f in (
        lora,
        lora_without_alpha,
        lora_mid,
        dora,
        dora_per_input,
        loha,
        loha_of_high_rank,
        loha_tucker,
        lokr,
        lokr_low,
        lokr_of_products,
        lokr_tucker,
        full,
    )
}


def _product(up, down, shape):
    return (up.double().flatten(1) @ down.double().flatten(1)).view(shape)


# --- files ----------------------------------------------------------------------------------------


def models_of(pipe):
    named = {n: getattr(pipe, n, None) for n in PREFIX}
    return {name: model for name, model in named.items() if model is not None}


def saved_weights(folder, part):
    file = next((folder / part).glob("*.safetensors"))
    return load_file(file)


def stored_name(name, weights):
    """A layer's name in a checkpoint: transformers 5 leaves text_model. out."""
    return name if f"{name}.weight" in weights else name.removeprefix("text_model.")


def make(pipe, folder, kind, seed=1, pick=lambda part, name: True, prefix=PREFIX, norms=False):
    """A kohya file with that kind for the layers that `pick` takes, of all parts."""
    made, random = Made(), Random(seed)
    for part, model in models_of(pipe).items():
        weights = saved_weights(folder, part)
        deltas = made.deltas.setdefault(part, {})
        for name in targets(model):
            if not pick(part, name):
                continue
            stored = stored_name(name, weights)
            weight = weights[f"{stored}.weight"].double()
            leaves, delta, bias = KINDS[kind](random, tuple(weight.shape), weight)
            if f"{stored}.bias" not in weights:
                leaves.pop("diff_b", None)
            deltas[f"{stored}.weight"] = delta
            if bias is not None and f"{stored}.bias" in weights:
                deltas[f"{stored}.bias"] = bias
            flat = f"{prefix[part]}_{name.replace('.', '_')}"
            made.tensors |= {f"{flat}.{leaf}": t for leaf, t in leaves.items()}
        for name, target in norm_targets(model).items() if norms else ():
            stored = stored_name(name, weights)
            w, b = random(*target.shape, scale=0.3), random(*target.shape, scale=0.3)
            flat = f"{prefix[part]}_{name.replace('.', '_')}"
            made.tensors |= {f"{flat}.w_norm": w, f"{flat}.b_norm": b}
            deltas |= {f"{stored}.weight": w.double(), f"{stored}.bias": b.double()}
    return made


def merge(folder, deltas, scale):
    """Adds the differences to a checkpoint folder's weights, in float64."""
    for part, own in deltas.items():
        if not own:
            continue
        file = next((folder / part).glob("*.safetensors"))
        weights = load_file(file)
        for name, delta in own.items():
            weights[name] = (weights[name].double() + scale * delta).float()
        save_file(weights, file, metadata={"format": "pt"})
    return folder
