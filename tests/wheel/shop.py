"""A project of an engineer's own, in plain PyTorch: a model, its rows with ids, its training. It knows nothing of cdu.

Run as a program it trains the model and writes the weights, and the ids of a request, to the working directory.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

ROWS, USERS = 400, 100


def build() -> nn.Module:
    """The model, without its weights."""
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3))


def table() -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Inputs, classes, and the user of every row."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(ROWS, 5, generator=generator)
    return inputs, inputs[:, :3].argmax(dim=1), [f"user {row % USERS}" for row in range(ROWS)]


def rows() -> object:
    """The rows as cdu takes them."""
    from cdu.data.source import as_data

    inputs, targets, ids = table()
    return as_data(inputs, targets, ids=ids)


def train() -> nn.Module:
    """Adam, and after every step a projection onto the ball of radius 10."""
    torch.manual_seed(0)
    model = build()
    inputs, targets, _ = table()
    adam = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    for _ in range(200):
        adam.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        adam.step()
        with torch.no_grad():
            norm = torch.cat([one.flatten() for one in model.parameters()]).norm()
            for one in model.parameters():
                one.mul_(min(1.0, 9.99 / float(norm)))
    return model


if __name__ == "__main__":
    save_file(train().state_dict(), "weights.safetensors")
    Path("ids.txt").write_text("# a request\nuser 7\nuser 23\n", encoding="utf-8")
