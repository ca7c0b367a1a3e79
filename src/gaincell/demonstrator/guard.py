"""Who may call the server, and what a browser may do with its answers.

A page of another site cannot read answers of this server, but it could send requests to it, and with a name
of its own that resolves to this machine (DNS rebinding) it could read them, too. So:

    Host      must be an address (127.0.0.1, [::1] ...), localhost, or a name given when the server started;
              a rebound name is none of these
    Origin    where a browser sends it, must be the very host that is asked
    content   the page loads and connects to nothing but this server (content security policy)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Answers strangers with 403 and passes everything else on to `app`, with headers for the browser.

    Args:
        names: Of this machine that are allowed besides addresses and localhost.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self.app = app
        self.names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = self.refused(Headers(scope=scope))
        if refused is None:
            await self.app(scope, receive, answer)
        else:
            await JSONResponse({"error": refused}, 403)(scope, receive, answer)

    def refused(self, headers: Headers) -> str | None:
        """Why a request is refused; None if it is not."""
        host = headers.get("host", "")
        if not self._known(host):
            return f"{host!r} is not a name of this server; use its address, such as 127.0.0.1"
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{host}".lower():
            return f"a page of {origin!r} may not use this server"
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return "a page of another site may not use this server"
        return None

    def _known(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.lower().rstrip(".") in self.names:
            return True
        try:
            ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
        except ValueError:
            return False
        return True
