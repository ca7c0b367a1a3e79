"""Every non-ideality of a chip, in every implementation: naive = blocked = native = token-serial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.cells import TABLE
from tests.tiers import slow
from torch import Tensor

from gaincell.arrays import HeadArray, Refresh
from gaincell.chips.design_file import Design, load_design
from gaincell.chips.fields import TABLE_NUMBERS
from gaincell.circuits.charge_to_pulse import ChargeToPulse
from gaincell.circuits.converter_errors import Converters
from gaincell.circuits.levels import LevelTable
from gaincell.circuits.noise import Noise
from gaincell.circuits.normaliser import Normaliser
from gaincell.circuits.pwm import Drivers
from gaincell.circuits.sinks import Sinks
from gaincell.devices.leakage import Leakage
from gaincell.devices.variability import Mismatch
from gaincell.devices.wires import Wires
from gaincell.devices.writing import Writing
from gaincell.errors import DesignError
from gaincell.ops.gain_cell_attention import gain_cell_attention, native_library

M, N = 32, 8
COVARIANCE = (0.04, 0.01, 0.0, 0.0, 0.01, 0.3, 0.0, 0.5, 0.0, 0.0, 0.2, 0.0, 0.0, 0.5, 0.0, 4.0)

EFFECTS: dict[str, dict[str, object]] = {
    "mismatch": {"mismatch": Mismatch(0.05, 0.01, 0.02, seed=1)},
    "smooth mismatch": {
        "mismatch": Mismatch(0.05, 0.01, 0.02, seed=1, smooth_share=0.7, correlation_length=5.0)
    },
    "coefficient covariance": {"mismatch": Mismatch(seed=1, coefficient_covariance=COVARIANCE)},
    "stuck cells": {"mismatch": Mismatch(seed=1, stuck_low=0.03, stuck_high=0.04, dead=0.05)},
    "cell read noise": {"noise": Noise(cell_std=0.05, seed=2)},
    "conversion noise": {"noise": Noise(score_std=0.03, output_std=0.04, seed=2)},
    "thermal noise": {"noise": Noise(integrator_capacitance=1e-6, seed=2), "temperature": 350.0},
    "pulse jitter": {"noise": Noise(pulse_jitter=0.4e-9, seed=2)},
    "driver errors": {"converters": Converters(driver_gain_std=0.05, driver_offset_std=0.02)},
    "ramp errors": {"converters": Converters(ramp_gain_std=0.05, ramp_gain_tile_std=0.05)},
    "comparator offsets": {
        "converters": Converters(comparator_offset_std=0.05, comparator_offset_tile_std=0.03)
    },
    "calibrated converters": {
        "converters": Converters(0.05, 0.02, 0.05, 0.05, 0.05, 0.03, calibration_step=0.01)
    },
    "write error": {"writing": Writing(error_std=0.01, seed=3)},
    "write noise kT/C": {"writing": Writing(storage_capacitance=1e-17, seed=3)},
    "charge injection": {"writing": Writing(injection_voltage=0.01, injection_gain=-0.05)},
    "incomplete discharge": {"writing": Writing(discharge_residual=0.2)},
    "read disturb": {"leakage": Leakage(read_disturb=0.003)},
    "spread of retention": {"leakage": Leakage(spread=0.3)},
    "decay to another voltage": {"leakage": Leakage(decay_voltage=0.3)},
    "temperature": {"leakage": Leakage(activation_energy=0.6), "temperature": 340.0},
    "IR drop": {"wires": Wires(0.1, 0.05)},
    "everything": {
        "mismatch": Mismatch(0.02, 0.005, 0.01, 1, 2, 0.5, 4.0, COVARIANCE, 0.01, 0.01, 0.01),
        "noise": Noise(0.02, 0.01, 0.01, 1e-8, 0.1e-9, 5),
        "converters": Converters(0.02, 0.01, 0.02, 0.01, 0.02, 0.01, 0.005),
        "writing": Writing(0.005, 0.005, -0.02, 0.1, 1e-15, 6),
        "leakage": Leakage(0.4, 0.2, 0.5, 300.0, 0.001),
        "wires": Wires(0.05, 0.05),
        "temperature": 310.0,
    },
    "normalising column": {"normaliser": Normaliser(0.1)},
}
EFFECTS["signed queries"] = {"drivers": Drivers(phases=2)}
EFFECTS["first tokens kept"] = {"sinks": Sinks(tokens=3, rewrite_tokens=10)}
EFFECTS["square charge-to-pulse"] = {"charge_to_pulse": ChargeToPulse(exponent=2)}
UNEVEN = LevelTable(
    query=(0.0, 0.03, 0.1, 0.15, 0.2, 0.3, 0.32, 0.4, 0.5, 0.55, 0.6, 0.7, 0.8, 0.83, 0.9, 0.97),
    storage=(-0.45, -0.2, -0.1, 0.0, 0.03, 0.2, 0.25, 0.4),
)
EFFECTS["uneven levels"] = {"levels": UNEVEN}
EFFECTS["uneven levels of writes alone"] = {"levels": LevelTable(storage=UNEVEN.storage)}
EFFECTS["all extensions"] = (
    EFFECTS["first tokens kept"]
    | EFFECTS["uneven levels"]
    | EFFECTS["normalising column"]
    | EFFECTS["signed queries"]
    | EFFECTS["square charge-to-pulse"]
)
EFFECTS["everything, with extensions"] = (
    EFFECTS["everything"]
    | EFFECTS["normalising column"]
    | EFFECTS["signed queries"]
    | {"charge_to_pulse": ChargeToPulse(exponent=3)}
    | EFFECTS["uneven levels"]
)
SEVERAL = ("everything", "all extensions", "everything, with extensions")
"""Effects at once."""
SEEDED = ("noise", "writing", "mismatch")
LEVELS = [f"native-{level}" for level in native_library.levels()]


def chip(effect: str | None = None, **changes: object) -> Design:
    base = load_design("leroux2025").replace(window=M, tile=N, token_period=20e-6)
    return base.replace(**{**(EFFECTS[effect] if effect else {}), **changes})


def signals(
    tokens: int = 2 * M + 13, heads: int = 4, kv_heads: int = 2, dim: int = 12, batch: int = 1
) -> list[Tensor]:
    g = torch.Generator().manual_seed(tokens)
    q = torch.rand(batch, heads, tokens, dim, generator=g, dtype=torch.float64) * 1.3 - 0.15
    k, v = torch.rand(2, batch, kv_heads, tokens, dim, generator=g, dtype=torch.float64) * 1.1 - 0.1
    return [q, k, v]


def both(inputs: list[Tensor], design: Design, backend: str, **options: object) -> list[Tensor]:
    """Output, and gradients of q, k, v where gradients are enabled."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    out = gain_cell_attention(*leaves, design, None, backend, layer=3, **options)  # type: ignore[arg-type]
    if not torch.is_grad_enabled():
        return [out]
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out).cos()
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


