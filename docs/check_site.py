"""Whether a built site asks anybody else for anything: `python docs/check_site.py build/site`.

Looks at every page and style sheet for what a browser would load from another place, and that each
page forbids the browser the rest by its Content-Security-Policy, since what a script asks for
cannot be read from its text. Links that a reader follows are no loads.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

#: Attributes whose address a browser loads with the page, or sends a form to.
LOADED = {"src", "srcset", "poster", "data", "action", "formaction", "background", "xlink:href"}
#: So is a link's href for one of these `rel`.
FETCHED = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "preconnect",
           "dns-prefetch", "manifest"}  # fmt: skip
#: Another host's, or of a scheme that reaches one.
ELSEWHERE = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?//|\s*(?:https?|wss?|ftp):", re.IGNORECASE)
IN_STYLE = re.compile(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)", re.IGNORECASE)
POLICY = {
    "default-src": {"'self'"},
    "script-src": {"'self'", "'unsafe-inline'"},
    "style-src": {"'self'", "'unsafe-inline'"},
    "img-src": {"'self'", "data:"},
}


def outer(addresses: list[str]) -> list[str]:
    return [address.strip() for address in addresses if ELSEWHERE.match(address)]


def in_style(text: str) -> list[str]:
    """What a style sheet loads from elsewhere."""
    return outer([a or b for a, b in IN_STYLE.findall(text)])


class Page(HTMLParser):
    """loads: addresses elsewhere. policy: the Content-Security-Policy, as {directive: sources}, if
    it stands before everything that it is for.
    """

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.policy: dict[str, set[str]] | None = None
        self._loading = self._style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        found = [value for name, value in given.items() if name in LOADED]
        if tag == "link" and set(given.get("rel", "").lower().split()) & FETCHED:
            found.append(given.get("href", ""))
        if tag in ("use", "image", "feImage", "base"):
            found.append(given.get("href", ""))
        for part in given.get("srcset", "").split(","):
            found.append(part)
        self.loads += outer(found) + in_style(given.get("style", ""))
        if given.get("http-equiv", "").lower() == "refresh":
            self.loads += outer([given.get("content", "").partition("=")[2]])
        if given.get("http-equiv", "").lower() == "content-security-policy" and not self._loading:
            rules = [rule.split() for rule in given["content"].split(";") if rule.strip()]
            self.policy = {rule[0]: set(rule[1:]) for rule in rules}
        self._loading |= tag in ("script", "link", "style", "img", "body")
        self._style = tag == "style"

    def handle_data(self, data: str) -> None:
        if self._style:
            self.loads += in_style(data)

    def handle_endtag(self, tag: str) -> None:
        self._style &= tag != "style"


def faults_of(folder: Path) -> list[str]:
    """What is wrong with a built site, a line each."""
    faults = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.suffix == ".html":
            page = Page(path.read_text(encoding="utf-8"))
            faults += [f"{name}: loads {address}" for address in page.loads]
            if page.policy != POLICY:
                wanted = "the policy of docs/site/main.html"
                faults.append(f"{name}: expected {wanted}, found {page.policy}")
        elif path.suffix in (".css", ".svg"):
            text = path.read_text(encoding="utf-8")
            faults += [f"{name}: loads {address}" for address in in_style(text)]
            if path.suffix == ".svg":
                faults += [f"{name}: loads {address}" for address in Page(text).loads]
    return faults


def main() -> int:
    folder = Path(sys.argv[1])
    pages = sum(1 for _ in folder.rglob("*.html"))
    faults = faults_of(folder) if pages else [f"{folder}: expected a built site, found no page"]
    print("\n".join(faults) or f"{pages} pages, which ask nobody else for anything")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
