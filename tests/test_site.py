"""The site of docs/ and of the docstrings: what it names is there, and it asks nobody else."""

import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from reference_names import documented, found

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
#: Values, not functions or classes: tables and constants that other entries speak of.
VALUES = {"CLASSES", "COLUMNS", "OPS", "PANEL", "SAMPLER_NAMES", "SAMPLING_COLUMNS", "__version__"}
LINK = re.compile(r"\]\(([^)\s]+)\)")


def module(name):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, DOCS / name)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_reference_names_what_there_is_once():
    names = documented()
    assert len(set(names)) == len(names) > 150
    for name in names:
        assert found(name) is not None, name


@pytest.mark.parametrize("name", ["", ".engine", ".metrics", ".models", ".ops", ".pipelines",
                                  ".schedules"])  # fmt: skip
def test_every_public_name_is_in_the_reference(name):
    package = importlib.import_module(f"pyengine{name}")
    there = set()
    for thing in map(found, documented()):
        whole = vars(thing).values() if inspect.ismodule(thing) else ()
        there |= {id(thing), *map(id, whole)}
    public = {n: getattr(package, n) for n in package.__all__ if n not in VALUES}
    assert not {
        n for n, thing in public.items() if not inspect.ismodule(thing) and id(thing) not in there
    }


def test_links_lead_somewhere():
    """On a code host, where mkdocs does not look."""
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *DOCS.rglob("*.md"),
        ROOT / "examples" / "README.md",
    ]
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in LINK.findall(text):
            target = link.partition("#")[0]
            if target and ":" not in target:
                assert (page.parent / target).exists(), (page.name, link)


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"([\w/.-]+\.md)$", text.partition("\nnav:")[2], re.MULTILINE))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert pages | {"index.md", "examples/README.md", "CONTRIBUTING.md", "CHANGELOG.md"} == listed


def test_the_diagrams_names_are_in_their_files():
    """docs/images/life-of-a-picture.svg: each box has a name and the file that defines it."""
    svg = ElementTree.parse(DOCS / "images" / "life-of-a-picture.svg").getroot()
    boxes = [
        {text.get("class"): text.text for text in box if text.get("class")}
        for box in svg.iter("{http://www.w3.org/2000/svg}g")
    ]
    assert len(boxes) > 20
    for box in boxes:
        name, file = box["name"], ROOT / box["file"]
        if file.suffix == ".h":
            assert re.search(rf"\b(struct|void) {name}\b", file.read_text()), box
            continue
        home = importlib.import_module(box["file"].removesuffix(".py").replace("/", "."))
        thing = home
        for part in name.split("."):
            thing = getattr(thing, part)
        assert inspect.getmodule(inspect.unwrap(thing)) is home, box


META = '<meta http-equiv="Content-Security-Policy" content="{}">'
SHEET = '<link rel="stylesheet" href="a.css">'


def written(folder, body="", head=None, css=""):
    """A site of one page."""
    check = module("check_site.py")
    policy = "; ".join(f"{name} {' '.join(sorted(rule))}" for name, rule in check.POLICY.items())
    head = META.format(policy) + SHEET if head is None else head
    (folder / "index.html").write_text(head + body)
    (folder / "a.css").write_text(css)
    return check.faults_of(folder)


def test_a_page_that_asks_nobody_passes(tmp_path):
    body = '<a href="https://example.org">read</a><img src="b.png"><img src="data:image/png,">'
    assert written(tmp_path, body, css="a { background: url('c.png') }") == []


@pytest.mark.parametrize("body", [
    '<img src="https://example.org/a.png">',
    '<script src="//example.org/a.js"></script>',
    '<link rel="preconnect" href="https://example.org">',
    '<img srcset="a.png 1x, https://example.org/b.png 2x">',
    '<p style="background: url(https://example.org/a.png)">',
    "<style>@import 'https://example.org/a.css'</style>",
    '<form action="https://example.org">',
    '<iframe src="http://example.org"></iframe>',
    '<svg><use href="https://example.org/a.svg#b"/></svg>',
    '<meta http-equiv="refresh" content="1; url=https://example.org">',
])  # fmt: skip
def test_a_page_that_asks_somebody_is_named(tmp_path, body):
    assert [fault for fault in written(tmp_path, body) if "example.org" in fault]


def test_a_style_sheet_that_asks_somebody_is_named(tmp_path):
    assert written(tmp_path, css="@font-face { src: url(//example.org/f.woff) }")


def test_a_page_without_the_policy_before_all_else_is_named(tmp_path):
    assert written(tmp_path, head=SHEET)
    assert written(tmp_path, head=META.format("default-src *"))
    policy = re.search(r'content="([^"]+)"', (DOCS / "site" / "main.html").read_text())[1]
    assert written(tmp_path, head=META.format(policy) + SHEET) == []
    assert written(tmp_path, head=SHEET + META.format(policy))


@pytest.mark.slow
def test_the_site_is_built_strictly_and_asks_nobody(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason="needs the extra `docs`")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert module("check_site.py").faults_of(tmp_path / "site") == []
    for page in ("generate", "reference/ops", "log", "examples", "pyengine/assets/emoji"):
        assert (tmp_path / "site" / page / "index.html").is_file(), page