@pytest.mark.parametrize(
    ("effect", "gradient"),
    [slow(effect, "exact") if effect == "everything" else (effect, "exact") for effect in EFFECTS]
    + [
        (effect, "surrogate") if effect == "all extensions" else slow(effect, "surrogate")
        for effect in EFFECTS
    ],
)
def test_blocked_equals_naive(effect: str, gradient: str) -> None:
    """Codes have the gradients of charges, as test_blocked.py shows: of single effects these suffice."""
    for readout in ("none", "counter"):
        design = chip(effect, readout=readout)
        with torch.set_grad_enabled(readout == "none" or effect in SEVERAL):
            found, expected = (
                both(signals(), design, backend, gradient=gradient) for backend in ("blocked", "naive")
            )
        torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-10)
        for a, b in zip(found[1:], expected[1:], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * float(b.abs().max()))


@pytest.mark.parametrize(
    ("effect", "cell"),
    [
        slow(effect, cell) if effect == "everything" and cell is TABLE else (effect, cell)
        for effect in ("everything", "decay to another voltage", "spread of retention")
        for cell in ("linear", "x5", "sigmoid", "exponential", TABLE)
    ],
)
def test_every_cell(cell: str, effect: str) -> None:
    design = chip(effect, readout="none", cell=cell)
    found, expected = (both(signals(20), design, backend) for backend in ("blocked", "naive"))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * float(b.abs().max()))


