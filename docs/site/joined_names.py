"""A griffe extension: `height, width: pixels` under Args or Raises is an entry for each name."""

import re
from typing import Any

from griffe import Extension, Object

SECTION = re.compile(r"^(?:Args|Keyword Args|Attributes|Raises):$")
#: An entry of several names, which may go on in the next line.
ENTRY = re.compile(r"^    (\w+(?:,\s+\w+)+)( \([^)]*\))?: ?(.*)", re.DOTALL)


def entries_of(lines: list[str]) -> list[str]:
    """A section's entries, each with its lines."""
    found: list[str] = []
    for line in lines:
        if found and not re.match(r"    \S", line):
            found[-1] += f"\n{line}"
        else:
            found.append(line)
    return found


def split(text: str) -> str:
    """The docstring with one name an entry."""
    done: list[str] = []
    lines = text.splitlines()
    while lines:
        done.append(lines.pop(0))
        if not SECTION.match(done[-1]):
            continue
        section = []
        while lines and (not lines[0] or lines[0].startswith("    ")):
            section.append(lines.pop(0))
        for entry in entries_of(section):
            match = ENTRY.match(entry)
            if match is None:
                done.append(entry)
                continue
            names, kind, rest = match.groups("")
            done += [f"    {name}{kind}: {rest.lstrip()}" for name in re.split(r",\s+", names)]
    return "\n".join(done)


class JoinedNames(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring and (obj.is_function or obj.is_class):
            obj.docstring.value = split(obj.docstring.value)
