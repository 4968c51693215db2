"""README's table of the models that ship, made from docs/evaluation.json.

python -m pyengine.training.evaluation_table README.md docs/evaluation.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- evaluation -->", "<!-- end of evaluation -->"
HEAD = (
    "| model | top 1 | top 5 | shuffled, top 5 | Frechet distance over emoji-clip | CLIP score"
    " | precision | recall |"
)


def table(evaluations: Mapping[str, Any]) -> str:
    """Markdown: a row for each model, figures that an evaluation lacks as a dash."""
    lines = [HEAD, "| --- |" + " --- |" * 7]
    for model, found in evaluations.items():
        sets = found.get("sets", {})
        shares = [found["model"]["top1"], found["model"]["top5"], found["floor"]["top5"]]
        cells = [f"{share:.1%}" for share in shares]
        for name, form in (
            ("frechet_distance", "{:.2f}"), ("clip_score", "{:.1f}"),
            ("precision", "{:.1%}"), ("recall", "{:.1%}"),
        ):  # fmt: skip
            cells.append(form.format(sets[name]) if name in sets else "-")
        lines.append(f"| `{model}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def put(text: str, evaluations: Mapping[str, Any]) -> str:
    """The text with the table between its two marks. Raises ValueError where they are not."""
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"expected {BEGIN} and {END} in the text")
    return f"{before}{BEGIN}\n{table(evaluations)}\n{END}{after}"


def main(readme: str, evaluations: str) -> None:
    """Writes the table into the file `readme`."""
    path = Path(readme)
    found = json.loads(Path(evaluations).read_text(encoding="utf-8"))
    path.write_text(put(path.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
