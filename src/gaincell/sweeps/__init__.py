"""Sweeps over designs, devices and adaptation: a file of parameters, Optuna's studies, one RUN a point."""
