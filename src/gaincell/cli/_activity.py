"""A model's activity on a text, for the commands that measure it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from gaincell.chips.design import Design
    from gaincell.costs.activity import Activity
    from gaincell.mapping.ready import Ready


class Observed(NamedTuple):
    """found: the activity.  ready: the model in its arrays.  ids: what it read, a row a sequence.

    text: its name.
    """

    found: Activity
    ready: Ready
    ids: Any
    text: str


def observe_model(
    model: str,
    chip: Design | None,
    text: str,
    tokens: int | None,
    sequences: int = 1,
    *,
    most: int = 1024,
    batch: int = 1,
    device: str = "cpu",
) -> Observed:
    """Load a model in arrays and measure its activity, with progress bars.

    chip: another one than the RUN's own.  tokens: of a sequence, which begins with empty arrays; None for the
    model's context, at most `most`.

    Raises GaincellError: there is no such model, RUN or text, the text is too short, or the model's context.
    """
    from gaincell.chips.design_file import load_design
    from gaincell.cli._progress import progress_bars
    from gaincell.evaluation.activity import measure_activity
    from gaincell.evaluation.perplexity import cut_blocks
    from gaincell.integrations.hf.context import check_length, default_length, read_tokens
    from gaincell.mapping.ready import hardware_model
    from gaincell.text import open_text

    found_text = open_text(text)
    with progress_bars() as progress:
        ready = hardware_model(model, load_design("leroux2025"), chip, progress=progress)
        loaded = ready.loaded
        tokens = tokens or default_length(loaded.model, most)
        check_length(loaded.model, tokens)
        loaded.model.to(device)  # type: ignore[arg-type]
        reading = progress("read and tokenise the text")
        stream = read_tokens(loaded, found_text, "evaluation", tokens * sequences, reading, block=tokens)
        ids = cut_blocks(stream, tokens)[:sequences]
        found = measure_activity(
            loaded.model, list(ids.split(batch)), found_text.name, progress=progress("observe the arrays")
        )
    return Observed(found, ready, ids, found_text.name)
