"""Optuna, which only sweeps need."""

from __future__ import annotations

from typing import Any

from gaincell.errors import InputError


def import_optuna() -> Any:
    """The package, saying nothing of its own accord. Raises InputError: it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            f"sweeps need Optuna ({error}): pip install 'gaincell[sweep]', from a clone "
            "pip install -e '.[sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    return optuna
