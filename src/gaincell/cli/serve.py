"""`gaincell serve`: a page on this machine where a prompt goes through hardware and software side by side."""

from __future__ import annotations

import sys
import webbrowser
from typing import Annotated

from gaincell.cli import _options as options
from gaincell.cli._options import command, flag, option
from gaincell.errors import InputError

PORT = 8765


@command
def serve(
    model: options.ModelOrRun = "tiny",
    design: options.ChipOfModel = None,
    cell: options.CellName = None,
    host: Annotated[str, option("Listening address; by default this machine only.", "ADDRESS")] = "127.0.0.1",
    port: Annotated[int, option("Port; 0: any free one.", "N", min=0, max=65535)] = PORT,
    browser: Annotated[bool, flag("--open", "Open the page in a browser.")] = False,
    pages: Annotated[int, option("Pages that may be open at a time.", "N", min=1, max=100)] = 8,
    threads: options.Threads = None,
    backend: options.Backend = "auto",
) -> None:
    """Show a model writing text on its hardware and in software, live, on a local page.

    Type a prompt and watch both texts appear, token by token, with sliders for retention time, mismatch, idle
    time and read noise, and the arrays of one head: stored keys and values, pulses, scores, outputs. The page
    is served to this machine only, unless --host says otherwise, and loads nothing from the network. An
    embedded model runs on the chip's own cells, to which it is adapted first; a RUN is used as it was saved.
    See docs/serve.md.

    Example: gaincell serve

    Example: gaincell serve adapters/smollm2-135m --open

    Example: gaincell serve tiny --cell linear --port 9000
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"the page needs Starlette and uvicorn ({error}): pip install 'gaincell[serve]', from a clone "
            "pip install -e '.[serve]'"
        ) from error
    from gaincell.demonstrator.server import Server, is_loopback, listen, run, url_of

    with listen(host, port) as listening:  # before the models are loaded: a port in use is known at once
        options.use(threads, "cpu")
        from gaincell.cli._progress import progress_bars
        from gaincell.demonstrator.application import application
        from gaincell.demonstrator.pair import Pair
        from gaincell.mapping.load_hardware import adapted_model, find_shipped, hardware_model

        chip, default = options.choose_chip(model, design, cell), options.chip_of("leroux2025")
        with progress_bars() as progress:
            if find_shipped(model) is not None:
                hardware = adapted_model(model, chip or default, backend=backend, progress=progress)
            else:
                hardware = hardware_model(model, default, chip, backend=backend, progress=progress)
            pair = Pair(model, hardware, progress("observe the arrays"))
        if not is_loopback(host):
            print(
                f"gaincell: warning: everyone who can reach {host} can use this server: it has no passwords "
                "and no encryption; leave --host out to serve this machine only",
                file=sys.stderr,
            )
        url = url_of(listening)

        def started() -> None:
            print(f"{pair.name}: {pair.origin}\n{pair.name} at {url}   Ctrl-C ends", file=sys.stderr)
            if browser:
                webbrowser.open(url)

        run(Server(application(pair, pages=pages, names=[host]), started), listening)
    print("ended", file=sys.stderr)
