"""The command `upscale` and its options; the work is in upscaling.py."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from . import values
from .values import ChosenDevice, Dtype, Json, whole


def upscale(
    pictures: Annotated[
        list[Path], Argument(metavar="PICTURE...", help="Picture files.", show_default=False)
    ],
    model: Annotated[
        str,
        Option(
            "--model",
            "-m",
            metavar="MODEL",
            autocompletion=values.models,
            show_default=False,
            help="An upscaler's folder or .safetensors file, or a Hub id.",
        ),
    ],
    output: Annotated[
        str | None,
        Option(
            "--output",
            "-o",
            metavar="PATH",
            show_default="out/PICTURE-large.png",
            help="A .png file, which is replaced, or a folder, where files are numbered.",
        ),
    ] = None,
    tile: Annotated[
        int | None,
        Option(
            metavar="N",
            parser=whole(1),
            show_default="384 beyond 512x512 pixels",
            help="Side of the tiles that a picture is cut into: less takes less memory.",
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        Option(
            metavar="N",
            parser=whole(0),
            show_default="the model's",
            help="Pixels around a tile that are read with it.",
        ),
    ] = None,
    device: ChosenDevice = None,
    dtype: Dtype = None,
    json: Json = False,
) -> int:
    """Enlarge pictures by an upscaler: ESRGAN, Real-ESRGAN or its compact form.

    \b
    pyengine upscale photo.png -m RealESRGAN_x4plus.safetensors
    pyengine upscale *.png -m realesr-general-x4v3.safetensors -o large/
    """
    from .upscaling import Options, run

    return run(Options(pictures, model, output, tile, overlap, device, dtype, json))
