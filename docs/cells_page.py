"""Cells compared: docs/cells.md and its figure, from the results of recipes/cells.py and docs/data/cells.toml
alone. Nothing here holds a number of its own.
"""

from __future__ import annotations

import math
import re
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gaincell.errors import InputError
from gaincell.reports.style import BLUE, GREEN, GREY, MARKERS, ORANGE, RED, legend_below, styled
from gaincell.reports.tables import Rows, readable
from gaincell.results.run import AdaptedResult, CellAdaptationResult, CellDesignResult, CellResult

COLOURS = (BLUE, ORANGE, GREEN, RED)
"""Of the chips in the figure."""
COLUMNS, LEGEND_WIDTH = 3, 34
"""Panels beside each other; characters of a line of the legend."""
DECADES = 10.0
"""Ratio of the largest to the smallest perplexity from which on an axis is logarithmic."""
LINEAR = "linear"
"""Title of the cell that is the level to reach, not a curve."""
UNITS = {"um^2": " µm²", "x 6T SRAM": " × 6T SRAM", "s": " s"}
"""Unit in docs/data/cells.toml -> as printed."""
ORDER = ("linear", "polynomial", "x3", "x5", "sigmoid", "exponential", "compressive", "oxide-2t")
"""Cells as the figure and the table show them, by the name of their file; others follow."""

HEAD = """
# Cells of the literature

This page compares gain cells from the literature, each used in the same chip. `docs/readme.py` writes it
from `docs/results/cells/` (`python recipes/cells.py`) and `docs/data/cells.toml`. Retention and density
are **cited**; deviation, tokens and refresh are computed from the designs; perplexities are
**simulated**. `gaincell design show NAME` shows a design with all its sources.
"""
EXPLANATION = """
* *Tokens until 1/e* assumes the token period of {layers:.0f} layers, {period:.0f} ns. A window has
  {window:,.0f} tokens.
* *Density* is the area of a cell, or the number of cells (×) that fit into the area of one
  six-transistor SRAM cell of the same process.
* *Deviation from a line* is the largest distance of the current F(u) from its best straight line (least
  squares over the storage range), in % of the span of F. *F(0)* is the current of a cell that stores
  V_offset, in % of the same span. A linear cell has 0 in both columns.
* *Linear*, *unadapted, trained start* and *adapted* are perplexities of `{model}` on the evaluation part
  of {text}, {protocol}; ± is the standard error over blocks. *Linear* is the shipped linear hardware
  version on this chip with the ideal cell. For *unadapted, trained start*, only the cell is replaced:
  gains and offsets stay as trained, unlike those that the paper's Fig. 4c begins with
  ([reproduction.md](reproduction.md#fig-4c-adaptation)). For *adapted*, they are then set in closed form
  on {calibration:,.0f} tokens of training text. The {model_layers:.0f} layers of the model set its token
  period, {model_period:.0f} ns. Nothing is refreshed.
* *Refresh every*: within this time the highest and the lowest level, which drift most, drift by half a
  storage level ({half_level:.0f} mV), t = -τ ln(1 - half level / largest |u|). A refresh that reads the
  level back can still recognise it. Energy is not considered. Tokens are those of {layers:.0f} layers; of the
  {model_layers:.0f} of `{model}`, {more:.3g} times as many pass, more than a window, so its perplexities do
  not test whether a cell needs a refresh.
"""
REPORTED = """
## What is reported

Papers call *retention* the time for which a stored level can still be read. Our designs use it as the
time constant τ of an exponential decay, which understates it, except where it is one: the paper's 5 ms.
Designs use the values in bold. Of the oxide cells, no value was measured in a 6T cell, whose read path is
another one; from 2T0C cells, only the retention that the write transistor gives is taken over.
"""
PATHS = "What writes and reads each cell, and where its current curve comes from:"
REFERENCES = (
    "References. The brackets say whether the numbers come from the article's text, its abstract or a report:"
)
ADAPTATION = """
## Adaptation to every cell

Here `{model}` is adapted to the cells of the paper and its supplement, to a cell known only by a table,
and to the all-oxide cells (simulated). The published iteration and the closed form use the same fixed
batch of {calibration:,.0f} tokens of training text, and both begin from the trained start, the gains and
offsets of the linear model; [reproduction.md](reproduction.md#fig-4c-adaptation) has the published iteration
from the paper's neutral start, too. The figure shows the perplexity on that batch at
every iteration. The tables show the perplexity on the evaluation part of {text}, {protocol}. The
residual is the largest over all stages, in standard deviations of the target.

![Perplexity at every iteration of the published adaptation, all cells](figures/adaptation-cells.png)
"""

