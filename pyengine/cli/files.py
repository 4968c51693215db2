"""Output files: names made from prompts, numbered rather than overwritten, checked beforehand."""

import hashlib
import os
import tempfile
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import registered_extensions

from .. import images as pictures
from ..errors import RequestError
from ..weights.text import show

FOLDER = "out"
#: Of a name made from a prompt: characters, and bytes where file systems count these.
MAX_SLUG, MAX_SLUG_BYTES = 60, 120
#: Names that Windows gives to devices, whatever their extension.
RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(10))}
#: Written to a folder to check that its disk has room for a picture.
PROBE = bytes(1 << 18)


# --- names ----------------------------------------------------------------------------------------


def slug(prompt: str) -> str:
    """A file name for a prompt: "A red heart!" -> "a-red-heart", in the prompt's own letters.

    Accents of Latin letters go, other scripts stay; emoji become their names in Unicode; what has
    neither gets a name by its hash.
    """
    name = _cut(_words(prompt))
    if not name:
        names = (unicodedata.name(c, "") for c in prompt if unicodedata.category(c) == "So")
        name = _cut(_words(" ".join(names)))
    if not name:
        known = prompt.strip()
        code = hashlib.sha256(known.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        name = f"picture-{code}" if known else "picture"
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # a file system of ASCII names
        return f"picture-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"{name}-picture" if name in RESERVED else name


def _words(text: str) -> str:
    """Letters and digits in lower case, a dash for anything between them."""
    out: list[str] = []
    for c in unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold()):
        kind = unicodedata.category(c)[0]
        if kind in "LN":
            out.append(c)
        elif kind == "M":  # an accent: part of the letter before it
            if out and out[-1] != "-" and not out[-1].isascii():
                out.append(c)
        elif out and out[-1] != "-":
            out.append("-")
    return unicodedata.normalize("NFC", "".join(out))


def _cut(name: str) -> str:
    name = name[:MAX_SLUG]
    while len(name.encode()) > MAX_SLUG_BYTES:
        name = name[:-1]
    return name.strip("-")


# --- places ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """path: of a single picture, or the stem of several. given: whether the user named the file,
    which is then replaced; other files are never overwritten.
    """

    path: Path
    given: bool

    def save(self, images: list[Any], infos: list[Any]) -> tuple[list[Path], list[Path]]:
        """Writes the pictures with their PNG infos; (the files, those of them that were replaced).

        Raises RequestError where a file cannot be written.
        """
        files: list[Path] = []
        replaced: list[Path] = []
        number = 1 if self.given else self._first(len(images))
        for image, info in zip(images, infos, strict=True):
            if self.given:
                path = self._numbered(number) if len(images) > 1 else self.path
                if path.exists():
                    replaced.append(path)
                pictures.save_atomically(image, path, pnginfo=info)
            else:
                path, number = self._save_new(image, info, number, len(images) > 1)
            files.append(path)
            number += 1
        return files, replaced

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.stem}-{number}{self.path.suffix}")

    def _first(self, count: int) -> int:
        """1 where so many names are free, else the number after the largest that is taken."""
        if count == 1 or not any(self._numbered(i + 1).exists() for i in range(count)):
            return 1
        head = f"{self.path.stem}-"
        names = (p.stem for p in self.path.parent.iterdir() if p.suffix == self.path.suffix)
        taken = (name.removeprefix(head) for name in names if name.startswith(head))
        return max(int(text) for text in taken if text.isascii() and text.isdigit()) + 1

    def _save_new(self, image: Any, info: Any, number: int, several: bool) -> tuple[Path, int]:
        """Writes under the first free name from `number` on. The file system decides which is free,
        so that two processes never choose the same.
        """
        while True:
            path = self._numbered(number) if several or number > 1 else self.path
            if pictures.save_new(image, path, pnginfo=info):
                return path, number
            number += 1


def place(output: str | None, prompt: str) -> Place:
    """Where --output says. Raises RequestError for what is neither a folder nor a .png file."""
    name = f"{slug(prompt)}.png"
    if output is None:
        return Place(Path(FOLDER) / name, given=False)
    if _is_folder(output):
        return Place(Path(output) / name, given=False)
    return Place(Path(output), given=True)


def _is_folder(output: str) -> bool:
    if not output or "\0" in output:
        raise RequestError(f"output: expected a .png file or a folder, given {show(output)}")
    if output.endswith(("/", os.sep)) or os.path.isdir(output):
        return True
    suffix = os.path.splitext(output)[1].lower()
    if suffix == ".png":
        return False
    # run-1.5 is a folder; x.gif and a slip such as x.pgn are not.
    if suffix in registered_extensions() or suffix[1:2].isalpha():
        raise RequestError(
            f"output: expected a .png file, or a folder ending in /, given {show(output)}"
        )
    return True


def check_writable(path: Path, field: str = "output") -> None:
    """Raises RequestError where `path` cannot be written: before minutes of work, not after them.

    A probe is written to the folder, or to the nearest one above it that exists, and removed.
    """
    try:
        if path.exists() and not path.is_file():
            raise RequestError(f"{field}: expected a file, {show(str(path))} is something else")
        if path.exists() and not os.access(path, os.W_OK):
            raise RequestError(f"{field}: {show(str(path))} is there and must not be written")
        folder = path.parent
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise RequestError(f"{field}: expected a folder, {show(str(folder))} is none")
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(PROBE)
            probe.flush()
        with suppress(FileNotFoundError):  # names that the file system does not take
            os.lstat(path)
    except OSError as e:
        raise RequestError(
            f"{field}: {show(str(path))} cannot be written: {e.strerror or e}"
        ) from e
