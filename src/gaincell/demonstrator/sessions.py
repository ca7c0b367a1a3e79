"""The open pages. Each has its own sliders and its own text; all share the two models.

Work on the models is done by one thread. Every page that writes has one turn waiting there at most, and turns
are served in the order they came, so that pages take turns token by token, and a prompt of thousands of
tokens holds the others up for a piece at a time. The event loop only waits.

A page shows that it is there by asking for news, which it does all the time. One that has not asked for
`GRACE` seconds is gone: its text is stopped and its memory freed. A reload takes less than that and finds
everything as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from gaincell.demonstrator.arrays import check_head, picture
from gaincell.demonstrator.generation import Event, Generation
from gaincell.demonstrator.pair import Pair
from gaincell.demonstrator.settings import Chip, Request
from gaincell.errors import GaincellError
from gaincell.units import Second

GRACE: Second = 30.0
PATIENCE: Second = 10.0
"""How long an answer waits for news."""
SWEEP: Second = 1.0
"""Time between two looks for pages that are gone."""
MOST_RESTS = 100
"""Pauses that wait for the next token."""
CLOSED = "this page was closed"

log = logging.getLogger("gaincell.serve")
Found = TypeVar("Found")


class Refused(GaincellError):
    """A request that is not answered.

    Args:
        status: Of HTTP.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Session:
    """One page.

    Attributes:
        chip: Its sliders.
        run: How many texts it has begun.
        events: Of the present text.
        state: What goes on: "empty", "reading", "writing", "done", "stopped" or "failed".
    """

    def __init__(self, pool: ThreadPoolExecutor, pair: Pair) -> None:
        self.id = secrets.token_urlsafe(16)
        self.chip = Chip.of(pair.design)
        self.run = 0
        self.events: list[Event] = []
        self.state = "empty"
        self.generation: Generation | None = None
        self.last_seen = time.monotonic()
        self._pair, self._pool = pair, pool
        self._rests = 0
        self._halted = False
        self._closed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._starting = asyncio.Lock()

    async def start(self, request: Request) -> int:
        """Begin a text; one that is being written is stopped. The number of the run.

        Raises:
            InputError: the prompt has no tokens.
            Refused: the page was closed meanwhile.
        """
        async with self._starting:  # starts at once begin one after the other
            await self.stop()
            generation = await self._or_closed(self._do(partial(Generation, self._pair, request, self.chip)))
            if self._closed.is_set():
                raise Refused(404, CLOSED)
            self.run += 1
            self.events, self.state, self.generation, self._rests = [], "reading", generation, 0
            self._halted = False
            self._tell()
            self._task = asyncio.create_task(self._write(generation))
            return self.run

    async def stop(self) -> None:
        """Stop writing after the turn that is under way.

        Raises:
            Refused: the page was closed meanwhile.
        """
        self._halted = True
        if self._task is not None:
            await self._or_closed(self._task)

    def rest(self) -> None:
        """Let the chip rest for one retention time before the next token."""
        self._rests = min(self._rests + 1, MOST_RESTS)

    async def news(self, run: int, after: int, state: str) -> dict[str, Any]:
        """What happened in a run after so many events and a state; waits a while where nothing has."""
        self.last_seen = time.monotonic()
        await self._wait(lambda: (self.run, len(self.events), self.state) != (run, after, state))
        first = after if run == self.run and after <= len(self.events) else 0
        found = self.events[first:]
        return {"run": self.run, "first": first, "events": found, "state": self.state}

    async def picture(self, run: int, after: int, layer: int, head: int) -> bytes | None:
        """The arrays of a head at a later token than `after` of a run; None where there is none for a while.

        Raises:
            InputError: there is no such layer or head.
        """
        self.last_seen = time.monotonic()
        check_head(self._pair.layers, layer, head)

        def newer() -> bool:
            generation = self.generation
            if generation is None or generation.snapshot is None:
                return False
            return self.run != run or generation.written > after

        await self._wait(newer)
        generation = self.generation
        if generation is None or not newer():
            return None
        return await self._or_closed(self._do(partial(picture, generation, layer, head)))

    def hang_up(self) -> None:
        """Write no more after the present turn, and let nobody wait: the page is closed."""
        self._halted = True
        self._closed.set()
        self._tell()

    async def end(self) -> None:
        """Hang up, and wait for the present turn."""
        self.hang_up()
        if self._task is not None:
            await asyncio.wait([self._task])

    def _do(self, work: Callable[[], Found]) -> asyncio.Future[Found]:
        """What the models' thread makes of a piece of work, one after the other."""
        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _or_closed(self, work: asyncio.Future[Found]) -> Found:
        """What is waited for.

        Raises:
            Refused: the page was closed meanwhile.
        """
        closed = asyncio.ensure_future(self._closed.wait())
        both: list[asyncio.Future[Any]] = [work, closed]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        closed.cancel()
        if not work.done():
            raise Refused(404, CLOSED)
        return work.result()

    async def _write(self, generation: Generation) -> None:
        try:
            while not generation.done and not self._halted:
                rests, self._rests = self._rests, 0
                found = await self._do(partial(generation.turn, self.chip, rests))
                self.events += found
                self.state = "writing" if generation.written else "reading"
                self._tell()
            self.state = "done" if generation.done else "stopped"
        except GaincellError as error:
            self._failed(str(error))
        except Exception:
            log.exception("a text could not be written")
            self._failed("the program failed; the terminal where it runs says how")
        self._tell()

    def _failed(self, message: str) -> None:
        self.events.append({"kind": "failed", "message": message})
        self.state = "failed"

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _wait(self, until: Callable[[], bool]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while not until() and not self._closed.is_set():
                    await self._news.wait()


class Sessions:
    """All open pages.

    Args:
        most: At a time.
    """

    def __init__(self, pair: Pair, most: int) -> None:
        self.pair, self.most = pair, most
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._open: dict[str, Session] = {}

    def open(self) -> Session:
        """A new page.

        Raises:
            Refused: there are too many.
        """
        if len(self._open) >= self.most:
            raise Refused(
                503,
                f"{self.most} pages are open already, which is as many as this server serves: close one and "
                f"wait {GRACE:g} seconds, or start it with --pages",
            )
        session = Session(self._pool, self.pair)
        self._open[session.id] = session
        return session

    def find(self, id: str) -> Session:
        """An open page.

        Raises:
            Refused: there is none of this name.
        """
        session = self._open.get(id)
        if session is None:
            raise Refused(404, "this page was away for too long and its text was freed")
        return session

    async def sweep(self) -> None:
        """Free pages that are gone, for ever."""
        while True:
            await asyncio.sleep(SWEEP)
            now = time.monotonic()
            for id, session in list(self._open.items()):
                if now - session.last_seen > GRACE:
                    del self._open[id]
                    await session.end()

    def hang_up(self) -> None:
        """Answer everyone who waits, at once: the server ends."""
        for session in self._open.values():
            session.hang_up()

    async def close_all(self) -> None:
        """Stop all texts, and the thread."""
        for session in list(self._open.values()):
            await session.end()
        self._pool.shutdown(wait=True, cancel_futures=True)
