"""The demonstrator's models, and a server on a free port of this machine."""

from __future__ import annotations

import copy
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import pytest

from gaincell.chips.design_file import load_design
from gaincell.demonstrator.application import application
from gaincell.demonstrator.pair import Pair
from gaincell.demonstrator.server import Server, listen, url_of
from gaincell.mapping.load_hardware import hardware_model

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
TEXT = {"prompt": "It was a dark night", "tokens": 5, "temperature": 0.8, "seed": 0}


@lru_cache(maxsize=1)
def loaded() -> Pair:
    """`tiny` as it is shipped, with linear cells."""
    return Pair("tiny", hardware_model("tiny", load_design("leroux2025")))


def small(**changes: Any) -> Pair:
    """The same models on rings of 64 columns in sub-tiles of 16."""
    found = copy.copy(loaded())
    found.design = found.design.replace(**({"window": 64, "tile": 16} | changes))
    return found


@pytest.fixture(scope="session")
def pair() -> Pair:
    """`tiny` as it is shipped."""
    return loaded()


class Client:
    """Asks a server as a page does."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and answer: JSON, or bytes."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        request = urllib.request.Request(self.url + path, data, sent | (headers or {}), method=method)
        try:
            answer = DIRECT.open(request, timeout=120)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            content = answer.read()
            kind = answer.headers.get("Content-Type", "")
            return answer.status, json.loads(content) if kind == "application/json" else content

    def page(self) -> str:
        """The path of a new page."""
        status, found = self.ask("POST", "/api/pages")
        assert status == 201, found
        return f"/api/pages/{found['id']}"

    def until(self, page: str, state: str, seconds: float = 300) -> list[dict[str, Any]]:
        """All events of the present text once the page is in a state."""
        end = time.monotonic() + seconds
        known: dict[str, Any] = {"run": 0, "events": [], "state": ""}
        while known["state"] != state:
            assert time.monotonic() < end, f"still {known['state']!r}"
            query = f"run={known['run']}&after={len(known['events'])}&state={known['state']}"
            status, found = self.ask("GET", f"{page}/news?{query}")
            assert status == 200, found
            before = known["events"] if found["run"] == known["run"] else []
            known = found | {"events": before[: found["first"]] + found["events"]}
        return list(known["events"])


@contextmanager
def running(pair: Pair, **options: Any) -> Iterator[Client]:
    """A server in a thread; it ends with the context."""
    ready = threading.Event()
    listening: socket.socket = listen("127.0.0.1", 0)
    server = Server(application(pair, **({"pages": 8} | options)), ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        assert ready.wait(120)
        yield Client(url_of(listening))
    finally:
        server.should_exit = True
        thread.join(120)
        listening.close()
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def client(pair: Pair) -> Iterator[Client]:
    """Of a server that several tests share."""
    with running(pair, pages=30) as found:
        yield found
