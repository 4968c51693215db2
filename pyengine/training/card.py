"""The words that go with an exported model: its card and its NOTICE."""

from __future__ import annotations

from typing import Any

from . import guide_report
from .evaluate import COPY_DISTANCE

SETS = """Noto Emoji, Google LLC, Apache License 2.0 (npm: @iconify-json/noto 1.2.9,
    @iconify-json/noto-v1 1.2.5)
Twemoji, Twitter, Inc and other contributors, CC-BY 4.0 (npm: @iconify-json/twemoji 1.2.5)
Fluent Emoji, Microsoft Corporation, MIT License (npm: @iconify-json/fluent-emoji 1.2.7,
    @iconify-json/fluent-emoji-flat 1.2.6, @lobehub/fluent-emoji-3d 1.1.0)
Names and keywords: emojibase-data 17.0.0, Miles Johnson, MIT License"""

NOTICE = f"""The weights in this folder were trained, from random numbers, on pictures and names
from these sets:

{SETS}

Twemoji graphics: Copyright 2020 Twitter, Inc and other contributors, licensed under CC-BY 4.0,
https://creativecommons.org/licenses/by/4.0/. They were rasterised at 64x64 on white.

The autoencoder has seen all of these sets; the model that draws only the styles and labels that
README.md and concepts.txt name.  No picture of the sets is in this folder: the pictures here are
drawn by the model, and may come close to those it has seen.
"""

NOTICE_SMALL = f"""The weights in this folder were trained, from random numbers, on pictures and
names from these sets, of which they have seen only the styles and labels that README.md and
concepts.txt name:

{SETS}

Twemoji graphics: Copyright 2020 Twitter, Inc and other contributors, licensed under CC-BY 4.0,
https://creativecommons.org/licenses/by/4.0/. They were rasterised at 64x64 on white.

No picture of the sets is in this folder: the pictures here are drawn by the model, and may come
close to those it has seen. """

#: By the part of `emoji` that a small model borrows, the end of its NOTICE.
BORROWED = {
    "text encoder": "Its prompts are read by the text encoder of the model `emoji`, which has\n"
    "a NOTICE of its own.\n",
    "autoencoder": "It reads latents of the autoencoder of the model `emoji`, which has a\n"
    "NOTICE of its own.\n",
}

#: Of every card, behind its table.
REST = """Every number is in [training.json](training.json).

![loss](curves.png)

## How good it is

{evaluation}

## Data and licences

{sets}

See [NOTICE](NOTICE). The weights are under the project's licence as far as that can be said of
weights; the sets keep theirs, and Twemoji asks for attribution.
"""

CARD = """# A small model that draws emoji

Text to 64x64 pictures: a latent diffusion model in plain diffusers layout, float16, trained from
random numbers on {labels} things in {style_count} ({styles}). It draws what is in
[concepts.txt](concepts.txt), one label a line, and little else.

```python
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained("pyengine/assets/emoji")
pipe("a red heart", num_inference_steps=20, guidance_scale=2.5).images[0].save("heart.png")
```

![24 prompts drawn by the model](samples.png)

Prompts that it knows: `"a red heart"`, `"red heart emoji"`, `"a red heart, {style} style"`.

## Training

| | |
| --- | --- |
| parameters | noise predictor {unet:.1f} M, text encoder {text:.1f} M |
| pictures | {labels} labels in the styles {styles}; the autoencoder: all six styles |
| seen more often | {favoured} |
| seen | {samples:,} pictures in {steps:,} steps of {batch} |
| hours | {hours} for text encoder and noise predictor, {autoencoder_hours} for the autoencoder |
| seed | {seed} |
| target | v-prediction, error of the clean latents weighted by min(SNR + 1, {gamma:g}) |
| empty prompts | {dropped:.0%} |
| optimiser | AdamW {rate:g}, warm-up {warmup} steps, then constant{cooled} |
| changed on the way | {history} |
| average | of the weights, decay {decay} |
| noise | scaled-linear betas {beta_start} to {beta_end}, 1000 steps, trailing |

"""

