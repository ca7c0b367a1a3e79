"""The built site in Chromium, from the disk: no console error, no request to a network, search, phone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .browser import CHROMIUM, DRIVER, MISSING, browser
from .pages import SITE, pages

pytestmark = [
    pytest.mark.site,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason=MISSING),
]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def requests(tab: Any) -> list[str]:
    """Addresses on a network that were asked for since the last call."""
    events = [json.loads(line["message"])["message"] for line in tab.log("performance")]
    sent = [event for event in events if event["method"] == "Network.requestWillBeSent"]
    addresses = [event["params"]["request"]["url"] for event in sent]
    return [address for address in addresses if address.startswith(("http", "ws", "ftp"))]


def errors(tab: Any) -> list[Any]:
    """Errors on the console since the last call."""
    return [line for line in tab.log("browser") if line["level"] == "SEVERE"]


@pytest.mark.parametrize("width", [390, 1200])
def test_pages_open_without_error_or_network_and_fit(tab: Any, width: int) -> None:
    """On a phone and on a desk; wide tables and formulas scroll by themselves."""
    for name in pages():
        if name.startswith("_modules"):
            continue
        tab.open(SITE / name, width)
        assert tab.run("return document.documentElement.scrollWidth") <= width, name
        assert not errors(tab), name
        assert not requests(tab), name


@pytest.mark.parametrize("word", ["perplexity", "token_period"])
def test_search_works_offline(tab: Any, word: str) -> None:
    tab.open(SITE / "search.html", 1200)
    tab.run(f"location.search = '?q={word}'")
    found = 0
    for _ in range(1200):
        time.sleep(0.1)
        found = tab.run("return document.querySelectorAll('#search-results li a').length")
        if found:
            break
    assert found > 0
    assert not errors(tab)
    assert not requests(tab)


def test_colours_follow_the_system(tab: Any) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        tab.open(SITE / "index.html", 1200, scheme=scheme)
        grounds.add(tab.run("return getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2
