"""Where the time of a training step goes: one step under torch's profiler.

    attention   in arrays or softmax, forward and backward, without the projections
    matrices    products of matrices elsewhere, the model's and its adapters'
    head        the loss of distributions, output layer included (training/distillation.py)
    teacher     all of the teacher's
    rest        norms, activations, gains and offsets, and arrays computed by "naive"

Of the processor's time, or the GPU's where the model is there. The profiled step is slower than others; its
shares are theirs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

TEACHER, STUDENT = "gaincell: teacher", "gaincell: student"
"""What a loss calls the teacher's part of its work, and the student's within that."""
GROUPS = ("attention", "matrices", "head", "teacher", "rest")
_RANGES = {
    "teacher": (TEACHER,),
    "head": ("_HeadLoss",),
    "attention": (
        "_NativeCore", "_GainCellCore", "_TritonCore", "_ClampAndQuantise", "_OnLevels", "scaled_dot_product",
        "ScaledDotProduct",
    ),
}  # fmt: skip
"""Parts of the names of events which stand for all that they call."""
_MATRICES = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear", "mkldnn")
teachers_part = partial(record_function, TEACHER)
"""Context of the teacher's part of a loss."""
students_part = partial(record_function, STUDENT)
"""Context of the student's part within the teacher's."""


@contextmanager
def measured_shares(shares: dict[str, float], device: torch.device) -> Iterator[None]:
    """Put the share of every group of GROUPS in what is computed within the context into `shares`."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it says on stderr that it starts and stops
    on_gpu = device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as found:
        yield
    spent = dict.fromkeys(GROUPS, 0.0)
    for event in found.events():
        time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        spent[_group(event)] += max(0.0, time)
    total = sum(spent.values())
    if total > 0:
        shares.update({group: time / total for group, time in spent.items()})


def _group(event: Any) -> str:
    names: list[str] = []
    while event is not None and event.name != STUDENT:
        names.append(event.name)
        event = event.cpu_parent
    for group, parts in _RANGES.items():
        if any(part in name for name in names for part in parts):
            return group
    return "matrices" if any(part in name for name in names[:2] for part in _MATRICES) else "rest"
