"""Small circuits whose text is kept in golden/: every generator, two cells by two."""

from tests.spice.counter import counter_bench

from gaincell.spice.netlists.array import WireElement, array_slice, charge_bench
from gaincell.spice.netlists.cell import curve_bench, disturb_bench, hold_bench, write_bench
from gaincell.spice.netlists.netlist import Netlist
from gaincell.spice.netlists.readout import RELU, SIGNED, Readout
from gaincell.spice.netlists.sub_tile import sub_tile
from gaincell.spice.technology import Corner, Site, technology

STORED = [[0.0, 0.9], [0.45, 0.3]]
PULSES = [15e-9, 2e-11]


def circuits() -> dict[str, Netlist]:
    """File name in golden/ -> circuit."""
    free, oxide = Site(technology("freepdk45")), Site(technology("oxide"))
    hot = Site(technology("generic28"), Corner("fast", 85.0, 1.1))
    return {
        "curve": curve_bench(free, shifts=[[0.0] * 4, [0.01, -0.01, 0.02, 0.0]]),
        "curve-corner": curve_bench(hot),
        "write": write_bench(free, [0.0, 0.9]),
        "write-oxide": write_bench(oxide, [0.0, 0.9]),
        "hold": hold_bench(free, [0.0, 0.9], 1e-2, leak=5e11),
        "disturb": disturb_bench(free, [0.45], reads=2),
        "charge": charge_bench(free, [0.0, 0.9], 15e-9, columns=4),
        "counter": counter_bench(free, [0.0, 7.2e-9], 1e9, 15e-9),
        "slice-transistors": array_slice(
            free, STORED, PULSES, Readout(SIGNED, 1e-13), transistor_readout=True
        ),
        "sub-tile": sub_tile(
            free,
            {"key": Readout(RELU, 1e-13), "value": Readout(SIGNED, 1e-13)},
            size=2,
            levels=2,
            sum_bits=2,
            clock=1e9,
            longest=15e-9,
            stop=1e-7,
        ),
        "slice-relu": array_slice(free, STORED, PULSES, Readout(RELU, 1e-13), before=1, columns=4),
        "slice-signed": array_slice(
            free,
            STORED,
            PULSES,
            Readout(SIGNED, 1e-13),
            bit_wire=WireElement(10.0),
            write_gates=True,
        ),
    }
