"""The words that go with a LoRA that was trained: its card and its NOTICE."""

from __future__ import annotations

from typing import Any

from .card import NOTICE, SETS

#: The paragraph of Twemoji's attribution.
TWEMOJI = next(part for part in NOTICE.split("\n\n") if part.startswith("Twemoji graphics"))

LORA_NOTICE = f"""The LoRA in this folder was trained, beside a model that was trained on the same
sets, on pictures and names from these sets:

{SETS}

{TWEMOJI}

The LoRA has seen the style and the labels that README.md names. No picture of the sets is in this
folder: the pictures here are drawn by the model, and may come close to those it has seen.
"""


LORA_CARD = """# A LoRA: {name}

Beside {model} it draws in the style {style}. {bytes:,} bytes, float16,
in diffusers' names; it changes {changes}.

```python
import pyengine
pipe = pyengine.from_pretrained("{model}")
pipe.load_lora("{name}")
pipe("a red heart", lora={{"{name}": 1.0}}).images[0].save("heart.png")
```

![The same prompts and seeds without it, and below with it](sheet.png)

*Above without, below with it, the same seeds: {sheet}.*

## Training

    pyengine train lora --style {style} --rank {rank} --steps {steps} --batch {batch} \\
        --rate {rate:g} --seed {seed} --export {name}

| | |
| --- | --- |
| parameters | {parameters:,}, rank {rank}, alpha {alpha:g} |
| pictures | {labels} labels in the style {style} |
| seen | {samples:,} pictures in {done:,} steps of {batch}, {minutes} minutes |
| seed | {seed} |
| loss | as the model's own, of v, error of the clean latents weighted by min(SNR + 1, {gamma:g}) |
| optimiser | AdamW {rate:g}, warm-up {warmup} steps, descent to zero over the last {cooldown} |
| empty prompts | {dropped:.0%} |
| average | of the weights, decay {decay} |

Every number is in [training.json](training.json).

## How good it is

{evaluation}

## Data and licences

{sets}

See [NOTICE](NOTICE). The weights are under the project's licence as far as that can be said of
weights; the sets keep theirs, and Twemoji asks for attribution.
"""


def lora_card(facts: dict[str, Any], name: str) -> str:
    """README.md of a LoRA's folder."""
    names = (
        "model", "style", "bytes", "rank", "alpha", "steps", "batch", "rate", "seed", "parameters",
        "labels", "done", "minutes", "gamma", "warmup", "cooldown", "dropped", "decay",
    )  # fmt: skip
    changes = "the U-Net and the text encoder" if facts["text_layers"] else "the U-Net alone"
    return LORA_CARD.format(
        **{name: facts[name] for name in names},
        name=name,
        changes=changes,
        samples=facts["done"] * facts["batch"],
        sheet=", ".join(facts["evaluation"]["sheet"]),
        evaluation=_shares(facts["evaluation"], facts["style"]),
        sets=SETS.replace("\n    ", " ").replace("\n", "\n\n"),
    )


def _shares(result: dict[str, Any], style: str) -> str:
    others = " and ".join(result["others"]) or "no other"
    lines = [
        f"{result['without']['counted']} labels asked for without naming a style. Nearer to",
        f"{style}: the share whose distance to the label's picture in {style} is less than to that",
        f"in {others} (16x16 RGB). Distance: the median to the former.",
        "",
        f"| | nearer to {style} | distance |",
        "| --- | --- | --- |",
    ]
    for which in ("without", "with"):
        row = result[which]
        lines.append(f"| {which} it | {row['share']:.1%} | {row['median_distance']:.3f} |")
    return "\n".join(lines)
