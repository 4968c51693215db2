"""A part of a picture made anew: white in `mask_image` is made anew, black is kept.

python examples/inpainting.py folder
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

import pyengine


def main(folder: str) -> None:
    pipe = pyengine.from_pretrained()
    first = pipe("a red heart", seed=1, num_inference_steps=8).images[0]
    mask = Image.new("L", first.size)
    ImageDraw.Draw(mask).rectangle((0, 0, first.width // 2, first.height), fill=255)
    painted = pipe(
        "a star", image=first, mask_image=mask, strength=1.0, seed=2, num_inference_steps=8
    )
    first.save(Path(folder) / "first.png")
    mask.save(Path(folder) / "mask.png")
    painted.images[0].save(Path(folder) / "painted.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
