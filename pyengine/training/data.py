"""`pyengine train data`: the captioned pictures, rebuilt from npm packages.

The packages are fetched by name with npm, or given as folders already
unpacked.  Pictures are rasterised at 64x64 by resvg-py and put on white.
Some emoji are held out of the training files, chosen by their code, so that
one emoji is in one part in all its styles.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UnavailableError
from . import dataset

PACKAGES = {
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/noto-v1": "1.2.5",
    "@iconify-json/twemoji": "1.2.5",
    "@iconify-json/fluent-emoji": "1.2.7",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "emojibase-data": "17.0.0",
}
# style -> (package, the packages whose chars.json names its icons)
ICONIFY = {
    "noto": ("@iconify-json/noto", ("@iconify-json/noto",)),
    "noto-v1": ("@iconify-json/noto-v1", ("@iconify-json/noto", "@iconify-json/twemoji")),
    "twemoji": ("@iconify-json/twemoji", ("@iconify-json/twemoji",)),
    "fluent": ("@iconify-json/fluent-emoji", ("@iconify-json/fluent-emoji-flat",)),
    "fluent-flat": ("@iconify-json/fluent-emoji-flat", ("@iconify-json/fluent-emoji-flat",)),
}
WEBP_STYLE, WEBP_PACKAGE = "fluent-3d", "@lobehub/fluent-emoji-3d"
STYLES = (*ICONIFY, WEBP_STYLE)
NO_RASTERISER = "training needs the package resvg-py: pip install 'pyengine[train]'"
NO_NPM = (
    "packages: expected npm on the PATH, which fetches them (it comes with Node.js), or folders of"
    " unpacked packages (`train data --packages`), given neither"
)
SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}


def build(
    out_dir: str | os.PathLike[str],
    *,
    packages: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    size: int = 64,
    held_out: float = 0.05,
    seed: int = 0,
    echo: Callable[[str], None] = print,
) -> Path:
    """Write train.npz, train_skintones.npz and held_out.npz into `out_dir`; returns it.

    packages: folder(s) that hold the unpacked packages, by name or below node_modules;
    None: fetch them with npm into `out_dir`/packages.
    held_out: share of the emoji kept for evaluation; 0 trains on all.
    """
    if not 0 <= held_out < 1:
        raise dataset.DataError(f"held_out: expected a share from 0 up to 1, given {held_out}")
    if size < 16:
        raise dataset.DataError(f"size: expected at least 16, given {size}")
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    if packages is None:
        roots = [fetch(out / "packages", echo)]
    elif isinstance(packages, (str, os.PathLike)):
        roots = [Path(packages)]
    else:
        roots = [Path(root) for root in packages]
    parts: dict[str, tuple[list[Any], list[Any]]] = {
        name: ([], []) for name in ("train", "train_skintones", "held_out")
    }
    for image, caption in pictures(roots, size, echo):
        images, captions = parts[part_of(caption["hexcode"], held_out, seed)]
        images.append(image)
        captions.append(caption)
    for name, (images, captions) in parts.items():
        echo(f"{name}: {len(images)} pictures")
        if images:
            dataset.save(out / f"{name}.npz", np.stack(images), captions)
    return out


def fetch(folder: Path, echo: Callable[[str], None] = print) -> Path:
    """Install the packages with npm (no scripts run) and return the folder."""
    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableError(NO_NPM)
    if importlib.util.find_spec("resvg_py") is None:  # before the minutes that fetching takes
        raise UnavailableError(NO_RASTERISER)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
    command = [
        npm,
        "install",
        "--prefix",
        str(folder),
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--no-save",
    ]
    echo(f"npm install {' '.join(wanted)}")
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(
            f"npm install: expected exit status 0, given {done.returncode}: {done.stderr[-300:]}"
        )
    return folder


def find(roots: Sequence[Path], package: str) -> Path:
    """The folder of an unpacked package."""
    for root in roots:
        for place in (
            root / package,
            root / "node_modules" / package,
            root / package.rpartition("/")[2],
        ):
            if place.is_dir():
                return place
        if root.name == package.rpartition("/")[2] and root.is_dir():
            return root
    given = ", ".join(str(root) for root in roots)
    raise dataset.DataError(f"packages: expected a folder {package} in the folders, given {given}")


def normal(code: str) -> str:
    """One spelling for an emoji's code: upper case, dashes, four digits, no variation selector."""
    parts = [part.rjust(4, "0") for part in code.upper().replace("_", "-").split("-")]
    return "-".join(part for part in parts if part != "FE0F")


