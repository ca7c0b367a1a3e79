"""docs/figures/serve.png: the page of `gaincell serve` while it writes. Needs chromium and chromedriver.

    python -m docs.serve_figure

The text of the picture is the model's own; after token 40 the chip idles between tokens for a while.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from PIL import Image
from tests.demonstrator.conftest import running
from tests.site.browser import Browser, browser

from gaincell.chips.design_file import load_design
from gaincell.demonstrator.pair import Pair
from gaincell.mapping.load_hardware import adapted_model

FIGURE = Path(__file__).parent / "figures" / "serve.png"
WIDTH, HEIGHT = 1280, 1728
COLOURS = 256
"""Of the picture: a palette makes it small."""
PROMPT = "It was a dark night, and the old man looked down to the lake. " * 14


def put(tab: Browser, name: str, value: object) -> None:
    """Set a field as a user does."""
    tab.run(
        f"const e = document.getElementById('{name}'); e.value = {json.dumps(value)};"
        "e.dispatchEvent(new Event('input')); e.dispatchEvent(new Event('change'));"
    )


def wait(tab: Browser, tokens: int) -> None:
    """Until so many tokens are written."""
    while tab.run("return document.querySelectorAll('#hardware i').length") < tokens:
        time.sleep(0.1)


def draw() -> None:
    """Write the figure."""
    pair = Pair("tiny", adapted_model("tiny", load_design("leroux2025")))
    with tempfile.TemporaryDirectory() as folder, running(pair) as server, browser(Path(folder)) as tab:
        tab.open(server.url, WIDTH, HEIGHT)
        while "tiny" not in tab.run("return document.title"):
            time.sleep(0.1)
        for name, value in (("prompt", PROMPT), ("tokens", 120), ("layer", 2), ("head", 1)):
            put(tab, name, value)
        tab.run("document.getElementById('write').click()")
        wait(tab, 40)
        put(tab, "idle", 555)
        wait(tab, 60)
        put(tab, "idle", 0)
        wait(tab, 120)
        time.sleep(2)
        tab.run("document.getElementById('hardware').focus({preventScroll: true})")
        tab.key("End", "End")
        time.sleep(1)
        shot = Path(folder) / "shot.png"
        tab.screenshot(shot, whole=False)
        picture = Image.open(shot).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        picture.save(FIGURE, optimize=True)


if __name__ == "__main__":
    draw()
