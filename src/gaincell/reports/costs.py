"""Costs as tables, for a terminal and for docs/costs.md, from the JSON of `gaincell cost` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gaincell.reports.results import number, numbers

Result = Mapping[str, Any]
SCALES = {
    "J": ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ"), (1e-12, "pJ"), (1e-15, "fJ")),
    "s": ((3.156e7, "years"), (86400.0, "days"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "m^2": ((1e-6, "mm²"),),
    "B": ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
    "W": ((1.0, "W"), (1e-3, "mW"), (1e-6, "µW"), (1e-9, "nW")),
}
"""Unit -> factors and how they are printed, from large to small."""
KINDS = {"cited": "cited", "measured": "measured", "simulated": "computed"}
"""How the kinds of measurements are called."""
DACS = {"string": "resistor string", "charge": "charge redistribution"}
"""Of the write path, by the names of result files."""
MOST = 18
"""Rows of the sensitivity that a terminal shows."""


@dataclass(frozen=True)
class Rows:
    """A table. The first column is text, the others are aligned right."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


def for_terminal(table: Rows) -> Any:
    """A table of rich."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(
        title=table.title,
        caption=table.caption or None,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    made.add_column(table.headings[0])
    for heading in table.headings[1:]:
        made.add_column(heading, justify="right")
    for row in table.rows:
        made.add_row(*row)
    return made


def as_markdown(table: Rows) -> str:
    """For a document; indentation of parts is kept."""
    rule = ["---", *["---:"] * (len(table.headings) - 1)]
    rows = [[row[0].replace("  ", "&emsp;"), *row[1:]] for row in table.rows]
    lines = ["| " + " | ".join(row) + " |" for row in (table.headings, rule, *rows)]
    return "\n".join([*lines, *(("", table.caption) if table.caption else ())]) + "\n"


def readable(entry: Mapping[str, Any] | None) -> str:
    """A value with three digits and a prefix; a dash for none."""
    if entry is None:
        return "–"
    return with_scale(number(entry), str(entry["unit"]))


def with_scale(found: float, unit: str) -> str:
    """A number with three digits and the largest prefix that leaves it at 1 or above."""
    scales = SCALES.get(unit)
    if scales is None or found == 0:
        return f"{found:.3g}" if unit == "1" else f"{found:.3g} {unit}"
    factor, shown = next((s for s in scales if found >= s[0]), scales[-1])
    scaled = found / factor
    if scaled >= 999.5:
        return f"{scaled:,.0f} {shown}"
    return f"{scaled:.3g} {shown}" if scaled >= 1e-4 else f"{scaled:.2e} {shown}"


def basis(result: Result) -> str:
    """What the activity is, in words."""
    found = result["activity"]
    if found["source"] == "assumed":
        return "activity assumed (every code equally likely), not measured"
    return f"activity measured on {found['source']}, {number(found['tokens']):,.0f} tokens"


def energy(result: Result) -> Rows:
    """One head and token: every block and its parts."""
    found, rows = result["head"], []
    for line in found["lines"]:
        rows.append([line["name"], *_compared(line)])
        rows += [
            [f"  {name}{_counted(line, name)}", "", readable(part), "", "", ""]
            for name, part in line["parts"].items()
        ]
    total = [found[column]["energy"] for column in ("cited", "bottom_up")]
    rows.append(["all", *(readable(x) for x in total), ratio(total[1], total[0]), "", ""])
    if "spice" in found:
        spice = found["spice"]
        for key, title in (("first", "first dot product"), ("second", "second dot product")):
            stated = next(line["cited"] for line in found["lines"] if line["name"] == title)
            title += f", SPICE ({spice['inputs']} inputs, mean pulse {number(spice[f'{key}_pulse']):.3f})"
            factor, band = number(spice[f"{key}_factor"]), number(spice[f"{key}_band"])
            inside = "yes" if spice[f"{key}_inside"] else "NO"
            rows.append(
                [title, readable(stated), readable(spice[key]), f"{factor:.3g}", f"{band:g}×", inside]
            )
    cited = {line["name"]: line.get("cited") for line in found["lines"]}
    if "rtl" in found:
        gates = found["rtl"]
        title = f"digital, synthesised ({gates['inputs']}, {number(gates['columns']):.0f} valid columns)"
        rows.append(_beside(title, cited["digital"], gates))
    for name, dac in found.get("write", {}).get("dacs", {}).items():
        rows.append(_beside(f"write, SPICE ({DACS[name]})", cited["write"], dac))
    caption = f"One query head, one token; {basis(result)}. Technology {result['technology']['name']}."
    headings = ("energy", "cited", "bottom-up", "factor", "band", "inside")
    return Rows("Energy of a head", headings, rows, caption)


def _beside(title: str, cited: Result, source: Result) -> list[str]:
    """A row of another source of a block's energy."""
    factor, band = number(source["factor"]), number(source["band"])
    inside = "yes" if source["inside"] else "NO"
    return [title, readable(cited), readable(source["energy"]), f"{factor:.3g}", f"{band:g}×", inside]


