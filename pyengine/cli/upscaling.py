"""`pyengine upscale`: picture files, enlarged."""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from .. import images as pictures
from ..errors import RequestError
from ..pipelines.loading import load
from ..weights.text import show
from . import files


@dataclass
class Options:
    """The command's options as app.py declares them; None is what was not given."""

    pictures: list[Path]
    model: str
    output: str | None
    tile: int | None
    overlap: int | None
    device: str | None
    dtype: str | None
    json: bool


def run(o: Options) -> int:
    from ..pipelines.upscale.pipeline import UpscalePipeline

    places = [place(o.output, path, len(o.pictures)) for path in o.pictures]
    for target in places:
        files.check_writable(target.path)
    images = [pictures.load_image(path, "pictures") for path in o.pictures]
    begin = time.perf_counter()
    pipe = load(o.model, {"device": o.device or "auto", "dtype": o.dtype}, UpscalePipeline)
    loaded = time.perf_counter() - begin
    for path, image, target in zip(o.pictures, images, places, strict=True):
        result = pipe(image, tile=o.tile, overlap=o.overlap)
        written, replaced = target.save(result.images, [PngInfo()])
        report = result.report
        report.seconds = {"load": loaded, **report.seconds}
        if o.json:
            answer = {
                "picture": str(path),
                "files": [str(f) for f in written],
                "replaced": [str(f) for f in replaced],
                "report": dataclasses.asdict(report),
            }
            print(json.dumps(answer))
            continue
        print(written[0])
        if replaced:
            print(f"  replaced {written[0]}")
        tiles = f"{report.steps} tile{'s' if report.steps > 1 else ''}"
        print(
            f"  {image.size[0]}x{image.size[1]} to {report.width}x{report.height} in {tiles},"
            f" {report.seconds['upscale']:.2f} s, {report.dtype} on {report.device}"
        )
    return 0


def place(output: str | None, path: Path, count: int) -> files.Place:
    """Where a picture's enlargement goes. Raises RequestError."""
    found = files.place(output, "")
    if found.given and count > 1:
        raise RequestError(f"output: expected a folder for {count} pictures, given {show(output)}")
    if found.given:
        return found
    return dataclasses.replace(found, path=found.path.with_name(f"{path.stem}-large.png"))
