"""The text in which that web UI writes settings: the prompt, "Negative prompt: ..." and a line of
"Steps: 20, Sampler: Euler a, ...".
"""

import json
import re

#: A name, and a value that is in JSON's quotes or goes on to the next comma.
_PAIR = re.compile(r'\s*([\w+/ -]{1,64}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
NEGATIVE = "Negative prompt: "


def parse(text: str) -> dict[str, str]:
    """Settings by name, with "Prompt" and "Negative prompt"; {} for an empty text.

    A last line of fewer than three pairs is part of the prompt, as that web UI takes it.
    """
    lines = text.strip().split("\n")
    pairs = _PAIR.findall(lines[-1])
    if len(pairs) < 3:
        pairs = []
    else:
        lines.pop()
    prompt, negative = "\n".join(lines), ""
    begin = re.search(rf"^{re.escape(NEGATIVE)}", prompt, re.MULTILINE)
    if begin:
        prompt, negative = prompt[: begin.start()], prompt[begin.end() :]
    found = {"Prompt": prompt.strip(), "Negative prompt": negative.strip()} if text else {}
    return found | {name.strip(): _unquoted(value.strip()) for name, value in pairs}


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value
