"""Runs the application on an address until it is interrupted."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from gaincell.errors import InputError
from gaincell.units import Second

REQUEST: Second = 10.0
"""Time that a connection has to send the head of a request, its body, and to take the answer."""
MOST_CONNECTIONS = 512
"""At a time: more than the browsers of a hundred pages open."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0: any free one.

    Raises:
        InputError: the port is in use or not allowed, or there is no such address here.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"--host {host!r} is no address of this machine ({why})") from error
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError as error:
        found.close()
        raise InputError(
            f"cannot listen on port {port} of {host} ({error.strerror}): give another --port, or --port 0 "
            "for any free one"
        ) from error
    return found


def url_of(listening: socket.socket) -> str:
    """Where a browser finds a listening socket."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class Connection(H11Protocol):
    """uvicorn's, for one request. It is closed when the head of the request does not come within `REQUEST`,
    after the answer, and when the answer is not taken within `REQUEST`: half-open connections would stay for
    ever. One beyond `MOST_CONNECTIONS` is closed at once.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's."""
        super().connection_made(transport)
        self.loop.call_later(REQUEST, self._give_up)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()

    def on_response_complete(self) -> None:
        """As uvicorn's."""
        super().on_response_complete()
        self.loop.call_later(REQUEST, self.transport.abort)

    def _give_up(self) -> None:
        if self.cycle is None:
            self.transport.abort()


class Server(uvicorn.Server):
    """Serves an application on sockets that listen already; `should_exit = True` ends it.

    Args:
        started: Called once requests are answered.
    """

    def __init__(self, app: Starlette, started: Callable[[], None] = lambda: None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        config = uvicorn.Config(
            app,
            http=Connection,
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="none",
            timeout_graceful_shutdown=1,
            headers=[("Connection", "close")],
            server_header=False,
        )
        super().__init__(config)
        self._started = started
        self._hang_up: Callable[[], None] = app.state.sessions.hang_up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets=sockets)
        self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but nobody is kept waiting for news."""
        self._hang_up()
        await super().shutdown(sockets=sockets)


def run(server: Server, listening: socket.socket) -> None:
    """Serve until Ctrl-C."""
    with suppress(KeyboardInterrupt):  # uvicorn raises it again when it has shut down
        server.run(sockets=[listening])
