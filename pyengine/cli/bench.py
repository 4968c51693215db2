"""The options of `pyengine bench`; pyengine.bench is imported when a command runs."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from .values import DEVICES, DTYPES, TIERS, Json, models, one_of, whole

app = typer.Typer(
    help="Measure the engine against named peers (--peers: the extra `bench` or `bench-gpu`).",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Peers = Annotated[bool, Option("--peers", help="Measure others too, in turn with us.")]
Without = Annotated[
    list[str] | None,
    Option("--without", metavar="NAME", help="Leave this peer out; may be repeated."),
]
Threads = Annotated[
    int | None,
    Option(metavar="N", parser=whole(1), show_default="one a core", help="For everyone."),
]
Rounds = Annotated[
    int, Option(metavar="N", parser=whole(2), help="Samples of each; medians are shown.")
]
Quick = Annotated[bool, Option("--quick", help="Tiny shapes, two rounds: does it work?")]
Save = Annotated[
    Path | None, Option("--save", metavar="FILE", help="Write everything to this file, as JSON.")
]
Plot = Annotated[
    Path | None, Option("--plot", metavar="FILE", help="Draw a roofline to this .png file.")
]
Device = Annotated[
    str,
    Option(metavar="DEVICE", autocompletion=one_of(DEVICES[1:]), help="cpu, cuda or cuda:N."),
]
Dtype = Annotated[
    str,
    Option(metavar="DTYPE", autocompletion=one_of(DTYPES), help="float32, float16 or bfloat16."),
]
Latents = Annotated[
    str | None,
    Option(
        metavar="N,N", show_default="32,64", help="Sides of the latents, an eighth of the pixels'."
    ),
]
Batch = Annotated[
    int, Option(metavar="N", parser=whole(1), help="Rows; 2 are a picture with guidance.")
]
Keep = Annotated[
    Path | None,
    Option(
        metavar="FOLDER",
        help="For random checkpoints and converted models, used again if they fit.",
    ),
]


def _shared(
    peers: Peers = False,
    without: Without = None,
    threads: Threads = None,
    rounds: Rounds = 5,
    quick: Quick = False,
    json: Json = False,
    save: Save = None,
    plot: Plot = None,
) -> None:
    """The options of every command that measures peers."""


def _command(rounds: int = 5) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Registers a command; its signature has the options of `_shared` in place of `**shared`."""

    def register(run: Callable[..., int]) -> Callable[..., int]:
        own = inspect.signature(run)
        parameters = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        for shared in inspect.signature(_shared).parameters.values():
            default = rounds if shared.name == "rounds" else shared.default
            parameters.append(shared.replace(default=default))
        run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        app.command()(run)
        return run

    return register


def _options(**given: Any) -> Any:
    """pyengine.bench.run.Options; a value of --without may name several."""
    from ..bench.run import Options

    given["without"] = [n for text in given.get("without") or [] for n in text.split(",")]
    return Options(**given)


