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
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Call
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gaincell import __version__
from gaincell.demonstrator import settings
from gaincell.demonstrator.arrays import voltage_reach
from gaincell.demonstrator.guard import Guard
from gaincell.demonstrator.pair import Pair
from gaincell.demonstrator.server import REQUEST
from gaincell.demonstrator.sessions import Refused, Session, Sessions
from gaincell.demonstrator.settings import Chip, Request
from gaincell.errors import GaincellError, InputError
from gaincell.files import parse_json
from gaincell.reports.html import theme

LARGEST_BODY = 1_000_000
"""Bytes of a request."""
SCRIPTS = ("page.js", "texts.js", "arrays.js", "drawing.js")
TEMPLATES = resources.files("gaincell") / "demonstrator" / "templates"
REPORT = resources.files("gaincell") / "reports" / "html" / "templates"
"""Whose style and choice of colours the page has, too."""


def application(pair: Pair, *, pages: int, names: Iterable[str] = ()) -> Starlette:
    """The server of two models.

    Args:
        pair: The two models.
        pages: That may be open at a time.
        names: Of this machine, see `Guard`.
    """
    sessions = Sessions(pair, pages)

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(sessions.sweep())
        yield
        sweeping.cancel()
        await sessions.close_all()

    app = Starlette(
        routes=[*_page(), *_api(sessions)],
        middleware=[Middleware(Guard, names=tuple(names))],
        exception_handlers={GaincellError: _refuse},
        lifespan=life,
    )
    app.state.sessions = sessions
    return app


def _page() -> list[Route]:
    """The page and what it is made of, read once."""
    style = theme.tokens() + _template("style.css", REPORT) + _template("style.css")
    files = {"/": (_template("page.html"), "text/html"), "/style.css": (style, "text/css")}
    scripts = {name: _template(name) for name in SCRIPTS} | {"script.js": _template("script.js", REPORT)}
    files |= {f"/{name}": (script, "text/javascript") for name, script in scripts.items()}
    answers = {path: Response(content, media_type=kind) for path, (content, kind) in files.items()}
    return [Route(path, answer, methods=["GET"]) for path, answer in answers.items()]


def _template(name: str, folder: Traversable = TEMPLATES) -> str:
    return (folder / name).read_text(encoding="utf-8")


def _api(sessions: Sessions) -> list[Route]:
    def session(call: Call) -> Session:
        return sessions.find(call.path_params["id"])

    async def about(call: Call) -> Response:
        return JSONResponse(describe(sessions.pair))

    async def open_page(call: Call) -> Response:
        return JSONResponse({"id": sessions.open().id}, 201)

    async def page(call: Call) -> Response:
        found = session(call)
        return JSONResponse({"chip": asdict(found.chip), "run": found.run, "state": found.state})

    async def chip(call: Call) -> Response:
        found = session(call)
        found.chip = Chip.read(await _json(call), sessions.pair.design)
        return JSONResponse({"chip": asdict(found.chip)})

    async def text(call: Call) -> Response:
        found = session(call)
        if call.method == "DELETE":
            await found.stop()
            return JSONResponse({"state": found.state})
        return JSONResponse({"run": await found.start(Request.read(await _json(call)))}, 202)

    async def rest(call: Call) -> Response:
        session(call).rest()
        return Response(status_code=204)

    async def news(call: Call) -> Response:
        state = call.query_params.get("state", "")
        return JSONResponse(await session(call).news(_whole(call, "run"), _whole(call, "after"), state))

    async def arrays(call: Call) -> Response:
        found = session(call)
        seen = await found.picture(*(_whole(call, name) for name in ("run", "after", "layer", "head")))
        if seen is None:
            return Response(status_code=204)
        return Response(seen, media_type="application/octet-stream")

    one = "/api/pages/{id}"
    return [
        Route("/api/about", about, methods=["GET"]),
        Route("/api/pages", open_page, methods=["POST"]),
        Route(one, page, methods=["GET"]),
        Route(f"{one}/chip", chip, methods=["PUT"]),
        Route(f"{one}/text", text, methods=["POST", "DELETE"]),
        Route(f"{one}/rest", rest, methods=["POST"]),
        Route(f"{one}/news", news, methods=["GET"]),
        Route(f"{one}/arrays", arrays, methods=["GET"]),
    ]


async def _refuse(call: Call, error: Exception) -> Response:
    """Errors of a user as answers."""
    return JSONResponse({"error": str(error)}, error.status if isinstance(error, Refused) else 400)


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
                    raise Refused(413, f"the request is too large; allowed: {LARGEST_BODY:,} bytes")
    except ClientDisconnect:
        raise Refused(400, "the request was cut off") from None
    except TimeoutError:
        raise Refused(408, f"the request did not come within {REQUEST:g} s") from None
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
        "origin": pair.origin,
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
