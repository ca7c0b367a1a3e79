"""Tables of docs/rtl.md."""

from __future__ import annotations

from gaincell.reports import rtl
from gaincell.reports.tables import Rows
from gaincell.results.rtl import RtlResult, WordLengthsResult

WORDS = ("guard bits", "bits of a word", "q codes", "k codes", "v codes", "perplexity")


def word_rows(lengths: WordLengthsResult) -> Rows:
    """Perplexity, and codes that differ from those of exact stages, by word length."""
    rows = [
        [
            f"{one.guard_bits}",
            f"{one.word_bits}",
            *(f"{x:.2%}" for x in (one.q_codes_different, one.k_codes_different, one.v_codes_different)),
            f"{one.perplexity:.3f}",
        ]
        for one in lengths.words
    ]
    return Rows("", WORDS, [*rows, ["exact", "", "", "", "", f"{lengths.exact:.3f}"]])


def page_tables(result: RtlResult, real: RtlResult, lengths: WordLengthsResult) -> dict[str, str]:
    """The tables of docs/rtl.md by their marks, each with a caption.

    real: the same head with the codes of a model.
    """
    sizes, energy = result.sizes, result.energy
    assert energy is not None
    head = f"{sizes.rows:,} rows, {sizes.columns:,} columns"
    proved = f"Simulated and proved. {head}."
    shared = "Query heads that share the arrays"
    means = (
        f"Simulated. {head}; means of {sizes.tokens:,} tokens from an empty ring, "
        f"{energy.columns:,} valid columns on average"
    )
    of_tokens = f"{means}, {sizes.step_periods:,} periods a token; {result.technology}."
    of_columns = (
        f"{means}; {result.technology}. First column: {sizes.step_periods:,} periods a token, query heads "
        f"that share the arrays: {sizes.group}; second column: {real.sizes.step_periods:,} periods, query "
        f"heads: {real.sizes.group}. The paper's number is of {sizes.columns:,} valid columns."
    )
    of_words = (
        f"Simulated: {lengths.model}, {lengths.predictions:,} predictions; codes that "
        "differ from those of exact stages with the same inputs."
    )
    energies = rtl.energy_rows({one.inputs: one for one in (result, real)})
    return {
        "rtl-checks": f"{rtl.check_rows(result).markdown()}\n{proved} {shared}: {sizes.group}.\n",
        "rtl-modules": f"{rtl.module_rows(result).markdown()}\n{of_tokens} {shared}: {sizes.group}.\n",
        "rtl-energy": f"{energies.markdown()}\n{of_columns}\n",
        "rtl-words": f"{word_rows(lengths).markdown()}\n{of_words}\n",
    }
