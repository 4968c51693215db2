"""What is compared: the models that ship, each loaded, asked once, and measured."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..errors import RequestError
from ..pipelines.loading import NAMED, from_pretrained
from ..pipelines.registry import family_of_pipeline
from ..pipelines.shipped_names import ASSETS
from ..weights.text import did_you_mean

#: Evaluations by model, as `pyengine eval --save` writes them.
EVALUATION = ASSETS / "evaluation.json"


@dataclass(frozen=True)
class Drawn:
    """What a model made of a prompt.

    family: its record's name; title: what that is. pictures: one a seed. seconds, evaluations: of
    the network, for one picture. parameters: of its own networks, without those it borrows.
    figures: of the committed evaluation; empty where there is none.
    """

    family: str
    title: str
    model: str
    pictures: list[Image.Image]
    seconds: float
    evaluations: int
    parameters: int
    figures: dict[str, float]

    def row(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "family": self.family,
            "model": self.model,
            "seconds": round(self.seconds, 4),
            "evaluations": self.evaluations,
            "parameters": self.parameters,
            **self.figures,
        }


def chosen(names: Sequence[str] | None) -> list[str]:
    """The models of these names, "masked" for emoji-masked, or all that ship.

    Raises RequestError for a name that none has.
    """
    if names is None:
        return list(NAMED)
    known = {name.removeprefix("emoji-"): name for name in NAMED} | {n: n for n in NAMED}
    for name in names:
        if name not in known:
            raise RequestError(
                f"families: expected some of {', '.join(NAMED)}, given {name!r}"
                f"{did_you_mean(name, known)}"
            )
    if not names:
        raise RequestError("families: expected at least one, given none")
    return list(dict.fromkeys(known[name] for name in names))


def figures_of(model: str) -> dict[str, float]:
    """top1, top5, frechet_distance, clip_score, precision and recall of the committed evaluation,
    those that there are.
    """
    if not EVALUATION.exists():
        return {}
    found = json.loads(EVALUATION.read_text(encoding="utf-8")).get(model, {})
    row = {name: found.get("model", {}).get(name) for name in ("top1", "top5")}
    names = ("frechet_distance", "clip_score", "precision", "recall")
    row |= {name: found.get("sets", {}).get(name) for name in names}
    return {name: value for name, value in row.items() if value is not None}


def parameters_of(pipe: Any) -> int:
    """Of the networks in the model's own folder."""
    count = 0
    for name in pipe.checkpoint.models:
        with pipe.checkpoint.tensors(name) as source:
            for tensor in source:
                size = 1
                for side in source.spec(tensor)[1]:
                    size *= side
                count += size
    return count


def draw(pipe: Any, model: str, prompt: str, seeds: Sequence[int]) -> Drawn:
    """One picture of the prompt for each seed."""
    output = pipe(prompt, num_images_per_prompt=len(seeds), seed=list(seeds), progress=False)
    family = family_of_pipeline(pipe)
    return Drawn(
        family=family.name,
        title=family.title,
        model=model,
        pictures=output.images,
        seconds=output.report.seconds["total"] / len(seeds),
        evaluations=output.report.evaluations,
        parameters=parameters_of(pipe),
        figures=figures_of(model),
    )


def compare(
    prompt: str, models: Sequence[str], seeds: Sequence[int], device: str = "auto"
) -> list[Drawn]:
    """The prompt drawn by each model; one of them is in memory at a time."""
    return [draw(from_pretrained(m, device=device), m, prompt, seeds) for m in models]
