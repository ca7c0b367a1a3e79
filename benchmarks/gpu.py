"""Triton against torch's flash softmax attention on a GPU: time, and a check of the codes.

    python -m benchmarks.gpu [--tune] [--rounds 30] [--out benchmarks/results/gpu.json]

B = 8, H = 12, D = 64, window 1024, T = 1024 and 4096. Reference: causal scaled_dot_product_attention of
bfloat16 inputs, flash backend. Contenders alternate in one process; medians of CUDA event times after one
warming round. Of every kind of chip that the kernels serve (`CHIPS`): the time, that of plain torch, and how
outputs and gradients differ from those of the CPU's compiled kernel, on one sequence. docs/readme.py puts the
result into docs/benchmarks.md. With `--tune` the fastest launches of the kernels are found first and kept in
the package (triton_launches.py). Without a GPU it only says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.report import write_report
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from gaincell.chips.design_file import Design, load_design
from gaincell.circuits.converter_errors import Converters
from gaincell.circuits.noise import Noise
from gaincell.circuits.normaliser import Normaliser
from gaincell.circuits.pwm import Drivers
from gaincell.devices.variability import Mismatch
from gaincell.devices.wires import Wires
from gaincell.files import write_text
from gaincell.ops.gain_cell_attention import gain_cell_attention, triton_launches
from gaincell.results.provenance import made

BATCH, HEADS, DIM = 8, 12, 64
REFERENCE = "softmax, flash, bfloat16"
BACKENDS = ("triton", "blocked")
LIMITS = {"forward": 3.0, "forward and backward": 3.5}  # Triton, times the reference
PROTOCOL = "alternating in one process, medians of CUDA event times after one warming round"
CODES, GRADIENTS = "codes that differ", "gradients off by"
MOST = {CODES: 2e-4, GRADIENTS: 5e-3}
"""Both sides may read one in ten thousand a level off; a charge at the edge of a clamp passes its gradient or
does not.
"""
CHIPS: dict[str, dict[str, Any]] = {
    "nominal": {},
    "sigmoid cell": {"cell": "sigmoid"},
    "mismatch": {"mismatch": Mismatch(gain_std=0.05, offset_voltage_std=0.01, current_offset_std=0.01)},
    "mismatch, sigmoid cell": {"cell": "sigmoid", "mismatch": Mismatch(offset_voltage_std=0.01)},
    "wires": {"wires": Wires(key_drop=0.05, value_drop=0.05)},
    "converters": {"converters": Converters(ramp_gain_std=0.05, comparator_offset_std=0.01)},
    "noise": {"noise": Noise(score_std=1.5, output_std=0.7, cell_std=0.05, pulse_jitter=1e-10)},
    "signed queries": {"drivers": Drivers(phases=2)},
    "normaliser": {"normaliser": Normaliser(floor=0.5)},
}
"""What the kernels serve, by name."""
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The reference."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(q, k, v, is_causal=True)


def inputs(tokens: int, batch: int = BATCH, dim: int = DIM) -> list[Tensor]:
    """Queries in pulse widths, keys and values in volts."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.rand(3, batch, HEADS, tokens, dim, generator=generator)
    return [q.cuda(), (0.9 * k).cuda(), (0.9 * v).cuda()]


