"""The trials of an audit: what an adversary sees of a release and of its reference, the noise drawn anew each time."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from cdu.evaluation.lira import scaled_logit
from cdu.evaluation.relearning import trainable
from cdu.evaluation.settings import AuditSettings
from cdu.models.objective import Objective
from cdu.seeding import generator
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.release import projected, publish, trials

#: What an adversary sees in the trials of a release and of its reference, one trial a row, by a name of the view.
Views = dict[str, tuple[Tensor, Tensor]]

#: The view of an adversary who knows every seed, and so both models: the weights along the line between them.
KNOWN = "weights, direction known"


def shifted(shift: float, count: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Trials of N(shift, 1) against N(0, 1): Gaussian noise along the line between a release and its reference.

    Args:
        shift: The distance of the two before noise, over σ.
        count: Trials of either.
        draws: The noise.

    Returns:
        Release and reference, shape (count, 1) each.
    """
    noise = torch.randn(2, count, 1, dtype=torch.float64, generator=draws)
    return noise[0] + shift, noise[1]


def scaled(factor: float, size: int, count: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Trials of the length of Gaussian noise, where the release's σ is ``factor`` times the reference's.

    Args:
        factor: The ratio of the two σ.
        size: Coordinates of the noise.
        count: Trials of either.
        draws: The noise.

    Returns:
        Logarithms of the squared lengths, in units of their standard deviation, shape (count, 1) each.
    """
    # The standard deviation of the logarithm of a chi-square variable is √(2/size), up to a relative 1/size.
    unit = (size / 2) ** 0.5
    lengths = [torch.randn(size, generator=draws, dtype=torch.float64).square().sum().log() for _ in range(2 * count)]
    release, reference = torch.stack(lengths).view(2, count, 1)
    return unit * (release + 2 * math.log(factor)), unit * reference


def difference(problem: Problem, update: UnlearningResult, own: UnlearningResult) -> Tensor:
    """The vector from the reference to the release, both before noise, shape (p,)."""
    return projected(problem, update) - projected(problem, own)


def seen(problem: Problem, objective: Objective, releases: Iterable[Tensor]) -> dict[str, Tensor]:
    """The weights of releases, and φ of their outputs on the forget set; both are what a certificate covers.

    Outputs would also show BatchNorm's running statistics, which no certificate covers. So an adversary sees only the
    weights of a network with buffers.

    Args:
        problem: Where the forget set comes from.
        objective: That of all releases.
        releases: Blocks of weights, one release a row.
    """
    # The features of a linear model are the same for all its releases.
    objective, samples = trainable(objective, problem.forget)
    weights, outputs = [], []
    for block in releases:
        weights.append(block.float())
        logits = torch.cat([objective.outputs(w, samples) for w in block])
        outputs.append(scaled_logit(logits, samples.targets.repeat(len(block))).float().view(len(block), -1))
    views = {"weights": torch.cat(weights)}
    return views if any(True for _ in objective.model.buffers()) else views | {"outputs": torch.cat(outputs)}


class Trials:
    """Draws trials; every set of trials has its own stream of noise.

    Args:
        settings: How many trials of each kind.
        seed: The run's seed.
    """

    def __init__(self, settings: AuditSettings, seed: int) -> None:
        self._settings, self._seed, self._streams = settings, seed, 0

    def last_noise(self, problem: Problem, update: UnlearningResult, own: UnlearningResult, sigma: float) -> Views:
        """Trials where noise is the last thing that happens: both models are fixed, and only the noise is drawn anew.

        Args:
            problem: What was to be unlearned.
            update: What the method returned.
            own: Its reference.
            sigma: Standard deviation of the noise.

        Returns:
            Weights, outputs where there are no buffers, and the view :data:`KNOWN`.
        """
        few = self._settings.estimated
        objectives = [publish(problem, one, generator(self._seed, "noise")).objective for one in (update, own)]
        views = _paired(
            seen(problem, objective, trials(problem, one, self._stream(), sigma, few))
            for objective, one in zip(objectives, (update, own), strict=True)
        )
        return views | self.along_difference(problem, update, own, sigma)

    def along_difference(
        self, problem: Problem, update: UnlearningResult, own: UnlearningResult, sigma: float
    ) -> Views:
        """The same for the view :data:`KNOWN` alone, where more trials are cheap; arguments as above."""
        between, many = difference(problem, update, own), self._settings.trials
        if not between.any():
            # Both are the same retrained model: there is no direction between them, and every trial is 0.
            return {KNOWN: (torch.zeros(many, 1), torch.zeros(many, 1))}
        first, second = (
            torch.cat([block @ between for block in trials(problem, one, self._stream(), sigma, many)])[:, None]
            for one in (update, own)
        )
        return {KNOWN: (first, second)}

    def noise_on_the_way(
        self,
        problem: Problem,
        release: Callable[[torch.Generator], UnlearningResult],
        fresh: Callable[[torch.Generator], UnlearningResult],
        between: Tensor,
        count: int,
    ) -> Views:
        """Trials of a method that adds noise on the way: each is a run of its own, with other noise.

        Args:
            problem: What was to be unlearned.
            release: Runs the method.
            fresh: Runs its reference.
            between: The direction in which the two lie apart, shape (p,).
            count: Runs of either.
        """
        runs = [
            [run(generator(self._seed, purpose, number)) for number in range(count)]
            for run, purpose in ((release, "audit run"), (fresh, "audit reference"))
        ]
        views = _paired(self._published(problem, updates) for updates in runs)
        first, second = (weights @ between.float() for weights in views["weights"])
        return views | {KNOWN: (first[:, None], second[:, None])}

    def _published(self, problem: Problem, updates: Sequence[UnlearningResult]) -> dict[str, Tensor]:
        """Views of updates that bring their noise, so that none is added."""
        source = self._stream()
        released = [publish(problem, one, source) for one in updates]
        return seen(problem, released[0].objective, (one.w[None] for one in released))

    def _stream(self) -> torch.Generator:
        self._streams += 1
        return generator(self._seed, "audit noise", self._streams - 1)


def _paired(both: Iterable[dict[str, Tensor]]) -> Views:
    release, fresh = both
    return {view: (release[view], fresh[view]) for view in release}