@pytest.mark.parametrize(
    "effect", [slow(effect) if effect.startswith("everything") else effect for effect in EFFECTS]
)
def test_padding_windows_and_a_batch(effect: str) -> None:
    design = chip(effect, readout="none")
    inputs, tokens = signals(M + 13, batch=2), torch.arange(M + 13)
    options = {"key_index": torch.stack([tokens, (tokens - 9).clamp(min=-1)]), "sliding_window": 20}
    found, expected = (both(inputs, design, backend, **options) for backend in ("blocked", "naive"))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * float(b.abs().max()))


@pytest.mark.parametrize("effect", EFFECTS)
def test_token_by_token_equals_naive(effect: str) -> None:
    design = chip(effect)
    q, k, v = signals(batch=2)
    arrays = HeadArray(design, 12, heads=4, kv_heads=2, batch=2, layer=3)
    serial = torch.stack([arrays.step(q[:, :, t], k[:, :, t], v[:, :, t]) for t in range(q.shape[2])], 2)
    expected = gain_cell_attention(q, k, v, design, None, "naive", layer=3)
    torch.testing.assert_close(serial, expected, rtol=0, atol=1e-10)


@pytest.mark.skipif(not LEVELS, reason="the kernel was not built: no C++ compiler")
@pytest.mark.parametrize(
    ("effect", "cell"),
    [(effect, "polynomial") for effect in EFFECTS]
    + [(effect, "sigmoid") if effect in SEVERAL else slow(effect, "sigmoid") for effect in EFFECTS],
)
def test_native_equals_naive(effect: str, cell: str) -> None:
    """Polynomial cells at every instruction level."""
    if cell == "sigmoid" and (effect == "coefficient covariance" or "everything" in effect):
        changes: dict[str, object] = {"mismatch": Mismatch(0.03, 0.01, 0.01, 1, stuck_low=0.02)}
    else:
        changes = {}
    backends = LEVELS if cell == "polynomial" else ["native"]
    inputs = [t.float() for t in signals(dim=16)]
    for gradient in ("exact", "surrogate"):
        design = chip(effect, cell=cell, readout="none", **changes)
        expected = both(inputs, design, "naive", gradient=gradient)
        for backend in backends:
            found = both(inputs, design, backend, gradient=gradient)
            for a, b in zip(found, expected, strict=True):
                limit = 2e-5 * float(b.abs().max())
                torch.testing.assert_close(
                    a, b, rtol=0, atol=limit, msg=lambda m, backend=backend: f"{backend}: {m}"
                )
    design = chip(effect, cell=cell, **changes)
    a = gain_cell_attention(*inputs, design, None, "naive", layer=3)
    for backend in backends:
        b = gain_cell_attention(*inputs, design, None, backend, layer=3)  # type: ignore[arg-type]
        assert float(((a - b).abs() > 0.5 / design.readout_steps).double().mean()) <= 1e-3, backend


