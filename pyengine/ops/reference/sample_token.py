"""Specification of sample_token: one draw from a row of logits.

Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2019, arXiv:1904.09751 (top-p); Nguyen et
al. 2024, arXiv:2407.01082 (min-p). Order and definitions are those of transformers' generate.
"""

import torch
from torch import Tensor

from ...errors import RequestError

#: Columns of a row of settings.
SAMPLING_COLUMNS = ("guidance", "temperature", "top_k", "top_p", "min_p")


def sample_token(logits: Tensor, uniform: Tensor, settings: Tensor) -> Tensor:
    """A token per row: guidance, temperature, top-k, top-p, min-p, and the draw.

    logits: [N, V], or [2 N, V] with the N unconditional rows u first and the N conditional ones c
    after them; then u + guidance (c - u) counts.  Minus infinity masks a token, in either.
    uniform: [N] in [0, 1).  settings: [N, len(SAMPLING_COLUMNS)], a row per picture:
      temperature  divides the logits; 0 takes the largest, the lowest token among equals
      top_k        keeps the k largest, and those equal to the k-th; 0 keeps all
      top_p        keeps the largest until they have top_p of the weight; among equals the lowest
                   tokens first, and always one; 1 keeps all
      min_p        keeps what has at least min_p times the largest weight; 0 keeps all
    Returns [N] int64: the first token at which the weights of those kept, added up in the order of
    the tokens, exceed uniform times their sum.  In float64.
    Raises RequestError, naming the row, where a logit is NaN or plus infinity, all are masked, a
    setting cannot be, or uniform is not in [0, 1).
    """
    n = uniform.shape[0]
    scores, faulty = _guided(logits.double(), settings[:, 0].double(), n)
    refuse("logits", "numbers below infinity", faulty)
    refuse("logits", "a token that is not masked", (scores == -torch.inf).all(dim=-1))
    _, temperature, top_k, top_p, min_p = settings.double().T[:, :, None]
    bad = ~settings.isfinite().all(dim=-1) | (settings[:, 1:] < 0).any(dim=-1)
    refuse("settings", SETTINGS_EXPECTED, bad | (settings[:, 3:] > 1).any(dim=-1))
    refuse("uniform", "numbers from 0 to below 1", ~((uniform >= 0) & (uniform < 1)))

    weights = ((scores - scores.amax(dim=-1, keepdim=True)) / temperature.clamp(min=1e-300)).exp()
    order = scores.sort(dim=-1, descending=True, stable=True)
    size = scores.shape[-1]
    k = torch.where(top_k == 0, size, top_k).clamp(max=size).long()
    kept = scores >= order.values.gather(-1, k - 1)
    ranked = (weights * kept).gather(-1, order.indices)
    ahead = ranked.cumsum(dim=-1) - ranked
    enough = (ahead >= top_p * ranked.sum(dim=-1, keepdim=True)) & (top_p < 1)
    enough[:, 0] = False
    kept &= ~torch.zeros_like(kept).scatter(-1, order.indices, enough)
    kept &= weights >= min_p

    sums = (weights * kept).cumsum(dim=-1)
    passed = (sums > uniform.double()[:, None] * sums[:, -1:]) & kept & (weights > 0)
    drawn = passed.to(torch.uint8).argmax(dim=-1)
    return torch.where(temperature[:, 0] == 0, scores.argmax(dim=-1), drawn)


SETTINGS_EXPECTED = (
    "finite guidance and temperature, top_k and min_p of at least 0, top_p and min_p up to 1"
)


def _guided(logits: Tensor, guidance: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Scores [n, V], and which rows have numbers that are none."""
    faulty = (logits.isnan() | (logits == torch.inf)).any(dim=-1)
    if logits.shape[0] != 2 * n or n == 0:
        return logits, faulty
    u, c = logits.chunk(2)
    scores = torch.where(
        (u == -torch.inf) | (c == -torch.inf), -torch.inf, u + guidance[:, None] * (c - u)
    )
    faulty = faulty.view(2, n).any(dim=0) | (scores.isnan() | (scores == torch.inf)).any(dim=-1)
    return scores, faulty


def refuse(argument: str, expected: str, rows: Tensor, op: str = "sample_token") -> None:
    """Raises RequestError naming the first of the rows that are marked."""
    if rows.device.type != "meta" and rows.any():
        row = int(rows.to(torch.uint8).argmax())
        raise RequestError(f"{op}: {argument}: expected {expected}, got others in row {row}")