def summary(result: Result) -> Rows:
    """A token: of a head, of a layer, of the model."""
    head, model = result["head"], result["model_cost"]
    sizes = result["model"]
    layers, heads = number(sizes["layers"]), number(sizes["heads"])
    rows = []
    for column, title in (("cited", "cited"), ("bottom_up", "bottom-up")):
        one, whole = head[column], model[column]
        layer_energy, layer_area = number(whole["energy"]) / layers, number(whole["area"]) / layers
        rows += [
            [f"a head, {title}", *_three(one), _power(one)],
            [
                f"a layer of {heads:.0f} heads, {title}",
                with_scale(layer_energy, "J"),
                readable(one["latency"]),
                with_scale(layer_area, "m^2"),
                with_scale(layer_energy / number(one["latency"]), "W"),
            ],
            [f"all {layers:.0f} layers, {title}", *_three(whole), _power(whole)],
        ]
    group = number(head["group"])
    shared = f", shared by {group:.0f} query heads" if group > 1 else ""
    caption = (
        f"{sizes['name']} on {result['design']['name']}, batch {number(model['batch']):.0f}. Area of a head: "
        f"of its key/value head{shared}. Attention alone: {number(model['throughput']):,.0f} tokens/s. "
        "Power: while one token follows the other; of the whole model one layer works at a time."
    )
    return Rows("Attention, per token", ("", "energy", "latency", "area", "power"), rows, caption)


def left_out(result: Result) -> Rows:
    """What the bottom-up column lacks."""
    rows = [[f"{one['where']}: {one['what']}"] for one in result["left_out"]]
    caption = "Nobody stated what these take; all but power gating would raise the bottom-up estimate."
    return Rows("Left out of the bottom-up estimate", ("left out",), rows, caption)


def area(result: Result) -> Rows:
    """The area of a key/value head."""
    found, areas = result["head"], result["areas"]
    rows = [[name, "", readable(part), ""] for name, part in found["area"].items()]
    rows[0][1] = readable(areas["cells_cited"])
    total = ["all", readable(areas["head_cited"]), readable(areas["head"]), readable(areas["head_factor"])]
    caption = (
        f"{number(found['cells']):,.0f} cells. The cell's area is the paper's own, so it is no independent "
        f"number. The paper's head in a crossbar: {readable(areas['crossbar_cited'])} of cells; stacked in "
        f"{number(areas['layers']):.0f} layer(s): {readable(areas['stack_cited'])}."
    )
    return Rows("Area of a key/value head", ("", "cited", "bottom-up", "factor"), [*rows, total], caption)


def variants(result: Result) -> Rows:
    """Other cells, and stacks."""
    rows = [
        [
            row["title"],
            f"{number(row['cell']) * 1e12:.3g} µm²",
            readable(row.get("cited")),
            readable(row["cells"]),
            readable(row["head"]),
        ]
        for row in result["areas"]["variants"]
    ]
    caption = "Layers of a stack share the periphery, so that it soon is all that counts."
    headings = ("cells", "one cell", "cells of a head, cited", "bottom-up", "head, bottom-up")
    return Rows("Other cells and 3D stacking", headings, rows, caption)


