"""The addresses of the server.

    GET  /, /style.css, /*.js          the page
    GET  /api/about                    models, chip, ranges of the sliders
    POST /api/pages                    a new page: its id
    GET  /api/pages/ID                 its sliders and run
    PUT  /api/pages/ID/chip            the sliders
    POST /api/pages/ID/text            begin a text;  DELETE: stop it
    POST /api/pages/ID/rest            let the chip rest for one retention time
    GET  /api/pages/ID/news            ?run=&after=   events, when there are any
    GET  /api/pages/ID/arrays          ?run=&after=&layer=&head=   a picture, when there is a newer one

Answers are JSON, except for a picture; an error is {"error": words}. `news` and `arrays` wait for ten s.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import asdict
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as Call
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gaincell import __version__
from gaincell.demonstrator import settings
from gaincell.demonstrator.arrays import voltage_reach
from gaincell.demonstrator.guard import Guard
from gaincell.demonstrator.pair import Pair
from gaincell.demonstrator.server import REQUEST
from gaincell.demonstrator.sessions import Full, Gone, Sessions
from gaincell.demonstrator.settings import Chip, Request
from gaincell.errors import GaincellError, InputError
from gaincell.files import parse_json
from gaincell.reports.html import theme

LARGEST_BODY = 1_000_000
"""Bytes of a request."""
SCRIPTS = ("page.js", "texts.js", "arrays.js", "drawing.js")
TEMPLATES = resources.files("gaincell") / "demonstrator" / "templates"

Handler = Callable[[Call], Awaitable[Response]]


class TooLarge(GaincellError):
    """A request is larger than any page sends."""


class TooSlow(GaincellError):
    """A request is begun and not ended."""


STATUS = {Full: 503, Gone: 404, TooLarge: 413, TooSlow: 408}


def application(pair: Pair, *, pages: int, names: Iterable[str] = ()) -> Starlette:
    """The server of two models.

    Args:
        pair: the models.
        pages: that may be open at a time.
        names: of this machine, see `Guard`.
    """
    sessions = Sessions(pair, pages)

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(sessions.sweep())
        yield
        sweeping.cancel()
        await sessions.close_all()

    routes = [*_page(), *_api(sessions)]
    app = Starlette(routes=routes, middleware=[Middleware(Guard, names=tuple(names))], lifespan=life)
    app.state.sessions = sessions
    return app


def _page() -> list[Route]:
    """The page and what it is made of, read once."""
    report = resources.files("gaincell") / "reports" / "html" / "templates" / "style.css"
    style = theme.tokens() + report.read_text(encoding="utf-8") + _template("style.css")
    files = {"/": (_template("page.html"), "text/html"), "/style.css": (style, "text/css")}
    files |= {f"/{name}": (_template(name), "text/javascript") for name in SCRIPTS}

    def serve(content: str, kind: str) -> Handler:
        async def answer(call: Call) -> Response:
            return Response(content, media_type=kind)

        return answer

    return [Route(path, serve(*file), methods=["GET"]) for path, file in files.items()]


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _api(sessions: Sessions) -> list[Route]:
    async def about(call: Call) -> Response:
        return JSONResponse(describe(sessions.pair))

    async def open_page(call: Call) -> Response:
        return JSONResponse({"id": sessions.open().id}, 201)

    async def page(call: Call) -> Response:
        found = sessions.find(call.path_params["id"])
        return JSONResponse({"chip": asdict(found.chip), "run": found.run, "state": found.state})

    async def chip(call: Call) -> Response:
        found = sessions.find(call.path_params["id"])
        found.chip = Chip.read(await _json(call), sessions.pair.design)
        return JSONResponse({"chip": asdict(found.chip)})

    async def text(call: Call) -> Response:
        found = sessions.find(call.path_params["id"])
        if call.method == "DELETE":
            await found.stop()
            return JSONResponse({"state": found.state})
        return JSONResponse({"run": await found.start(Request.read(await _json(call)))}, 202)

    async def rest(call: Call) -> Response:
        sessions.find(call.path_params["id"]).rest()
        return Response(status_code=204)

    async def news(call: Call) -> Response:
        found = sessions.find(call.path_params["id"])
        return JSONResponse(
            await found.news(_whole(call, "run"), _whole(call, "after"), call.query_params.get("state", ""))
        )

    async def arrays(call: Call) -> Response:
        found = sessions.find(call.path_params["id"])
        wanted = (_whole(call, name) for name in ("run", "after", "layer", "head"))
        seen = await found.picture(*wanted)
        if seen is None:
            return Response(status_code=204)
        return Response(seen, media_type="application/octet-stream")

    one = "/api/pages/{id}"
    table: list[tuple[str, Handler, list[str]]] = [
        ("/api/about", about, ["GET"]),
        ("/api/pages", open_page, ["POST"]),
        (one, page, ["GET"]),
        (f"{one}/chip", chip, ["PUT"]),
        (f"{one}/text", text, ["POST", "DELETE"]),
        (f"{one}/rest", rest, ["POST"]),
        (f"{one}/news", news, ["GET"]),
        (f"{one}/arrays", arrays, ["GET"]),
    ]
    return [Route(path, _checked(handler), methods=methods) for path, handler, methods in table]


def _checked(handler: Handler) -> Handler:
    """Errors of a user as answers."""

    async def answer(call: Call) -> Response:
        try:
            return await handler(call)
        except GaincellError as error:
            return JSONResponse({"error": str(error)}, STATUS.get(type(error), 400))

    return answer


async def _json(call: Call) -> Any:
    """The body of a request, not too large."""
    if call.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise InputError("the request is not JSON; send it as application/json")
    body = b""
    try:
        async with asyncio.timeout(REQUEST):
            async for chunk in call.stream():
                body += chunk
                if len(body) > LARGEST_BODY:
                    raise TooLarge(f"the request is too large; allowed: {LARGEST_BODY:,} bytes")
    except TimeoutError:
        raise TooSlow(f"the request did not come within {REQUEST:g} s") from None
    try:
        return parse_json(body)
    except ValueError as error:
        raise InputError(f"the request is not JSON ({error})") from error


def _whole(call: Call, name: str) -> int:
    given = call.query_params.get(name, "")
    if not given.removeprefix("-").isdecimal() or len(given) > 12:
        raise InputError(f"{name} = {given!r}; allowed: a whole number")
    return int(given)


def describe(pair: Pair) -> dict[str, Any]:
    """What a page shows of the models and the chip before there is a text."""
    design, layer = pair.design, pair.layers[0]
    return {
        "version": __version__,
        "model": pair.name,
        "how": pair.how,
        "design": {"name": design.name, "hash": design.hash, "cell": design.cell.name},
        "layers": len(pair.layers),
        "heads": [each.heads for each in pair.layers],
        "kv_heads": layer.kv_heads,
        "head_dim": layer.head_dim,
        "normaliser": design.normaliser.present,
        "window": design.window,
        "tile": design.tile,
        "reach": voltage_reach(design),
        "token_period": design.token_period,
        "t_pulse_max": design.t_pulse_max,
        "activity": None if pair.activity is None else pair.activity.source,
        "own_windows": any(pair.own_windows),
        "chip": asdict(Chip.of(design)),
        "ranges": settings.ranges(design),
        "no_decay": settings.NO_DECAY,
        "limits": {
            "characters": settings.MOST_CHARACTERS,
            "tokens": settings.MOST_TOKENS,
            "temperature": settings.HIGHEST_TEMPERATURE,
        },
    }
