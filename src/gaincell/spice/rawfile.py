"""ngspice's binary raw file.

A text head (Title, Plotname, Flags, "No. Variables", "No. Points", Variables) ends with "Binary:"; then come
points * variables numbers, float64 little endian, complex ones as pairs. Several plots may follow.
Source: ngspice manual 44, chapter "Raw file format".
Not modelled: files in ASCII, of single precision, or with more than one dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gaincell.errors import SimulationError

Wave = npt.NDArray[np.float64]
HEAD_END = b"Binary:\n"


@dataclass(frozen=True)
class Plot:
    """One analysis.

    Attributes:
        waves: Values of a variable [points], SI units, by its name; "time" in a transient.
    """

    waves: Mapping[str, Wave]

    def __getitem__(self, key: str) -> Wave:
        """A variable by name, "v(out)" or "i(vdd)".

        Raises:
            SimulationError: there is none; names what there is.
        """
        try:
            return self.waves[key.lower()]
        except KeyError:
            shown = ", ".join(list(self.waves)[:8])
            raise SimulationError(
                f"the simulation saved no {key!r}; it has {len(self.waves)} variables: {shown} ..."
            ) from None


def read_raw(raw: bytes, where: str = "raw file") -> list[Plot]:
    """Every plot of a raw file.

    Raises:
        SimulationError: a file cut short or in another format.
    """
    plots: list[Plot] = []
    at = 0
    while at < len(raw):
        end = raw.find(HEAD_END, at)
        if end < 0:
            raise SimulationError(
                f"{where}: no binary data follows byte {at}: not a binary raw file, or cut short"
            )
        plot, at = _plot(raw, at, end, where)
        plots.append(plot)
    if not plots:
        raise SimulationError(f"{where}: it is empty; the simulation wrote nothing")
    return plots


def _plot(raw: bytes, start: int, end: int, where: str) -> tuple[Plot, int]:
    lines = raw[start:end].decode("latin-1").splitlines()
    head = {
        key.strip(): rest.strip() for key, colon, rest in (line.partition(":") for line in lines) if colon
    }
    try:
        variables, points = int(head["No. Variables"]), int(head["No. Points"])
        first = next(n for n, line in enumerate(lines) if line.startswith("Variables:")) + 1
        names = [lines[first + n].split()[1].lower() for n in range(variables)]
    except (KeyError, ValueError, IndexError, StopIteration):
        raise SimulationError(f"{where}: its head is damaged; the simulation was cut short") from None
    kind = np.dtype("<c16" if "complex" in head.get("Flags", "") else "<f8")
    begin = end + len(HEAD_END)
    wanted = variables * points * kind.itemsize
    if len(raw) - begin < wanted:
        raise SimulationError(
            f"{where}: {len(raw) - begin} bytes of data instead of {wanted}: cut short; run it again, with "
            "room on the disk"
        )
    if points == 0:
        raise SimulationError(f"{where}: the analysis {head.get('Plotname', '')!r} has no points: it failed")
    table = np.frombuffer(raw, kind, variables * points, begin).reshape(points, variables)
    waves = {name: np.ascontiguousarray(table[:, n]) for n, name in enumerate(names)}
    return Plot(waves), begin + wanted
