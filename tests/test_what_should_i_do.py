"""The code of "What should I do?" runs as it stands, block after block, and its tree leads to every way."""

import re

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import cdu
from cdu.experiments.repository import repository
from cdu.report.advice import LEAVES

BOOK = repository() / "book"
PAGE = (BOOK / "what-should-i-do.md").read_text(encoding="utf-8")
BLOCKS = list(re.finditer(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def reader():
    """What the page says that a reader has, and the reader's own network, loop and loss."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 12, 12), generator=generator, dtype=torch.uint8)
    labels = torch.arange(60) % 10

    def build(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.Tanh(), nn.Linear(8, 10))

    def train(data, seed):
        model = build(seed)
        keep, optimizer = cdu.ball(model, 10), torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=5e-4)
        for rows, targets in data.batches(30):
            optimizer.zero_grad()
            cross_entropy(model(rows), targets).backward()
            optimizer.step()
            keep()
        return model

    users = [f"user {row // 3}" for row in range(60)]
    inputs = images.float() / 255
    return {
        "images": images, "labels": labels, "users": users, "build": build, "train": train, "inputs": inputs,
        "loss": cross_entropy, "trained": train(cdu.as_data(inputs, labels, ids=users), 1),
    }  # fmt: skip


# It trains a dozen small models, and reads the features of sixty images.
@pytest.mark.slow
def test_the_code_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    known = {"__name__": "__main__", **reader()}
    for block in BLOCKS:
        first = PAGE.count("\n", 0, block.start(1)) + 1
        # Empty lines before it, so that a traceback names the page's own line.
        exec(compile("\n" * (first - 1) + block[1], "what-should-i-do.md", "exec"), known)
    assert (~known["ensemble"].left).nonzero().flatten().tolist() == [17]
    assert known["head"].released is not None
    certified, private, exact = capsys.readouterr().out.splitlines()
    assert certified == "ε = 1, δ = 1e-05"
    single, group = map(float, private.split())
    assert single <= 1.0 < group
    assert "exact" in exact


def test_the_tree_its_picture_and_the_pages_tables_have_the_same_leaves_in_the_same_order():
    picture = (BOOK / "_static" / "decide.svg").read_text(encoding="utf-8")
    leaves = list(LEAVES)
    assert re.findall(r'href="#leaf-(\w+)"', picture) == leaves
    assert re.findall(r"\]\(leaf-(\w+)\)", PAGE) == leaves
    assert re.findall(r"^\(leaf-(\w+)\)=$", PAGE, re.MULTILINE) == leaves
    assert re.findall(r"_generated/advice-(\w+)\.md", PAGE) == leaves


def test_no_number_of_a_record_is_typed_by_hand():
    """Between the code and the tables the page has no accuracy, no time, and no other number with a decimal point."""
    prose = PAGE
    for block in reversed(BLOCKS):
        prose = prose[: block.start()] + prose[block.end() :]
    assert re.findall(r"\d+\.\d+|\d+ ?%|\d+ ?(?:s|seconds|points)\b", prose) == ["2.7"]
