"""Tables and the timeline of `gaincell rtl`, from its JSON alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from matplotlib.figure import Figure

from gaincell.reports.costs import readable
from gaincell.reports.results import number
from gaincell.reports.style import BLUE, GREY, legend_below, styled

Result = Mapping[str, Any]
Rows = list[list[str]]


def check_rows(result: Result) -> Rows:
    """What was checked, how, how much, and how much of it was different."""
    return [
        [
            check["name"],
            check["how"],
            f"{number(check['compared']):,.0f} {check['compared']['unit']}",
            "not done" if "different" not in check else f"{number(check['different']):,.0f}",
        ]
        for check in result["checks"]
    ]


def module_rows(result: Result) -> Rows:
    """Gates, flip-flops, depth, area and energy by kind of module, and of all."""
    found = []
    for module in result["modules"]:
        energy = module.get("energy")
        found.append(
            [
                module["name"],
                *(f"{number(module[key]):,.0f}" for key in ("placed", "gates", "flip_flops", "depth")),
                f"{number(module['area']) * 1e12:,.0f} µm²",
                "" if energy is None else readable(energy),
            ]
        )
    total = result["total"]
    found.append(
        [
            "head",
            "",
            *(f"{number(total[key]):,.0f}" for key in ("gates", "flip_flops")),
            "",
            f"{number(total['area']) * 1e12:,.0f} µm²",
            readable(total["energy"]) if "energy" in total else "",
        ]
    )
    return found


def energy_rows(*found: Result) -> Rows:
    """Energy of a token and query head, a column a result: synthesised, the formula of the cost model, each
    hypothesis, the paper's.
    """

    def row(name: str, of: Callable[[Result], Result], basis: str) -> list[str]:
        return [name, *(_a_head(of(result["energy"]), result) for result in found), basis]

    def hypothesis(n: int) -> Callable[[Result], Result]:
        return lambda energy: energy["hypotheses"][n]["energy"]

    one = found[0]["energy"]
    rows = [row(name, itemgetter(key), basis) for key, (name, basis) in SOURCES.items()]
    rows += [row(f"+ {h['name']}", hypothesis(n), "hypothesis") for n, h in enumerate(one["hypotheses"])]
    rows.append(row("synthesised and all hypotheses", itemgetter("all"), "sum"))
    return [*rows, row("paper, digital control and routing", itemgetter("paper"), one["paper"]["source"])]


def _a_head(entry: Result, result: Result) -> str:
    """Its share of what all query heads of a group take together."""
    return readable({**entry, "value": number(entry) / number(result["sizes"]["group"])})


SOURCES = {
    "gates": ("synthesised: gates", "switching"),
    "registers": ("synthesised: registers", "switching"),
    "clock": ("synthesised: clock, gated by the enables", "switching"),
    "synthesised": ("synthesised", "sum"),
    "formula": ("formula of gaincell cost, the same blocks", "counted"),
}
CHECKS = ("check", "what and how", "compared", "different")
MODULES = ("module", "placed", "gates", "flip-flops", "depth", "area", "energy a token")
ENERGY = ("energy of a token and query head", "", "")
WORDS = ("guard bits", "bits of a word", "q codes", "k codes", "v codes", "perplexity")


def table(title: str, headings: Sequence[str], rows: Rows, caption: str = "") -> Any:
    """For a terminal."""
    from rich.table import Table

    found = Table(title=title, caption=caption or None, title_justify="left", caption_justify="left")
    for n, heading in enumerate(headings):
        found.add_column(heading, justify="left" if n == 0 or heading in ("what and how", "") else "right")
    for row in rows:
        found.add_row(*row)
    return found


def markdown(headings: Sequence[str], rows: Rows) -> str:
    """For a page."""
    lines = [list(headings), ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def word_rows(lengths: Result) -> Rows:
    """Perplexity, and codes that differ from those of exact stages, by word length."""
    rows = [
        [
            f"{number(one['guard_bits']):g}",
            f"{number(one['word_bits']):g}",
            *(f"{number(one[f'{name}_codes_different']):.2%}" for name in "qkv"),
            f"{number(one['perplexity']):.3f}",
        ]
        for one in lengths["words"]
    ]
    return [*rows, ["exact", "", "", "", "", f"{number(lengths['exact']):.3f}"]]


def page_tables(result: Result, real: Result, lengths: Result) -> dict[str, str]:
    """The tables of docs/rtl.md, each with what it is of.

    real: the same head with the codes of a model.
    """
    sizes = {key: f"{number(entry):,.0f}" for key, entry in result["sizes"].items()}
    head = f"{sizes['rows']} rows, {sizes['columns']} columns"
    energy = result["energy"]
    proved = f"Simulated and proved. {head}."
    shared, of_one = "Query heads that share the arrays", sizes["group"]
    groups = " and ".join(f"{number(one['sizes']['group']):g}" for one in (result, real))
    of_inputs = ("energy of a token and query head", *(one["inputs"] for one in (result, real)), "")
    of_tokens = (
        f"Simulated. {head}; means of {sizes['tokens']} tokens from an empty ring, "
        f"{number(energy['columns']):,.0f} valid columns on average, "
        f"{sizes['step_periods']} periods a token; {result['technology']}."
    )
    of_words = (
        f"Simulated: {lengths['model']}, {number(lengths['predictions']):,.0f} predictions; codes that "
        "differ from those of exact stages with the same inputs."
    )
    return {
        "checks": f"{markdown(CHECKS, check_rows(result))}\n{proved} {shared}: {of_one}.\n",
        "modules": f"{markdown(MODULES, module_rows(result))}\n{of_tokens} {shared}: {of_one}.\n",
        "energy": f"{markdown(of_inputs, energy_rows(result, real))}\n{of_tokens} {shared}: {groups}.\n",
        "words": f"{markdown(WORDS, word_rows(lengths))}\n{of_words}\n",
    }


@styled()
def timeline(result: Result) -> Figure:
    """When each phase was seen on the wires of the RTL (filled), and its schedule (outlined): one token."""
    phases = result["timeline"]
    figure = Figure(figsize=(8.4, 0.9 + 0.4 * len(phases)))
    axes = figure.add_subplot()
    for row, phase in enumerate(phases):
        for key, style in (
            ("seen", {"color": BLUE, "height": 0.4}),
            ("scheduled", {"facecolor": "none", "edgecolor": GREY, "height": 0.8, "linewidth": 1.2}),
        ):
            for n, (start, end) in enumerate(phase[key]["value"]):
                label = {"seen": "wires of the RTL", "scheduled": "schedule"}[key] if row + n == 0 else None
                axes.barh(row, end - start, left=start, label=label, **style)  # type: ignore[arg-type]
    axes.set_yticks(range(len(phases)), [phase["name"] for phase in phases])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(left=0)
    axes.set_xlabel("clock period of the step")
    legend_below(figure, columns=2)
    return figure
