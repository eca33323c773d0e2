"""Which device computes, and in which precision: training in its own, everything else in full single precision.

A run calls :func:`configure` first, which sets full single precision; what it returns stands in the record beside the
device. :func:`training` and :func:`forward` set the precision of training for a block of code, then restore the other.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from cdu.errors import CduError

#: What products and convolutions of training are computed in. "tf32" rounds their factors to 10 bits of mantissa. With
#: "bf16" the forward pass runs in 8 bits where PyTorch's autocast deems that safe; weights, the loss, Adam, BatchNorm's
#: statistics and the projection stay in single precision. Sums are taken in 32 bits either way.
Precision = Literal["float32", "tf32", "bf16"]


def pick_device(wanted: str = "auto") -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU; any other name is taken as PyTorch's.

    Raises:
        CduError: CUDA was asked for by name and is not there, or the name is unknown.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise CduError(f"unknown device '{wanted}': use 'auto', 'cpu' or 'cuda'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CduError("device 'cuda' was asked for, but PyTorch finds no CUDA device here; use 'auto' or 'cpu'")
    return device


@dataclass(frozen=True)
class Arithmetic:
    """How a type of device computes.

    Attributes:
        training: What training is computed in; everything else is in float32.
        fastest_convolutions: Whether convolutions of training take the algorithm that is fastest when tried. Trying
            pays for one size of batch, not for the many sizes of everything else.
        flush_denormals: Whether numbers below 1e-38 become 0 on the CPU: without it an epoch can take ten times longer.
    """

    training: Precision
    fastest_convolutions: bool
    flush_denormals: bool = True


#: By type of device.
ARITHMETIC = {
    "cpu": Arithmetic(training="float32", fastest_convolutions=False),
    "cuda": Arithmetic(training="bf16", fastest_convolutions=True),
}


def arithmetic_of(device: str) -> Arithmetic:
    """How a type of device computes; a type that is not listed counts as CUDA."""
    return ARITHMETIC.get(device, ARITHMETIC["cuda"])


def configure(device: str) -> str:
    """Set full single precision for a type of device, and say in words what is in force there.

    Args:
        device: The type, such as "cuda"; it need not be there.
    """
    _set_products(tf32=False)
    torch.backends.cudnn.benchmark = False
    torch.set_flush_denormal(arithmetic_of(device).flush_denormals)
    return in_force(device)


def in_force(device: str) -> str:
    """The arithmetic of a type of device in words: training's as chosen, everything else's as PyTorch tells it."""
    chosen = arithmetic_of(device)
    everything = "float32" if _products_are_single() else "TF32"
    training = [] if chosen.training == "float32" else [f"in {NAMES[chosen.training]}"]
    if chosen.fastest_convolutions:
        training.append("with the fastest convolutions")
    words = [f"training {' '.join(training)}, else {everything}" if training else everything]
    if not torch.tensor(1e-310, dtype=torch.float64).mul(1.0).item():
        words.append("denormals flushed")
    return ", ".join(words)


#: What records and tables call a precision.
NAMES: dict[Precision, str] = {"float32": "float32", "tf32": "TF32", "bf16": "bf16"}


@contextmanager
def training(device: str, precision: Precision) -> Iterator[None]:
    """Compute products and convolutions in training's precision within the block, then restore what was in force.

    Args:
        device: The type of device.
        precision: What to compute in; for "bf16" the forward pass needs :func:`forward` besides.
    """
    matrices, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    fastest = torch.backends.cudnn.benchmark
    sums = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    _set_products(tf32=precision == "tf32")
    torch.backends.cudnn.benchmark = arithmetic_of(device).fastest_convolutions
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matrices)
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.backends.cudnn.benchmark = fastest
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = sums


def forward(device: str, precision: Precision) -> AbstractContextManager[object]:
    """What a forward pass of training runs in: PyTorch's autocast for "bf16", else nothing.

    Autocast's cache of cast weights is off: it would outlive the CUDA graph in which a pass is captured, and a pass
    uses every weight only once.
    """
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(device, torch.bfloat16, cache_enabled=False)


def training_key(device: str, precision: Precision) -> dict[str, str]:
    """The precision's part of the key under which a trained model is kept; empty for float32 on a CPU."""
    return {} if (device, precision) == ("cpu", "float32") else {"precision": precision}


def _set_products(tf32: bool) -> None:
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


def _products_are_single() -> bool:
    return torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