Designs = Mapping[str, CellDesignResult]
Adapted = Mapping[str, Sequence[CellAdaptationResult]]
Literature = Mapping[str, Any]


def read_literature(path: Path) -> Literature:
    """Read docs/data/cells.toml.

    Raises:
        InputError: a number lacks its unit or reference, or a reference is not in the list or has no year.
    """
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    for cell in found["cells"]:
        for entry in (*cell["retention"], *cell["density"]):
            where = f"{path.name}: {cell['design']}: {entry}"
            if entry.get("unit") not in UNITS:
                raise InputError(f"{where}: unit must be one of {', '.join(UNITS)}")
            if entry.get("reference") not in found["references"]:
                raise InputError(f"{where}: its reference is not in [references]")
    for key, reference in found["references"].items():
        if not re.search(r"\b20\d\d\b", reference["text"]) and reference["seen"] != "report":
            raise InputError(f"{path.name}: reference {key} states no year")
    return found


def order(path: Path) -> tuple[str, int, str]:
    """Key to sort the results of the adaptation by: chip, then cell."""
    place = ORDER.index(path.stem) if path.stem in ORDER else len(ORDER)
    return path.parent.name, place, path.stem


def page(literature: Literature, designs: Designs, adapted: Adapted) -> str:
    """docs/cells.md.

    Args:
        literature: of `read_literature`; its cells are the lines, in this order.
        designs: results of recipes/cells.py for the designs, by name; cells without one are left out.
        adapted: its results of the adaptation, by chip: one a cell.
    """
    cells = [cell for cell in literature["cells"] if cell["design"] in designs]
    used = _references(literature, cells)
    listed = literature["references"]
    parts = [
        HEAD,
        _comparison(cells, designs),
        _explanation(designs[cells[0]["design"]]),
        REPORTED,
        _reported(cells, designs, used),
        PATHS,
        _paths(cells),
        REFERENCES,
        "\n".join(f"{n}. {listed[key]['text']} ({listed[key]['seen']})" for key, n in used.items()),
        *(_adaptation(adapted) if adapted else ()),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _comparison(cells: Sequence[Literature], designs: Designs) -> str:
    heads = ["cell", "design", "retention (reported range), cited", "tokens until 1/e", "density, cited"]
    heads += ["deviation from a line", "F(0)", "linear", "unadapted, trained start", "adapted"]
    heads += ["refresh every"]
    lines = []
    for cell in cells:
        found = designs[cell["design"]]
        reported = [float(entry["value"]) for entry in cell["retention"]]
        spread = f" ({_seconds(min(reported))} to {_seconds(max(reported))})" if len(reported) > 1 else ""
        refresh = _seconds(found.refresh_interval)
        lines.append(
            [
                cell["title"],
                f"`{cell['design']}`",
                _seconds(found.retention_time.value) + spread,
                _count(found.tokens_to_1_e),
                "; ".join(_entry(e) for e in cell["density"] if not e.get("other")) or "not stated",
                f"{100 * found.deviation:.1f} %",
                f"{100 * found.current_at_offset:.1f} %",
                *(_perplexity(found, stage) for stage in ("linear", "unadapted", "adapted")),
                f"{refresh}, {_count(found.refresh_tokens)} tokens",
            ]
        )
    return Rows("", heads, lines, text=(0, 1)).markdown()


def _explanation(found: CellDesignResult) -> str:
    model, text = found.model, found.text
    return EXPLANATION.format(
        layers=found.layers.value,
        period=found.token_period * 1e9,
        window=found.window.value,
        model=model.name,
        model_layers=model.layers,
        model_period=model.token_period * 1e9,
        more=found.token_period / model.token_period,
        text=text.name,
        calibration=text.calibration_tokens,
        protocol=found.provenance.protocol,
        half_level=found.half_level * 1e3,
    )


def _reported(cells: Sequence[Literature], designs: Designs, used: Mapping[str, int]) -> str:
    heads = ("cell", "what", "value", "how, there", "condition", "reference")
    lines = []
    listed: list[Literature] = []
    for cell in cells:
        tau = designs[cell["design"]].retention_time.value
        for what in ("retention", "density"):
            new = [entry for entry in cell[what] if entry not in listed]
            listed += new
            for entry in new:
                taken = what == "retention" and math.isclose(entry["value"], tau)
                shown = f"**{_entry(entry)}**" if taken else _entry(entry)
                about = [entry["how"], entry["condition"], f"[{used[entry['reference']]}]"]
                lines.append([cell["title"], what, shown, *about])
    return Rows("", heads, lines, text=range(6)).markdown()


def _paths(cells: Sequence[Literature]) -> str:
    lines = [[f"`{cell['design']}`", cell["write"], cell["read"], cell["curve"]] for cell in cells]
    return Rows("", ("design", "write", "read", "current"), lines, text=range(4)).markdown()


def _references(literature: Literature, cells: Sequence[Literature]) -> dict[str, int]:
    """Keys of the references in the order of their first use, numbered from 1; those of no number last."""
    keys = [entry["reference"] for cell in cells for entry in (*cell["retention"], *cell["density"])]
    unused = [key for key, reference in literature["references"].items() if reference.get("general")]
    return {key: n for n, key in enumerate(dict.fromkeys([*keys, *unused]), 1)}


def _adaptation(adapted: Adapted) -> list[str]:
    some = next(iter(adapted.values()))[0]
    parts = [
        ADAPTATION.format(
            calibration=some.text.calibration_tokens,
            model=some.model.name,
            text=some.text.name,
            protocol=some.provenance.protocol,
        )
    ]
    for chip, results in adapted.items():
        parts.append(f"{chip[0].upper()}{chip[1:]}. {results[0].chip.description}")
        lines = []
        for result in results:
            published, closed = (result.adaptation[method] for method in ("published", "closed-form"))
            reached = "" if published.converged else ", not converged"
            lines.append(
                [
                    result.cell.title,
                    *(_perplexity(result, stage) for stage in ("linear", "unadapted", "published")),
                    f"{published.iterations}{reached}",
                    f"{published.residual.value:.1e}",
                    _perplexity(result, "closed-form"),
                    f"{closed.residual.value:.1e}",
                ]
            )
        heads = ["cell", "linear", "unadapted, trained start", "published", "iterations", "residual"]
        heads += ["closed form", "residual"]
        parts.append(Rows("", heads, lines).markdown())
    return parts


@styled()
def adaptation(adapted: Adapted) -> Figure:
    """Perplexity of the adaptation's own text at every iteration of the published method, a panel a cell and
    a colour a chip; dashed what the closed form reaches, dotted the linear cell.
    """
    titles = list(dict.fromkeys(r.cell.title for results in adapted.values() for r in results))
    titles = [title for title in titles if title != LINEAR]
    rows = math.ceil((len(titles) + 1) / COLUMNS)
    figure, panels = _panels(titles, rows, 2.6 * rows)
    for axes, title in zip(panels, titles, strict=False):
        for (chip, results), colour, marker in zip(adapted.items(), COLOURS, MARKERS, strict=False):
            found = {result.cell.title: result for result in results}
            if title in found:
                _panel(axes, found[title], found.get(LINEAR), chip, colour, marker)
    handles, labels = panels[0].get_legend_handles_labels()
    wrapped = [textwrap.fill(label, LEGEND_WIDTH) for label in labels]
    panels[len(titles)].legend(handles, wrapped, loc="center").set_in_layout(False)
    return figure


@styled()
def starts(adapted: Mapping[str, Mapping[str, AdaptedResult]], released: Sequence[float]) -> Figure:
    """Perplexity of the adaptation's own text at every iteration of the published method from either start,
    a panel a model and cell.

    adapted: title of a panel -> its results by the name of their start, "trained" and "neutral", and
        "linear": the neutral start of the linear cell.
    released: perplexity at every iteration of the paper's own, cited, in a panel of its own.
    """
    kinds = {
        "neutral": (BLUE, "o-", "this cell, neutral start"),
        "linear": (GREY, "^-", "linear cell, neutral start"),
        "trained": (ORANGE, "s-", "this cell, trained start"),
    }
    titles = [*adapted, "GPT-2, first submission (cited)"]
    rows = math.ceil(len(titles) / COLUMNS)
    figure, panels = _panels(titles, rows, 2.7 * rows + 0.3)
    own = panels[len(adapted)]
    own.plot(released, "o-", ms=3, lw=1.2, color=BLUE)
    own.set_yscale("log")
    for axes, results in zip(panels, adapted.values(), strict=False):
        for start, (colour, marks, label) in kinds.items():
            if start in results:
                history = results[start].adaptation["published"].history
                assert history is not None
                axes.plot(
                    history.iteration, history.perplexity, marks, ms=3, lw=1.2, color=colour, label=label
                )
        level = results["neutral"].adaptation["published"].target_perplexity
        assert level is not None
        axes.axhline(level, color="black", ls=":", lw=1.2, label="linear cell as trained")
        axes.set_yscale("log")
    legend_below(figure, len(kinds) + 1)
    return figure


@styled()
def _panels(titles: Sequence[str], rows: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels of perplexity against iterations, one a title; the others of the last row are hidden."""
    figure = Figure(figsize=(9.6, height))
    panels = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(title)
        axes.set_xlabel("iteration")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    for axes in panels[: len(titles) : COLUMNS]:
        axes.set_ylabel("perplexity, calibration text")
    for axes in panels[len(titles) :]:
        axes.set_axis_off()
    return figure, panels


def _panel(
    axes: Axes,
    result: CellAdaptationResult,
    linear: CellAdaptationResult | None,
    chip: str,
    colour: str,
    marker: str,
) -> None:
    """One cell on one chip."""
    history = result.adaptation["published"].history
    assert history is not None
    steps, perplexities = history.iteration, history.perplexity
    axes.plot(steps, perplexities, f"{marker}-", ms=3, lw=1.2, color=colour, label=f"published, {chip}")
    axes.axhline(_closed(result), color=colour, ls="--", lw=1.2, label=f"closed form, {chip}")
    if linear is not None:
        axes.axhline(_closed(linear), color=colour, ls=":", lw=1.2, label=f"linear cell, {chip}")
    if max(perplexities) > DECADES * min(perplexities):
        axes.set_yscale("log")


def _closed(result: CellAdaptationResult) -> float:
    """Perplexity of the adaptation's own text that the closed form reaches."""
    found = result.adaptation["closed-form"].calibration_perplexity
    assert found is not None
    return found


def _perplexity(found: CellResult, stage: str) -> str:
    entry = found.stages[stage]
    assert entry.perplexity_error is not None
    return f"{readable(entry.perplexity)} ± {readable(entry.perplexity_error)}"


def _entry(entry: Literature) -> str:
    if entry["unit"] == "s":
        return f"{entry['relation']} {_seconds(entry['value'])}".strip()
    return f"{entry['value']:g}{UNITS[entry['unit']]} {entry['relation']}".strip()


def _seconds(seconds: float) -> str:
    """With the prefix that suits it."""
    if seconds >= 1e3:
        return f"{seconds:,.0f} s"
    factor, unit = next(
        (f, u) for f, u in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")) if seconds >= f or u == "µs"
    )
    return f"{seconds / factor:.3g} {unit}"


def _count(tokens: float) -> str:
    """Whole tokens; powers of ten beyond a million."""
    if tokens < 1e6:
        return f"{tokens:,.0f}"
    exponent = math.floor(math.log10(tokens))
    raised = str(exponent).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{tokens / 10**exponent:.1f}·10{raised}"
