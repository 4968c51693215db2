"""README's table of the models that ship and the families' figures, made from docs/evaluation.json.

python -m pyengine.training.evaluation_table README.md docs/evaluation.json
python -m pyengine.training.evaluation_table docs/families.md docs/evaluation.json
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- evaluation -->", "<!-- end of evaluation -->"
HEAD = (
    "| model | top 1 | top 5 | shuffled, top 5 | Frechet distance over emoji-clip | CLIP score"
    " | precision | recall |"
)


#: In the text before and behind a model's figures.
FIGURES = re.compile(r"(<!-- figures of (?P<model>[\w-]+) -->).*?(<!-- end -->)", re.DOTALL)


def cells(found: Mapping[str, Any]) -> dict[str, str]:
    """One model's figures by name, those that its evaluation lacks as a dash."""
    sets = found.get("sets", {})
    named = {
        "top 1": f"{found['model']['top1']:.1%}",
        "top 5": f"{found['model']['top5']:.1%}",
        "shuffled, top 5": f"{found['floor']['top5']:.1%}",
    }
    for name, form in (
        ("frechet_distance", "{:.2f}"), ("clip_score", "{:.1f}"),
        ("precision", "{:.1%}"), ("recall", "{:.1%}"),
    ):  # fmt: skip
        named[name] = form.format(sets[name]) if name in sets else "-"
    return named


def table(evaluations: Mapping[str, Any]) -> str:
    """Markdown: a row for each model."""
    lines = [HEAD, "| --- |" + " --- |" * 7]
    for model, found in evaluations.items():
        lines.append(f"| `{model}` | {' | '.join(cells(found).values())} |")
    return "\n".join(lines)


def figures(found: Mapping[str, Any]) -> str:
    """One model's in words, of two lines."""
    c = cells(found)
    return (
        f"top 1 {c['top 1']}, top 5 {c['top 5']} (shuffled\n  {c['shuffled, top 5']}),"
        f" Frechet distance {c['frechet_distance']}, CLIP score {c['clip_score']},"
        f" precision {c['precision']}, recall {c['recall']}"
    )


def put(text: str, evaluations: Mapping[str, Any]) -> str:
    """The text with what is between its marks made anew: the table, models' figures, or both.
    Raises ValueError where there is no mark, or one of a model without an evaluation.
    """
    named = {match["model"] for match in FIGURES.finditer(text)}
    if not named <= evaluations.keys():
        raise ValueError(f"expected marks of {', '.join(evaluations)}, given {sorted(named)}")
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if mark and end:
        text = f"{before}{BEGIN}\n{table(evaluations)}\n{END}{after}"
    elif not named:
        raise ValueError(f"expected {BEGIN} and {END} in the text")
    return FIGURES.sub(lambda m: m[1] + figures(evaluations[m["model"]]) + m[3], text)


def main(page: str, evaluations: str) -> None:
    """Writes what `put` makes of a page into its file."""
    path = Path(page)
    found = json.loads(Path(evaluations).read_text(encoding="utf-8"))
    path.write_text(put(path.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
