"""An attached model under torch.compile: the same logits and gradients, the same refusals.

Runs as a program of its own: the run-time type checks of the test suite cannot be compiled.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import PreTrainedModel

from gaincell.chips.design_file import load_design
from gaincell.errors import ModelError
from gaincell.integrations.hf.attach import attach

from .families import build, padding_mask, tokens

CASES = {"from the second length on": None, "always": True}
"""Whether lengths are dynamic."""
BACKEND = "aot_eager"  # traces forward and backward pass like the default one, and compiles no code
LENGTHS = (20, 13)


def check_logits_and_gradients(model: PreTrainedModel, compiled: PreTrainedModel) -> None:
    for length in LENGTHS:
        ids = tokens(2, length)
        for mask in (None, padding_mask([length, length - 4], length, "left")):
            found = []
            for call in (model, compiled):
                model.zero_grad()
                out = call(ids, attention_mask=mask, labels=ids, use_cache=False)
                out.loss.backward()
                found.append([out.logits.detach(), *gradients(model)])
            assert torch.equal(found[0][0], found[1][0])
            # sums in float32, in other orders in and out of a graph
            torch.testing.assert_close(found[0], found[1])


def gradients(model: PreTrainedModel) -> list[Tensor]:
    return [p.grad.float() for p in model.parameters() if p.grad is not None]


def check_refusal(compiled: PreTrainedModel) -> None:
    """With positions that rise to begin with: tracing does not look at them."""
    whole = torch.arange(8)[None]
    compiled(tokens(1, 8), position_ids=whole, use_cache=False)
    for use_cache in (False, True):
        with pytest.raises(ModelError, match="packed"):
            compiled(tokens(1, 8), position_ids=whole % 4, use_cache=use_cache)


def check_compiled(counter: CompileCounterWithBackend) -> None:
    """The arrays are an operator in a graph: torch.compile did not leave all to Python."""
    operators = {str(node.target) for graph in counter.graphs for node in graph.graph.nodes}
    assert any(name.startswith("gaincell.attention") for name in operators), operators


def check_whole_graph(model: PreTrainedModel) -> None:
    """Masks are checked between graphs, as docs/limits.md says."""
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(model, backend="eager", fullgraph=True)(tokens(1, 8), use_cache=False)


@pytest.mark.parametrize(
    "dynamic",
    [
        pytest.param("from the second length on", marks=pytest.mark.slow),
        pytest.param("always", marks=pytest.mark.nightly),
    ],
)
def test_logits_gradients_and_refusals_of_a_compiled_model(dynamic: str) -> None:
    program = [sys.executable, "-m", "tests.integrations.test_compile", dynamic]
    root = Path(__file__).parents[2]
    result = subprocess.run(program, capture_output=True, text=True, cwd=root)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == ["checked"]


if __name__ == "__main__":
    model = attach(build("llama"), load_design("leroux2025").replace(window=16, tile=8))
    counter = CompileCounterWithBackend(BACKEND)
    compiled = torch.compile(model, backend=counter, dynamic=CASES[sys.argv[1]])
    check_logits_and_gradients(model, compiled)
    check_compiled(counter)
    check_refusal(compiled)
    check_whole_graph(model)
    print("checked")
