"""Numbers of surroundings.toml: movement, arithmetic, converters, analog linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from gaincell.costs.data import Sourced, packaged
from gaincell.units import BytePerSecond, Joule, JoulePerBit, PerJoule, PerSecond, Second, SquareMetre, Watt

FILE = "surroundings.toml"


@dataclass(frozen=True)
class Movement(Sourced):
    """What moving a bit takes, and calculating with 16-bit floats."""

    hbm: JoulePerBit
    link: JoulePerBit
    link_bandwidth: BytePerSecond
    link_latency: Second
    multiply: Joule
    add: Joule


@dataclass(frozen=True)
class Adc(Sourced):
    """A converter: power at a rate of conversions, area."""

    power: Watt
    rate: PerSecond
    area: SquareMetre


@dataclass(frozen=True)
class Analog(Sourced):
    """Linear layers in memory: operations per joule, time of a product."""

    efficiency: PerJoule
    product: Second


@lru_cache(maxsize=1)
def movement() -> Movement:
    """In and out of HBM, between chips, at 45 nm."""
    return packaged(Movement, FILE, "movement")


@lru_cache(maxsize=1)
def adc() -> Adc:
    """Of 7 bits."""
    return packaged(Adc, FILE, "adc")


@lru_cache(maxsize=1)
def analog() -> Analog:
    """As published of a chip."""
    return packaged(Analog, FILE, "analog")
