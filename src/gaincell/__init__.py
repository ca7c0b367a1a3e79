"""gaincell: what becomes of a language model when its attention runs in analog gain-cell arrays.

The public names are loaded when they are first used, so that ``import gaincell`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaincell.adaptation.adapt import adapt as adapt
    from gaincell.adaptation.result import AdaptationResult as AdaptationResult
    from gaincell.adaptation.statistics import collect_statistics as collect_statistics
    from gaincell.arrays.head import HeadArray as HeadArray
    from gaincell.config import Design as Design
    from gaincell.config import list_designs as list_designs
    from gaincell.config import load_design as load_design
    from gaincell.errors import GaincellError as GaincellError
    from gaincell.integrations.hf.attach import attach as attach
    from gaincell.integrations.hf.attach import detach as detach
    from gaincell.integrations.hf.attach import set_design as set_design
    from gaincell.integrations.hf.checkpoint import load as load
    from gaincell.integrations.hf.checkpoint import save as save
    from gaincell.ops.gain_cell_attention import gain_cell_attention as gain_cell_attention

__version__ = "0.1.0"

_HOME = {
    "AdaptationResult": "gaincell.adaptation.result",
    "Design": "gaincell.config",
    "GaincellError": "gaincell.errors",
    "HeadArray": "gaincell.arrays.head",
    "adapt": "gaincell.adaptation.adapt",
    "attach": "gaincell.integrations.hf.attach",
    "collect_statistics": "gaincell.adaptation.statistics",
    "detach": "gaincell.integrations.hf.attach",
    "gain_cell_attention": "gaincell.ops.gain_cell_attention",
    "list_designs": "gaincell.config",
    "load": "gaincell.integrations.hf.checkpoint",
    "load_design": "gaincell.config",
    "save": "gaincell.integrations.hf.checkpoint",
    "set_design": "gaincell.integrations.hf.attach",
}
"""Public name -> the module that defines it."""

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gaincell' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
