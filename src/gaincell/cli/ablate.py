"""`gaincell ablate`: which constraint of the hardware costs how much."""

from __future__ import annotations

from typing import Annotated

from gaincell.cli import _options as options
from gaincell.cli._json import FigureFile, JsonFile, show_result
from gaincell.cli._options import command, fraction, option


@command
def ablate(
    *,
    run: options.RunName,
    text: options.TextName = "sample",
    protocol: options.ProtocolName = None,
    limit: options.Limit = 32_768,
    design: options.OtherDesign = None,
    stage: options.StageName = None,
    mismatch: Annotated[str | None, option("First give the chip's cells this spread.", "P%")] = None,
    figure: FigureFile = None,
    computing: options.Computing,
    json: JsonFile = None,
) -> None:
    """Perplexity with each constraint of the chip switched off, and with each switched on alone.

    The constraints are the levels of queries, storage and readout; the ceilings of scores and outputs; decay;
    the cell's nonlinearity; sub-tiles; and mismatch (--mismatch), noise, writes and leakage, and wires if the
    chip has them. Half the ring is tried too. Nothing is trained, so the table shows what each constraint
    costs the model as it is. In the example runs/tiny is what `gaincell map tiny` writes.

    Example: gaincell ablate runs/tiny --figure ablation.png
    """
    computing.start()
    from dataclasses import replace

    from gaincell.cli._models import head, load_in_arrays
    from gaincell.cli._progress import progress_bars
    from gaincell.evaluation.ablation import ablate as run_ablation
    from gaincell.evaluation.perplexity import default_protocol, window_and_stride
    from gaincell.integrations.hf.attach import attached_layers, set_design
    from gaincell.integrations.hf.context import check_length, read_tokens
    from gaincell.reports.evaluation import ablation_figure, ablation_rows
    from gaincell.results.common import Named
    from gaincell.results.evaluation import AblationResult
    from gaincell.text import open_text

    if protocol is not None:
        window_and_stride(protocol)
    spread = 0.0 if mismatch is None else fraction(mismatch, "--mismatch")
    found_text = open_text(text)
    loaded, gains = load_in_arrays(run, "ablate", design, stage, computing)
    length, _ = window_and_stride(protocol or default_protocol(loaded.model))
    check_length(loaded.model, length)
    if mismatch is not None:
        chip = attached_layers(loaded.model)[0].design
        set_design(loaded.model, chip.replace(mismatch=chip.mismatch.with_spread(spread)))
    with progress_bars() as progress:
        reading = progress("read and tokenise the text")
        tokens = read_tokens(loaded, found_text, "evaluation", limit or None, reading, block=length)
        found = run_ablation(loaded.model, tokens, protocol, progress("evaluate"))
    chip_row, *rows = found.rows
    if mismatch is not None:
        chip_row = replace(chip_row, meaning=f"with cells that spread by {100 * spread:g} %")
    entry = AblationResult(
        **head(loaded, found.protocol, tokens), text=Named(found_text.name), gains=gains,
        stage=stage, ablation=(chip_row, *rows),
    )  # fmt: skip
    show_result(entry, json, ablation_rows(entry, run), figure=figure, draw=ablation_figure)
