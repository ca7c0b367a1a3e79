"""Energy and power of the machine: RAPL counters of the CPU, NVML of an NVIDIA GPU.

A meter gives joules since some past moment, watts now, or None for what the machine does not say.

    RAPL    /sys/class/powercap/intel-rapl:N/energy_uj, added over packages. The counter wraps at
            max_energy_range_uj. Linux lets only root read it unless told otherwise.
    NVML    nvmlDeviceGetTotalEnergyConsumption (mJ since the driver was loaded; Volta and later), else power
            sampled in a thread and integrated; through the package nvidia-ml-py

Not modelled: memory outside the RAPL domain of the package, power supply, fans, the host of a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from gaincell.units import Joule, Watt

POWERCAP = Path("/sys/class/powercap")
"""Where the kernel keeps its RAPL counters."""


class Meter:
    """What can be read of a machine."""

    name: str

    def energy(self) -> Joule | None:
        """Counter, J; only differences mean something."""
        return None

    def power(self) -> Watt | None:
        """Now, W."""
        return None

    def state(self) -> Mapping[str, float]:
        """Clocks and limits now, Hz and W."""
        return {}


class Rapl(Meter):
    """Counters of all CPU packages, of energy only."""

    name = "RAPL"

    def __init__(self, domains: list[Path]) -> None:
        self._domains = domains
        self._ranges = self._microjoules("max_energy_range_uj")
        self._last, self._total = self._microjoules("energy_uj"), 0

    def energy(self) -> Joule | None:
        """Since the meter was made; must be read at least once a wrap (minutes)."""
        now = self._microjoules("energy_uj")
        for before, after, reach in zip(self._last, now, self._ranges, strict=True):
            self._total += after - before + (reach if after < before else 0)
        self._last = now
        return self._total * 1e-6

    def _microjoules(self, file: str) -> list[int]:
        return [int((domain / file).read_text(encoding="ascii")) for domain in self._domains]


class Nvml(Meter):
    """One GPU; `nvml` is the module pynvml."""

    name = "NVML"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def energy(self) -> Joule | None:
        """Total of the driver, J; None where the GPU has no counter."""
        return self._ask(1e-3, "nvmlDeviceGetTotalEnergyConsumption")

    def power(self) -> Watt | None:
        """Board power, averaged by the driver over up to a second."""
        return self._ask(1e-3, "nvmlDeviceGetPowerUsage")

    def state(self) -> Mapping[str, float]:
        """Clocks of the processors and of the memory, and the power limit."""
        found = {
            "sm_clock": self._ask(1e6, "nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            "memory_clock": self._ask(1e6, "nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_MEM),
            "power_limit": self._ask(1e-3, "nvmlDeviceGetEnforcedPowerLimit"),
        }
        return {name: number for name, number in found.items() if number is not None}

    def _ask(self, unit: float, function: str, *arguments: Any) -> float | None:
        """What NVML answers, times its unit; None where the GPU does not say."""
        try:
            return float(getattr(self._nvml, function)(self._handle, *arguments)) * unit
        except (AttributeError, self._nvml.NVMLError):
            return None


def meter_for(device: torch.device) -> tuple[Meter | None, str]:
    """A meter of the device and "", or None and the reason, in words."""
    return _nvml(device) if device.type == "cuda" else _rapl()


def _rapl() -> tuple[Meter | None, str]:
    domains = sorted(d for d in POWERCAP.glob("intel-rapl:*") if d.name.count(":") == 1)
    if not domains:
        return None, "the machine shows no RAPL counters (virtual machines hide them)"
    try:
        return Rapl(domains), ""
    except PermissionError:
        return None, "RAPL counters are readable by root only: sudo chmod a+r .../intel-rapl:*/energy_uj"
    except (OSError, ValueError) as error:
        return None, f"RAPL counters cannot be read ({type(error).__name__})"


def _nvml(device: torch.device) -> tuple[Meter | None, str]:
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return None, "the package nvidia-ml-py is missing: pip install 'gaincell[gpu]'"
    try:
        nvml.nvmlInit()
        # CUDA_VISIBLE_DEVICES renumbers for torch only: by the UUID
        uuid = torch.cuda.get_device_properties(device.index or 0).uuid
        return Nvml(nvml, nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")), ""
    except nvml.NVMLError as error:
        return None, f"NVML does not answer ({error})"
