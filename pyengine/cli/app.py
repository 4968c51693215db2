"""The commands and their options. A command's work is imported when it runs."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from .. import __version__
from ..pipelines.arguments import OPTIONS
from . import values
from .bench import app as bench_app
from .bench_serve import serve as _  # noqa: F401 - a command of bench_app
from .bench_tiers import tiers as _tiers  # noqa: F401 - likewise
from .compare import compare
from .serve import serve
from .training import evaluate, train_app
from .upscale import upscale
from .values import (
    CONTROL_KINDS,
    MODEL,
    TIERS,
    ChosenDevice,
    Dtype,
    IgnoredKeys,
    Json,
    Models,
    Preset,
    Variant,
    one_of,
    whole,
    with_call_options,
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
app.command("eval", cls=values.Command)(evaluate)
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


@app.command(cls=values.Command)
@with_call_options(after="ignore_config_key")
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
    model: Models = None,
    variant: Variant = None,
    ignore_config_key: IgnoredKeys = None,
    preview: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Models that draw token by token: a .png of the picture as it grows.",
        ),
    ] = None,
    device: ChosenDevice = None,
    dtype: Dtype = None,
    weights: Annotated[
        str | None,
        Option(
            metavar="TIER",
            autocompletion=one_of(TIERS),
            show_default="as stored",
            help="8 bits: int8 or fp8, of a token model or a U-Net.",
        ),
    ] = None,
    controlnet: Annotated[
        str | None,
        Option(metavar="PLACE", help="A ControlNet's folder or file; what it sees: --control."),
    ] = None,
    t2i_adapter: Annotated[
        str | None,
        Option(metavar="PLACE", help="A T2I-Adapter's folder or file; what it sees: --control."),
    ] = None,
    control_kind: Annotated[
        str | None,
        Option(
            metavar="NAME",
            autocompletion=one_of(CONTROL_KINDS),
            show_default="as it is",
            help=f"What --control is made into: {', '.join(CONTROL_KINDS)}.",
        ),
    ] = None,
    ip_adapter: Annotated[
        str | None,
        Option(
            metavar="PLACE",
            help="An IP-Adapter's folder or file; what it reads: --ip-adapter-image.",
        ),
    ] = None,
    image_encoder: Annotated[
        str | None,
        Option(
            metavar="FOLDER",
            show_default="image_encoder beside it",
            help="The IP-Adapter's encoder of pictures.",
        ),
    ] = None,
    vae: Annotated[
        str | None,
        Option(
            metavar="PLACE",
            show_default="the model's",
            help="Latent models: another autoencoder's folder, or a tiny one's file.",
        ),
    ] = None,
    prior: Annotated[
        str | None,
        Option(metavar="MODEL", help="Kandinsky's decoders: the prior that reads the prompt."),
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
    lora_dir: Annotated[
        Path | None,
        Option(
            metavar="FOLDER",
            show_default="none",
            help="LoRAs, which --lora and <lora:name:0.8> in the prompt name.",
        ),
    ] = None,
    embeddings_dir: Annotated[
        Path | None,
        Option(
            metavar="FOLDER",
            show_default="none",
            help="Textual inversions, which prompts name as their files are called.",
        ),
    ] = None,
    preset: Preset = None,
    fast: Annotated[bool, Option("--fast", help="The same as --effort fast.")] = False,
    **call: Any,
) -> int:
    """Draw pictures of a prompt.

    \b
    pyengine generate "a red heart"
    pyengine generate "a red heart" --fast
    pyengine generate "a cat" -n 4 --grid --seed 7 -o cats.png
    pyengine generate "a fox, oil painting" -m stable-diffusion-v1-5/stable-diffusion-v1-5
    pyengine generate "a fox <lora:ink:0.8>" -m sd15 --lora-dir loras
    pyengine generate "a boat" --init-image sketch.png --strength 0.6
    pyengine generate "a house" -m sd15 --controlnet canny/ --control photo.jpg --control-kind canny
    pyengine generate "a red heart" -m emoji-ar --preview growing.png
    pyengine generate "a cat" -m IF-I-XL-v1.0 -m IF-II-L-v1.0 -m upscaler.safetensors
    pyengine generate --from out/a-red-heart.png
    """
    from .generate import Options, run

    if fast:
        call["effort"] = call["effort"] or "fast"
    own = {k: v for k, v in locals().items() if k not in ("Options", "run", "call", "fast")}
    own |= {"model": model[0] if model else None, "further": (model or [])[1:]}
    return run(Options(**own, call={row.name: call[str(row.option)] for row in OPTIONS}))


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


app.command(cls=values.Command)(upscale)
app.command(cls=values.Command)(compare)
app.command(cls=values.Command)(serve)


@app.command()
def doctor(json: Json = False) -> int:
    """Tell what this installation runs on: builds, instruction sets, OpenMP, CUDA, versions."""
    from ..doctor import run

    return run(json)
