"""Pictures side by side under their names, as one picture."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from .families import Drawn

#: Of a cell's picture, in pixels; of the space around it; of a line of text.
SIDE, GAP, LINE = 128, 8, 13
#: Of the names left of rows.
MARGIN = 120


def cell(picture: Image.Image) -> Image.Image:
    """A picture as large as a cell: small ones with every pixel seen."""
    small = max(picture.size) < SIDE
    how = Image.Resampling.NEAREST if small else Image.Resampling.BICUBIC
    return picture.convert("RGB").resize((SIDE, SIDE), how)


def grid(
    rows: Sequence[Sequence[Image.Image]],
    heads: Sequence[Sequence[str]] = (),
    names: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """Pictures in rows. heads: lines above each column; names: lines left of each row."""
    columns = max(len(row) for row in rows)
    top = GAP + LINE * max((len(lines) for lines in heads), default=0)
    left = GAP + (MARGIN if names else 0)
    size = left + columns * (SIDE + GAP), top + len(rows) * (SIDE + GAP)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for i, lines in enumerate(heads):
        for k, line in enumerate(lines):
            pen.text((left + i * (SIDE + GAP), 4 + k * LINE), line, fill="black")
    for j, row in enumerate(rows):
        y = top + j * (SIDE + GAP)
        for k, line in enumerate(names[j] if names else ()):
            pen.text((GAP, y + k * LINE), line, fill="black")
        for i, picture in enumerate(row):
            sheet.paste(cell(picture), (left + i * (SIDE + GAP), y))
    return sheet


def sheet_of(drawn: Sequence[Drawn]) -> Image.Image:
    """A column of pictures for each model, one row a seed, under what it took and its figures."""
    heads = []
    for d in drawn:
        lines = [
            d.model,
            f"{d.seconds:.3f} s, {d.evaluations} ev.",
            f"{d.parameters / 1e6:.2f} M parameters",
        ]
        if "top1" in d.figures:
            lines.append(f"top 1 {d.figures['top1']:.0%}, 5 {d.figures['top5']:.0%}")
        heads.append(lines)
    rows = [[d.pictures[i] for d in drawn] for i in range(len(drawn[0].pictures))]
    return grid(rows, heads)
