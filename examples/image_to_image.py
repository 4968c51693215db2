"""A picture from a picture: `strength` is the share of the steps that is run, 0 to 1.

python examples/image_to_image.py folder
"""

import sys
from pathlib import Path

import pyengine


def main(folder: str) -> None:
    pipe = pyengine.from_pretrained()
    first = pipe("a red heart", seed=1, num_inference_steps=8).images[0]
    first.save(Path(folder) / "first.png")
    for strength in (0.25, 0.5, 1.0):
        changed = pipe(
            "a blue heart", image=first, strength=strength, seed=2, num_inference_steps=8
        )
        changed.images[0].save(Path(folder) / f"strength-{strength}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
