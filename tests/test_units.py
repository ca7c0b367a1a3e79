"""Numbers with prefixes, as every table writes them."""

import pytest

from gaincell.reports.sweep import quantity
from gaincell.units import with_prefix, with_scale

PREFIXED = [
    (6.5e-8, "s", "65 ns", "65 ns", "65 ns"),
    (1e-6, "s", "1 us", "1 µs", "1 µs"),
    (2.5e-15, "J", "2.5 fJ", "2.5 fJ", "2.5 fJ"),
    (2e-19, "C", "0.2 aC", "2e-19 C", "0.0002 fC"),
    (2e-17, "J", "20 aJ", "0.02 fJ", "0.02 fJ"),
    (2e-12, "W", "2 pW", "0.002 nW", "2 pW"),
    (-0.45, "V", "-450 mV", "-0.45 V", "-450 mV"),
    (1e9, "Hz", "1 GHz", "1e+09 Hz", "1e+09 Hz"),
    (86400.0, "s", "86.4 ks", "1 days", "8.64e+04 s"),
]


@pytest.mark.parametrize(("value", "unit", "of_design", "of_cost", "of_sweep"), PREFIXED)
def test_numbers_with_prefixes(value: float, unit: str, of_design: str, of_cost: str, of_sweep: str) -> None:
    """Designs are written in ASCII; costs and sweeps leave out rare prefixes and those of thousands."""
    found = with_prefix(value, unit), with_scale(value, unit), quantity(value, unit)
    assert found == (of_design, of_cost, of_sweep)
