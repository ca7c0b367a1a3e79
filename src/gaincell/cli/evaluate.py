"""`gaincell evaluate`: perplexity by a named protocol, and what one layer computes."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaincell.cli._json import JsonFile, write_json
from gaincell.cli._options import MODEL_HELP, Device, TextName, Threads, use

if TYPE_CHECKING:
    from gaincell.evaluation.perplexity import Perplexity
    from gaincell.integrations.hf.sources import LoadedModel
    from gaincell.progress import StageProgress

app = typer.Typer()


class Part(StrEnum):
    """Parts of a text."""

    evaluation = "evaluation"
    training = "training"
    all = "all"


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL|RUN", help=MODEL_HELP + ", or a RUN.")],
    text: TextName = "sample",
    part: Annotated[
        Part, typer.Option("--part", help="Of a text; its evaluation part was never trained on.")
    ] = Part.evaluation,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol", metavar="blocks-T", help="By default T is window or context, at most 1024."
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="TOKENS", min=0, help="Most tokens used; 0 = all.")
    ] = 65_536,
    at: Annotated[
        list[float] | None,
        typer.Option("--at", metavar="SECONDS", help="Idle time in the middle of a block; repeatable."),
    ] = None,
    design: Annotated[
        str | None, typer.Option("--design", metavar="DESIGN", help="Another chip for a RUN than its own.")
    ] = None,
    dump: Annotated[
        Path | None,
        typer.Option("--dump", metavar="FILE", help="Store codes and outputs of a layer as .safetensors."),
    ] = None,
    layer: Annotated[int, typer.Option("--layer", min=0, help="The layer to dump.")] = 0,
    scores: Annotated[bool, typer.Option("--scores", help="Dump the scores S_ij as well.")] = False,
    threads: Threads = None,
    device: Device = "cpu",
    json: JsonFile = None,
) -> None:
    """Perplexity of a model in software, or of a RUN on its hardware.

    Protocol blocks-T: the text as one stream of tokens, cut into blocks of T that do not overlap; every
    token but the first of a block is predicted from those before it in the block.

    --at lets the chip of a RUN idle after the first half of every block and predicts the second half
    (protocol pause-T): what is left of the text before. Several times give a table.

    --dump stores, for the first block, the codes of q, k and v and the output of every head of one layer.

    Example: gaincell evaluate runs/tiny --text corpus/ --protocol blocks-1024

    Example: gaincell evaluate runs/tiny --at 0 --at 1e-3 --at 10e-3 --design leroux2025-oxide

    Example: gaincell evaluate runs/tiny --dump layer3.safetensors --layer 3
    """
    use(threads, device)
    from rich.console import Console

    from gaincell.cli._progress import progress_bars
    from gaincell.config import load_design
    from gaincell.evaluation.dump import dump_layer
    from gaincell.evaluation.perplexity import block_length, cut_blocks, perplexity
    from gaincell.integrations.hf.attach import set_design
    from gaincell.integrations.hf.models import load_model
    from gaincell.text import open_text, token_stream

    if protocol is not None:
        block_length(protocol)
    found_text = open_text(text)
    loaded = load_model(model)
    loaded.model.to(device)  # type: ignore[arg-type]
    if design is not None:
        set_design(loaded.model, load_design(design))
    protocol = protocol or f"blocks-{_block(loaded)}"
    with progress_bars() as progress:
        reading = progress("read and tokenise the text")
        tokens = token_stream(found_text.part(part.value), loaded.tokenizer, limit or None, reading)
        if at:
            pauses = _pauses(loaded, tokens, sorted(at), block_length(protocol), progress)
        else:
            found = perplexity(
                loaded.model, tokens, protocol, tokenizer=loaded.tokenizer, progress=progress("evaluate")
            )
        if dump is not None:
            first = cut_blocks(tokens, block_length(protocol))[:1]
            dump_layer(loaded.model, first, layer, dump, scores=scores)
    title = f"{model}, text {found_text.name} ({part.value} part)"
    if at:
        Console().print(_pause_table(pauses, title))
        write_json(json, _pause_result(loaded, pauses, tokens, found_text.name))
        return
    Console().print(_table(found, title))
    write_json(json, _result(loaded, found, tokens, found_text.name))


def _pauses(
    loaded: LoadedModel, tokens: Any, times: list[float], length: int, progress: StageProgress
) -> dict[float, Perplexity]:
    """Perplexity by idle time."""
    from gaincell.evaluation.pause import perplexity_after_pause

    return {
        seconds: perplexity_after_pause(
            loaded.model, tokens, seconds, length, progress=progress(f"evaluate after {seconds:g} s")
        )
        for seconds in times
    }


def _pause_table(pauses: dict[float, Perplexity], title: str) -> Any:
    from rich.table import Table

    from gaincell.reports.tables import readable

    caption = next(iter(pauses.values())).protocol
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for heading in ("idle, s", "perplexity", "standard error", "predictions"):
        table.add_column(heading, justify="right")
    for seconds, found in pauses.items():
        error = found.perplexity_error
        cells = (readable(found.perplexity), "–" if error is None else readable(error), f"{found.tokens:,}")
        table.add_row(f"{seconds:g}", *cells)
    return table


def _pause_result(
    loaded: LoadedModel, pauses: dict[float, Perplexity], tokens: Any, text: str
) -> dict[str, Any]:
    from gaincell.reports import results

    first = next(iter(pauses.values()))
    entry = _result(loaded, first, tokens, text)
    for key in ("perplexity", "perplexity_error", "nll", "predictions"):
        entry.pop(key, None)
    entry["pauses"] = [
        {
            "idle": results.value(seconds, "s", "simulated"),
            "perplexity": results.value(found.perplexity, "1", "simulated"),
            "perplexity_error": results.value(found.perplexity_error, "1", "simulated"),
            "predictions": results.value(found.tokens, "tokens", "measured"),
        }
        for seconds, found in pauses.items()
    ]
    results.check(entry)
    return entry


def _block(loaded: LoadedModel) -> int:
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.mapping.job import LONGEST_BLOCK, default_block

    layers = attached_layers(loaded.model)
    if layers:
        return default_block(layers[0].design, loaded.model)
    return min(getattr(loaded.model.config, "max_position_embeddings", LONGEST_BLOCK), LONGEST_BLOCK)


def _table(found: Perplexity, title: str) -> Any:
    from rich.table import Table

    from gaincell.reports.tables import readable

    table = Table(title=title, caption=found.protocol, title_justify="left", caption_justify="left")
    for heading in ("perplexity", "standard error", "bits per byte", "predictions"):
        table.add_column(heading, justify="right")
    error, bits = found.perplexity_error, found.bits_per_byte
    table.add_row(
        readable(found.perplexity),
        "–" if error is None else readable(error),
        "–" if bits is None else f"{bits:.4f}",
        f"{found.tokens:,}",
    )
    return table


def _result(loaded: LoadedModel, found: Perplexity, tokens: Any, text: str) -> dict[str, Any]:
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.mapping.summary import base_name
    from gaincell.mapping.summary import design as describe_design
    from gaincell.reports import results

    layers = attached_layers(loaded.model)
    kind: results.Kind = "simulated" if layers else "measured"
    entry: dict[str, Any] = {
        "schema": results.SCHEMA,
        "command": "evaluate",
        "model": {"name": base_name(loaded.id), "sha256": loaded.sha256},
        "design": describe_design(layers[0].design) if layers else None,
        "text": {"name": text},
        "perplexity": results.value(found.perplexity, "1", kind),
        "nll": results.value(found.nll, "nat", kind),
        "predictions": results.value(found.tokens, "tokens", "measured"),
    }
    if found.bits_per_byte is not None:
        entry["bits_per_byte"] = results.value(found.bits_per_byte, "bit/byte", kind)
    if found.perplexity_error is not None:
        entry["perplexity_error"] = results.value(found.perplexity_error, "1", kind)
    entry["provenance"] = results.provenance(
        command=["gaincell", *sys.argv[1:]],
        seed=0,
        protocol=found.protocol,
        design_hash=layers[0].design.hash if layers else None,
        inputs={f"model {base_name(loaded.id)}": loaded.sha256, "evaluation text": results.hash_of(tokens)},
    )
    results.check(entry)
    return entry
