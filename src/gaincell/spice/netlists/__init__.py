"""Circuits as deterministic text, generated from a technology and numbers of a design."""
