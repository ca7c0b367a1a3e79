"""Many virtual chips, for `gaincell evaluate --chips`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaincell.evaluation.chips import Chips
    from gaincell.integrations.hf.sources import LoadedModel
    from gaincell.progress import StageProgress


def by_chips(
    loaded: LoadedModel,
    tokens: Any,
    protocol: str,
    at: list[float] | None,
    limits: tuple[int, float | None, float, int],
    progress: StageProgress,
) -> tuple[Any, dict[str, Any]]:
    """Table and result.

    limits: how many chips; spread of their cells as a fraction of full scale, None for the design's; x of the
        yield; seed of the chips.
    """
    from gaincell.cli._perplexity import result
    from gaincell.devices.variability import Mismatch
    from gaincell.errors import InputError
    from gaincell.evaluation.chips import evaluate_chips
    from gaincell.evaluation.pause import perplexity_after_pause
    from gaincell.evaluation.perplexity import describe, perplexity, window_and_stride
    from gaincell.reports.results import value

    number, spread, within, seed = limits
    length, _ = window_and_stride(protocol)
    words: list[str] = []
    if at is not None and len(at) > 1:
        raise InputError("--chips takes one --at")

    def measure() -> float:
        if at:
            paused = perplexity_after_pause(loaded.model, tokens, at[0], length)
            words.append(paused.found.protocol)
            return paused.found.perplexity
        found = perplexity(loaded.model, tokens, protocol)
        words.append(describe(protocol, found.blocks))
        return found.perplexity

    mismatch = None if spread is None else Mismatch(current_offset_std=spread, seed=seed)
    found = evaluate_chips(loaded.model, measure, number, mismatch, within, progress("chips"))
    entry = result(loaded, words[0], tokens)
    entry["chips"] = {
        "perplexity": value(list(found.perplexities), "1", "simulated"),
        "number": value(list(found.chips), "1", "simulated"),
        "nominal": value(found.nominal, "1", "simulated"),
        "mean": value(found.mean, "1", "simulated"),
        "ratio": value(found.ratio, "1", "simulated"),
        "worst": value(found.worst, "1", "simulated"),
        "yield_within": value(found.within, "1", "simulated"),
        "yield": value(found.yield_share, "1", "simulated"),
        "yield_interval": value(list(found.yield_interval), "1", "simulated"),
    }
    if spread is not None:
        entry["chips"]["current_offset_std"] = value(spread, "of full scale", "simulated")
    if found.std is not None and found.ratio_interval is not None:
        entry["chips"]["std"] = value(found.std, "1", "simulated")
        entry["chips"]["ratio_interval"] = value(list(found.ratio_interval), "1", "simulated")
    return _table(found, words[0]), entry


def _table(found: Chips, protocol: str) -> Any:
    from rich.table import Table

    from gaincell.reports.tables import readable

    low, high = found.yield_interval
    caption = (
        f"{protocol}; {len(found.chips)} chips and the nominal one on the same text; intervals of 95 %, of "
        f"the ratio over chips (Student), of the yield (Wilson): {100 * low:.0f} to {100 * high:.0f} %"
    )
    table = Table(caption=caption, caption_justify="left")
    within = f"yield (≤ +{100 * found.within:g} %)"
    for name in ("nominal", "mean", "std", "× nominal", "95 %", "worst chip", within):
        table.add_column(name, justify="right")
    interval = found.ratio_interval
    table.add_row(
        readable(found.nominal),
        readable(found.mean),
        "–" if found.std is None else readable(found.std),
        f"{found.ratio:.4f}",
        "–" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}",
        f"{readable(max(found.perplexities))} (no. {found.worst})",
        f"{100 * found.yield_share:.0f} %",
    )
    return table