@_command(rounds=7)
def ops(
    op: Annotated[
        list[str] | None, Option("--op", metavar="OP", help="An op; may be repeated.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        Option(
            "--shape",
            metavar="SHAPE",
            help="A shape as the table names it, or part of it; may be repeated.",
        ),
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    **shared: Any,
) -> int:
    """Every op at SD 1.5's and LlamaGen's shapes, on GPUs also SDXL's, inputs hot and cold.

    \b
    pyengine bench ops --op conv2d --shape 16^2 --peers
    pyengine bench ops --peers --without torch.compile --save ops.json --plot ops.png
    pyengine bench ops --device cuda --dtype bfloat16 --op geglu --peers

    Peers: torch, torch.compile and, on CPUs for convolutions, ncnn, on GPUs for vq_argmin,
    flash-kmeans. On GPUs everyone's calls are one CUDA graph, so that kernels are measured and not
    how fast Python launches them. Where memory is the bound, "of the bound" of cold inputs is the
    share of the bandwidth of a copy.
    """
    from ..bench.run import run_ops

    given = _options(dtype=dtype, device=device, **shared)
    return run_ops(given, op=op or [], shape=shape or [])


@_command()
def unet(
    model: Annotated[
        str,
        Option(
            metavar="NAME",
            autocompletion=one_of(("sd15", "sdxl", "ddpm", "unclip", "if")),
            help="sd15, sdxl, ddpm, unclip or if.",
        ),
    ] = "sd15",
    latents: Latents = None,
    batch: Batch = 2,
    dtype: Dtype = "float32",
    weights: Annotated[
        str | None,
        Option(
            metavar="TIER",
            autocompletion=one_of(TIERS),
            show_default="of the dtype",
            help="int8 or fp8: how ours multiply; the peers' are of the dtype.",
        ),
    ] = None,
    device: Device = "cpu",
    keep: Keep = None,
    **shared: Any,
) -> int:
    """One call of the U-Net of Stable Diffusion 1.5, XL, google/ddpm-cifar10-32, unCLIP's decoder
    (Karlo) or IF-I-M, random weights.

    \b
    pyengine bench unet --peers --without torch.compile
    pyengine bench unet --latents 32 --peers --keep /tmp/bench
    pyengine bench unet --device cuda --dtype bfloat16 --latents 64 --peers
    pyengine bench unet --model sdxl --device cuda --dtype bfloat16 --latents 128 --weights fp8

    Peers: diffusers (eager, channels_last), torch.compile (freezing; on GPUs max-autotune, with
    CUDA graphs) and, on CPUs, openvino (static shapes, latency), each in a process of its
    own; ddpm, unclip and if without openvino. SDXL's weights are 5.1 GB in float16, and 10.3 GB in
    a peer that computes in float32; bench/sdxl_unet.py is for machines that cannot hold both.
    """
    from ..bench.run import run_model

    given = _options(dtype=dtype, device=device, keep=keep, **shared)
    return run_model(given, "unet", latents=latents, batch=batch, model=model, weights=weights)


@_command()
def vae(
    latents: Latents = None,
    batch: Annotated[int, Option(metavar="N", parser=whole(1), help="Pictures.")] = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    keep: Keep = None,
    **shared: Any,
) -> int:
    """One decode by SD 1.5's autoencoder, random weights; peers as for the U-Net.

    \b
    pyengine bench vae --peers --without torch.compile
    """
    from ..bench.run import run_model

    given = _options(dtype=dtype, device=device, keep=keep, **shared)
    return run_model(given, "vae", latents=latents, batch=batch)


@_command()
def pipeline(
    model: Annotated[
        str | None,
        Option(
            "--model",
            "-m",
            metavar="MODEL",
            autocompletion=models,
            show_default="random weights",
            help="A folder, a file or a model that ships: of any family.",
        ),
    ] = None,
    arrangement: Annotated[
        str | None,
        Option(
            metavar="NAME",
            autocompletion=one_of(("sd15", "ddpm", "dit", "biggan", "dcgan")),
            show_default="sd15",
            help="Without a model, whose networks to fill with random weights: sd15, ddpm"
            " (CIFAR-10), dit (XL/2, 256), biggan (deep, 128) or dcgan (64).",
        ),
    ] = None,
    size: Annotated[
        int | None,
        Option(
            metavar="N",
            parser=whole(8),
            show_default="the pipeline's, 512 for sd15",
            help="Pixels a side.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        Option(
            metavar="N",
            parser=whole(2),
            show_default="4",
            help="Denoising steps, of each of the pipeline's stages.",
        ),
    ] = None,
    pictures: Annotated[
        int, Option(metavar="N", parser=whole(1), help="In one call, each of a seed of its own.")
    ] = 1,
    keep: Keep = None,
    **shared: Any,
) -> int:
    """A call of a pipeline: of a checkpoint that you have, or of one with random weights.

    \b
    pyengine bench pipeline --peers --rounds 2
    pyengine bench pipeline -m kandinsky-2-2-decoder --steps 10 --peers
    pyengine bench pipeline --arrangement dcgan --pictures 16

    Shows loading, the difference of the pictures, the most memory held and, of Stable Diffusion,
    the time to the first step. Peer: diffusers' pipeline of the same folder, from the same
    generators; where it has none, that is said.
    """
    from ..bench.run import run_pipeline

    return run_pipeline(
        _options(keep=keep, **shared),
        model=model,
        arrangement=arrangement,
        size=size,
        steps=steps,
        pictures=pictures,
    )


@_command()
def token(
    only: Annotated[
        list[str] | None,
        Option("--only", metavar="NAME", help="token, picture or jacobi; may be repeated."),
    ] = None,
    size: Annotated[
        str, Option("--model-size", metavar="SIZE", help="b or xl: LlamaGen-B's or -XL's shape.")
    ] = "b",
    dtype: Dtype = "float32",
    device: Device = "cpu",
    model: Annotated[
        str | None,
        Option(
            "--model",
            "-m",
            metavar="MODEL",
            autocompletion=models,
            help="A model whose passes per token are measured.",
        ),
    ] = None,
    windows: Annotated[
        str, Option(metavar="N,N", help="Tokens that a pass of Jacobi decoding reads.")
    ] = "4,8,16",
    pictures: Annotated[
        int,
        Option(metavar="N", parser=whole(1), help="That the given model draws, one by one."),
    ] = 8,
    keep: Keep = None,
    **shared: Any,
) -> int:
    """One token of a GPT of LlamaGen's shape, two rows, and a picture of 576 of them.

    \b
    pyengine bench token --only token --peers
    pyengine bench token --only picture --peers --without torch.compile --rounds 2
    pyengine bench token --only jacobi -m emoji-ar
    pyengine bench token --only token --device cuda --dtype bfloat16 --model-size xl --peers

    Random weights, kept in the dtype and in 8 bits (with float32 on the CPU also in 16, on a GPU
    also in fp8). Peers: torch, which is transformers' Llama with a static cache (and its generate,
    and diffusers' VQModel), and torch.compile of the same step (freezing; on GPUs max-autotune,
    with CUDA graphs). The bound is what weights, keys and values take to be read. Jacobi decoding
    is measured on a model that you give.
    """
    from ..bench.run import run_token

    return run_token(
        _options(dtype=dtype, device=device, keep=keep, **shared),
        model=model,
        windows=windows,
        pictures=pictures,
        only=only or [],
        size=size,
    )


@app.command()
def agreement(
    device: Device = "cpu",
    pictures: Annotated[int, Option(metavar="N", parser=whole(1), help="Of each model.")] = 4,
    threads: Threads = None,
    json: Json = False,
    save: Save = None,
) -> int:
    """Pictures from the models that ship, drawn by the CPU and by a device, in float32: their PSNR.

    \b
    pyengine bench agreement --device cuda

    Ends with an error for a picture under 40 dB. With --device cpu both are the CPU's.
    """
    from ..bench.run import run_agreement

    given = _options(device=device, threads=threads, json=json, save=save)
    return run_agreement(given, pictures=pictures)


@app.command()
def neighbours(
    model: Annotated[
        list[str] | None,
        Option(
            "--model",
            "-m",
            metavar="MODEL",
            autocompletion=models,
            show_default="those that ship",
            help="A model; may be repeated.",
        ),
    ] = None,
    busy: Annotated[
        int | None,
        Option(metavar="N", parser=whole(0), show_default="one a core", help="Busy processes."),
    ] = None,
    pictures: Annotated[
        int,
        Option(metavar="N", parser=whole(1), help="In each round, alone and beside them."),
    ] = 3,
    threads: Threads = None,
    rounds: Annotated[
        int, Option(metavar="N", parser=whole(1), help="Of pictures alone and beside them.")
    ] = 3,
    quick: Quick = False,
    json: Json = False,
    save: Save = None,
) -> int:
    """A picture beside other busy processes, against its time alone, and the fair share.

    \b
    pyengine bench neighbours
    pyengine bench neighbours -m emoji-ar --busy 1 --save neighbours.json

    Where all threads that compute get equal time, two of ours beside two busy processes on two
    cores take twice as long: the fair share. Threads that wait for each other take longer.
    """
    from ..bench.run import run_neighbours

    given = _options(threads=threads, rounds=rounds, quick=quick, json=json, save=save)
    return run_neighbours(given, model=model or [], busy=busy, pictures=pictures)
