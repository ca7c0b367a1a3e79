"""`gaincell rtl`: the digital half of a head as Verilog, checked against the arrays, synthesised."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaincell.cli import _options as options
from gaincell.cli._json import JsonFile, command_line, directory, show_result
from gaincell.cli._options import LARGEST_SEED, check_needed, command, flag, option, was_given
from gaincell.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from gaincell.chips.design import Design


@command
def rtl(
    context: typer.Context,
    design: options.ChipArgument,
    out: Annotated[
        Path, directory("Directory for Verilog, testbench, constraints, floorplan, timeline and a README.")
    ],
    verify: Annotated[
        bool, flag("--verify", "Check everything; otherwise only a few tokens for the testbench.")
    ] = False,
    tokens: Annotated[int, option("Tokens that --verify reads.", "TOKENS", min=1)] = 200,
    inputs: Annotated[
        Path | None,
        option("File of gaincell evaluate --dump, codes of a real model; by default random words.", "FILE"),
    ] = None,
    head_dim: options.HeadDim = 64,
    group: Annotated[int, option("Query heads that share the arrays.", "N", min=1)] = 1,
    guard_bits: Annotated[int, option("Extra bits of words and gains, beyond a code's.", "N", min=0)] = 4,
    liberty: Annotated[Path | None, option("Also synthesise to the cells of a Liberty file.", "FILE")] = None,
    technology: options.ProcessName = "28nm",
    seed: Annotated[
        int, option("Seed of the random words, gains and offsets.", "N", min=0, max=LARGEST_SEED)
    ] = 0,
    json: JsonFile = None,
) -> None:
    """Generate the digital half of a head as hardware from a design; simulate, prove and synthesise it.

    It has scaling stages, pulse generators, write address controller, sequencer, counters and adder trees.
    Their codes and periods must be those of HeadArray and the schedule; otherwise exit code 1. Gate energies
    and areas are those of the technology file, most of them assumptions (docs/rtl.md).

    Example: gaincell rtl leroux2025 --out runs/rtl --verify
    """
    from gaincell.chips.design_file import inputs_of_design
    from gaincell.cli._progress import progress_bars
    from gaincell.costs.technology import inputs_of_technology, load_technology
    from gaincell.reports import rtl as tables
    from gaincell.text import sha256

    with options.needing_amaranth():
        from gaincell.rtl import generation
        from gaincell.rtl.parameters import Parameters

    check_needed(context, ("--tokens",), "--verify", verify)
    check_needed(context, ("--head-dim", "--group"), "random words, without --inputs", inputs is None)
    process, chip = load_technology(technology), options.chip_of(design)
    given = None if inputs is None else _codes(inputs, chip)
    if given is not None:
        head_dim, group = given[0].shape[2], given[0].shape[1]
        if (held := len(given[0])) < tokens and was_given(context, "tokens"):
            raise InputError(f"--tokens {tokens}: {inputs} holds {held} tokens; give at most as many")
    parameters = Parameters(chip, head_dim, group, guard_bits)
    codes = None if inputs is None else sha256(inputs)[:12]
    generation.check_folder(out, parameters, codes, seed, verify)
    origin = inputs_of_design(design) | inputs_of_technology(technology)
    if inputs is not None and codes is not None:
        origin[inputs.name] = codes
    with progress_bars() as progress:
        found = generation.generate(
            parameters, process, command_line(), tokens=tokens if verify else 0, codes=given, inputs=origin,
            seed=seed, liberty=liberty, progress=progress,
        )  # fmt: skip
    result = found.result
    shown: list[object] = [tables.check_rows(result)] if verify else []
    shown += [f"* {check.name}: {check.note}" for check in result.checks if check.note]
    shown += [tables.module_rows(result)] if result.modules else []
    shown += [tables.liberty_rows(result.liberty)] if result.liberty else []
    shown += [tables.energy_rows({result.inputs: result})] if result.energy else []
    shown += generation.write(found, parameters, process, out)
    show_result(result, json, *shown, passed=not any(check.failed for check in result.checks))


def _codes(file: Path, chip: Design) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of the first key/value head of a dumped layer, q [T, g, D], k and v [T, D]."""
    from gaincell.spice.inputs import read_dump

    q, k, v, *_ = read_dump(file, chip)
    if q.min() < 0 and not chip.drivers.signed:
        raise InputError(
            f"{file.name} has signed queries, but {chip.name} takes none; give another file or design"
        )
    return q[0, : q.shape[1] // k.shape[1]].transpose(0, 1), k[0, 0], v[0, 0]
