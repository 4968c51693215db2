"""README's and docs' code: every Python block runs, or says why not in the one way there is.

A block that is not run has a comment in the line before it: <!-- not run: why -->. Blocks of a page
run in order, in one namespace and an empty folder.
"""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Pages whose blocks are run by tests that look at what they did.
ELSEWHERE = {"docs/jobs.md", "docs/engine.md", "docs/from-diffusers.md"}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(<!-- not run: (?P<why>[^>]+) -->\n+)?```(?P<kind>\w*)\n(?P<code>.*?)```", re.DOTALL
)


def blocks(page, kind):
    """[(code, why it is not run or None)] of a page's blocks of one language."""
    text = page.read_text(encoding="utf-8")
    return [(m["code"], m["why"]) for m in BLOCK.finditer(text) if m["kind"] == kind]


def run_of(page):
    return [code for code, why in blocks(page, "python") if why is None]


def name_of(page):
    return str(page.relative_to(ROOT))


RUN = [page for page in PAGES if run_of(page) and name_of(page) not in ELSEWHERE]


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for code in run_of(page):
        exec(compile(code, name_of(page), "exec"), names)  # our own page


def test_every_block_says_its_language():
    """So that none is passed over."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("```") == 2 * len(BLOCK.findall(text)), name_of(page)
        assert not blocks(page, ""), name_of(page)


COMMAND = re.compile(r"^    (pyengine (?:.*\\\n)*.*)$", re.MULTILINE)


def test_commands_have_the_options_that_are_shown():
    """Every indented `pyengine ...`: parsed, not run."""
    import typer

    from pyengine.cli.app import app

    command = typer.main.get_command(app)
    found = [(page, line) for page in PAGES for line in COMMAND.findall(page.read_text())]
    assert len(found) > 10
    for page, line in found:
        words = shlex.split(line.replace("\\\n", " "), comments=True)
        part, context, rest = command, None, words
        while hasattr(part, "resolve_command") and len(rest) > 1:  # a group of commands
            context = part.make_context(rest[0], rest[1:], parent=context, resilient_parsing=True)
            name, part, rest = part.resolve_command(context, rest[1:])
            rest = [name, *rest]
        own = part.make_context(rest[0], rest[1:], parent=context, resilient_parsing=True)
        assert not [word for word in own.args if word.startswith("-")], (name_of(page), line)
