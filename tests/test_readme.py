"""The README's code runs as it stands, each block alone, on what its text says the reader has."""

import re

import pytest
import torch
from torch.nn.functional import cross_entropy

from cdu import Objective, Samples, parameter_vector
from cdu.curvature.minimise import newton_direction
from cdu.experiments.repository import repository
from cdu.models.architectures import LogisticRegression
from cdu.models.training import Trained

README = (repository() / "README.md").read_text(encoding="utf-8")
L2 = 0.01
BLOCKS = list(re.finditer(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))


def reader():
    """What a reader has: data, a model and a loss, and a recipe that trains it."""
    torch.manual_seed(0)
    inputs = torch.rand(60, 4, dtype=torch.float64)
    samples = Samples(inputs, (inputs[:, 0] > inputs[:, 1]).long(), dtype=torch.float64)
    retain, forget = samples.subset(torch.arange(55)), samples.subset(torch.arange(55, 60))

    def my_recipe(samples, seed):
        module = LogisticRegression(4, 2).double()
        own = Objective(module, cross_entropy, L2)
        w = torch.zeros(own.size, dtype=torch.float64)
        for _ in range(10):
            w = w - newton_direction(own, w, samples, own.gradient(w, samples), 1e-8)
        torch.nn.utils.vector_to_parameters(w, module.parameters())
        return Trained(module, w, [])

    model = my_recipe(samples, 0).model
    return {
        "model": model,
        "loss": cross_entropy,
        "retain": retain,
        "forget": forget,
        "my_recipe": my_recipe,
        # For the second block, on a model that is convex.
        "objective": Objective(model, cross_entropy, L2),
        "w_star": parameter_vector(model),
        "retrained": lambda: my_recipe(retain, 0).w,
    }


def first_line(block):
    return README.count("\n", 0, block.start(1)) + 1


@pytest.mark.parametrize("block", BLOCKS, ids=[f"line {first_line(block)}" for block in BLOCKS])
def test_the_code_runs_as_it_stands(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Empty lines before it, so that a traceback names the README's own line.
    code = "\n" * (first_line(block) - 1) + block[1]
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__", **reader()})
    assert capsys.readouterr().out


def test_the_readme_has_code():
    assert BLOCKS
