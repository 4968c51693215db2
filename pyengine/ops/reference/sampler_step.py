"""Specification of sampler_step: guidance and one update of any linear sampler.

Ho & Salimans 2022, arXiv:2207.12598 (classifier-free guidance); Nichol & Dhariwal 2021,
arXiv:2102.09672, eq. 15 (a variance that the model predicts per pixel); every sampler in
pyengine.schedules is linear in what it has seen, so a step is one row of coefficients.
"""

import torch
from torch import Tensor

#: Columns of a coefficient row.
#: guidance g; D = clip(p x + q m, +-limit) * dscale is what the sampler remembers of the model's
#: output m; x_* give the new sample, y_* the second tensor some samplers keep (Heun's start of
#: step, UniPC's corrected sample). d1..d3 are the D of one to three steps ago. v_1 + v_v v is the
#: logarithm of the noise's factor where the model learned a variance v.
COLUMNS = (
    "g", "p", "q", "limit", "dscale",
    "x_x", "x_m", "x_d", "x_d1", "x_d2", "x_d3", "x_base", "x_noise",
    "y_x", "y_d", "y_d1", "y_d2", "y_d3", "y_base",
    "v_1", "v_v",
)  # fmt: skip


def sampler_step(
    x: Tensor,
    out: Tensor,
    coeffs: Tensor,
    d1: Tensor | None = None,
    d2: Tensor | None = None,
    d3: Tensor | None = None,
    base: Tensor | None = None,
    noise: Tensor | None = None,
    variance: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step: m = u + g (c - u), D, then the new sample and the kept tensor.

    x: [N, ...] the current sample.  out: the model's output, [N, ...], or [2 N, ...] with the
    N unconditional rows first and the N conditional ones after them.
    coeffs: [N, len(COLUMNS)] float32 (float64 for float64 x), a row per picture.
    d1, d2, d3, base, noise: [N, ...] or None, which counts as zero.
    variance: [N, ...] or None: what the model says of the noise's variance, v.
    Returns (new x, D, y), each [N, ...] in x's dtype, computed in float32:
      D  = clip(p x + q m, -limit, limit) * dscale
      x' = x_x x + x_m m + x_d D + x_d1 d1 + x_d2 d2 + x_d3 d3 + x_base base + x_noise f noise
      f  = exp(v_1 + v_v variance), or 1 without a variance
      y  = y_x x + y_d D + y_d1 d1 + y_d2 d2 + y_d3 d3 + y_base base
    """
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    n = x.shape[0]
    row = {
        name: coeffs[:, i].to(acc).reshape(n, *[1] * (x.dim() - 1))
        for i, name in enumerate(COLUMNS)
    }
    xa, m = x.to(acc), out.to(acc)
    if out.shape[0] == 2 * n:
        uncond, cond = m.chunk(2)
        m = uncond + row["g"] * (cond - uncond)
    d = (row["p"] * xa + row["q"] * m).clamp(-row["limit"], row["limit"]) * row["dscale"]
    new = row["x_x"] * xa + row["x_m"] * m + row["x_d"] * d
    kept = row["y_x"] * xa + row["y_d"] * d
    for name, tensor in (("d1", d1), ("d2", d2), ("d3", d3), ("base", base)):
        if tensor is not None:
            new = new + row[f"x_{name}"] * tensor.to(acc)
            kept = kept + row[f"y_{name}"] * tensor.to(acc)
    if noise is not None:
        drawn = noise.to(acc)
        if variance is not None:
            drawn = drawn * (row["v_1"] + row["v_v"] * variance.to(acc)).exp()
        new = new + row["x_noise"] * drawn
    return new.to(x.dtype), d.to(x.dtype), kept.to(x.dtype)