def sensitivity(result: Result, most: int | None = None) -> Rows:
    """A row a parameter: up and down."""
    changes: dict[tuple[str, str], dict[bool, Any]] = {}
    for row in result["sensitivity"]:
        changes.setdefault((row["where"], row["parameter"]), {})[number(row["factor"]) > 1] = row
    rows = []
    for (where, parameter), both in list(changes.items())[:most]:
        cells = [
            " / ".join(_percent(both[up][key]) if up in both else "–" for up in (True, False))
            for key in ("energy", "latency", "area")
        ]
        rows.append([f"{where}: {parameter}", *cells])
    left = len(changes) - len(rows)
    caption = (
        "Change with a parameter at +20 % / at -20 % (sizes: the nearest that exists), one at a time; "
        "bottom-up, one head."
    )
    caption += f" {left} more change less; --json has them." if left else ""
    top, supply = number(result["design"]["v_max"]), number(result["technology"]["numbers"]["supply"])
    lower = min(
        (number(row["factor"]) for row in result["sensitivity"] if row["parameter"] == "supply"), default=1.0
    )
    if top > lower * supply:
        caption += (
            f" Supply: at {lower * supply:.3g} V the chip could not store its {top:g} V; the row says what "
            "depends on it, not that the chip would work."
        )
    return Rows("Sensitivity", ("parameter", "energy", "latency", "area"), rows, caption)


def bands(results: Mapping[str, Result]) -> Rows:
    """The factor of every block of several results, and which lie outside their bands."""
    rows, found = [], []
    for name, result in results.items():
        found = [line for line in result["head"]["lines"] if "factor" in line]
        factors = {line["name"]: (number(line["factor"]), line["inside"]) for line in found}
        rows.append([f"{name} ({result['activity']['source']})", *_factors(factors, found)])
        spice = result["head"].get("spice")
        if spice is not None:
            simulated = {
                title: (number(spice[f"{key}_factor"]), spice[f"{key}_inside"])
                for key, title in (("first", "first dot product"), ("second", "second dot product"))
            }
            rows.append([f"{name}, arrays by SPICE ({spice['inputs']} inputs)", *_factors(simulated, found)])
        for dac, entry in result["head"].get("write", {}).get("dacs", {}).items():
            written = {"write": (number(entry["factor"]), entry["inside"])}
            rows.append([f"{name}, write by SPICE ({DACS[dac]})", *_factors(written, found)])
    names = {line["name"]: number(line["band"]) for line in found}
    headings = ("bottom-up over cited", *(f"{name}, {band:g}×" for name, band in names.items()))
    return Rows("Bands", headings, rows, "NO: outside the band that stands in the heading.")


def real_text(assumed: Result, measured: Mapping[str, Result]) -> str:
    """What measured activities make of both dot products, and whether each is inside its band."""
    parts = []
    for title in ("first dot product", "second dot product"):
        before, *lines = (
            next(line for line in one["head"]["lines"] if line["name"] == title)
            for one in (assumed, *measured.values())
        )
        found = [
            f"{number(line['bottom_up']) / number(before['bottom_up']):.2f} ({name}, {_place(line)} its band)"
            for name, line in zip(measured, lines, strict=True)
        ]
        parts.append(f"{title}, {_place(before)} its band before: × {', '.join(found)}")
    return (
        "* What the activity of real text makes of an estimate with assumed activity (every code equally "
        f"likely): {'; '.join(parts)}. The paper does not state the activity behind its two numbers: "
        "closeness here is no validation.\n"
    )


def _place(line: Mapping[str, Any]) -> str:
    return "inside" if line["inside"] else "outside"


