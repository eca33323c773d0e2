"""DP-SGD: training that is differentially private, so that a deletion costs nothing.

A training on D, released as M(D), is (ε, δ)-indistinguishable from one on D without a sample, and
(ε_k, δ_k)-indistinguishable from one on D without a group of k samples (:mod:`cdu.models.group_privacy`). This is the
statement of certified unlearning with the reference M(D_r), where M has the same settings: a request to delete up to k
samples is answered by the model as it is.

Better features make a linear model trained like this as accurate as a deep network: Tramèr and Boneh, "Differentially
Private Learning Needs Better Features (or Much More Data)" (ICLR 2021).
"""

import copy
import math
import secrets
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cdu.checks import expect, expect_count, expect_delta, expect_not_negative, expect_positive
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.extras import needs_report
from cdu.models.group_privacy import group_epsilon
from cdu.models.objective import parameter_vector
from cdu.seeding import secret_generator, seed_for

#: Samples whose gradients are in memory at once.
CHUNK = 256


@dataclass(frozen=True)
class PrivacyGuarantee:
    """What a training by DP-SGD promises. The settings that it depends on are public.

    Attributes:
        noise_multiplier: σ, the noise's standard deviation over the clipping norm.
        sampling_rate: q, the probability with which a step takes a sample.
        steps: T.
        delta: δ.
        epsilon: ε at δ for one sample that is added or removed, by opacus' accountant PRV.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int
    delta: float
    epsilon: float

    def group_epsilon(self, size: int, delta: float | None = None) -> float:
        """ε at δ for a group of samples that is deleted: M(D) against M(D_r) (:mod:`cdu.models.group_privacy`).

        Args:
            size: k, the number of samples in the group.
            delta: δ for the group; that for one sample when None.

        Raises:
            CduError: An argument is unusable.
        """
        chosen = self.delta if delta is None else delta
        return group_epsilon(self.noise_multiplier, self.sampling_rate, self.steps, size, chosen)


@dataclass(frozen=True)
class PrivatelyTrained:
    """A model trained by DP-SGD.

    Attributes:
        model: The trained module, in evaluation mode.
        w: Its weights as a flat vector, shape (p,).
        guarantee: What may be said of it.
        seconds: Wall time of the training.
    """

    model: nn.Module
    w: Tensor
    guarantee: PrivacyGuarantee
    seconds: float


def privacy_guarantee(epsilon: float, delta: float, sampling_rate: float, steps: int) -> PrivacyGuarantee:
    """The noise with which DP-SGD is (ε, δ)-differentially private, by opacus' accountant PRV.

    PRV composes the privacy loss numerically (Gopi, Lee and Wutschitz 2021); its ε is an upper bound that includes the
    error of 0.01.

    Args:
        epsilon: ε for one sample that is added or removed.
        delta: δ.
        sampling_rate: q.
        steps: T.

    Raises:
        CduError: An argument is unusable, ε is 0.02 or less, or opacus finds no noise for it.
    """
    expect_positive(epsilon=epsilon, sampling_rate=sampling_rate)
    expect_delta(delta)
    expect_count(steps=steps)
    expect(sampling_rate <= 1, f"sampling_rate = {sampling_rate} is a probability; give at most 1")
    expect(epsilon > 0.02, f"epsilon = {epsilon} is below what the accountant tells, whose error is 0.01; give more")
    sigma = _noise_multiplier(epsilon, delta, sampling_rate, steps)
    return PrivacyGuarantee(sigma, sampling_rate, steps, delta, _epsilon(sigma, delta, sampling_rate, steps))


def _noise_multiplier(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The least σ whose ε by PRV is at most the given one, to four digits.

    The search starts where the central limit theorem puts σ (Bu et al. 2020): μ = q √(T (e^{1/σ²} − 1)), with
    ε ≈ μ²/2 + μ √(2 log 1/δ).
    """

    def excess(log_sigma: float) -> float:
        return _epsilon(math.exp(log_sigma), delta, sampling_rate, steps) - epsilon

    spread = -2 * math.log(delta)
    mu = 2 * epsilon / (math.sqrt(spread + 2 * epsilon) + math.sqrt(spread))
    high = -math.log(math.log1p(mu**2 / (sampling_rate**2 * steps))) / 2
    try:
        while excess(high) > 0:
            high += 0.1
        low = high - 0.1
        while excess(low) <= 0:
            low, high = low - 0.1, low
        root = float(brentq(excess, low, high, xtol=1e-4))
        while excess(root) > 0:
            root += 1e-4
    except (RuntimeError, ValueError) as error:
        raise CduError(f"opacus finds no noise for ε = {epsilon:g}, δ = {delta:g}, {steps} steps: {error}") from error
    return math.exp(root)


@cache
def _epsilon(noise_multiplier: float, delta: float, sampling_rate: float, steps: int) -> float:
    """ε of opacus' accountant PRV."""
    with needs_report("DP-SGD"):
        from opacus.accountants import create_accountant
    accountant: Any = create_accountant("prv")
    accountant.history = [(noise_multiplier, sampling_rate, steps)]
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        # Its search for a domain tries more orders than it needs; with q = 1 it takes the logarithm of 0, rightly.
        warnings.simplefilter("ignore", UserWarning)
        return float(accountant.get_epsilon(delta))


