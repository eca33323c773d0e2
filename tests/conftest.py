import pytest
import torch

from cdu.config import ModelSettings
from cdu.data import Samples
from cdu.models import build
from cdu.objective import Objective, parameter_vector

#: One narrow version of every network, with the image it takes.
NETWORKS = {
    "logistic": (ModelSettings(name="logistic"), (1, 4, 4)),
    "mlp": (ModelSettings(name="mlp", hidden=(5, 4)), (1, 4, 4)),
    "smooth mlp": (ModelSettings(name="mlp", hidden=(5, 4), activation="softplus"), (1, 4, 4)),
    "allcnn": (ModelSettings(name="allcnn", width=0.02), (3, 8, 8)),
    "resnet18": (ModelSettings(name="resnet18", width=0.02), (3, 8, 8)),
}


def random_samples(shape, count, seed, classes=3):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    targets = torch.randint(0, classes, (count,), generator=generator)
    return Samples(inputs, targets, (0.5,) * shape[0], (0.5,) * shape[0], dtype=torch.float64)


def network(name, seed=0, count=13, l2=0.01, chunk=5):
    """An objective in float64, a point and samples; BatchNorm's statistics are not the trivial ones."""
    settings, shape = NETWORKS[name]
    model = build(settings, shape, 3, seed).double()
    generator = torch.Generator().manual_seed(seed + 1)
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        elif buffer_name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return Objective(model, l2=l2, chunk=chunk), parameter_vector(model), random_samples(shape, count, seed)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    yield
    # Opening a run turns this on for the whole process, and hypothesis needs subnormal numbers.
    torch.set_flush_denormal(False)
