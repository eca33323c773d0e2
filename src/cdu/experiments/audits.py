"""The audits of a run: every certified method on several forget sets, and the power of audits in simulation."""

import math
from functools import partial
from typing import Any

import numpy as np

from cdu.certification import gaussian_epsilon, gaussian_sigma
from cdu.errors import CduError
from cdu.evaluation.audit import STRATEGIES, Power, audit, clopper_pearson, power
from cdu.evaluation.audit_trials import Trials, Views, difference
from cdu.experiments.method_results import MethodResults
from cdu.experiments.run import Run
from cdu.seeding import generator, seed_for
from cdu.unlearning.problem import Problem
from cdu.unlearning.references import noiseless_difference, reference
from cdu.unlearning.registry import build
from cdu.unlearning.release import publish_at

#: Numbers of an :class:`~cdu.evaluation.audit.Audit` that are logged as they are.
_LOGGED = ("mu", "mu_low", "mu_high", "detectable", "gaussian_detectable", "trials")

#: The number of simulated audits behind each share.
SIMULATED = 200

#: Distances of the simulated pairs in Δ, by their names in records.
DISTANCES = {"Δ/2": 0.5, "Δ": 1.0}


def log_audit(run: Run, name: str, split: str, views: Views, certified: float, note: str = "") -> None:
    """Audit each view of a pair, and log what it shows beside the certified ε.

    Args:
        run: Where it is logged; δ is that of its settings.
        name: The method's name.
        split: The forget set.
        views: Trials of the release and of its reference; see :class:`~cdu.evaluation.audit_trials.Trials`.
        certified: ε of the certificate under audit.
        note: What else a reader should know.
    """
    for view, (release, fresh) in views.items():
        result = audit(release, fresh, run.setup.settings.unlearning.delta)
        where: dict[str, Any] = {"method": name, "split": f"{split}, {view}"}
        run.log("audit_epsilon", result.epsilon, **where, note=note)
        run.log("audit_gaussian", result.gaussian_epsilon, **where)
        # An end of the interval is infinite where all trials lie on one side of the threshold.
        values = {metric: getattr(result, metric) for metric in _LOGGED}
        run.log_values({metric: value for metric, value in values.items() if math.isfinite(value)}, **where)
        run.log("certified_epsilon", certified, **where)
        run.log("contradicted", result.contradicts(certified), **where)
        verdict = "CONTRADICTED" if result.contradicts(certified) else "consistent"
        print(
            f"{name}, {split}, {view}: ε = {certified:.3g} certified, at least {result.epsilon:.3g} or "
            f"{result.gaussian_epsilon:.3g} (Gaussian) shown, {result.detectable:.3g} detectable: {verdict}"
        )


def log_method(run: Run, unlearned: MethodResults, trials: Trials, name: str, split: str, problem: Problem) -> None:
    """Audit a certified method on one forget set.

    Where noise comes last, the distance of the pair is logged too, with the ε of these two fixed Gaussians, which needs
    no trial and says nothing of other pairs. A method that adds noise on the way needs a run for every trial and is
    audited on the forget set ``random`` alone.

    Args:
        run: Where it is logged.
        unlearned: Where the method's hyper-parameters come from.
        trials: Draws the trials.
        name: The method's name.
        split: The forget set.
        problem: The deletion of that forget set.

    Raises:
        CduError: The method cannot run.
    """
    settings, seed = run.setup.settings, run.setup.seed
    epsilon, delta = settings.unlearning.epsilon, settings.unlearning.delta
    method = build(name, unlearned.chosen(name), epsilon, delta)
    update = method(problem, generator(seed, name))
    own = reference(method, problem, update, generator(seed, "reference", name))
    certificate = publish_at(problem, update, generator(seed, "noise"), epsilon, delta).certificate
    if certificate is None:
        raise CduError(
            f"the release of '{name}' has no certificate to audit: {update.no_certificate_reason or 'no noise'}"
        )
    if update.certificate is not None:
        if split == "random":
            fresh, between = partial(reference, method, problem, update), noiseless_difference(method, problem)
            count = settings.audit.runs
            views = trials.noise_on_the_way(problem, partial(method, problem), fresh, between, count)
            log_audit(run, name, split, views, certificate.epsilon)
        return
    distance = difference(problem, update, own).double().norm().item()
    pair = gaussian_epsilon(certificate.sigma, delta, distance) if distance > 0 else 0.0
    pairs = {"pair_distance": distance, "pair_epsilon": pair, "sensitivity": certificate.sensitivity}
    run.log_values(pairs, method=name, split=split)
    log_audit(run, name, split, trials.last_noise(problem, update, own, certificate.sigma), certificate.epsilon)


def simulated(run: Run, strategy: str, distance: str, factor: float) -> tuple[float, Power]:
    """Audits of N(d, 1) against N(0, 1), the pair of a certificate with noise too small.

    Args:
        run: Where the trials, the wanted ε and δ come from.
        strategy: One of :data:`~cdu.evaluation.audit.STRATEGIES`.
        distance: Of the pair, one of :data:`DISTANCES`.
        factor: k, by how many times the noise is too small.

    Returns:
        d = k·μ·distance with μ = Δ/σ of the certificate, and in how many audits it was contradicted.
    """
    settings = run.setup.settings
    epsilon, delta, count = settings.unlearning.epsilon, settings.unlearning.delta, settings.audit.trials
    draws = np.random.default_rng(seed_for(run.setup.seed, "audit power", strategy, distance, f"{factor:g}"))
    mu = factor * DISTANCES[distance] * (1 / gaussian_sigma(epsilon, delta, 1.0))
    return mu, power(STRATEGIES[strategy], mu, count, epsilon, delta, SIMULATED, draws)


def log_share(run: Run, metric: str, found: int, **keys: Any) -> None:
    """Log the share of the simulated audits that found something, with its 95 % interval."""
    low, high = clopper_pearson(np.array([found]), SIMULATED, 0.975)
    for end, value in (("", found / SIMULATED), ("_low", low[0]), ("_high", high[0])):
        run.log(f"{metric}{end}", value, **keys)
