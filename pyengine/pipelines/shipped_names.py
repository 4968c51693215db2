"""What the checkpoints that ship are called; imports nothing, for the command line's help."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "assets"
#: Models that ship and draw nothing: the argument of calls that each is given to.
GUIDES = {"emoji-clip": "clip_model", "emoji-classifier": "classifier"}
#: First of all lists.
_FIRST = ("emoji", "emoji-ar")


def shipped_names() -> tuple[str, ...]:
    """The folders of pyengine/assets that hold a pipeline (model_index.json): names that
    `from_pretrained` takes.
    """
    found = {path.parent.name for path in ASSETS.glob("*/model_index.json")}
    return (*_FIRST, *sorted(found - {*_FIRST}))
