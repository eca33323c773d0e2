import os
import sys
from pathlib import Path

import pytest
import torch

from cdu.data.samples import Samples
from cdu.experiments import batch
from cdu.models.architectures import build
from cdu.models.objective import Objective, parameter_vector
from cdu.models.settings import ModelSettings

#: One narrow version of every network, with the image it takes.
NETWORKS = {
    "logistic": (ModelSettings(name="logistic"), (1, 4, 4)),
    "mlp": (ModelSettings(name="mlp", hidden=(5, 4)), (1, 4, 4)),
    "smooth mlp": (ModelSettings(name="mlp", hidden=(5, 4), activation="softplus"), (1, 4, 4)),
    "allcnn": (ModelSettings(name="allcnn", width=0.02), (3, 8, 8)),
    "resnet18": (ModelSettings(name="resnet18", width=0.02), (3, 8, 8)),
}
#: Widths of the convolutional ones where a test builds their dense Hessian.
NARROWEST = {"allcnn": 0.01, "resnet18": 0.001}


def pytest_collection_modifyitems(items):
    """Slow tests start first: the longest file keeps one process busy while the others run in the rest."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def environment():
    """Programs of this environment first, one thread."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """A stand-in for a clone of the authors' repository: the two functions that are timed, in plain PyTorch."""
    folder = tmp_path_factory.mktemp("authors")
    (folder / "unlearn.py").write_text(CLONE_UNLEARN)
    (folder / "train.py").write_text(CLONE_TRAIN)
    return folder


CLONE_UNLEARN = """
import torch
from torch.utils.data import DataLoader


def newton_update(g, batch_size, res_set, lam, gamma, model, s1, s2, scale, device):
    assert not model.training
    params = list(model.parameters())
    found = [torch.zeros_like(p) for p in params]
    for _ in range(s1):
        sampler = torch.utils.data.RandomSampler(res_set, replacement=True, num_samples=batch_size * s2)
        x = [p.clone() for p in g]
        for data, target in DataLoader(res_set, batch_size=batch_size, sampler=sampler):
            loss = torch.nn.functional.cross_entropy(model(data), target)
            first = torch.autograd.grad(loss, params, create_graph=True)
            image = torch.autograd.grad(sum((a * b).sum() for a, b in zip(first, x)), params)
            x = [b + c - (a + (lam + gamma) * c) / scale for a, b, c in zip(image, g, x)]
        found = [a + b / scale for a, b in zip(found, x)]
    return [a / s1 for a in found]
"""

CLONE_TRAIN = """
import torch


def train(train_loader, val_loader, model, lr, wd, num_epochs, max_norm, path, device):
    adam = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=wd)
    assert len(val_loader) == 1
    for data, target in train_loader:
        adam.zero_grad()
        torch.nn.functional.cross_entropy(model(data), target).backward()
        adam.step()
    torch.save(model.state_dict(), path)
"""


def random_samples(shape, count, seed, classes=3):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    targets = torch.randint(0, classes, (count,), generator=generator)
    return Samples(inputs, targets, (0.5,) * shape[0], (0.5,) * shape[0], dtype=torch.float64)


def network(name, seed=0, count=13, l2=0.01, chunk=5, width=None):
    """An objective in float64, a point and samples; BatchNorm's statistics are not the trivial ones."""
    settings, shape = NETWORKS[name]
    if width is not None:
        settings = settings.model_copy(update={"width": width})
    model = build(settings, shape, 3, seed).double()
    generator = torch.Generator().manual_seed(seed + 1)
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        elif buffer_name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return Objective(model, l2=l2, chunk=chunk), parameter_vector(model), random_samples(shape, count, seed)


def counted(monkeypatch, owner, name):
    """The arguments of every call of a method from now on."""
    calls, original = [], getattr(owner, name)

    def method(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(owner, name, method)
    return calls


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    yield
    # Opening a run turns this on for the whole process, and hypothesis needs subnormal numbers.
    torch.set_flush_denormal(False)


def batch_command(experiment, output, cores=1):
    """What `make batch` runs, for an experiment and a folder of its own."""
    return batch.command(str(experiment), output, "cpu", str(cores))