@pytest.mark.parametrize("effect", EFFECTS)
def test_threads_and_batch_change_no_draw(effect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "WORTH_A_THREAD", 1)
    design = chip(effect)
    q, k, v = (t.float() for t in signals(50, batch=3))
    whole = gain_cell_attention(q, k, v, design, layer=1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        parts = [
            gain_cell_attention(q[b : b + 1], k[b : b + 1], v[b : b + 1], design, layer=1) for b in range(3)
        ]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(whole, torch.cat(parts))


def test_every_number_of_a_chip_is_at_work_in_an_effect() -> None:
    """So that whatever is added to a table meets every test of this file."""
    alone_nothing = {f"{table}.seed" for table in SEEDED} | {"mismatch.chip", "leakage.reference_temperature"}
    seen = frozenset[str]().union(*(chip(effect).in_use for effect in EFFECTS))
    every = {f"{table}.{key}" for table, numbers in TABLE_NUMBERS.items() for key in numbers}
    assert every - seen - alone_nothing == set()


@pytest.mark.parametrize("effect", EFFECTS)
def test_what_differs_from_chip_to_chip_is_known(effect: str) -> None:
    def out(design: Design, number: int) -> Tensor:
        mismatch = replace(design.mismatch, chip=number)
        return gain_cell_attention(*signals(40), design.replace(mismatch=mismatch), None, "naive")

    quiet = chip(effect, readout="none").without("operation")
    assert torch.equal(out(quiet, 0), out(quiet, 1)) != bool(quiet.drawn("chip"))
    alike = quiet.without("chip")
    assert not alike.drawn("chip")
    assert torch.equal(out(alike, 0), out(alike, 1))


@pytest.mark.parametrize("effect", EFFECTS)
def test_what_differs_from_read_to_read_is_known_and_drawn_again(effect: str) -> None:
    design = chip(effect, readout="none").without("chip")
    first, again, other = (
        gain_cell_attention(*signals(40), d, None, "naive")
        for d in (design, design.redrawn(0), design.redrawn(5))
    )
    assert torch.equal(first, again)
    assert torch.equal(first, other) != bool(design.drawn("operation"))


def test_cells_that_do_not_leak_have_no_spread_of_retention() -> None:
    assert not chip("spread of retention", retention_time=None).drawn("chip")


def test_a_curve_that_saturates_at_the_largest_voltage() -> None:
    """What is left by many writes is far beyond the range, where a sigmoid is flat."""
    design = chip(
        cell="sigmoid",
        readout="none",
        writing=Writing(discharge_residual=0.9),
        leakage=Leakage(spread=1.0),
        mismatch=Mismatch(coefficient_covariance=COVARIANCE),
    )
    a, b = (gain_cell_attention(*signals(), design, None, backend) for backend in ("blocked", "naive"))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_every_refresh_writes_with_errors_of_its_own() -> None:
    design = chip(writing=Writing(error_std=0.01, discharge_residual=0.1))
    arrays = HeadArray(design, 12, refresh=Refresh("copy", every_tokens=1000))
    q, k, v = (t[:, :1, 0] for t in signals())
    arrays.step(q, k, v)
    held = []
    for _ in range(3):
        arrays.refresh()
        held.append(arrays.state.key[0, 0, 0].clone())
    assert not torch.equal(held[0], held[1])
    assert not torch.equal(held[1], held[2])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Noise(cell_std=1e200),
        lambda: Noise(integrator_capacitance=float("inf")),
        lambda: Mismatch(gain_std=1e308),
        lambda: Mismatch(coefficient_covariance=(0.0, 1.0, 1.0, 0.0)),
        lambda: Writing(injection_gain=float("nan")),
        lambda: Converters(ramp_gain_std=-0.1),
        lambda: Wires(key_drop=1.0),
        lambda: Leakage(read_disturb=1.0),
    ],
)
def test_absurd_strengths_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(DesignError, match=r"allowed|indefinite|must be"):
        wrong()


@pytest.mark.parametrize("backend", ["naive", "blocked", *LEVELS])
def test_zero_strength_is_the_nominal_chip_bit_for_bit(backend: str) -> None:
    inputs = [t.float() for t in signals()]
    zero = chip(
        mismatch=Mismatch(seed=9, chip=4),
        noise=Noise(seed=9),
        writing=Writing(seed=9),
        converters=Converters(calibration_step=0.01),
        leakage=Leakage(decay_voltage=0.45, reference_temperature=310.0),
        wires=Wires(),
    )
    for a, b in zip(both(inputs, zero, backend), both(inputs, chip(), backend), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "effect", [e for e in EFFECTS if e not in ("temperature", "IR drop", "read disturb")]
)
def test_another_seed_is_another_draw(effect: str) -> None:
    design = chip(effect)
    other = {table: replace(getattr(design, table), seed=getattr(design, table).seed + 1) for table in SEEDED}
    certain = ("charge injection", "incomplete discharge", "decay to another voltage")
    extensions = (
        "normalising column",
        "signed queries",
        "first tokens kept",
        "square charge-to-pulse",
        "uneven levels",
        "uneven levels of writes alone",
        "all extensions",
    )
    random = effect not in (*certain, *extensions)
    a, b = (gain_cell_attention(*signals(40), d, None, "blocked") for d in (design, design.replace(**other)))
    assert torch.equal(a, b) != random
    assert (
        not torch.equal(a, gain_cell_attention(*signals(40), chip(), None, "blocked"))
        or effect == "incomplete discharge"
    )


def test_every_effect_is_in_the_hash() -> None:
    """By which runs go on and tables are kept."""
    hashes = {chip().hash} | {chip(effect).hash for effect in EFFECTS}
    assert len(hashes) == len(EFFECTS) + 1
