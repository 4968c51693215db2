"""The commands and their options. A command's work is imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from .. import __version__
from .bench import app as bench_app

#: The samplers that --scheduler takes; a test holds it equal to pyengine.schedules.SAMPLER_NAMES.
SAMPLERS = (
    "ddim", "ddpm", "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde", "dpmpp_2m_sde_karras", "euler",
    "euler_ancestral", "heun", "lcm", "pndm", "unipc",
)  # fmt: skip

app = typer.Typer(
    name="pyengine",
    help="Pictures from prompts, over our own kernels.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train_app = typer.Typer(help="Train the models that ship (needs the extra `train`).")
eval_app = typer.Typer(help="Measure a model (needs the extra `train`).")
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


Model = Annotated[
    str | None,
    Option("--model", "-m", help="Folder, .safetensors file or Hub id; else the model that ships."),
]
Device = Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str | None, Option(help="float32 (unless told), float16 or bfloat16.")]
Weights = Annotated[
    str | None, Option(help="8 bits: int8 or fp8 of a token model, fp8 of a U-Net.")
]
Json = Annotated[bool, Option("--json", help="Print the result as JSON.")]


@app.command()
def generate(
    prompt: Annotated[str | None, Argument(help="What the picture shows.")] = None,
    output: Annotated[
        Path | None,
        Option("--output", "-o", help="A .png file or a folder; else out/<prompt>.png."),
    ] = None,
    number: Annotated[
        int | None, Option("--number", "-n", help="How many pictures.", min=1)
    ] = None,
    grid: Annotated[bool, Option("--grid", help="All pictures on one sheet.")] = False,
    model: Model = None,
    variant: Annotated[str | None, Option(help="Weights of a variant, such as fp16.")] = None,
    steps: Annotated[int | None, Option(help="Denoising steps.")] = None,
    seed: Annotated[
        int | None, Option(help="Seed of the first picture; the next has one more.")
    ] = None,
    scheduler: Annotated[str | None, Option(help=f"Sampler: {', '.join(SAMPLERS)}.")] = None,
    guidance: Annotated[float | None, Option(help="Guidance scale; 1 turns it off.")] = None,
    guidance_rescale: Annotated[float | None, Option(help="0 to 1: against overexposure.")] = None,
    negative: Annotated[str | None, Option(help="What the picture does not show.")] = None,
    height: Annotated[int | None, Option(help="Pixels.")] = None,
    width: Annotated[int | None, Option(help="Pixels.")] = None,
    init_image: Annotated[Path | None, Option(help="A picture to begin from.")] = None,
    strength: Annotated[float | None, Option(help="0 to 1: how much of it is made anew.")] = None,
    mask: Annotated[
        Path | None, Option(help="White where it is made anew; black, transparent: kept.")
    ] = None,
    eta: Annotated[float | None, Option(help="0 to 1: DDIM's noise.")] = None,
    clip_skip: Annotated[int | None, Option(help="Text encoder layers to leave out.")] = None,
    temperature: Annotated[
        float | None, Option(help="Token models: 0 draws the likeliest every time.")
    ] = None,
    top_k: Annotated[int | None, Option(help="Token models: so many may be drawn; 0: all.")] = None,
    top_p: Annotated[float | None, Option(help="Token models: the likeliest up to that.")] = None,
    min_p: Annotated[
        float | None, Option(help="Token models: this share of the likeliest.")
    ] = None,
    prefix: Annotated[
        Path | None, Option(help="Token models: a picture of the upper rows, to be completed.")
    ] = None,
    decoding: Annotated[
        str | None,
        Option(help="Models that draw token by token: sequential, jacobi, jacobi-gumbel."),
    ] = None,
    window: Annotated[int | None, Option(help="Tokens that a pass of jacobi reads.")] = None,
    preview: Annotated[
        Path | None,
        Option(help="Models that draw token by token: a .png of the picture as it grows."),
    ] = None,
    device: Annotated[str | None, Option(help="auto, cpu, cuda or cuda:N.")] = None,
    dtype: Dtype = None,
    weights: Weights = None,
    json: Json = False,
    from_picture: Annotated[
        Path | None,
        Option("--from", help="Repeat a picture that pyengine made; other options change it."),
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


@app.command()
def info(
    model: Annotated[
        str | None,
        Argument(help="Folder, .safetensors file or Hub id; else the model that ships."),
    ] = None,
    variant: Annotated[str | None, Option(help="Weights of a variant, such as fp16.")] = None,
    plan: Annotated[
        bool, Option("--plan", help="Tell layer by layer what the CPU will compute, and how.")
    ] = False,
    height: Annotated[int | None, Option(help="Pixels of the plan's picture.", min=8)] = None,
    width: Annotated[int | None, Option(help="Pixels of the plan's picture.", min=8)] = None,
    batch: Annotated[
        int, Option(help="Rows of the plan's U-Net call: two a picture under guidance.", min=1)
    ] = 2,
    json: Json = False,
) -> int:
    """Tell what is in a checkpoint: parts, sizes, configs, sampler, hash.

    \b
    pyengine info
    pyengine info ./stable-diffusion-2-1 --json
    pyengine info --plan --height 512 --width 512
    """
    if plan:
        from .plan import run as run_plan

        return run_plan(model, variant, height, width, batch, json)
    from .info import run

    return run(model, variant, json)


@app.command()
def doctor(json: Json = False) -> int:
    """Tell what this installation runs on: builds, instruction sets, OpenMP, CUDA, versions."""
    from ..doctor import run

    return run(json)


@train_app.command("emoji")
def train_emoji(
    data: Annotated[
        Path | None, Option(help="Folder with train.npz, or the file; else $PYENGINE_DATA.")
    ] = None,
    out: Annotated[
        Path, Option("--out", "-o", help="Folder of the run; it goes on where it stopped.")
    ] = Path("emoji-run"),
    steps: Annotated[
        int, Option(help="Steps of the noise predictor, from its beginning.", min=1)
    ] = 30000,
    minutes: Annotated[float | None, Option(help="Stop earlier, after so many.")] = None,
    device: Device = "cpu",
    threads: Annotated[int | None, Option(min=1)] = None,
    seed: int = 1,
    batch: Annotated[int | None, Option(min=1)] = None,
    rate: Annotated[float | None, Option(help="Learning rate.")] = None,
    init_from: Annotated[Path | None, Option(help="An exported model to begin from.")] = None,
    export: Annotated[Path | None, Option(help="Write the model here when done.")] = None,
) -> int:
    """Train the emoji model, or go on where it stopped.

    \b
    pyengine train data --out emoji64
    pyengine train emoji --data emoji64 --out emoji-run --minutes 60 --export emoji
    """
    from .train import run_emoji

    return run_emoji(**{k: v for k, v in locals().items() if k != "run_emoji"})


@train_app.command("emoji-ar")
def train_emoji_ar(
    data: Annotated[
        Path | None, Option(help="Folder with train.npz, or the file; else $PYENGINE_DATA.")
    ] = None,
    out: Annotated[
        Path, Option("--out", "-o", help="Folder of the run; it goes on where it stopped.")
    ] = Path("emoji-ar-run"),
    steps: Annotated[
        int, Option(help="Steps of the transformer, from its beginning.", min=1)
    ] = 4600,
    vq_steps: Annotated[
        int | None, Option(help="Steps of the VQ-VAE, from its beginning.", min=1)
    ] = None,
    minutes: Annotated[float | None, Option(help="Stop earlier, after so many.")] = None,
    device: Device = "cpu",
    threads: Annotated[int | None, Option(min=1)] = None,
    seed: int | None = None,
    batch: Annotated[int | None, Option(help="Of the transformer.", min=1)] = None,
    rate: Annotated[float | None, Option(help="The transformer's learning rate.")] = None,
    cool: Annotated[
        int, Option(help="More steps for what is exported, the rate descending to zero.", min=0)
    ] = 250,
    sharpen: Annotated[
        int, Option(help="Steps of the decoder before the first export, tokens held.", min=0)
    ] = 2000,
    export: Annotated[Path | None, Option(help="Write the model here when done.")] = None,
) -> int:
    """Train the model that draws emoji token by token, or go on where it stopped.

    \b
    pyengine train data --out emoji64
    pyengine train emoji-ar --data emoji64 --out emoji-ar-run --minutes 60 --export emoji-ar
    """
    from .train import run_emoji_ar

    return run_emoji_ar(**{k: v for k, v in locals().items() if k != "run_emoji_ar"})


@train_app.command("data")
def train_data(
    out: Annotated[Path, Option("--out", "-o", help="Folder for train.npz and the others.")] = Path(
        "emoji64"
    ),
    packages: Annotated[
        list[Path] | None,
        Option(help="Folders of the unpacked npm packages; else npm fetches them."),
    ] = None,
    size: Annotated[int, Option(help="Pixels a side.")] = 64,
    held_out: Annotated[float, Option(help="Share kept for evaluation.")] = 0.05,
    seed: int = 0,
) -> int:
    """Build the emoji pictures from the npm packages that they come from."""
    from .train import run_data

    return run_data(**{k: v for k, v in locals().items() if k != "run_data"})


@eval_app.command("emoji")
def eval_emoji(
    model: Model = None,
    data: Annotated[
        Path | None, Option(help="Folder with train.npz, or the file; else $PYENGINE_DATA.")
    ] = None,
    concepts: Annotated[
        Path | None, Option(help="File of labels; else the model's concepts.txt.")
    ] = None,
    style: str = "fluent-3d",
    count: Annotated[int, Option(help="Labels to ask for.", min=1)] = 200,
    seed: int = 0,
    steps: Annotated[int | None, Option(min=1)] = None,
    guidance: float | None = None,
    device: Device = "auto",
    pictures: Annotated[Path | None, Option(help="Save what was drawn as a sheet.")] = None,
    json: Json = False,
) -> int:
    """How often the model's pictures are recognised: nearest training pictures, in 16x16 RGB."""
    from .train import run_evaluation

    return run_evaluation(**{k: v for k, v in locals().items() if k != "run_evaluation"})


@eval_app.command("emoji-ar")
def eval_emoji_ar(
    model: Annotated[
        str, Option("--model", "-m", help="Folder or Hub id; else emoji-ar, if it ships.")
    ] = "emoji-ar",
    data: Annotated[
        Path | None, Option(help="Folder with train.npz, or the file; else $PYENGINE_DATA.")
    ] = None,
    concepts: Annotated[
        Path | None, Option(help="File of labels; else the model's concepts.txt.")
    ] = None,
    style: str = "fluent-3d",
    count: Annotated[int, Option(help="Labels to ask for.", min=1)] = 200,
    seed: int = 0,
    guidance: float | None = None,
    device: Device = "auto",
    pictures: Annotated[Path | None, Option(help="Save what was drawn as a sheet.")] = None,
    json: Json = False,
) -> int:
    """How often the token model's pictures are recognised: the same figures as `eval emoji`."""
    from .train import run_evaluation

    return run_evaluation(**{k: v for k, v in locals().items() if k != "run_evaluation"})
