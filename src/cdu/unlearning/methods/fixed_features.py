"""A linear model on features that depend on no other data, so that the theory's constants are known in advance."""

import math
import time

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d

from cdu.certification.convex import softmax_constants
from cdu.certification.rounding import UNIT, softmax_gradient_rounding, step_rounding
from cdu.checks import expect, expect_positive
from cdu.curvature.solution import synchronise
from cdu.data.samples import TOKENS, Samples
from cdu.models.architectures import LogisticRegression
from cdu.models.objective import Objective
from cdu.seeding import generator
from cdu.unlearning.problem import Problem

#: ‖x‖ of a feature row at most; fixed before any data are seen.
NORM = 1.0

#: ‖∇ℓ‖ of a sample's cross-entropy at most: (p − y) is at most √2 long and (x, 1) at most √(1 + NORM²).
GRADIENT_NORM = math.sqrt(2) * math.hypot(NORM, 1.0)

#: ‖∇²ℓ‖ of a sample at most: the Hessian of log-sum-exp has eigenvalues of at most 1/2, times ‖(x, 1)‖².
HESSIAN_NORM = (1 + NORM**2) / 2

#: Images filtered at once.
_CHUNK = 256


class FixedFeatures(nn.Module):
    """Random convolutions: filter, ReLU, average over a grid of cells, subtract the row's mean, scale to ‖x‖ ≤ 1.

    Filters are Gaussian from a fixed seed and buffers, not parameters. Nothing is fitted, centred or scaled on data:
    the features of an image depend on that image alone. Rows that are shorter stay as they are. Unlike
    :func:`~cdu.data.features.random_features` the module takes images as every network here does, normalised, and
    bounds the features' norm.

    Args:
        channels: Channels of the images.
        filters: Number of filters; the features are ``filters · cells²`` many.
        size: Height and width of a filter.
        cells: The image is averaged over ``cells × cells`` regions.
    """

    kernels: Tensor

    def __init__(self, channels: int, filters: int, size: int = 5, cells: int = 4) -> None:
        super().__init__()
        normal = generator(0, "fixed features", channels, filters, size)
        kernels = torch.randn(filters, channels, size, size, generator=normal, dtype=torch.float64)
        # A filter without mean ignores how bright a region is; the factor keeps responses near the pixels' size.
        kernels = (kernels - kernels.mean(dim=(1, 2, 3), keepdim=True)) / math.sqrt(channels * size**2)
        self.register_buffer("kernels", kernels)
        self.cells = cells

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows of shape (n, filters · cells²), in the type of the filters whatever that of the images is."""
        kernels = self.kernels
        maps = torch.relu(conv2d(inputs.to(kernels.dtype), kernels, padding=kernels.shape[2] // 2))
        rows = adaptive_avg_pool2d(maps, self.cells).flatten(1)
        # Rectified responses are not negative: their common mean would use up the norm and tell no classes apart.
        rows = rows - rows.mean(dim=1, keepdim=True)
        # The norm itself is rounded; a row must not end up a last digit above the bound.
        allowed = NORM * (1 - 16 * torch.finfo(rows.dtype).eps)
        shortened: Tensor = rows / (rows.norm(dim=1, keepdim=True) / allowed).clamp(min=1.0)
        return shortened


class LinearTask:
    """Multinomial logistic regression with a bias and l2 on the fixed features of a problem's images.

    Features are computed once for a problem, on its device; they and all that follows are in float64. With ‖x‖ ≤ 1 a
    sample's gradient is at most :data:`GRADIENT_NORM` = 2 long and its Hessian's norm at most :data:`HESSIAN_NORM` = 1,
    at every w and on every data set, before the l2 term.

    Args:
        problem: Where D_r and D_u come from; of its network nothing but the number of classes is used.
        filters: Number of random filters.
        l2: Weight of (l2/2)‖w‖², bias included.

    Raises:
        CduError: Samples are no images, or have no classes.

    Attributes:
        model: Features and linear layer in one module, for images.
        objective: L of the linear layer, for rows of features.
        retain: Rows of D_r.
        everything: Rows of D, those of D_r first.
        constants: L, M, l2 and the radius that contains every minimiser.
        seconds: Wall time of computing the features of D, now or for an earlier task on the same problem.
    """

    def __init__(self, problem: Problem, filters: int, l2: float) -> None:
        dtype = torch.float64
        classes = problem.classes
        self.model = linear_model(problem.retain, filters, classes, dtype)
        features, head = self.model
        self.objective = Objective(head, l2=l2)
        name = (FixedFeatures, filters, dtype)
        if name not in problem.shared:
            begin = time.perf_counter()
            retain = _rows(features, problem.retain, dtype)
            everything = retain.joined(_rows(features, problem.forget, dtype))
            synchronise(everything.inputs)
            problem.shared[name] = retain, everything, time.perf_counter() - begin
        self.retain, self.everything, self.seconds = problem.shared[name]
        self.constants = softmax_constants(NORM, l2, classes)
        self._classes = classes

    def zeros(self) -> Tensor:
        """The start w = 0, shape (p,), which knows nothing of the data."""
        return torch.zeros(self.objective.size, dtype=self.retain.dtype, device=self.retain.device)

    def gradient_rounding(self, weight_norm: float) -> float:
        """By how much a computed ∇L(w, S) may be off for ‖w‖ ≤ ``weight_norm``, S being D or part of it."""
        samples, features = self.everything.inputs.shape
        return softmax_gradient_rounding(
            NORM, weight_norm, self.objective.l2, features, self._classes, samples, UNIT["float64"]
        )

    def step_rounding(self, learning_rate: float, weight_norm: float) -> float:
        """How far a computed step w − η∇L(w, S) may lie from the exact one, as long as ‖w‖ ≤ ``weight_norm``."""
        gradient_norm = GRADIENT_NORM + self.objective.l2 * weight_norm
        gradient_rounding = self.gradient_rounding(weight_norm)
        return step_rounding(gradient_rounding, learning_rate, weight_norm, gradient_norm, UNIT["float64"])


def linear_model(samples: Samples, filters: int, classes: int, dtype: torch.dtype) -> nn.Sequential:
    """Fixed features and a linear layer, for images like those of ``samples`` and where these are."""
    expect(
        samples.inputs.ndim == 4 and samples.inputs.dtype not in TOKENS,
        f"inputs of shape {tuple(samples.inputs.shape)} and type {samples.inputs.dtype} are no images of shape (n, "
        "channels, height, width), which this method takes features of; choose another method",
    )
    features = FixedFeatures(samples.inputs.shape[1], filters)
    head = LogisticRegression(filters * features.cells**2, classes)
    return nn.Sequential(features, head).to(samples.device, dtype).eval()


def contraction(learning_rate: float, l2: float) -> float:
    """The factor ρ = 1 − η·l2 by which a step w − η∇L(w, S) brings any two points nearer, on every S.

    Args:
        learning_rate: η.
        l2: Weight of (l2/2)‖w‖².

    Raises:
        CduError: η is above 2/(L + l2) with L = HESSIAN_NORM + l2, beyond which ρ is larger.
    """
    expect_positive(learning_rate=learning_rate, l2=l2)
    largest = 2 / (HESSIAN_NORM + 2 * l2)
    expect(
        learning_rate <= largest,
        f"learning_rate = {learning_rate:g} is above 2/(L + l2) = {largest:.4g}, up to which a step contracts by "
        "1 − η·l2; lower it",
    )
    return 1 - learning_rate * l2


def _rows(features: nn.Module, samples: Samples, dtype: torch.dtype) -> Samples:
    with torch.no_grad():
        parts = [features(inputs) for inputs, _ in samples.to(dtype=dtype).batches(_CHUNK)]
    return Samples(torch.cat(parts), samples.targets, dtype=dtype)
