"""Docstrings of the public functions say what each parameter is: the reference is made of them."""

import importlib
import inspect
import re

import pytest
from reference_names import callables

FUNCTIONS = callables()
SECTION = re.compile(r"^(?:Keyword )?Args:\n((?:(?:    .*)?(?:\n|$))+)", re.MULTILINE)
ENTRY = re.compile(r"^    (\w+(?:,\s+\w+)*)(?: \([^)]*\))?:", re.MULTILINE)
#: A docstring that leaves what it does not tell to another: "see StableDiffusionPipeline.__call__".
ELSEWHERE = re.compile(r"\b(?:see|as in|as of|as)\s+`?(\w+)(?:\.__call__|.s call)", re.IGNORECASE)


def text_of(name, function):
    """Its docstring; of a constructor also its class's."""
    text = inspect.getdoc(inspect.unwrap(function)) or ""
    if name.endswith(".__init__"):
        home, _, cls = name.removesuffix(".__init__").rpartition(".")
        text += "\n\n" + (inspect.getdoc(getattr(importlib.import_module(home), cls)) or "")
    return text


def parameters_of(function):
    """Names of what a caller gives; what collects other keywords is none."""
    return [p.name for p in inspect.signature(function).parameters.values()
            if p.name not in ("self", "cls", "args") and not p.name.startswith("_")
            and p.kind is not p.VAR_KEYWORD]  # fmt: skip


def entries_of(text):
    """The names that stand before a colon under Args."""
    sections = "\n".join(SECTION.findall(text))
    return {name for names in ENTRY.findall(sections) for name in re.split(r",\s+", names)}


def told_of(text, seen=()):
    """The entries of a docstring, and of the calls that it leaves the rest to."""
    told = entries_of(text)
    for cls in ELSEWHERE.findall(text):
        whole = [n for n in FUNCTIONS if n.endswith(f".{cls}.__call__") and n not in seen]
        for name in whole:
            told |= told_of(text_of(name, FUNCTIONS[name]), (*seen, name))
    return told


def test_there_are_some():
    assert len(FUNCTIONS) > 300


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_told_of(name):
    text, parameters = text_of(name, FUNCTIONS[name]), parameters_of(FUNCTIONS[name])
    assert text.strip()
    if len(parameters) == 1 and re.search(rf"\b{parameters[0]}\b", text):
        return  # a sentence does for one
    assert set(parameters) <= told_of(text)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_else_is_told_of(name):
    """A parameter that was renamed or has gone."""
    names = inspect.signature(FUNCTIONS[name]).parameters.values()
    text = inspect.getdoc(inspect.unwrap(FUNCTIONS[name])) or ""
    text = re.sub(r"^Keyword Args:\n(    .*\n?)+", "", text, flags=re.MULTILINE)
    assert entries_of(text) <= {p.name for p in names}


#: Arguments that mean one thing in all calls: what an entry of theirs begins with.
SAME = {
    "seed": "s gives picture i the seed s + i; a list one each; None random ones, which the result",
    "progress": "a bar on standard error; None shows one on a terminal.",
    "timeout": "seconds to wait for calls of other threads, then BusyError.",
    "run": "a Run, to end this call from elsewhere",
    "upscaler": "a file or folder of one, or an UpscalePipeline, which enlarges the pictures.",
    "scheduler": "a sampler by name (pyengine.schedules.SAMPLER_NAMES), not the checkpoint's.",
    "timestep_spacing": '"leading", "linspace" or "trailing", not the sampler\'s own.',
    "timesteps": "the steps themselves, descending, for samplers that take them.",
    "eta": "DDIM's noise, 0 to 1.",
}
LEFT_TO_ANOTHER = re.compile(r"(as of|as in|of the decoder, see|of every stage|checked;) ?")


@pytest.mark.parametrize("name", SAME)
def test_an_argument_of_many_calls_has_the_same_words_in_each(name):
    found = []
    for path, function in FUNCTIONS.items():
        section = SECTION.search(inspect.getdoc(inspect.unwrap(function)) or "")
        if not path.endswith("Pipeline.__call__") or section is None:
            continue
        for entry in re.split(r"\n(?=    \S)", "\n" + section[1]):
            names, _, words = " ".join(entry.split()).partition(": ")
            if name in re.split(r",\s+", names) and not LEFT_TO_ANOTHER.match(words):
                found.append(words)
    assert len(found) > 4
    assert all(words.startswith(SAME[name]) for words in found)
