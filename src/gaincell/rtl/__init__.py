"""The digital half of a head as hardware: generated from a design, simulated, synthesised. Needs Amaranth."""