def milliseconds(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of every call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for n in range(rounds + 1):
        for name, call in calls.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            if n:
                times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def table(tokens: int, part: str, rounds: int) -> dict[str, float]:
    """Medians of one length, forward or both."""
    design = load_design("leroux2025")
    plainly = partial(gain_cell_attention, design=design, backend="blocked")
    contenders: dict[str, Attention] = {
        REFERENCE: flash,
        "triton": lambda q, k, v: gain_cell_attention(q, k, v, design, None, "triton"),
        "blocked": plainly,
    }
    qkv = inputs(tokens)
    half = [t.bfloat16() for t in qkv]
    calls: dict[str, Callable[[], object]] = {}
    for name, attention in contenders.items():
        leaves = half if name == REFERENCE else qkv
        if part == "forward":
            calls[name] = torch.no_grad()(partial(attention, *leaves))
        else:
            calls[name] = partial(both, attention, [t.requires_grad_() for t in leaves])
    return milliseconds(calls, rounds)


def both(attention: Attention, leaves: list[Tensor]) -> object:
    """Forward and backward."""
    out = attention(*leaves)
    return torch.autograd.grad(out, leaves, torch.ones_like(out))


def differences(tokens: int, design: Design) -> dict[str, float]:
    """Share of outputs of one sequence that the GPU reads out differently from the CPU, and the largest
    relative error of the gradients of q, k and v.
    """
    found = []
    for backend, leaves in (("triton", inputs(tokens, 1)), ("auto", [x.cpu() for x in inputs(tokens, 1)])):
        leaves = [x.detach().requires_grad_() for x in leaves]
        out = gain_cell_attention(*leaves, design, None, backend)  # type: ignore[arg-type]
        weight = torch.linspace(-1, 1, out.numel()).view(out.shape).cos().to(out)
        gradients = torch.autograd.grad((out * weight).sum(), leaves)
        found.append([x.detach().cpu() for x in (out, *gradients)])
    (on_gpu, *got), (on_cpu, *wanted) = found
    return {
        CODES: float(((on_gpu - on_cpu).abs() * design.readout_steps > 0.5).double().mean()),
        GRADIENTS: max(float((x - y).norm() / y.norm()) for x, y in zip(got, wanted, strict=True)),
    }


def tune(rounds: int) -> None:
    """Write the fastest launch of every pass, for common head dimensions, into the package."""
    from triton.runtime.errors import OutOfResources

    design = load_design("leroux2025")
    found = {name: launch._asdict() for name, launch in triton_launches.read_table().items()}
    for dim in (64, 128):
        leaves = [t.requires_grad_() for t in inputs(1024, dim=dim)]
        attention = partial(gain_cell_attention, design=design, backend="triton")
        calls: dict[triton_launches.Pass, Callable[[], object]] = {
            "forward": torch.no_grad()(partial(attention, *leaves)),
            "backward": partial(both, attention, leaves),
        }
        for which, call in calls.items():
            name = triton_launches.name_of(which, leaves[0].device, design, dim, True)
            times = {}
            for launch in triton_launches.CANDIDATES:
                with triton_launches.launched(which, launch):
                    try:
                        times[launch] = milliseconds({name: call}, rounds)[name]
                    except OutOfResources:  # more shared memory than there is
                        continue
            best = min(times, key=times.__getitem__)
            found[name] = best._asdict()
            print(
                name,
                best,
                f"{times[best]:.3f} ms; default {times[triton_launches.DEFAULT]:.3f} ms",
                flush=True,
            )
    write_text(triton_launches.MEASURED, json.dumps(found, indent=1) + "\n")
    triton_launches.read_table.cache_clear()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tune", action="store_true", help="first find and write the fastest launches")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: nothing measured")
        return
    if options.tune:
        tune(options.rounds)
    times: dict[str, dict[str, float]] = {}
    chips: dict[str, dict[str, float]] = {}
    verdict: dict[str, bool] = {}
    for tokens in (1024, 4096):
        for part, limit in LIMITS.items():
            label = f"{part}, T = {tokens}"
            times[label] = found = table(tokens, part, options.rounds)
            print(label)
            for name, ms in found.items():
                print(f"  {name:26s} {ms:9.3f} ms  {ms / found[REFERENCE]:6.2f} x flash")
            verdict[f"{label}: triton <= {limit} x flash"] = found["triton"] <= limit * found[REFERENCE]
    for name, changes in CHIPS.items():
        design = load_design("leroux2025").replace(**changes)
        attentions = {b: partial(gain_cell_attention, *inputs(1024), design, None, b) for b in BACKENDS}
        found = milliseconds(
            {backend: torch.no_grad()(call) for backend, call in attentions.items()}, options.rounds
        )
        found |= differences(1024, design)
        chips[name] = found
        print(f"{name:26s}", ", ".join(f"{what} {x:.3g}" for what, x in found.items()), flush=True)
        verdict |= {f"{name}: {what} <= {most:g}": found[what] <= most for what, most in MOST.items()}
    for what, met in verdict.items():
        print(("met   " if met else "MISSED"), what)
    report = {
        "kind": "measured",
        "gpu": torch.cuda.get_device_name(),
        "unit": "ms",
        "times": times,
        "chips": chips,
        "limits": verdict,
        "provenance": made(command=sys.argv, seed=0, protocol=PROTOCOL),
    }
    write_report(options.out, report)


if __name__ == "__main__":
    main()
