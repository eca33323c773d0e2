"""The device: how it is prepared, and how fast it multiplies."""

import time
from dataclasses import replace
from statistics import median

import torch

from cdu.curvature.solution import synchronise
from cdu.data.samples import Dataset, Samples
from cdu.experiments.setup import Setup
from cdu.models.objective import Objective, parameter_vector
from cdu.models.precision import Precision, arithmetic_of, configure, training

#: Networks whose images are laid out with the channels last, which makes convolutions faster on CPU and GPU.
CONVOLUTIONAL = ("allcnn", "resnet18")

#: Side of the square matrices whose product is timed, by type of device.
MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}

#: The number of products that are timed; the median counts, so that the slow first one does not matter.
MATRIX_PRODUCTS = 15


def prepare(setup: Setup) -> str:
    """Choose layout and precision for a set-up; returns them in words.

    Args:
        setup: Its images are laid out anew in place.
    """
    words = [configure(setup.device.type)]
    if setup.settings.model.name in CONVOLUTIONAL:
        setup.data = channels_last(setup.data)
        words.append("channels last")
    return ", ".join(words)


def channels_last(dataset: Dataset) -> Dataset:
    """The same images, in memory pixel by pixel instead of channel by channel; shapes and values stay."""

    def laid_out(samples: Samples) -> Samples:
        return replace(samples, inputs=samples.inputs.contiguous(memory_format=torch.channels_last))

    return replace(dataset, train=laid_out(dataset.train), test=laid_out(dataset.test))


def matrix_rate(device: torch.device, precision: Precision | None = None) -> float:
    """Floating-point operations a second in a product of two large square matrices, a multiply-add counted as two.

    It is measured: what the best code could reach, not a data sheet.

    Args:
        device: Where.
        precision: What the product is computed in; what the device trains in when None.
    """
    chosen = arithmetic_of(device.type).training if precision is None else precision
    kind = torch.bfloat16 if chosen == "bf16" else torch.float32
    side = MATRIX_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    seconds = []
    with training(device.type, chosen):
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
