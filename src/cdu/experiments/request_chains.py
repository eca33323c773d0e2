"""A forget set that comes in several requests: what k releases certify, and what comes out after each request."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cdu.certification import Bound, certify, required_sigma
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.experiments.kept_requests import keeper
from cdu.experiments.run import Run
from cdu.experiments.setup import Setup
from cdu.models.training import Trained
from cdu.progress import Progress
from cdu.unlearning.problem import Method, Problem, UnlearningResult
from cdu.unlearning.requests import Answer, Request, answers, requests


def asked(setup: Setup, count: int) -> Iterator[Request]:
    """The forget set of a set-up cut into ``count`` requests; see :func:`~cdu.unlearning.requests.requests`."""
    return requests(setup.data.train, setup.split.train, setup.split.forget, count, setup.seed)


def kept_answers(setup: Setup, problem: Problem, method: Method, count: int, sigma: float) -> Iterator[Answer]:
    """Answers to these requests by one method, kept beside the trained models, so that a chain can be resumed.

    Args:
        setup: Whose forget set is cut.
        problem: The original model.
        method: Answers each request.
        count: How many requests.
        sigma: The noise that is carried on from one to the next; see :func:`~cdu.unlearning.requests.answers`.
    """
    kept = keeper(setup, method, count, sigma)
    return answers(problem, asked(setup, count), method, sigma, kept, unsafe_seed=setup.seed)


def log_composition(run: Run, bound: Bound, counts: Iterable[int]) -> None:
    """Log what k releases certify together, what each certifies alone, and the σ that the wanted ε needs for k.

    Together k releases at a distance of at most Δ are one Gaussian release with μ = √k·Δ/σ.

    Args:
        run: Where it is logged; σ, δ and the wanted ε are those of its settings.
        bound: Δ of every release.
        counts: The k.
    """
    settings = run.setup.settings.unlearning
    alone = certify(bound, settings.sigma, settings.delta).epsilon
    for count in counts:
        together = certify(bound, settings.sigma, settings.delta, count).epsilon
        needed = required_sigma(bound, settings.epsilon, settings.delta, count)
        run.log("epsilon", together, method="together", axis="releases", point=count)
        run.log("epsilon", alone, method="each alone", axis="releases", point=count)
        run.log("sigma_needed", needed, axis="releases", point=count)
        print(f"{count} releases: ε = {together:.4g} together, {alone:.4g} each; σ = {needed:.4g} for the ε wanted")


@dataclass(frozen=True)
class Chain:
    """A forget set in ``count`` requests, and what is looked at after each.

    Attributes:
        run: Where everything is logged.
        problem: The original model.
        count: How many requests.
        axis: The axis of their numbers in the record.
        retrained: Retrained models, by how many samples are gone; distances are logged where there is one.
        looked_at: How many samples are gone after the requests that are looked at; all when None.
    """

    run: Run
    problem: Problem
    count: int
    axis: str
    retrained: Mapping[int, Trained]
    looked_at: Collection[int] | None = None

    def log_yardsticks(self, sigmas: Mapping[str, float]) -> None:
        """Log the original model, released with the noise of every request, and the retrained ones.

        Args:
            sigmas: The noise of the releases of the original model, by label.
        """
        original, seed = UnlearningResult(self.problem.w_star, 0.0), self.run.setup.seed
        for request in asked(self.run.setup, self.count):
            if not self._seen(request):
                continue
            self._log_releases(Answer(request, self.problem, original, seed), sigmas)
            target, where = self.retrained.get(len(request.gone)), self._where(request)
            if target is not None:
                self.run.log_release("retrain", self.run.setup.as_trained(target), self._sets(request), **where)
                length = (self.problem.w_star - target.w).norm()
                self.run.log("distance_to_retrained", length, method="original", **where)
        mean = sum(trained.seconds for trained in self.retrained.values()) / len(self.retrained)
        self.run.log("seconds", self.count * mean, method="retrain", split=f"{self.count} requests")

    def log_answers(self, name: str, method: Method, carried: float, sigmas: Mapping[str, float]) -> None:
        """Answer all requests by one method, and log what comes out after those that are looked at.

        Distances are those that Δ is about: of the projected iterate before its noise. Where a request cannot be
        answered the reason is logged, and the chain ends.

        Args:
            name: The method's name.
            method: The method.
            carried: The noise that is carried on; 0 where the noiseless iterate is.
            sigmas: The noise of the releases, by label.
        """
        run, seconds, answered = self.run, 0.0, 0
        chain = kept_answers(run.setup, self.problem, method, self.count, carried)
        try:
            for answer in Progress(chain, desc=f"{name}, {self.count} requests", total=self.count, unit="request"):
                answered, seconds = answer.request.number, seconds + answer.update.seconds
                if self._seen(answer.request):
                    self._log_answer(name, answer, sigmas)
        except CduError as error:
            print(f"{name}, request {answered + 1}: {error}")
            run.log("accuracy", None, method=name, axis=self.axis, point=answered + 1, note=str(error))
            return
        run.log("seconds", seconds, method=name, split=f"{self.count} requests")
        print(f"{name}: {self.count} requests in {seconds:.3g} s")

    def _log_answer(self, name: str, answer: Answer, sigmas: Mapping[str, float]) -> None:
        run, where = self.run, self._where(answer.request)
        run.log("step", (answer.iterate - answer.problem.w_star).norm(), method=name, **where)
        run.log_costs(name, answer.update, "residual", **where)
        target = self.retrained.get(len(answer.request.gone))
        if target is not None:
            run.log("distance_to_retrained", (answer.iterate - target.w).norm(), method=name, **where)
        self._log_releases(answer, sigmas)

    def _log_releases(self, answer: Answer, sigmas: Mapping[str, float]) -> None:
        delta, request = self.run.setup.settings.unlearning.delta, answer.request
        for label, sigma in sigmas.items():
            released = answer.release(sigma, delta)
            self.run.log_release(label, released, self._sets(request), **self._where(request))

    def _seen(self, request: Request) -> bool:
        return self.looked_at is None or len(request.gone) in self.looked_at

    def _sets(self, request: Request) -> dict[str, Samples]:
        return {"forget": request.gone, "retain": request.retain, "test": self.run.setup.test}

    def _where(self, request: Request) -> dict[str, Any]:
        return {"axis": self.axis, "point": request.number}
