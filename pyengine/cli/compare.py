"""The command `compare` and its options; the work is in comparing.py."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from . import values
from .values import Device, Json, whole


def compare(
    prompt: Annotated[str, Argument(metavar="PROMPT", help="What all of them are asked for.")],
    output: Annotated[
        Path,
        Option("--output", "-o", metavar="FILE", help="The sheet, a .png file, which is replaced."),
    ] = Path("compare.png"),
    families: Annotated[
        str | None,
        Option(
            metavar="NAMES",
            show_default="all that ship",
            help="Models, by commas: masked,ar,emoji.",
        ),
    ] = None,
    number: Annotated[
        int, Option("--number", "-n", metavar="N", parser=whole(1), help="Rows: a seed each.")
    ] = 1,
    seed: Annotated[int, Option(metavar="N", parser=whole(0), help="Of the first row.")] = 0,
    trajectory: Annotated[
        bool,
        Option(
            "--trajectory",
            help="Beside the sheet FILE: their ways to the picture, as a strip"
            " (FILE-trajectory.png) and animated (FILE-trajectory.webp).",
        ),
    ] = False,
    guidance: Annotated[
        bool,
        Option("--guidance", help="One model instead, guided in several ways over several scales."),
    ] = False,
    model: Annotated[
        str,
        Option(
            "--model",
            "-m",
            metavar="MODEL",
            autocompletion=values.models,
            help="The model of --guidance, of diffusion.",
        ),
    ] = "emoji",
    device: Device = "auto",
    json: Json = False,
) -> int:
    """Draw one prompt with every family that ships, side by side: a sheet and a table.

    \b
    pyengine compare "a red heart" -o sheet.png
    pyengine compare "a fox" --families emoji,ar,masked -n 3 --trajectory
    """
    from .comparing import Options, run

    return run(
        Options(prompt, output, families, number, seed, trajectory, guidance, model, device, json)
    )
