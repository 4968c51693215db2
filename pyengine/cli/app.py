"""The commands and their options. A command's work is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from .. import __version__
from . import values
from .bench import app as bench_app
from .training import eval_app, train_app
from .values import (
    DECODINGS,
    DEVICES,
    DTYPES,
    MODEL,
    SAMPLERS,
    TIERS,
    IgnoredKeys,
    Json,
    Model,
    Variant,
    one_of,
    real,
    whole,
)

app = typer.Typer(
    name="pyengine",
    help="Pictures from prompts, over our own kernels.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(train_app, name="train", rich_help_panel=None)
app.add_typer(eval_app, name="eval", rich_help_panel=None)
app.add_typer(bench_app, name="bench", rich_help_panel=None)


def print_version(wanted: bool) -> None:
    if wanted:
        print(f"pyengine {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=False)
def root(
    version: Annotated[
        bool, Option("--version", help="Print the version.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    pass


#: Defaults of the models that ship, as the help shows them; a test holds them to the models'.
STEPS, GUIDANCE, DRAWS = 20, (2.5, 2.0), (1.0, 200, 0.95)
SIZE = "the model's; 64 for emoji"


@app.command(cls=values.Command)
def generate(
    prompt: Annotated[
        str | None,
        Argument(
            metavar="PROMPT",
            help="What the picture shows; - reads standard input.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        Option(
            "--output",
            "-o",
            metavar="PATH",
            show_default="out/<prompt>.png",
            help="A .png file, which is replaced, or a folder, where files are numbered.",
        ),
    ] = None,
    number: Annotated[
        int | None,
        Option(
            "--number",
            "-n",
            metavar="N",
            parser=whole(1),
            show_default="1",
            help="How many pictures.",
        ),
    ] = None,
    grid: Annotated[bool, Option("--grid", help="All pictures on one sheet.")] = False,
    model: Model = None,
    variant: Variant = None,
    ignore_config_key: IgnoredKeys = None,
    steps: Annotated[
        int | None,
        Option(
            metavar="N",
            parser=whole(),
            show_default=f"the model's; {STEPS} for emoji",
            help="Denoising steps.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        Option(
            metavar="N",
            parser=whole(),
            show_default="random",
            help="Seed of the first picture; the next has one more.",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        Option(
            metavar="NAME",
            autocompletion=one_of(SAMPLERS),
            show_default="the model's",
            help=f"Sampler: {', '.join(SAMPLERS)}; other tools' names will do.",
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        Option(
            metavar="X",
            parser=real(),
            help="Guidance scale; 1 turns it off.",
            show_default="the model's; {:g} for emoji, {:g} for emoji-ar".format(*GUIDANCE),
        ),
    ] = None,
    guidance_rescale: Annotated[
        float | None,
        Option(metavar="X", parser=real(), show_default="0", help="0 to 1: against overexposure."),
    ] = None,
    negative: Annotated[
        str | None, Option(metavar="PROMPT", help="What the picture does not show.")
    ] = None,
    height: Annotated[
        int | None, Option(metavar="N", parser=whole(), show_default=SIZE, help="Pixels.")
    ] = None,
    width: Annotated[
        int | None, Option(metavar="N", parser=whole(), show_default=SIZE, help="Pixels.")
    ] = None,
    init_image: Annotated[
        Path | None, Option(metavar="FILE", help="A picture to begin from.")
    ] = None,
    strength: Annotated[
        float | None,
        Option(
            metavar="X",
            parser=real(),
            show_default="the model's; 0.8, with --mask 1",
            help="0 to 1: how much of it is made anew.",
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        Option(metavar="FILE", help="White where it is made anew; black, transparent: kept."),
    ] = None,
    eta: Annotated[
        float | None,
        Option(metavar="X", parser=real(), show_default="0", help="0 to 1: DDIM's noise."),
    ] = None,
    clip_skip: Annotated[
        int | None,
        Option(
            metavar="N", parser=whole(), show_default="0", help="Text encoder layers to leave out."
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        Option(
            metavar="X",
            parser=real(),
            show_default=f"the model's; {DRAWS[0]:g} for emoji-ar",
            help="Token models: 0 draws the likeliest every time.",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        Option(
            metavar="N",
            parser=whole(),
            show_default=f"the model's; {DRAWS[1]} for emoji-ar",
            help="Token models: so many may be drawn; 0: all.",
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        Option(
            metavar="X",
            parser=real(),
            show_default=f"the model's; {DRAWS[2]:g} for emoji-ar",
            help="Token models: the likeliest up to that.",
        ),
    ] = None,
    min_p: Annotated[
        float | None,
        Option(
            metavar="X",
            parser=real(),
            show_default="the model's; 0",
            help="Token models: this share of the likeliest.",
        ),
    ] = None,
    prefix: Annotated[
        Path | None,
        Option(metavar="FILE", help="Token models: a picture of the upper rows, to be completed."),
    ] = None,
    decoding: Annotated[
        str | None,
        Option(
            metavar="NAME",
            autocompletion=one_of(DECODINGS),
            show_default="sequential",
            help=f"Models that draw token by token: {', '.join(DECODINGS)}.",
        ),
    ] = None,
    window: Annotated[
        int | None,
        Option(
            metavar="N",
            parser=whole(),
            show_default="the model's",
            help="Tokens that a pass of jacobi reads.",
        ),
    ] = None,
    preview: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Models that draw token by token: a .png of the picture as it grows.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        Option(
            metavar="DEVICE",
            autocompletion=one_of(DEVICES),
            show_default="auto",
            help="auto, cpu, cuda or cuda:N.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        Option(
            metavar="DTYPE",
            autocompletion=one_of(DTYPES),
            show_default="float32",
            help="float32, float16 (fp16) or bfloat16 (bf16).",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        Option(
            metavar="TIER",
            autocompletion=one_of(TIERS),
            show_default="as stored",
            help="8 bits: int8 or fp8 of a token model, fp8 of a U-Net.",
        ),
    ] = None,
    json: Json = False,
    from_picture: Annotated[
        Path | None,
        Option(
            "--from",
            metavar="FILE",
            help="Repeat a picture that pyengine made; other options change it.",
        ),
    ] = None,
) -> int:
    """Draw pictures of a prompt.

    \b
    pyengine generate "a red heart"
    pyengine generate "a cat" -n 4 --grid --seed 7 -o cats.png
    pyengine generate "a fox, oil painting" -m stable-diffusion-v1-5/stable-diffusion-v1-5
    pyengine generate "a boat" --init-image sketch.png --strength 0.6
    pyengine generate "a red heart" -m emoji-ar --preview growing.png
    pyengine generate --from out/a-red-heart.png
    """
    from .generate import Options, run

    return run(Options(**{k: v for k, v in locals().items() if k not in ("Options", "run")}))


@app.command(cls=values.Command)
def info(
    model: Annotated[
        str | None,
        Argument(
            metavar="MODEL",
            autocompletion=values.models,
            show_default="emoji",
            help=MODEL,
        ),
    ] = None,
    variant: Variant = None,
    ignore_config_key: IgnoredKeys = None,
    concepts: Annotated[
        bool, Option("--concepts", help="List the things that the model was trained on.")
    ] = False,
    plan: Annotated[
        bool, Option("--plan", help="Tell layer by layer what the CPU will compute, and how.")
    ] = False,
    height: Annotated[
        int | None,
        Option(
            metavar="N",
            parser=whole(8),
            show_default="the model's",
            help="Pixels of the plan's picture.",
        ),
    ] = None,
    width: Annotated[
        int | None,
        Option(
            metavar="N",
            parser=whole(8),
            show_default="the model's",
            help="Pixels of the plan's picture.",
        ),
    ] = None,
    batch: Annotated[
        int,
        Option(
            metavar="N",
            parser=whole(1),
            help="Rows of the plan's U-Net call: two a picture under guidance.",
        ),
    ] = 2,
    json: Json = False,
) -> int:
    """Tell what is in a checkpoint: parts, sizes, configs, sampler, hash.

    \b
    pyengine info
    pyengine info ./stable-diffusion-2-1 --json
    pyengine info --plan --height 512 --width 512
    pyengine info emoji --concepts
    """
    if concepts:
        from .concepts import run as run_concepts

        return run_concepts(model, variant, json, ignore_config_key)
    if plan:
        from .plan import run as run_plan

        return run_plan(model, variant, height, width, batch, json, ignore_config_key)
    from .info import run

    return run(model, variant, json, ignore_config_key)


@app.command()
def doctor(json: Json = False) -> int:
    """Tell what this installation runs on: builds, instruction sets, OpenMP, CUDA, versions."""
    from ..doctor import run

    return run(json)
