"""Sections with a map of every head: fidelity and activity."""

from __future__ import annotations

from markupsafe import Markup

from gaincell.reports.activity import activity_figure, activity_rows, by_layer, sparsity_line
from gaincell.reports.fidelity import MAPS, fidelity_figure, fidelity_rows
from gaincell.reports.html.markup import folded, paragraph
from gaincell.reports.html.picture import picture
from gaincell.reports.html.tables import head_rows, table
from gaincell.reports.tables import SIMULATED
from gaincell.results.evaluation import ActivityResult, FidelityResult

MEANINGS = {
    "error": "error to the pretrained head, Σ(O − Y)² / ΣY²",
    "cosine": "cosine to the pretrained head, mean over tokens",
    "linear error": "error to the linear hardware head, Σ(O − Y)² / ΣY²",
    "linear cosine": "cosine to the linear hardware head, mean over tokens",
    "pulses": "share of columns that give a pulse",
    "score ceiling": "share of pulses φ(S) as long as can be",
    "tile ceiling": "share of sub-tile outputs at full scale",
    "tile zero": "share of sub-tile outputs counted as 0",
    "q codes": "codes of q in use, share (exp of entropy)",
    "k codes": "codes of k in use, share (exp of entropy)",
    "v codes": "codes of v in use, share (exp of entropy)",
    "output codes": "codes of sub-tile outputs in use, share (exp of entropy)",
    "q clipped": "share of q beyond the drivers' range",
    "k clipped": "share of k beyond the voltages' range",
    "v clipped": "share of v beyond the voltages' range",
    "silent": "1: a head whose output never changes",
}
"""Of the numbers of `gaincell fidelity`, all without a unit."""
NAMES = {
    "query_pulse": "mean query pulse, in longest ones",
    "query_active": "share of query rows with a pulse",
    "score_pulse": "mean pulse φ(S), in longest ones",
    "score_active": "share of columns with a pulse φ(S)",
    "key_level": "key voltage |u|",
    "value_level": "value voltage |u|",
    "output_pulse": "mean output pulse, in longest ones",
    "valid_columns": "columns that a query saw",
}


def fidelity(result: FidelityResult) -> Markup:
    """How close every head is to the pretrained one."""
    tables = [
        head_rows(
            f"{key}: {MEANINGS[key]}", result.fidelity[key], "key/value head" if key[0] in "kv" else "head"
        )
        for keys in MAPS.values()
        for key in keys
    ]
    chart = picture("Every head", fidelity_figure(result), kind=SIMULATED, numbers=tables)
    rows = fidelity_rows(result)
    return chart + folded(rows.title, table(rows))


def activity(result: ActivityResult) -> Markup:
    """Pulses and voltages of every head."""
    units = {"key_level": ", V", "value_level": ", V"}
    maps = {key: f"{name[0].upper()}{name[1:]}{units.get(key, '')}" for key, name in NAMES.items()}
    tables = [head_rows(title, by_layer(result, key), "query head") for key, title in maps.items()]
    chart = picture("Every head", activity_figure(result, maps), kind=SIMULATED, numbers=tables)
    rows = activity_rows(result)
    lead = paragraph(f"{sparsity_line(result)} ({SIMULATED}).", "lead")
    return lead + chart + folded(rows.title, table(rows))