def _factors(factors: Mapping[str, tuple[float, bool]], lines: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = []
    for line in lines:
        factor, inside = factors.get(line["name"], (None, True))
        shown.append("–" if factor is None else f"{factor:.3g}{'' if inside else ' NO'}")
    return shown


def layers(result: Result) -> Rows:
    """Energy of the heads of every layer: mean, lowest, highest."""
    found = result["model_cost"]["heads"]
    table: dict[int, list[float]] = {}
    for layer, energy in zip(numbers(found["layer"]), numbers(found["energy"]), strict=True):
        table.setdefault(int(layer), []).append(energy)
    rows = [
        [str(layer), *(with_scale(x, "J") for x in (sum(of) / len(of), min(of), max(of)))]
        for layer, of in sorted(table.items())
    ]
    caption = f"One token, bottom-up; {basis(result)}. Every head: --json, --figures."
    return Rows("Energy of a head by layer", ("layer", "mean", "lowest", "highest"), rows, caption)


def sparsity(results: Mapping[str, Result]) -> Rows:
    """What each dot product's word lines are driven with, and what its cells draw, by result."""
    rows = []
    for name, result in results.items():
        heads = result["activity"]["heads"]
        mean = {key: sum(numbers(heads[key])) / len(numbers(heads[key])) for key in heads}
        cells = {
            line["name"]: line["parts"]["cells"]
            for line in result["head"]["lines"]
            if "cells" in line["parts"]
        }
        first, second = (cells[f"{which} dot product"] for which in ("first", "second"))
        rows.append(
            [
                f"{name} ({result['activity']['source']})",
                f"{mean['query_pulse']:.3f}",
                f"{mean['score_pulse']:.4f}",
                f"{100 * (1 - mean['score_active']):.1f} %",
                readable(first),
                readable(second),
                ratio(second, first),
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


def _counted(line: Mapping[str, Any], part: str) -> str:
    """How often a part happens, and what one takes; nothing where that is not counted."""
    found = line.get("operations", {}).get(part)
    if found is None:
        return ""
    count = number(found["count"])
    often = f"{count:,.0f}" if count.is_integer() else f"{count:.3g}"
    return f", {often} × {readable(found['each'])} a {found['count']['unit']}"


def _compared(line: Mapping[str, Any]) -> list[str]:
    if "cited" not in line:
        return ["–", readable(line["bottom_up"]), "", "", ""]
    factor, band = number(line["factor"]), number(line["band"])
    inside = "yes" if line["inside"] else "NO"
    return [readable(line["cited"]), readable(line["bottom_up"]), f"{factor:.3g}", f"{band:g}×", inside]


def _three(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    return readable(entry["energy"]), readable(entry["latency"]), readable(entry["area"])


def _power(entry: Mapping[str, Any]) -> str:
    """While it computes one token after the other."""
    return with_scale(number(entry["energy"]) / number(entry["latency"]), "W")


def ratio(entry: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return f"{number(entry) / number(other):.3g}"


def _percent(entry: Mapping[str, Any]) -> str:
    return f"{100 * number(entry):+.1f} %"


def outside(result: Result) -> str:
    """What has to be said about the numbers of a head, as a list."""
    return "\n".join(f"* {note[0].upper()}{note[1:]}." for note in result["notes"]) + "\n"


def technology(result: Result) -> Rows:
    """Every number of the process and where it comes from."""
    rows = [
        [
            key,
            f"{number(entry):.6g} {entry['unit']}" if entry["unit"] != "1" else f"{number(entry):.6g}",
            entry["source"],
        ]
        for key, entry in result["technology"]["numbers"].items()
    ]
    return Rows(f"Technology {result['technology']['name']}", ("number", "value", "source"), rows)


def models(results: Mapping[str, Result]) -> Rows:
    """All attention of several models, per token."""
    rows = []
    for name, result in results.items():
        found, head = result["model_cost"], result["head"]
        cells = [readable(found[column]["energy"]) for column in ("cited", "bottom_up")]
        cells += [readable(found[column]["latency"]) for column in ("cited", "bottom_up")]
        cells += [readable(found[column]["area"]) for column in ("cited", "bottom_up")]
        sizes = result["model"]
        shape = (
            f"{number(sizes['layers']):.0f} × {number(sizes['heads']):.0f}, {number(sizes['head_dim']):.0f}"
        )
        rows.append(
            [f"{name} ({result['activity']['source']})", shape, f"{number(head['window']):,.0f}", *cells]
        )
    headings = ("model (activity)", "layers × heads, D", "window", "energy, cited", "bottom-up")
    return Rows("Models", (*headings, "latency, cited", "bottom-up", "area, cited", "bottom-up"), rows)
