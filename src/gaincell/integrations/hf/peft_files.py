"""Gains and offsets in the files of peft: a wrapper of an attached model trains and saves them.

peft trains and saves whole modules beside its adapters, `modules_to_save`: a copy for every adapter. Here
every wrapper of an attached model gets `gain_cell` among them, so that `adapter_config.json` names it,
`adapter_model.safetensors` holds it, and any version of peft reads it back into an attached model.

`gaincell/__init__.py` imports this file as soon as peft is; see pretrained.py.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from peft.peft_model import PeftModel

from gaincell.errors import ModelError

MODULE = "gain_cell"

_wrap = PeftModel.__init__


@wraps(_wrap)
def _wrap_with_arrays(self: Any, model: Any, peft_config: Any, *arguments: Any, **keywords: Any) -> None:
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.integrations.hf.reparametrisation import check_folded

    if hasattr(peft_config, "modules_to_save"):
        others = [name for name in peft_config.modules_to_save or [] if name != MODULE]
        if attached_layers(model):
            check_folded(model, "peft's files cannot hold: save it and load it first")
            peft_config.modules_to_save = [*others, MODULE]
        elif len(others) < len(peft_config.modules_to_save or []):
            raise ModelError(
                "the adapter was made for a model in gain-cell arrays: call gaincell.attach(model, design) "
                "before peft reads it"
            )
    _wrap(self, model, peft_config, *arguments, **keywords)


PeftModel.__init__ = _wrap_with_arrays  # type: ignore[method-assign]
