"""How a device computes: the layout of images, the precision of products, and the rate that it reaches.

What is set here is set before anything is computed, and stands in the record beside the device.
"""

import time
from dataclasses import dataclass, replace
from statistics import median

import torch

from cdu.data import Dataset, Samples
from cdu.objective import Objective, parameter_vector
from cdu.scenario import Scenario
from cdu.solvers import synchronise

#: Networks whose images are laid out with the channels last: their convolutions are faster so, on CPU and GPU.
CONVOLUTIONAL = ("allcnn", "resnet18")

#: Side of the square matrices whose product is timed, by type of device.
MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}

#: How often; the median counts, so that the first one's start does not.
MATRIX_PRODUCTS = 15


@dataclass(frozen=True)
class Arithmetic:
    """How a type of device computes.

    Attributes:
        tf32: Whether products in single precision run in TF32: 10 bits of mantissa, sums in 32 bits.
        fastest_convolutions: Whether convolutions take the algorithm that is fastest when tried.
        flush_denormals: Whether numbers below 1e-38 become 0 on the CPU: without it an epoch can take ten times longer.
    """

    tf32: bool
    fastest_convolutions: bool
    flush_denormals: bool = True


#: By type of device.
ARITHMETIC = {
    "cpu": Arithmetic(tf32=False, fastest_convolutions=False),
    "cuda": Arithmetic(tf32=True, fastest_convolutions=True),
}


def configure(device: str) -> str:
    """Set PyTorch's arithmetic for a type of device, and say in words what is in force, as PyTorch tells it."""
    chosen = ARITHMETIC.get(device, ARITHMETIC["cuda"])
    torch.set_float32_matmul_precision("high" if chosen.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = chosen.tf32
    torch.backends.cudnn.benchmark = chosen.fastest_convolutions
    torch.set_flush_denormal(chosen.flush_denormals)
    return in_force()


def in_force() -> str:
    """The arithmetic that PyTorch uses now, in words."""
    single = torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
    words = ["float32" if single else "TF32"]
    if torch.backends.cudnn.benchmark:
        words.append("fastest convolutions")
    if not torch.tensor(1e-310, dtype=torch.float64).mul(1.0).item():
        words.append("denormals flushed")
    return ", ".join(words)


def prepare(scenario: Scenario) -> str:
    """Choose layout and precision for a scenario, and say them in words.

    Args:
        scenario: Its images are laid out anew in place.
    """
    words = [configure(scenario.device.type)]
    if scenario.settings.model.name in CONVOLUTIONAL:
        scenario.data = channels_last(scenario.data)
        words.append("channels last")
    return ", ".join(words)


def channels_last(dataset: Dataset) -> Dataset:
    """The same images, in memory pixel by pixel instead of channel by channel; shapes and values stay."""

    def laid_out(samples: Samples) -> Samples:
        return replace(samples, inputs=samples.inputs.contiguous(memory_format=torch.channels_last))

    return replace(dataset, train=laid_out(dataset.train), test=laid_out(dataset.test))


def matrix_rate(device: torch.device) -> float:
    """Floating-point operations a second in a product of two large square matrices, a multiplication counted as one.

    It is measured, in the precision that :func:`prepare` has set: what the best code could reach, not a data sheet.
    """
    side = MATRIX_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    seconds = []
    for _ in range(MATRIX_PRODUCTS):
        start = time.perf_counter()
        synchronise(a @ b)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / median(seconds)


def training_operations(objective: Objective, samples: Samples, batch_size: int) -> float:
    """Floating-point operations per image of one step of training, in matrix products and convolutions alone.

    Counted while a batch goes forward and backward, in evaluation mode; the optimiser's are not among them.
    """
    # Here, since it takes longer to import than many a section to run.
    from torch.utils.flop_counter import FlopCounterMode

    rows = slice(0, min(batch_size, len(samples)))
    inputs, targets = samples.batch(rows)
    w = parameter_vector(objective.model).requires_grad_()
    with objective.evaluating(), FlopCounterMode(display=False) as counter:
        torch.autograd.grad(objective.batch_loss(w, inputs, targets), w)
    return int(counter.get_total_flops()) / len(targets)
