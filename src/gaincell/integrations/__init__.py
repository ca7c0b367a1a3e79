"""Connections to libraries that hold models; one folder each."""
