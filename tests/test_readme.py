"""The README's code runs as it stands, each block alone, on what its text says the reader has."""

import re

import pytest
import torch
from torch.nn.functional import cross_entropy

import cdu
from cdu.experiments.repository import repository

README = (repository() / "README.md").read_text(encoding="utf-8")
BLOCKS = list(re.finditer(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))


def reader():
    """What a reader has: rows with users, a loss, a model that was trained in a ball, and the loop that trains it."""
    inputs = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))

    def train(data, seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        keep, optimizer = cdu.ball(model, 10), torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=5e-4)
        for _ in range(20):
            for rows, targets in data.batches(30):
                optimizer.zero_grad()
                cross_entropy(model(rows), targets).backward()
                optimizer.step()
                keep()
        return model

    labels, users = (inputs[:, 0] > inputs[:, 1]).long(), [f"user {row // 2}" for row in range(60)]
    model = train(cdu.as_data(inputs, labels, ids=users), 1)
    return {
        "model": model, "loss": cross_entropy, "inputs": inputs, "labels": labels, "users": users, "train": train,
        "features": inputs, "cdu": cdu,
    }  # fmt: skip


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
