"""What mkdocs.yml has run while the site is built: pages from outside docs/, and the links to them.

README.md is the site's first page. A file outside docs/ that a page links to becomes a page at its
own path, shown as code where it is not Markdown, so that one relative link works on a code host and
in the site.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
#: The target of [text](target#anchor); only targets that are files here are touched.
TARGET = re.compile(r"(?<=\]\()([^)\s#:]+)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".toml": "toml", ".service": "ini"}
PICTURES = (".png", ".svg")

#: {path in the site: path in the repository} of what lies outside docs/.
_outside: dict[str, str] = {}


def place(path: str) -> str:
    """Where a file or folder of the repository is in the site, before Markdown becomes HTML."""
    if path == "README.md":
        return "index.md"
    if (ROOT / path).is_dir():
        path = f"{path}/README.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path.endswith((".md", *PICTURES)) else f"{path}.md"


def linked(path: str) -> Iterator[str]:
    """Files and folders of the repository that a Markdown file links to."""
    for match in TARGET.finditer((ROOT / path).read_text(encoding="utf-8")):
        target = normpath(join(dirname(path), match[0]))
        if not target.startswith("..") and (ROOT / target).exists():
            yield target


def page_of(config: Any, path: str) -> File:
    """The site's file for one outside docs/."""
    source = ROOT / path
    if path.endswith((".md", *PICTURES)):
        return File.generated(config, place(path), abs_src_path=str(source))
    language = LANGUAGES.get(source.suffix, "text")
    text = f"# {path}\n\n````{language}\n{source.read_text(encoding='utf-8')}````\n"
    return File.generated(config, place(path), content=text)


def on_files(files: Files, config: Any) -> Files:
    """Adds README.md and what pages link to outside docs/, and what these link to."""
    _outside.clear()
    waiting = ["README.md", *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if not path.startswith("docs/") and (ROOT / path).is_file():
            _outside[place(path)] = path
            files.append(page_of(config, path))
        if path.endswith(".md"):
            new = set(linked(path)) - seen
            seen |= new
            waiting += sorted(new)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Its links, relative to where the page is in the site."""
    here = page.file.src_uri
    path = _outside.get(here, f"docs/{here}")

    def moved(match: re.Match[str]) -> str:
        target = normpath(join(dirname(path), match[0]))
        if target.startswith("..") or not (ROOT / target).exists():
            return match[0]  # a broken link: mkdocs says so
        return relpath(place(target), dirname(here) or ".")

    return TARGET.sub(moved, markdown)