CARD_AR = """# A small DALL-E that draws emoji, token by token

Text to 64x64 pictures: one transformer over a caption's tokens and then a picture's
{side}x{side}, which a VQ-VAE decodes; float16, trained from random numbers on {labels} things in
{style_count} ({styles}). It draws what is in [concepts.txt](concepts.txt), one label a line, and
little else.

```python
import pyengine
pipe = pyengine.from_pretrained("emoji-ar")
pipe("a red heart", seed=1).images[0].save("heart.png")
```

`transformer/` is a LlamaForCausalLM that transformers loads, `vqvae/` a VQModel that diffusers
loads; [tokens/config.json](tokens/config.json) says which ids are text and which are pictures.

![24 prompts drawn by the model](samples.png)

## Training

| | |
| --- | --- |
| parameters | transformer {transformer:.1f} M, VQ-VAE {vqvae:.1f} M |
| pictures | {labels} labels in the styles {styles}; the VQ-VAE: {favourites:.0%} these, else all |
| codebook | {entries} entries of {width}, {used} in use, perplexity {perplexity:.0f} |
| VQ-VAE | {vq_steps:,} steps of {vq_batch}, {vq_hours} hours{decoder} |
| seen | {samples:,} pictures in {steps:,} steps of {batch}, {views} versions of each |
| hours | {hours} for the transformer |
| seed | {seed} |
| empty prompts | {dropped:.0%} |
| tokens read as others | {corrupted:.0%} |
| loss | cross entropy of picture tokens + {text:g} of text tokens |
| optimiser | AdamW {rate:g}, warm-up {warmup} steps, then constant{cooled} |
| changed on the way | {history} |
| average | of the weights, decay {decay} |

"""


def card_ar(facts: dict[str, Any]) -> str:
    """README.md of an exported emoji-ar."""
    shape, coder, further = facts["gpt"], facts["vq"], facts["decoder"]
    named = {f"vq_{name}": coder[name] for name in ("steps", "batch", "hours")}
    named["decoder"] = (
        ""
        if further is None
        else ("; its decoder on these alone {steps:,} more, {hours} hours".format(**further))
    )
    for name in ("entries", "width", "used", "perplexity", "favourites"):
        named[name] = coder[name]
    named |= {name: facts["parameters"][name] / 1e6 for name in ("transformer", "vqvae")}
    names = ("side", "batch", "views", "dropped", "corrupted", "text", "rate", "warmup", "decay")
    named |= {name: shape[name] for name in names}
    return (CARD_AR + REST).format(**named, **_common(facts, "emoji-ar"))


