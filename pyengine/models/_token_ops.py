"""What token models need and pyengine.ops does not have yet, in plain torch and in one place.

Each function has the shape of the op that is to take its place: a row's result does not depend on
the rows beside it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

#: Distances kept at a time: 64 MB of float32.
DISTANCES = 1 << 24


def vq_argmin(x: Tensor, codebook: Tensor) -> Tensor:
    """The nearest row of `codebook` (Euclidean; the lowest index of equals) for every row of x.

    x: [..., D]; codebook: [K, D], its dtype. Returns [...] int64.
    van den Oord et al. 2017, arXiv:1711.00937.
    """
    rows = x.reshape(-1, x.shape[-1]).float()
    entries = codebook.float()
    found = torch.empty(len(rows), dtype=torch.int64, device=x.device)
    step = max(1, DISTANCES // len(entries))
    for i in range(0, len(rows), step):
        # Sums of squared differences: |x|^2 - 2 x e + |e|^2 cancels where x lies close to e.
        distances = torch.cdist(
            rows[i : i + step], entries, compute_mode="donot_use_mm_for_euclid_dist"
        )
        found[i : i + step] = distances.argmin(dim=1)
    return found.view(x.shape[:-1])


def vq_decode(tokens: Tensor, table: Tensor) -> Tensor:
    """Rows of a codebook, into which the convolution that follows may have been folded.

    tokens: [...] int64 in 0..K-1; table: [K, C]. Returns [..., C].
    """
    return table[tokens]


# --- norms and convolutions -----------------------------------------------------------------------


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of every channel by itself. x: [N, H, W, C]; weight: [C, 1, 3, 3]."""
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=weight.shape[0])
    return y.permute(0, 2, 3, 1).contiguous()


def global_response_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """x + gamma * x * r + beta, r the norm of each channel over that of the average channel.

    x: [N, H, W, C]; gamma, beta: [C]. Woo et al. 2023, arXiv:2301.00808.
    """
    size = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    relative = size / (size.mean(dim=-1, keepdim=True) + eps)
    return gamma * (x * relative) + beta + x


# --- drawing tokens -------------------------------------------------------------------------------


def guide(logits: Tensor, unconditional: Tensor | None, guidance_scale: float) -> Tensor:
    """unconditional + guidance_scale * (logits - unconditional), or logits without the former."""
    if unconditional is None:
        return logits
    return unconditional + guidance_scale * (logits - unconditional)


def filter_logits(logits: Tensor, top_k: int, top_p: float, min_p: float) -> Tensor:
    """logits [..., K] with minus infinity where a token is not to be drawn.

    top_k: the k most likely stay, and what equals the last of them; 0 keeps all. top_p: of these
    the fewest whose probability reaches top_p; of equals the lower index goes first. min_p: of
    these the ones at least min_p times as likely as the likeliest.
    Fan et al. 2018, arXiv:1805.04833; Holtzman et al. 2019, arXiv:1904.09751; Nguyen et al. 2024,
    arXiv:2407.01082.
    """
    low = float("-inf")
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, low)
    if top_p < 1:
        ordered, order = logits.double().softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(dim=-1) - ordered
        drop = torch.zeros_like(before, dtype=torch.bool)
        drop[..., 1:] = before[..., 1:] >= top_p
        logits = logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), low)
    if min_p > 0:
        least = logits.amax(dim=-1, keepdim=True) + math.log(min_p)
        logits = logits.masked_fill(logits < least, low)
    return logits


def sample_token(
    logits: Tensor,
    uniform: Tensor | None,
    *,
    unconditional: Tensor | None = None,
    guidance_scale: float = 1.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    """One token per row: guidance, temperature, `filter_logits`, and a draw.

    logits, unconditional: [N, K]. uniform: [N] float64 in [0, 1): the token is the first whose
    cumulative probability, in order of index, exceeds it. temperature 0: the likeliest, of equals
    the lowest index; uniform is not read then. Returns [N] int64.
    """
    logits = guide(logits, unconditional, guidance_scale).float()
    if temperature == 0:
        return logits.argmax(dim=-1)
    # Less the largest first: a temperature of 1e-40 would make two infinities of two logits.
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    logits = filter_logits(logits, top_k, top_p, min_p)
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    total = cumulative[:, -1:]
    # A product that rounds up to the total would be past the last token.
    point = torch.minimum(uniform[:, None] * total, torch.nextafter(total, total.new_zeros(())))
    return torch.searchsorted(cumulative, point, right=True)[:, 0]


# --- masked tokens --------------------------------------------------------------------------------


def refine_tokens(
    logits: Tensor,
    tokens: Tensor,
    exponential: Tensor,
    uniform: Tensor | None,
    keep_masked: Tensor | None,
    temperature: float,
    mask_token: int,
) -> tuple[Tensor, Tensor]:
    """One step of MaskGIT: draw every masked token, then mask again those drawn least surely.

    logits: [N, L, K]; tokens: [N, L] int64, `mask_token` where not yet known. exponential:
    [N, L, K] float32 draws of an exponential distribution, which choose the token: the largest
    p / draw. uniform: [N, L] draws in [0, 1) that decide, as Gumbel noise times temperature, what
    is masked again; None in the last step, which masks nothing. keep_masked: [N] how many: fewer
    than were masked, but at least one.
    Returns (tokens for the next step, all tokens as drawn), [N, L] each.
    Chang et al. 2022, arXiv:2202.04200.
    """
    unknown = tokens == mask_token
    p = logits.softmax(dim=-1)
    drawn = torch.where(unknown, (p.float() / exponential).argmax(dim=-1), tokens)
    if uniform is None or keep_masked is None:
        return drawn, drawn
    confidence = p.gather(-1, drawn[..., None])[..., 0]
    confidence = torch.where(unknown, confidence, torch.finfo(p.dtype).max)
    gumbel = -torch.log((-torch.log(uniform.clamp(1e-20))).clamp(1e-20))
    confidence = confidence.clamp(1e-20).log() + temperature * gumbel
    left = unknown.sum(dim=-1)
    count = torch.minimum(torch.minimum(left - 1, keep_masked).clamp(min=1), left)
    count = count.clamp(max=tokens.shape[1] - 1)
    limit = confidence.sort(dim=-1).values.gather(1, count[:, None])
    return torch.where(confidence < limit, mask_token, drawn), drawn
