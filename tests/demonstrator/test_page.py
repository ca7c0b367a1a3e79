"""The page in a browser: what it survives, that it loads nothing from elsewhere, accessibility."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.site.browser import CHROMIUM, DRIVER, MISSING, Browser, axe_violations, browser
from tests.site.colours import channels

from gaincell.reports.html import theme

from .conftest import Client

STATUS = "return document.getElementById('status').textContent"
HARDWARE = "return document.getElementById('hardware').innerText"
COUNT = "return document.querySelectorAll('#hardware i').length"
SHOWN = "return document.getElementById('ring').getAttribute('aria-label')"


@pytest.fixture(scope="module")
def browsing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip(MISSING)
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def tab(browsing: Browser, client: Client) -> Iterator[Browser]:
    """A fresh tab with the page; afterwards its console must be empty and all requests local."""
    first = browsing.windows()[0]
    browsing.new_window()
    browsing.cdp("Network.enable")
    browsing.log("performance"), browsing.log("browser")
    browsing.open(client.url, 1280)
    until(browsing, "return document.title.startsWith('tiny')")
    yield browsing
    assert browsing.log("browser") == []
    urls = {
        message["params"]["request"]["url"]
        for line in browsing.log("performance")
        if (message := json.loads(line["message"])["message"])["method"] == "Network.requestWillBeSent"
    }
    asked = [url for url in urls if not url.startswith(("chrome", "data:", "about:"))]
    assert [url for url in asked if not url.startswith(client.url)] == []
    assert asked
    while len(browsing.windows()) > 1:
        browsing.close_window()
        browsing.switch(browsing.windows()[-1])
    browsing.switch(first)


def until(tab: Browser, script: str, seconds: float = 120) -> Any:
    """What a script returns, once it is true."""
    end = time.monotonic() + seconds
    while not (found := tab.run(script)):
        assert time.monotonic() < end, f"{script}: {tab.run(STATUS)}"
        time.sleep(0.1)
    return found


def put(tab: Browser, name: str, value: object) -> None:
    """Set a field as a user does."""
    tab.run(
        f"const e = document.getElementById('{name}'); e.value = {json.dumps(value)};"
        "e.dispatchEvent(new Event('input', {bubbles: true})); e.dispatchEvent(new Event('change'));"
    )


def write(tab: Browser, prompt: str = "It was a dark night", tokens: int = 4000) -> None:
    put(tab, "prompt", prompt)
    put(tab, "tokens", tokens)
    tab.run("document.getElementById('write').click()")


def stop(tab: Browser) -> None:
    tab.run("document.getElementById('stop').click()")
    until(tab, f"{STATUS}.startsWith('Stopped')")


def test_a_text_and_its_arrays(tab: Browser, tmp_path: Path) -> None:
    write(tab, tokens=6)
    until(tab, f"{STATUS} === 'Done: 6 tokens.'")
    assert tab.run(COUNT) == 6
    assert tab.run(HARDWARE).startswith("It was a dark night")
    label = until(tab, f"const found = (() => {{ {SHOWN} }})(); return found.includes('token ') && found")
    assert "Arrays of layer 0, head 0" in label
    put(tab, "layer", 3)
    put(tab, "head", 2)
    until(tab, f"{SHOWN}.includes('layer 3, head 2')")
    tab.run("document.getElementById('ring').focus()")
    tab.key("Home", "Home")
    tab.key("ArrowRight", "ArrowRight")
    readout = "return document.getElementById('column-readout').textContent"
    assert tab.run(readout).startswith("Column 1: token 2 “")
    assert not tab.run("return document.getElementById('follow').checked")
    tab.run("document.getElementById('hardware').focus()")
    tab.key("Home", "Home")
    assert tab.run("return document.getElementById('token-readout').textContent").startswith("Token 1: “")
    tab.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 50_000


def test_a_reload_is_survived(tab: Browser) -> None:
    write(tab)
    before = until(
        tab, f"return document.querySelectorAll('#hardware i').length > 3 && (() => {{ {HARDWARE} }})()"
    )
    put(tab, "idle", 500)
    put(tab, "temperature", 0.6)
    tab.reload()
    until(tab, "return document.querySelectorAll('#hardware i').length > 6")
    assert tab.run(HARDWARE).startswith(before.rstrip())
    assert tab.run("return document.getElementById('prompt').value") == "It was a dark night"
    assert tab.run("return document.getElementById('idle').value") == "500"
    fields = "return ['tokens', 'temperature'].map((name) => document.getElementById(name).value)"
    assert tab.run(fields) == ["4000", "0.6"]
    count = tab.run(COUNT)
    until(tab, f"return document.querySelectorAll('#hardware i').length > {count}")
    stop(tab)


def test_two_clients(tab: Browser, client: Client) -> None:
    first = tab.windows()[-1]
    write(tab)
    until(tab, "return document.querySelectorAll('#hardware i').length > 2")
    second = tab.new_window()
    tab.cdp("Network.enable")
    tab.open(client.url, 1280)
    until(tab, "return document.title.startsWith('tiny')")
    assert tab.run(COUNT) == 0
    write(tab, "Rain fell", 8)
    until(tab, f"{STATUS} === 'Done: 8 tokens.'")
    assert tab.run(HARDWARE).startswith("Rain fell")
    tab.close_window()
    tab.switch(first)
    assert second != first
    assert tab.run(HARDWARE).startswith("It was a dark night")
    assert tab.run(COUNT) > 4
    stop(tab)


def test_an_empty_prompt(tab: Browser) -> None:
    write(tab, " \n ")
    until(tab, f"{STATUS}.startsWith('The prompt is empty')")
    assert tab.run("return document.activeElement.id") == "prompt"
    write(tab, "Rain", 2)
    until(tab, f"{STATUS} === 'Done: 2 tokens.'")
    put(tab, "tokens", "")
    tab.run("document.getElementById('write').click()")
    until(tab, f"{STATUS} === 'Tokens: a whole number from 1 to 4000.'")


def test_ten_thousand_characters(tab: Browser) -> None:
    text = ("The rain fell on the hills, and nobody knew for how long it would go on. " * 200)[:10_000]
    write(tab, text, 3)
    until(tab, f"{STATUS}.includes('of ') || {STATUS.removeprefix('return ')}.startsWith('Done')")
    until(tab, f"{STATUS}.startsWith('Done: 3 tokens. The prompt has ')", 600)
    assert "are overwritten" in tab.run(STATUS)
    until(tab, f"{SHOWN}.includes('1024 hold a token')")


def test_a_slider_dragged_while_a_text_is_written(tab: Browser) -> None:
    write(tab)
    until(tab, "return document.querySelectorAll('#hardware i').length > 2")
    for place in range(0, 1000, 50):
        put(tab, "noise", place)
        put(tab, "idle", place)
    put(tab, "retention_time", 300)
    said = tab.run("return [...document.querySelectorAll('.sliders output')].map((o) => o.textContent)")
    time_on_chip = "document.querySelector('#hardware-numbers div:nth-child(2) dd').textContent"
    until(tab, f"return / s s?$/.test({time_on_chip}) || {time_on_chip}.includes('ms')")
    assert said[0].endswith("s")
    assert said[1] != "0 s"
    put(tab, "mismatch", 400)
    count = tab.run(COUNT)
    until(tab, f"return document.querySelectorAll('#hardware i').length > {count + 2}")
    tab.run("document.getElementById('rest').click(); document.getElementById('reset').click()")
    assert tab.run("return document.getElementById('noise-value').textContent") == "0 %"
    stop(tab)


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_width_and_colours(tab: Browser, client: Client, width: int, scheme: str) -> None:
    tab.open(client.url, width, scheme=scheme)
    write(tab, tokens=3)
    until(tab, f"{STATUS} === 'Done: 3 tokens.'")
    until(tab, f"{SHOWN}.includes('Arrays')")
    assert tab.run("return document.documentElement.scrollWidth <= innerWidth")
    colour = channels((theme.DARK if scheme == "dark" else theme.LIGHT)["paper"])
    assert tab.run("return getComputedStyle(document.body).backgroundColor") == f"rgb{colour}"
    tab.run("document.querySelector('.theme input[value=dark]').click()")
    dark = f"rgb{channels(theme.DARK['paper'])}"
    assert tab.run("return getComputedStyle(document.body).backgroundColor") == dark
    tab.run("document.querySelector('.theme input[value=auto]').click()")


def test_accessibility_by_axe(tab: Browser, client: Client) -> None:
    for width, scheme in ((1280, "light"), (390, "dark")):
        tab.open(client.url, width, scheme=scheme)
        until(tab, "return document.title.startsWith('tiny')")
        write(tab, tokens=30)
        until(tab, f"{STATUS} === 'Done: 30 tokens.'")
        assert axe_violations(tab) == []
