"""Memory that training keeps: no page is fetched twice, and all go back in the end."""

import ctypes
import resource
import subprocess
import sys

import pytest
import torch

from gaincell.training.machine import keep_freed_memory, memory_kept

PAGES, PAGE = 16384, resource.getpagesize()
PR_SET_THP_DISABLE = 41


def faults() -> int:
    """Pages fetched while a tensor of PAGES pages is made and freed three times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        torch.ones(PAGES * PAGE, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])


def pages_are_fetched_once_and_go_back() -> None:
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # else one fault may fetch 512 pages
    faults()
    before = resident()
    with memory_kept():
        faults()
        assert faults() < PAGES // 10
        assert resident() > before + PAGES // 2
    assert resident() < before + PAGES // 2
    assert faults() > PAGES
    keep_freed_memory()  # as a command does, in which a training ends
    with memory_kept():
        faults()
    assert faults() < PAGES // 10


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_pages_are_fetched_once_and_go_back() -> None:
    """In a process of its own: what others left on a heap that is full of holes may count as kept."""
    subprocess.run([sys.executable, __file__], check=True)


if __name__ == "__main__":
    pages_are_fetched_once_and_go_back()
