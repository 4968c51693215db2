"""`pyengine bench token --only jacobi`: a given model's passes and time with Jacobi decoding."""

import itertools
from typing import Any

import torch

from ..errors import RequestError
from . import timing
from .contest import Contest
from .pictures import PROMPTS
from .results import OURS, Row

#: Name of the contestant that samples one token after another.
SEQUENTIAL = "sequential"


def measure(contest: Contest, model: str, windows: list[int], pictures: int) -> list[Row]:
    """A row for every decoding and window: the time of the given number of pictures, each a call.

    The peer "sequential" is the same pipeline, token by token. Sampling settings are its defaults.
    """
    from ..decoding.request import DECODINGS, OTHER_DRAWS
    from ..pipelines import from_pretrained
    from ..pipelines.tokens import TokenPipeline

    contest.say(f"jacobi: loading {model}")
    pipe = from_pretrained(model, device=contest.device)
    if not isinstance(pipe, TokenPipeline) or pipe.sampler != "autoregressive":
        raise RequestError(f"model: expected one that draws token after token, given {model!r}")

    def draw(**how: Any) -> list[Any]:
        outputs = []
        for seed in range(pictures):
            given = [PROMPTS[seed % len(PROMPTS)]] if pipe.takes_prompt else []
            how |= {"output_type": "latent", "progress": False}
            outputs.append(pipe(*given, seed=seed, **how))
        return outputs

    plain = draw(decoding=SEQUENTIAL)
    weights = sum(p.numel() * p.element_size() for p in pipe.model.parameters())
    rows = []
    for decoding, window in itertools.product(DECODINGS[1:], windows):
        contest.say(f"{decoding}: measuring windows of {window}")
        found = draw(decoding=decoding, window=window)
        for one, other in zip(found, plain, strict=True):
            if decoding != OTHER_DRAWS and not torch.equal(one.tokens, other.tokens):
                raise RuntimeError(f"{decoding}: the tokens are not those of one by one")
        passes = {
            name: sum(o.report.passes for o in outputs) / sum(o.report.tokens for o in outputs)
            for name, outputs in ((OURS, found), (SEQUENTIAL, plain))
        }
        samplers = {
            name: timing.sampler(draw, [how], contest.device)
            for name, how in (
                (SEQUENTIAL, {"decoding": SEQUENTIAL}),
                (OURS, {"decoding": decoding, "window": window}),
            )
        }
        row = Row(
            suite="token",
            name=decoding,
            inputs="",
            shape=f"{pictures} pictures of {plain[0].tokens[0].numel()} tokens, window {window}",
            flops=0,
            nbytes=weights * sum(o.report.evaluations for o in found),
            kernels=found[0].report.kernels,
            facts={name: {"passes_per_token": value} for name, value in passes.items()},
            **contest.times(samplers),
        )
        rows.append(row)
    return rows
