"""gaincell: what becomes of a language model when its attention runs in analog gain-cell arrays.

The public names are loaded when they are first used, so that ``import gaincell`` is quick. transformers and
peft learn of gaincell's files as soon as they are imported themselves, before or after this package.
"""

import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaincell.adaptation.adapt import adapt as adapt
    from gaincell.adaptation.result import AdaptationResult as AdaptationResult
    from gaincell.adaptation.statistics import collect_statistics as collect_statistics
    from gaincell.arrays.head import HeadArray as HeadArray
    from gaincell.chips.design_file import Design as Design
    from gaincell.chips.design_file import list_designs as list_designs
    from gaincell.chips.design_file import load_design as load_design
    from gaincell.circuits.noise import Noise as Noise
    from gaincell.devices.variability import Mismatch as Mismatch
    from gaincell.errors import GaincellError as GaincellError
    from gaincell.errors import UncalibratedWarning as UncalibratedWarning
    from gaincell.evaluation.perplexity import perplexity as perplexity
    from gaincell.integrations.hf.attach import attach as attach
    from gaincell.integrations.hf.attach import detach as detach
    from gaincell.integrations.hf.attach import set_attention as set_attention
    from gaincell.integrations.hf.attach import set_design as set_design
    from gaincell.integrations.hf.checkpoint import save as save
    from gaincell.integrations.hf.ring_cache import RingCache as RingCache
    from gaincell.integrations.hf.size import cost as cost
    from gaincell.mapping.initial_gains import calibrate as calibrate
    from gaincell.mapping.load_hardware import load as load
    from gaincell.mapping.pipeline import map_model as map_model
    from gaincell.mapping.settings import MapSettings as MapSettings
    from gaincell.ops.gain_cell_attention import gain_cell_attention as gain_cell_attention
    from gaincell.training.callback import GainCellCallback as GainCellCallback

__version__: str

_HOME = {
    "AdaptationResult": "gaincell.adaptation.result",
    "Design": "gaincell.chips.design",
    "GainCellCallback": "gaincell.training.callback",
    "GaincellError": "gaincell.errors",
    "HeadArray": "gaincell.arrays.head",
    "MapSettings": "gaincell.mapping.settings",
    "Mismatch": "gaincell.devices.variability",
    "Noise": "gaincell.circuits.noise",
    "RingCache": "gaincell.integrations.hf.ring_cache",
    "UncalibratedWarning": "gaincell.errors",
    "adapt": "gaincell.adaptation.adapt",
    "attach": "gaincell.integrations.hf.attach",
    "calibrate": "gaincell.mapping.initial_gains",
    "collect_statistics": "gaincell.adaptation.statistics",
    "cost": "gaincell.integrations.hf.size",
    "detach": "gaincell.integrations.hf.attach",
    "gain_cell_attention": "gaincell.ops.gain_cell_attention",
    "list_designs": "gaincell.chips.design_file",
    "load": "gaincell.mapping.load_hardware",
    "load_design": "gaincell.chips.design_file",
    "map_model": "gaincell.mapping.pipeline",
    "perplexity": "gaincell.evaluation.perplexity",
    "save": "gaincell.integrations.hf.checkpoint",
    "set_attention": "gaincell.integrations.hf.attach",
    "set_design": "gaincell.integrations.hf.attach",
}
"""Public name -> the module that defines it."""

__all__ = [*_HOME, "__version__"]


_EXTENSIONS = {
    "transformers.modeling_utils": "gaincell.integrations.hf.pretrained",
    "transformers.trainer": "gaincell.integrations.hf.trainer_files",
    "peft.peft_model": "gaincell.integrations.hf.peft_files",
}
"""Module of another library -> the module of ours that is imported right after it."""


class _Extender(MetaPathFinder):
    """Imports what extends another library's module after that module."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _EXTENSIONS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_extend(module: ModuleType) -> None:
                execute(module)
                import_module(_EXTENSIONS[name])

            spec.loader.exec_module = execute_and_extend  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Extender())
for _name, _extension in _EXTENSIONS.items():
    if _name in sys.modules:
        import_module(_extension)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("gaincell")
    if name not in _HOME:
        raise AttributeError(f"module 'gaincell' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
