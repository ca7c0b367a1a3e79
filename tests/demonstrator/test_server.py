"""The server: what it answers, whom it refuses, and that its pages do not disturb each other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gaincell.cli import app
from gaincell.demonstrator import application, server, sessions
from gaincell.demonstrator.guard import POLICY, Guard
from gaincell.demonstrator.pair import Pair
from gaincell.demonstrator.server import is_loopback, listen, url_of
from gaincell.errors import InputError

from .conftest import DIRECT, TEXT, Client, running, small

CHIP = {"retention_time": 5e-3, "mismatch": 0.0, "noise": 0.0, "idle": 0.0}


def tokens(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["kind"] == "token"]


def text_of(events: list[dict[str, Any]]) -> tuple[str, str]:
    found = tokens(events)
    return "".join(e["hardware"] for e in found), "".join(e["software"] for e in found)


def test_the_page_and_its_parts(client: Client) -> None:
    scripts = (("/page.js", "text/javascript"), ("/script.js", "text/javascript"))
    for path, kind in (("/", "text/html"), ("/style.css", "text/css"), *scripts):
        with DIRECT.open(client.url + path) as answer:
            assert answer.headers["Content-Type"].startswith(kind)
            assert answer.headers["Content-Security-Policy"] == POLICY
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            content = answer.read().decode()
            assert "http://" not in content
            assert "https://" not in content
    status, about = client.ask("GET", "/api/about")
    assert status == 200
    assert (about["model"], about["layers"], about["heads"], about["window"]) == ("tiny", 6, [4] * 6, 1024)
    assert about["chip"] == CHIP
    assert client.ask("GET", "/api/nothing")[0] == 404


def test_the_page_behind_a_proxy_with_a_root_path(pair: Pair) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "scheme": "http", "query_string": b"", "root_path": "/chip",
             "path": "/chip/style.css", "headers": [(b"host", b"localhost")]}  # fmt: skip
    asyncio.run(application.application(pair, pages=1)(scope, receive, send))
    assert sent[0]["status"] == 200
    assert sent[1]["body"]


def test_a_text_is_written(client: Client) -> None:
    page = client.page()
    status, found = client.ask("POST", f"{page}/text", TEXT)
    assert (status, found) == (202, {"run": 1})
    events = client.until(page, "done")
    assert [event["kind"] for event in events] == ["prompt", "reading", *["token"] * 5]
    last = events[-1]
    assert last["columns"] == events[0]["of"] + 4
    assert last["chip_time"] == pytest.approx(last["columns"] * 6 * 65e-9)
    assert all(rate > 0 for rate in last["rates"])
    assert 1e-10 < last["energy"] < 1e-7  # joule, of 24 heads
    status, seen = client.ask("GET", f"{page}/arrays?run=0&after=-1&layer=0&head=0")
    assert status == 200
    assert len(seen) > 2 * 1024 * 64
    assert client.ask("GET", page)[1] == {"chip": CHIP, "run": 1, "state": "done"}


def test_the_chip_is_changed_while_a_text_is_written(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    changed, turn = threading.Event(), sessions.Generation.turn

    def held(generation: sessions.Generation, *given: Any) -> Any:
        """No second token before the changes."""
        assert not generation.written or changed.wait(300)
        return turn(generation, *given)

    monkeypatch.setattr(sessions.Generation, "turn", held)
    page = client.page()
    client.ask("POST", f"{page}/text", TEXT | {"tokens": 60})
    for idle in (1e-3, 2e-3, 1.0):
        assert client.ask("PUT", f"{page}/chip", CHIP | {"idle": idle})[0] == 200
    assert client.ask("POST", f"{page}/rest")[0] == 204
    changed.set()
    events = tokens(client.until(page, "done"))
    assert len(events) == 60
    assert any(event["changed"] for event in events)
    assert events[-1]["chip_time"] > 30
    assert client.ask("GET", page)[1]["chip"]["idle"] == 1.0


@pytest.mark.slow
def test_two_pages_do_not_disturb_each_other(client: Client) -> None:
    """Each writes what it writes alone, while the other has a chip that has forgotten everything."""
    alone = client.page()
    client.ask("POST", f"{alone}/text", TEXT | {"tokens": 20})
    expected = text_of(client.until(alone, "done"))
    first, second = client.page(), client.page()
    client.ask("PUT", f"{second}/chip", CHIP | {"retention_time": 1e-8})
    for page in (first, second):
        client.ask("POST", f"{page}/text", TEXT | {"tokens": 20})
    assert text_of(client.until(first, "done")) == expected
    other = text_of(client.until(second, "done"))
    assert other[1] == expected[1]  # the same software
    assert other[0] != expected[0]


def test_a_text_is_replaced_or_stopped(client: Client) -> None:
    page = client.page()
    client.ask("POST", f"{page}/text", TEXT | {"tokens": 4000})
    status, found = client.ask("POST", f"{page}/text", TEXT | {"prompt": "Rain", "tokens": 4000})
    assert (status, found["run"]) == (202, 2)
    status, news = client.ask("GET", f"{page}/news?run=1&after=900&state=writing")
    assert (news["run"], news["first"]) == (2, 0)
    assert client.ask("DELETE", f"{page}/text") == (200, {"state": "stopped"})
    events = client.until(page, "stopped")
    assert len(tokens(events)) < 4000
    assert all(event["text"] == "Rain" for event in events if event["kind"] == "prompt")


def test_starts_at_once_write_one_text(client: Client) -> None:
    page = client.page()
    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(client.ask, "POST", f"{page}/text", TEXT | {"seed": n}) for n in range(6)]
        runs = [found.result()[1]["run"] for found in asked]
    assert sorted(runs) == [1, 2, 3, 4, 5, 6]
    kinds = [event["kind"] for event in client.until(page, "done")]
    assert (kinds.count("prompt"), kinds.count("token")) == (1, TEXT["tokens"])
    time.sleep(0.5)  # in which another text would go on
    assert client.ask("GET", page)[1]["state"] == "done"


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHost: 127", b"POST /api/pages/ID/text HTTP/1.1\r\nHost: 127.0.0.1\r\n"
             b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"]
)  # fmt: skip
def test_half_open_connections_end(pair: Pair, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """One that says nothing, one that stops within the head, one that stops within the body."""
    with running(pair) as client:
        host, port = client.url.removeprefix("http://").split(":")
        sent = sent.replace(b"/api/pages/ID", client.page().encode())
        for module in (server, application):
            monkeypatch.setattr(module, "REQUEST", 0.3)
        with socket.create_connection((host, int(port)), timeout=120) as connection:
            connection.sendall(sent)
            answer = connection.recv(1000)
            assert answer == b"" if b"\r\n\r\n" not in sent else b"408" in answer


def test_a_request_that_is_cut_off_is_no_failure(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    with running(pair) as client:
        host, port = client.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=120) as connection:
            head = (
                f"POST {client.page()}/text HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            )
            connection.sendall(f"{head}Content-Length: 99\r\n\r\n{{".encode())
            time.sleep(0.2)
        time.sleep(0.2)
    assert not caplog.records


@pytest.mark.slow
def test_a_server_ends_while_a_long_turn_is_under_way(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def long(*_: Any) -> Any:
        time.sleep(3)
        return []

    arrived, find = threading.Semaphore(0), sessions.Sessions.find

    def found(opened: sessions.Sessions, id: str) -> sessions.Session:
        arrived.release()
        return find(opened, id)

    with ThreadPoolExecutor(3) as pool:
        with running(pair) as client:
            page = client.page()
            client.ask("POST", f"{page}/text", TEXT)
            client.until(page, "done")
            monkeypatch.setattr(sessions.Generation, "turn", long)
            client.ask("POST", f"{page}/text", TEXT)
            monkeypatch.setattr(sessions.Sessions, "find", found)
            waiting = [
                pool.submit(client.ask, "GET", f"{page}/arrays?run=1&after=0&layer=0&head=0"),
                pool.submit(client.ask, "POST", f"{page}/text", TEXT),
                pool.submit(client.ask, "DELETE", f"{page}/text"),
            ]
            assert all(arrived.acquire(timeout=120) for _ in waiting)
        assert {answer.result()[0] for answer in waiting} <= {204, 404}
    assert not caplog.records


GET, REST, STRANGER = (
    f"{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n".encode()
    for line, host, length in (
        ("GET /", "127.0.0.1", 0), ("POST ID/rest", "127.0.0.1", 1000), ("GET /", "evil.example", 1000)
    )
)  # fmt: skip


@pytest.mark.parametrize("complete", [GET, REST, STRANGER], ids=["GET", "unread body", "refused"])
def test_a_connection_ends_with_its_answer(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, complete: bytes
) -> None:
    """Whatever it sends behind the first request, and whatever of that it has not sent."""
    monkeypatch.setattr(server, "REQUEST", 600.0)
    with running(pair) as client:
        host, port = client.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=120) as connection:
            connection.sendall(complete.replace(b"ID", client.page().encode()))
            answer = b""
            while part := connection.recv(100_000):  # to its end, not to the time limit
                answer += part
            assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 204", b"HTTP/1.1 403"))
            with suppress(OSError):
                connection.sendall(b"GET / HT")
                assert connection.recv(1000) == b""


def test_connections_are_limited(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(server, "REQUEST", 600.0)
    with running(pair) as client, ExitStack() as opened:
        host, port = client.url.removeprefix("http://").split(":")
        address = host, int(port)
        first = [opened.enter_context(socket.create_connection(address, timeout=120)) for _ in range(3)]
        with socket.create_connection(address, timeout=120) as another, suppress(ConnectionError):
            assert another.recv(1000) == b""
        first[0].sendall(GET)
        assert b"200 OK" in first[0].recv(1000)


@pytest.mark.slow
def test_ten_thousand_characters(capfd: pytest.CaptureFixture[str]) -> None:
    """Read whole; a ring of 64 columns keeps the last 64 tokens. No false alarm of its length."""
    prompt = ("The rain fell on the hills, and nobody knew for how long it would go on. " * 200)[:10_000]
    with running(small()) as client:
        page = client.page()
        client.ask("POST", f"{page}/text", TEXT | {"prompt": prompt, "tokens": 2})
        events = client.until(page, "done", 600)
    assert events[0]["of"] > 1024
    assert events[0]["overwritten"] == events[0]["of"] - 64
    assert "".join(events[0]["pieces"]).endswith(prompt[-100:])
    assert events[-1]["columns"] == 64
    assert len(tokens(events)) == 2
    assert "indexing errors" not in capfd.readouterr().err


def test_wrong_requests(client: Client) -> None:
    page = client.page()

    def refused(status: int, said: str, method: str, path: str, body: Any = None, **headers: str) -> None:
        found = client.ask(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        assert found[0] == status, found
        assert said in found[1]["error"]

    refused(400, "the prompt is empty", "POST", f"{page}/text", TEXT | {"prompt": " \n "})
    refused(400, "allowed: up to 50,000", "POST", f"{page}/text", TEXT | {"prompt": "x" * 60_000})
    refused(400, "allowed: a whole number", "POST", f"{page}/text", TEXT | {"tokens": "many"})
    refused(400, "needs a prompt", "POST", f"{page}/text", [])
    refused(400, "not JSON", "POST", f"{page}/text", b"{", Content_Type="application/json")
    refused(400, "not JSON", "POST", f"{page}/text", b"\xff\xff", Content_Type="application/json")
    refused(400, "not JSON", "POST", f"{page}/text", b"[" * 100_000, Content_Type="application/json")
    refused(400, "send it as application/json", "POST", f"{page}/text", b"{}", Content_Type="text/plain")
    refused(413, "too large", "POST", f"{page}/text", b" " * 1_100_000)
    refused(400, "mismatch = 7", "PUT", f"{page}/chip", CHIP | {"mismatch": 7})
    refused(400, "there is no layer 9", "GET", f"{page}/arrays?run=0&after=0&layer=9&head=0")
    refused(400, "head = 'x'", "GET", f"{page}/arrays?run=0&after=0&layer=0&head=x")
    refused(404, "was freed", "GET", "/api/pages/nobody/news?run=0&after=0")
    refused(403, "not a name of this server", "GET", "/api/about", Host="evil.example:8765")
    refused(403, "may not use this server", "POST", "/api/pages", Origin="http://evil.example")
    refused(403, "may not use this server", "POST", "/api/pages", Origin="null")
    refused(403, "another site", "GET", "/api/about", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")
    assert client.ask("GET", page)[1]["run"] == 0


@pytest.mark.parametrize(
    "host", ["127.0.0.1:80", "localhost:8765", "[::1]:8765", "[::1]", "10.0.0.7", "LOCALHOST.", "lab"]
)
def test_names_of_this_machine(host: str) -> None:
    assert Guard(None, ["lab"])._known(host)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "host", ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ":80"]
)
def test_names_of_others(host: str) -> None:
    assert not Guard(None, ["lab"])._known(host)  # type: ignore[arg-type]


def test_pages_are_limited_and_freed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SWEEP", 0.1)
    with running(pair, pages=2) as client:
        page, _ = client.page(), client.page()
        client.ask("POST", f"{page}/text", TEXT | {"tokens": 4000})
        status, found = client.ask("POST", "/api/pages")
        assert status == 503
        assert "2 pages are open already" in found["error"]
        monkeypatch.setattr(sessions, "GRACE", 1.0)
        end = time.monotonic() + 120
        while client.ask("GET", page)[0] != 404:  # a look is no sign of life
            assert time.monotonic() < end
            time.sleep(0.1)
        assert client.ask("POST", "/api/pages")[0] == 201


def test_a_failure_is_told(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a defect")

    with running(pair) as client:
        page = client.page()
        monkeypatch.setattr(sessions.Generation, "turn", broken)
        client.ask("POST", f"{page}/text", TEXT)
        assert client.until(page, "failed")[-1]["message"].startswith("the program failed")
        monkeypatch.undo()
        client.ask("POST", f"{page}/text", TEXT)
        assert len(tokens(client.until(page, "done"))) == 5


def test_addresses() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.1", "lab", "127.evil"))
    with listen("127.0.0.1", 0) as found:
        port = found.getsockname()[1]
        assert url_of(found) == f"http://127.0.0.1:{port}/"
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 .*--port 0"):
            listen("127.0.0.1", port)
    with pytest.raises(InputError, match="no address of this machine"):
        listen("not an address", 0)
    with pytest.raises(InputError, match="no address of this machine"):
        listen("192.168..5", 0)


def test_command_refuses() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        found = CliRunner().invoke(app, ["serve", "tiny", "--port", str(other.getsockname()[1])])
    assert found.exit_code == 2
    assert "Address already in use" in found.output
    assert "give another --port" in found.output
    assert CliRunner().invoke(app, ["serve", "no such model", "--port", "0"]).exit_code == 2


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    found = CliRunner().invoke(app, ["serve"])
    assert found.exit_code == 2
    assert "pip install 'gaincell[serve]'" in found.output


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_command_serves_and_ends_quietly(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gaincell", "serve", "tiny", "--port", "0", "--threads", "1"],
        stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    said = ""
    assert process.stderr is not None
    while "http://" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    url = next(word for word in said.split() if word.startswith("http://"))
    page = Client(url).page()
    Client(url).ask("POST", f"{page}/text", TEXT | {"tokens": 4000})
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 0
    assert "Traceback" not in said + rest
    assert rest.strip() == "ended"
    assert json.dumps(said)  # readable text