def names(package: Path) -> dict[str, dict[str, Any]]:
    """Code -> label and tags, the skin-tone variants with their parent's tags."""
    table = {}
    for entry in _read(package / "en" / "data.json"):
        for variant in (entry, *entry.get("skins", ())):
            tags = variant.get("tags", entry.get("tags", []))
            table[normal(variant["hexcode"])] = {"label": variant["label"], "tags": tags}
    return table


def pictures(
    roots: Sequence[Path], size: int, echo: Callable[[str], None]
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Every picture of every style that has a name, with its caption."""
    table = names(find(roots, "emojibase-data"))
    sources = [(style, icons(roots, style)) for style in ICONIFY] + [(WEBP_STYLE, webps(roots))]
    for style, source in sources:
        count = 0
        for code, draw in source:
            if code in table:
                count += 1
                yield draw(size), {"style": style, **table[code], "hexcode": code}
        echo(f"{style}: {count} pictures")


def icons(roots: Sequence[Path], style: str) -> Iterator[tuple[str, Callable[[int], np.ndarray]]]:
    """Codes of an Iconify set, in order, each with a function that draws it."""
    package, naming = ICONIFY[style]
    collection = _read(find(roots, package) / "icons.json")
    codes: dict[str, str] = {}
    for name in naming:
        for code, icon in _read(find(roots, name) / "chars.json").items():
            codes.setdefault(normal(code), icon)
    for code in sorted(codes):
        icon = collection["icons"].get(codes[code])
        if icon is not None and not icon.get("hidden"):
            yield code, partial(rasterise, svg(icon, collection))


def svg(icon: dict[str, Any], collection: dict[str, Any]) -> str:
    """An icon's body as a whole SVG file; sizes default to the set's, and those to 16."""
    left, top = (icon.get(key, collection.get(key, 0)) for key in ("left", "top"))
    width, height = (icon.get(key, collection.get(key, 16)) for key in ("width", "height"))
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {space} viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'


def rasterise(text: str, size: int) -> np.ndarray:
    """An SVG on white, uint8 [size, size, 3]."""
    try:
        import resvg_py
    except ImportError as error:
        raise UnavailableError(NO_RASTERISER) from error
    png = resvg_py.svg_to_bytes(svg_string=text, width=size, height=size)
    return on_white(bytes(png), size)


def webps(roots: Sequence[Path]) -> Iterator[tuple[str, Callable[[int], np.ndarray]]]:
    """Codes of the 3d set, each with a function that reads it."""
    for file in sorted((find(roots, WEBP_PACKAGE) / "assets").glob("*.webp")):
        yield normal(file.stem), partial(_read_webp, file)


def _read_webp(file: Path, size: int) -> np.ndarray:
    return on_white(file.read_bytes(), size)


def on_white(data: bytes, size: int) -> np.ndarray:
    """A picture file with transparency, scaled to fit and centred on white."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as opened:
        picture = opened.convert("RGBA")
    if picture.size != (size, size):
        scale = size / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    sheet = Image.new("RGBA", (size, size), "white")
    sheet.alpha_composite(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return np.asarray(sheet.convert("RGB"))


def part_of(code: str, held_out: float, seed: int) -> str:
    """The file that an emoji belongs to; its skin tones follow it."""
    parts = code.split("-")
    plain = "-".join(part for part in parts if part not in SKIN_TONES)
    digest = hashlib.sha256(f"{seed}:{plain}".encode()).digest()
    if int.from_bytes(digest[:8], "big") < held_out * 2**64:
        return "held_out"
    return "train" if len(plain) == len(code) else "train_skintones"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise dataset.DataError(
            f"{path.name}: expected a JSON file in {path.parent.name}, given {error}"
        ) from error
