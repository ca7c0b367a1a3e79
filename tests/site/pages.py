"""The pages of the built site, read with the standard library: ids, links, and what they load."""

from __future__ import annotations

from functools import cache
from html.parser import HTMLParser
from pathlib import Path

SITE = (Path(__file__).parents[2] / "build" / "site").resolve()
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
STYLES = ("stylesheet", "preload", "icon", "preconnect", "dns-prefetch", "modulepreload")


class Page(HTMLParser):
    """ids: anchors.  links: of `a`.  loaded: what a browser fetches by itself.  tags: how often each occurs.
    text: all of it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.path = path
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.tags: dict[str, int] = {}
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if "id" in found:
            self.ids.add(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in LOADING and LOADING[tag] in found:
            self.loaded.append(found[LOADING[tag]])
        if tag == "link" and any(kind in found.get("rel", "") for kind in STYLES):
            self.loaded.append(found.get("href", ""))

    def handle_data(self, data: str) -> None:
        self.text += data


@cache
def pages() -> dict[str, Page]:
    """Every page by its path in the site."""
    return {str(path.relative_to(SITE)): Page(path) for path in sorted(SITE.rglob("*.html"))}
