"""The noise: the classical formula beside the exact one, and the exact one against simulated releases."""

from collections.abc import Iterator, Sequence

import torch
from scipy.optimize import brentq
from torch.distributions import Normal

from cdu.certification import classical_sigma, gaussian_delta, gaussian_epsilon, gaussian_sigma
from cdu.evaluation.readings import Reading
from cdu.evaluation.sweeps import log_spaced
from cdu.seeding import generator


def sigma_ratio(epsilon: float, delta: float) -> float:
    """The classical σ = (Δ/ε)·√(2 ln(1.25/δ)) of Theorem 2.3 over the exact σ of Balle & Wang (2018).

    Below one the classical formula adds too little noise. The ratio is the same for every Δ.

    Args:
        epsilon: ε.
        delta: δ.
    """
    return classical_sigma(epsilon, delta, 1.0) / gaussian_sigma(epsilon, delta, 1.0)


def crossover(delta: float) -> float:
    """The ε above 1 from which the classical formula adds too little noise: :func:`sigma_ratio` is one there.

    Args:
        delta: δ, at most about 0.1.
    """
    return float(brentq(lambda epsilon: sigma_ratio(epsilon, delta) - 1, 1.0, 1e3))


def classical_and_exact(deltas: Sequence[float], sigmas: Sequence[float], sensitivity: float) -> Iterator[Reading]:
    """Where the classical formula adds too little noise, and what the noise used in practice certifies.

    Args:
        deltas: The δ.
        sigmas: Standard deviations used in practice.
        sensitivity: Δ, which these are to hide.

    Yields:
        For each δ the ``sigma_ratio`` from ε = 0.01 to 10,000, the ``crossover`` and the ``epsilon`` of every σ.
    """
    for delta in deltas:
        name = f"δ = {delta:g}"
        for epsilon in log_spaced(0.01, 1e4, 25):
            keys = {"method": name, "axis": "epsilon", "point": epsilon}
            yield Reading({"sigma_ratio": sigma_ratio(epsilon, delta)}, keys)
        yield Reading({"crossover": crossover(delta)}, {"method": name})
        for sigma in sigmas:
            epsilon = gaussian_epsilon(sigma, delta, sensitivity)
            yield Reading({"epsilon": epsilon}, {"method": f"σ = {sigma:g}, {name}"})


def simulated_and_exact(epsilons: Sequence[float], delta: float, draws: int, seed: int) -> Iterator[Reading]:
    """Simulated releases beside the exact condition, at the noise that it asks for.

    Args:
        epsilons: The ε for which noise is chosen; δ is looked at there and at half of it.
        delta: δ for which noise is chosen.
        draws: Number of releases simulated for each number.
        seed: Seed of the releases.

    Yields:
        ``monte_carlo_z``: by how many standard errors the simulated δ lies above the formula's.
    """
    for epsilon in epsilons:
        sigma, stream = gaussian_sigma(epsilon, delta, 1.0), generator(seed, "privacy profile", str(epsilon))
        for other in (epsilon, epsilon / 2):
            estimate, error = monte_carlo_delta(other, sigma, 1.0, draws, stream)
            score = (estimate - gaussian_delta(other, sigma, 1.0)) / error
            yield Reading(
                {"monte_carlo_z": score}, {"method": f"σ for ε = {epsilon:g}", "axis": "epsilon", "point": other}
            )


def monte_carlo_delta(
    epsilon: float, sigma: float, sensitivity: float, draws: int, generator: torch.Generator
) -> tuple[float, float]:
    """δ(ε) of the Gaussian mechanism by simulation: the mean of max(0, 1 − q(x)·e^ε/p(x)) over x ~ p, and its error.

    p and q are the densities of the release at distance Δ and of the reference, along the line between their means;
    across it they are the same.

    Args:
        epsilon: ε.
        sigma: Standard deviation of the noise.
        sensitivity: Δ.
        draws: Number of releases simulated.
        generator: Draws them.
    """
    moved, reference = Normal(sensitivity, sigma), Normal(0.0, sigma)
    released = sensitivity + sigma * torch.randn(draws, generator=generator, dtype=torch.float64)
    loss = moved.log_prob(released) - reference.log_prob(released)
    terms = (-torch.expm1(epsilon - loss)).clamp(min=0)
    return terms.mean().item(), (terms.std() / draws**0.5).item()
