"""Chromium without a window, driven through chromedriver by its HTTP interface: no package is needed."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")
MISSING = "needs chromium and chromedriver"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--hide-scrollbars",
)  # fmt: skip


class Browser:
    """One tab."""

    def __init__(self, port: int, folder: Path) -> None:
        self.base = f"http://127.0.0.1:{port}"
        options = {"args": [*FLAGS, f"--user-data-dir={folder}", "about:blank"], "binary": CHROMIUM}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self.session = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

        self.cdp("Performance.enable", timeDomain="threadTicks")

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request of the WebDriver protocol."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.base + path, data, headers, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            request, timeout=120
        ) as answer:
            return json.load(answer)["value"]

    def cdp(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        path = f"/session/{self.session}/goog/cdp/execute"
        return self.ask("POST", path, {"cmd": command, "params": parameters})

    def open(self, page: Path | str, width: int, height: int = 900, scheme: str = "light") -> None:
        """Load a page, a file or an address, at a width in CSS pixels."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        url = page if isinstance(page, str) else page.as_uri()
        self.ask("POST", f"/session/{self.session}/url", {"url": url})

    def run(self, script: str) -> Any:
        """What a script returns."""
        path = f"/session/{self.session}/execute/sync"
        return self.ask("POST", path, {"script": script, "args": []})

    def log(self, kind: str) -> list[Any]:
        """Lines since the last call; kind: browser (the console) or performance (the network)."""
        return list(self.ask("POST", f"/session/{self.session}/se/log", {"type": kind}))

    def key(self, name: str, code: str) -> None:
        """Press a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.cdp("Input.dispatchKeyEvent", type=kind, key=name, code=code)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """As PNG, the whole page or what is in view."""
        shot = self.cdp(
            "Page.captureScreenshot", captureBeyondViewport=whole, **({"clip": self._all()} if whole else {})
        )
        path.write_bytes(base64.b64decode(shot["data"]))

    def _all(self) -> dict[str, float]:
        size = self.cdp("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1}

    def reload(self) -> None:
        """Load the page again."""
        self.ask("POST", f"/session/{self.session}/refresh", {})

    def windows(self) -> list[str]:
        """Names of all tabs."""
        return list(self.ask("GET", f"/session/{self.session}/window/handles"))

    def new_window(self) -> str:
        """Another tab, which is then the one that is driven; its name."""
        name = self.ask("POST", f"/session/{self.session}/window/new", {"type": "tab"})["handle"]
        self.switch(name)
        return str(name)

    def switch(self, name: str) -> None:
        """Drive the tab of this name."""
        self.ask("POST", f"/session/{self.session}/window", {"handle": name})

    def close_window(self) -> None:
        """Close the tab that is driven."""
        self.ask("DELETE", f"/session/{self.session}/window")

    def close(self) -> None:
        """End the browser."""
        self.ask("DELETE", f"/session/{self.session}")


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert DRIVER is not None
    driver = subprocess.Popen(
        [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(1200):
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        tab = Browser(port, folder)
        try:
            yield tab
        finally:
            tab.close()
    finally:
        driver.terminate()
        driver.wait(timeout=120)


def axe_violations(tab: Browser) -> Any:
    """What axe-core finds on the open page (`npm install axe-core` in the repository, or anywhere above it);
    skips where it is missing.
    """
    places = Path(__file__).resolve().parents
    found = [folder / "node_modules" / "axe-core" / "axe.min.js" for folder in places]
    axe = next((path for path in found if path.exists()), None)
    if axe is None:
        pytest.skip("needs axe-core: npm install axe-core")
    tab.cdp("Runtime.evaluate", expression=axe.read_text(encoding="utf-8"))
    wanted = (
        "axe.run().then((r) => JSON.stringify(r.violations.map((v) => "
        "[v.id, v.help, v.nodes.length, v.nodes.slice(0, 4).map((n) => n.html.slice(0, 160))])))"
    )
    answer = tab.cdp("Runtime.evaluate", expression=wanted, awaitPromise=True, returnByValue=True)
    return json.loads(answer["result"]["value"])
