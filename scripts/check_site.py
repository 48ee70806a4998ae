"""Check a built site: links and anchors lead somewhere, and nothing is loaded from elsewhere.

    python scripts/check_site.py build/site

mkdocs checks the links that it made itself; this reads what a browser would. Links to other sites
are not followed: no network is needed. Only the standard library.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# what a browser fetches by itself: an element and its attribute
_LOADED = {
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
    "embed": "src", "object": "data", "link": "href",
}  # fmt: skip
_NOT_LOADED_LINKS = {"canonical", "next", "prev", "alternate", "edit"}
_STYLE_URL = re.compile(r"""(?:url\(\s*['"]?|@import\s+['"])((?:https?:)?//[^'")\s]+)""")
_OPTIONAL = "404.html"  # its links are absolute: it is shown at any depth


@dataclass(slots=True)
class Page:
    """What one page names."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.page.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and given.get("href"):
            self.page.links.append(given["href"])
        attribute = _LOADED.get(tag)
        relation = set(given.get("rel", "").split())
        if attribute and given.get(attribute) and not relation & _NOT_LOADED_LINKS:
            self.page.loaded.append(given[attribute])
        self.page.loaded += _STYLE_URL.findall(given.get("style", ""))


def problems_of(site: Path) -> list[str]:
    """Return a line for each thing that is wrong with a site."""
    pages = {path: _read(path) for path in sorted(site.rglob("*.html")) if path.name != _OPTIONAL}
    found = [] if pages else [f"{site} has no pages"]
    for path, page in pages.items():
        shown = path.relative_to(site)
        found += [f"{shown} loads {each}" for each in page.loaded if _is_elsewhere(each)]
        wrong = [link for link in page.links if not _leads_somewhere(link, path, pages)]
        wrong += [
            each for each in page.loaded if not _is_elsewhere(each) and not _is_there(each, path)
        ]
        found += [f"{shown} links to {link}, which is not there" for link in wrong]
    for style in sorted(site.rglob("*.css")):
        urls = _STYLE_URL.findall(style.read_text(encoding="utf-8", errors="replace"))
        found += [f"{style.relative_to(site)} loads {url}" for url in urls]
    return found


def _read(path: Path) -> Page:
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader.page


def _is_elsewhere(url: str) -> bool:
    return bool(urlsplit(url).netloc)


def _is_there(url: str, page: Path) -> bool:
    parts = urlsplit(url)
    return bool(parts.scheme) or (page.parent / unquote(parts.path)).exists()


def _leads_somewhere(link: str, page: Path, pages: Mapping[Path, Page]) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target not in pages or not parts.fragment:
        return target.exists()
    return unquote(parts.fragment) in pages[target].anchors


def main(arguments: Sequence[str]) -> int:
    """Print what is wrong; returns the exit code."""
    site = Path(arguments[0]).resolve()
    found = problems_of(site)
    for line in found:
        print(line, file=sys.stderr)
    if not found:
        print(f"{len(list(site.rglob('*.html')))} pages: links and anchors lead somewhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