def train_privately(
    model: nn.Module,
    samples: Samples,
    guarantee: PrivacyGuarantee,
    *,
    learning_rate: float,
    clip: float = 1.0,
    momentum: float = 0.9,
    rows: int | None = None,
    unsafe_seed: int | None = None,
) -> PrivatelyTrained:
    """Train a classifier by DP-SGD (Abadi et al. 2016), with opacus.

    Each of the T steps takes every sample with probability q, clips the gradient of each one's cross-entropy to the
    norm ``clip``, sums, adds Gaussian noise of the standard deviation σ·clip, divides by the expected batch q·n, and
    goes down that with momentum.

    The start is the module's own weights, which must not depend on the samples; those without ``requires_grad`` stay.
    Which samples a step takes and the
    noise come from 32 secret bytes (:func:`~cdu.seeding.secret_generator`); opacus' own secure generator would need
    another package. The noise is drawn in opacus' secure mode, a mean of several draws, against attacks on the rounding
    of one draw (Holohan and Braghin 2021).

    Args:
        model: A classifier on the CPU without BatchNorm; it is left as it is.
        samples: D.
        guarantee: σ, q and T (:func:`privacy_guarantee`).
        learning_rate: η.
        clip: c, to which the norm of each sample's gradient is clipped.
        momentum: Momentum of the steps; it has no part in the guarantee.
        rows: n in the divisor q·n, a public constant. The number of samples when None, which makes that number public;
            for the reference M(D_r) give that of D.
        unsafe_seed: For tests: whoever knows it can undo the noise.

    Raises:
        CduError: The model or the samples cannot be used, or weights are no longer finite.
    """
    expect(len(samples) > 0, "there are no samples to train on; give at least one")
    count = len(samples) if rows is None else rows
    expect_positive(learning_rate=learning_rate, clip=clip)
    expect_not_negative(momentum=momentum)
    expect_count(rows=count)
    with needs_report("DP-SGD"):
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer
    trained = copy.deepcopy(model).train()
    _expect_usable(trained, samples)
    secret = secrets.token_bytes(32) if unsafe_seed is None else str(seed_for(unsafe_seed, "DP-SGD")).encode()
    sampling, noise = secret_generator(secret, "sampling"), secret_generator(secret, "noise")
    begin = time.perf_counter()
    try:
        wrapped: Any = GradSampleModule(trained, loss_reduction="sum")
    except NotImplementedError as error:
        raise CduError(f"opacus does not train this model: {error}") from error
    optimizer: Any = DPOptimizer(
        torch.optim.SGD(_trainable(trained), learning_rate, momentum=momentum),
        noise_multiplier=guarantee.noise_multiplier,
        max_grad_norm=clip,
        expected_batch_size=guarantee.sampling_rate * count,  # a mean need not be whole
        generator=noise,
        secure_mode=True,
    )
    with warnings.catch_warnings():
        # Inputs need no gradients.
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        for batch in _poisson_batches(len(samples), guarantee, sampling):
            _step(wrapped, optimizer, samples, batch)
    optimizer.zero_grad(set_to_none=True)
    wrapped.to_standard_module()
    w = parameter_vector(trained)
    expect(
        bool(w.isfinite().all()),
        f"DP-SGD diverged: weights are no longer finite; lower the learning rate (it is {learning_rate:g})",
    )
    return PrivatelyTrained(trained.eval(), w, guarantee, time.perf_counter() - begin)


def _expect_usable(model: nn.Module, samples: Samples) -> None:
    """Refuse a model whose gradient for one sample depends on others, and what opacus does not train."""
    from opacus.validators import ModuleValidator

    expect(len(_trainable(model)) > 0, "no weight of the model has requires_grad, so that there is nothing to train")
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    expect(
        not norms,
        f"layer {norms[0] if norms else ''!r} is BatchNorm, which mixes the samples of a batch, so that no sample's "
        "gradient can be clipped alone; use GroupNorm, or a network without",
    )
    problems = ModuleValidator.validate(model)
    expect(not problems, f"opacus does not train this model: {problems[0] if problems else ''}")
    devices = {samples.device.type, *(parameter.device.type for parameter in model.parameters())}
    expect(
        devices == {"cpu"},
        f"model and samples are on {', '.join(sorted(devices))}; secret noise is drawn on the CPU, so move both there",
    )


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _poisson_batches(count: int, guarantee: PrivacyGuarantee, generator: torch.Generator) -> Iterator[Tensor]:
    """The rows that each step takes: each row with probability q."""
    for _ in range(guarantee.steps):
        draws = torch.rand(count, generator=generator, dtype=torch.float64)
        yield (draws < guarantee.sampling_rate).nonzero().flatten()


def _step(model: Any, optimizer: Any, samples: Samples, batch: Tensor) -> None:
    """One step, the gradients of :data:`CHUNK` samples at a time."""
    chunks = batch.split(CHUNK) if len(batch) else (batch,)
    for number, rows in enumerate(chunks, start=1):
        optimizer.zero_grad(set_to_none=True)
        if len(rows):
            inputs, targets = samples.batch(rows)
            cross_entropy(model(inputs), targets, reduction="sum").backward()
        else:
            # Nobody was taken: the step is noise alone.
            for parameter in optimizer.params:
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        optimizer.signal_skip_step(number < len(chunks))
        optimizer.step()
