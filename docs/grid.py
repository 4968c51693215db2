"""Draws the README's pictures: twenty prompts to each model that ships, one seed each.

python docs/grid.py [FOLDER]        (make grid)
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

import pyengine
from pyengine.pipelines.loading import NAMED

PROMPTS = (
    "a red heart", "a cat face", "a dog face", "a pizza", "a rocket",
    "a red apple", "a sunflower", "a rainbow", "a snowman", "an octopus",
    "a bicycle", "a crown", "a cactus", "a fire", "an owl",
    "a hamburger", "a blue heart", "a guitar", "a soccer ball", "a robot",
)  # fmt: skip
COLUMNS, SIDE, CAPTION = 5, 128, 18


def draw_grid(model: str, path: Path) -> None:
    result = pyengine.from_pretrained(model)(list(PROMPTS), seed=1)
    rows = -(-len(PROMPTS) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * SIDE, rows * (SIDE + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (prompt, image) in enumerate(zip(PROMPTS, result.images, strict=True)):
        x, y = i % COLUMNS * SIDE, i // COLUMNS * (SIDE + CAPTION)
        sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (x, y))
        draw.text((x + SIDE / 2, y + SIDE + 2), prompt, fill="black", anchor="ma")
    sheet.save(path, optimize=True)
    print(path)


def main(folder: str = "docs/images") -> None:
    for model in NAMED:
        draw_grid(model, Path(folder) / f"{model}-grid.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
