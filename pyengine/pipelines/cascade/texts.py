"""A call's texts, read once for all stages whose encoders are the same."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .job import CascadeRequest


def encoded(
    pipes: Sequence[Any], r: CascadeRequest, warned: list[str]
) -> list[list[dict[str, Tensor]]]:
    """Of each picture, for each stage: its embeddings by the arguments' names; nothing for a stage
    that is given the text itself. warned: gets what was cut off.

    A pipeline with `reads_as` and `read_texts` is given embeddings: encoders are compared once, a
    text is read once per encoder, however many pictures and stages it has.
    """
    found: list[list[dict[str, Tensor]]] = [[{} for _ in pipes] for _ in r.pictures]
    done: set[int] = set()
    for k, pipe in enumerate(pipes):
        if k in done or not hasattr(pipe, "reads_as") or "prompt" not in r.pictures[0]:
            continue
        same = [j for j in range(k, len(pipes)) if j == k or _same(pipe, pipes[j])]
        done.update(same)
        guided = any(r.guided[j] for j in same)
        pairs = [(p["prompt"], p.get("negative_prompt", "")) for p in r.pictures]
        unique = list(dict.fromkeys(pairs))
        prompts, negatives = ([pair[i] for pair in unique] for i in (0, 1))
        text, negative = pipe.read_texts(prompts, negatives, guided, warned)
        for i, pair in enumerate(pairs):
            row = slice(unique.index(pair), unique.index(pair) + 1)
            for j in same:
                found[i][j]["prompt_embeds"] = text[row]
                if r.guided[j] and negative is not None:
                    found[i][j]["negative_prompt_embeds"] = negative[row]
    return found


def _same(pipe: Any, other: Any) -> bool:
    return hasattr(other, "reads_as") and bool(pipe.reads_as(other))