def card_small(small: Any, settings: Any, facts: dict[str, Any]) -> str:
    """README.md of an exported small model. small: its SmallRecipe; settings: its model's."""
    common = _common(facts, f"emoji-{small.name}")
    networks = ", ".join(f"{n} {c:,}" for n, c in facts["parameters"].items())
    rows = {
        "parameters": f"{networks}; the {small.borrows} is `emoji`'s, frozen",
        "pictures": f"{facts['labels']} labels in {common['style_count']} ({common['styles']})",
        **small.rows(settings),
        "seen": f"{facts['samples']:,} pictures in {facts['steps']:,} steps of {settings.batch}",
        "hours": str(facts["hours"]),
        "seed": str(facts["seed"]),
        "optimiser": f"AdamW {settings.rate:g}, warm-up {settings.warmup} steps, then constant"
        + (common["cooled"] or _stopped(settings, facts["steps"])),
        "changed on the way": common["history"],
        "average": f"of the weights, decay {settings.decay:g}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    sheet = "![24 prompts drawn by the model](samples.png)\n\n" if small.draws else ""
    head = f"{small.card.strip()}\n\n{sheet}## Training\n\n| | |\n| --- | --- |\n{table}\n\n"
    return head + REST.format(**common)


def _stopped(settings: Any, steps: int) -> str:
    """Of a run that was stopped before its end, in words; "" of one that was not."""
    if steps >= settings.steps:
        return ""
    fell = steps - (settings.steps - min(settings.cooldown, settings.steps))
    share = fell / max(1, settings.cooldown)
    what = f"; stopped at {steps:,} of {settings.steps:,} steps"
    return f", descent by {share:.0%} over the last {fell}{what}" if fell > 0 else what


def card(facts: dict[str, Any]) -> str:
    """README.md of an exported model."""
    shape, parameters = facts["denoiser"], facts["parameters"]
    named = {name: facts[name] for name in ("favoured", "autoencoder_hours")}
    named |= {"unet": parameters["unet"] / 1e6, "text": parameters["text_encoder"] / 1e6}
    names = ("batch", "gamma", "dropped", "rate", "warmup", "decay", "beta_start", "beta_end")
    named |= {name: shape[name] for name in names}
    return (CARD + REST).format(**named, style=facts["styles"][0], **_common(facts, "emoji"))


def _common(facts: dict[str, Any], model: str) -> dict[str, Any]:
    """What both cards say."""
    return {
        **{name: facts[name] for name in ("labels", "samples", "steps", "hours", "seed")},
        "styles": ", ".join(facts["styles"]),
        "style_count": _counted(len(facts["styles"]), "style"),
        "cooled": f", descent to zero over the last {facts['cooled']}" if facts["cooled"] else "",
        "history": "; ".join(facts["history"]) or "nothing",
        "evaluation": _evaluation(facts["evaluation"], model),
        "sets": SETS.replace("\n    ", " ").replace("\n", "\n\n"),
    }


def _counted(number: int, what: str) -> str:
    return f"one {what}" if number == 1 else f"{number} {what}s"


def _evaluation(result: dict[str, Any] | None, model: str) -> str:
    """The table of `pyengine eval`, with what its columns mean."""
    if result is None:
        return f"Not measured yet: `pyengine eval {model}`."
    if "levels" in result:
        return f"`pyengine eval {model}`: {guide_report.report(result)}"
    lines = [
        f"`pyengine eval {model}`: {result['asked']} labels asked for in style {result['style']};",
        "is a picture of that label the nearest (top 1), or among the five nearest (top 5), of",
        f"{result['searched']} training pictures in 16x16 RGB? Distance: median RMS distance",
        f"to the nearest one. Copies: nearer than {COPY_DISTANCE}.",
        "",
        "| | top 1 | top 5 | distance | copies |",
        "| --- | --- | --- | --- | --- |",
    ]
    names = {
        "model": "this model",
        "model_all_pictures": "this model, all pictures of the set searched",
        "ceiling": "real pictures through the autoencoder",
        "floor": "shuffled prompts",
    }
    for key, name in names.items():
        if key in result:
            row = result[key]
            shares = f"{row['top1']:.1%} | {row['top5']:.1%} | {row['median_distance']:.3f}"
            lines.append(f"| {name} | {shares} | {row['copies']:.1%} |")
    if "bits_per_dimension" in result:
        row = result["bits_per_dimension"]
        lines += [
            "",
            f"Bits per dimension, with uniform dequantisation: {row['known']:.2f} over"
            f" {row['known_pictures']} of the",
            f"pictures that it was trained on, {row['held_out']:.2f} over"
            f" {row['held_out_pictures']} of the same style that show other things, which",
            "it has never seen. A published Glow has 3.81 on ImageNet at 64x64 (Kingma & Dhariwal",
            "2018, table 2): other data, so a figure of its kind and no comparison. Emoji on white",
            "take fewer bits than photographs.",
        ]
    if "spread" in result:
        row = result["spread"]
        shares = " and ".join(
            f"{row[name]['mean']:.1%} (deviation {row[name]['deviation']:.1%}) {text}"
            for name, text in (("top1", "top 1"), ("top5", "top 5"))
        )
        lines += ["", f"Over {row['drawings']} drawings from other seeds: {shares}."]
    return "\n".join(lines)
