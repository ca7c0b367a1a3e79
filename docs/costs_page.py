"""Parts of docs/costs.md that put several results of `gaincell cost` beside one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gaincell.chips.design_file import load_design
from gaincell.costs.activity import Activity
from gaincell.costs.roll_up import mean_head
from gaincell.costs.size import ModelSize
from gaincell.costs.technology import load_technology
from gaincell.reports.costs import DACS
from gaincell.reports.tables import Rows
from gaincell.results.cost import Block, CostResult
from gaincell.results.system_cost import StatedCache
from gaincell.units import with_scale


def bands(results: Mapping[str, CostResult]) -> Rows:
    """The factor of every block of several results, and which lie outside their bands."""
    rows, found = [], []
    for name, result in results.items():
        found = [line for line in result.head.lines if line.factor is not None]
        factors = {line.name: (line.factor, line.inside) for line in found}
        rows.append([f"{name} ({result.activity.source})", *_factors(factors, found)])
        spice = result.head.spice
        if spice is not None:
            simulated = {title: (one.factor, one.inside) for title, one in spice.products.items()}
            rows.append([f"{name}, arrays by SPICE ({spice.inputs} inputs)", *_factors(simulated, found)])
        for dac, entry in ({} if result.head.write is None else result.head.write.dacs).items():
            written = {"write": (entry.factor, entry.inside)}
            rows.append([f"{name}, write by SPICE ({DACS[dac]})", *_factors(written, found)])
    names = {line.name: line.band for line in found}
    headings = ("bottom-up over cited", *(f"{name}, {band:g}×" for name, band in names.items()))
    return Rows("Bands", headings, rows, "NO: outside the band given in the heading.")


def sparsity(results: Mapping[str, CostResult]) -> Rows:
    """What each dot product's word lines are driven with, and what its cells draw, by result."""
    rows = []
    for name, result in results.items():
        mean = result.activity.mean()
        cells = {line.name: line.parts["cells"] for line in result.head.lines if "cells" in line.parts}
        first, second = (cells[f"{which} dot product"] for which in ("first", "second"))
        rows.append(
            [
                f"{name} ({result.activity.source})",
                f"{mean.query_pulse:.3f}",
                f"{mean.score_pulse:.4f}",
                f"{100 * (1 - mean.score_active):.1f} %",
                with_scale(first, "J"),
                with_scale(second, "J"),
                f"{second / first:.3g}",
            ]
        )
    headings = (
        "activity",
        "mean query pulse",
        "mean φ(S)",
        "φ(S) = 0",
        "cells, first",
        "cells, second",
        "ratio",
    )
    return Rows("Sparsity", headings, rows)


def _with_assumed_activity(result: CostResult) -> dict[str, float]:
    """Energies of a head of the same model on the same chip, by block."""
    design = load_design(result.design.name)
    model = {"title": result.model.name, **{key: x for key, x in vars(result.model).items() if key != "name"}}
    technology = load_technology(result.technology.name)
    found = mean_head(ModelSize(**model), design, technology, Activity.assumed(design))
    return {line.name: line.bottom_up for line in found.lines}


def real_text(measured: Mapping[str, CostResult]) -> str:
    """How measured activities change both dot products, and whether each is inside its band."""
    before = {name: _with_assumed_activity(one) for name, one in measured.items()}
    parts = []
    for title in ("first dot product", "second dot product"):
        found = []
        for name, one in measured.items():
            line = next(line for line in one.head.lines if line.name == title)
            ratio = line.bottom_up / before[name][title]
            found.append(f"{ratio:.2f} ({name}, {_place(line)} its band)")
        parts.append(f"{title}: × {', '.join(found)}")
    return (
        "* Effect of the activity of real text on an estimate with assumed activity (every code equally "
        f"likely) of the same chip: {'; '.join(parts)}. The paper does not state the activity behind its "
        "two numbers, so agreement here is no validation.\n"
    )


def _factors(factors: Mapping[str, tuple[float | None, bool | None]], lines: Sequence[Block]) -> list[str]:
    shown = []
    for line in lines:
        factor, inside = factors.get(line.name, (None, True))
        shown.append("–" if factor is None else f"{factor:.3g}{'' if inside else ' NO'}")
    return shown


def _place(line: Block) -> str:
    return "inside" if line.inside else "outside"


def stated_cache(result: CostResult) -> Rows:
    """At which length the cache of a model has the stated size."""

    def read_as(row: StatedCache) -> str:
        size = "8 Gibit" if row.read_as == "bits" else "8 GiB"
        heads = "grouped" if row.grouped else "a key/value head for every query head"
        return f"{size}, {row.bytes_per_number:.0f} bytes a number, {heads}"

    rows = [[read_as(row), f"{row.tokens:,.0f}"] for row in result.why.stated_cache]
    return Rows("The stated 8 Gb for Mistral 7B", ("read as", "tokens, batch 1"), rows)
