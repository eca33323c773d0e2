"""The section that sweeps noise, radius, requests and early stopping on large networks."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from cdu import certification
from cdu.errors import CduError
from cdu.evaluation.theory_checks import hessian_lipschitz, spectrum_ends
from cdu.experiments.ablations import with_recipe
from cdu.experiments.request_chains import kept_answers, log_composition
from cdu.experiments.run import Run
from cdu.experiments.scale import judged_samples, log_accuracy_anew, required
from cdu.progress import Progress
from cdu.seeding import generator
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.methods.subsampled_newton import SubsampledNewton
from cdu.unlearning.problem import Method, UnlearningResult
from cdu.unlearning.release import Release, publish
from cdu.unlearning.requests import Answer, Request

#: Models evaluated with every noise, and the method that each comes from.
WITH_NOISE = {"newton + noise": "newton", "original + noise": "original", "retrain + noise": "retrain"}


class ScaleSweeps:
    """The section: each method logs one point of a sweep.

    Args:
        run: The run; the block ``sweeps`` of its settings says what is swept.

    Attributes:
        run: The same.
        settings: The block ``sweeps``.
        newton: The step, with the Hessian over part of D_r.
        judged: What accuracy is taken on, by the name of the split.

    Raises:
        CduError: There is no such block.
    """

    def __init__(self, run: Run) -> None:
        setup = run.setup
        self.run = run
        self.settings = required(setup, "sweeps", setup.settings.sweeps)
        self.problem = setup.problem()
        self.judged = judged_samples(setup, self.settings.judged)
        self.noise = setup.settings.unlearning
        self.damping = self.noise.dampings[self.noise.default].value
        self.newton = SubsampledNewton(self.damping, self.settings.hessian_samples)
        self.trivial = certification.trivial_bound(self.problem.radius)
        self._updates: dict[str, UnlearningResult] = {}

    def log_sizes(self) -> None:
        """How large everything is, and how much is cut."""
        setup, retained = self.run.setup, len(self.run.setup.retain)
        for split, samples in self.judged.items():
            self.run.log("judged_samples", len(samples), split=split)
        facts = {
            "parameters": self.problem.objective.size,
            "train_samples": len(setup.train),
            "hessian_samples": min(self.settings.hessian_samples or retained, retained),
            "spectrum_samples": min(self.settings.spectrum_samples, retained),
            "epochs_trained": setup.settings.training.epochs,
            "requests": self.settings.requests,
            "damping": self.damping,
            "sigma": self.noise.sigma,
            "delta": self.noise.delta,
            "epsilon_wanted": self.noise.epsilon,
            "trivial_bound": self.trivial.value,
        }
        self.run.log_values(facts)
        print(", ".join(f"{metric} {value:,}" for metric, value in facts.items()))

    def _log_accuracy(self, name: str, draws: Sequence[Release], **keys: Any) -> None:
        """Mean accuracy, with BatchNorm's statistics as they are and as they would be on D_r."""
        self.run.log_accuracy(name, draws, self.judged, **keys)
        log_accuracy_anew(self.run, name, draws, self.judged, self.judged["retain"], **keys)

    # --- noise -----------------------------------------------------------------------------------------------------

    def noisy(self, sigma: float) -> None:
        """The step, the original and the retrained model with the same draws of noise, and ε."""
        where: dict[str, Any] = {"axis": "sigma", "point": sigma}
        for name in WITH_NOISE:
            update = self.run.outcome(name, partial(self._update, name), "accuracy", **where)
            if update is not None:
                draws = (generator(self.run.setup.seed, "noise", draw) for draw in range(self.settings.noise_draws))
                released = [publish(self.problem, update, draw, sigma, self.noise.delta) for draw in draws]
                self._log_accuracy(name, released, **where)
        epsilon = certification.gaussian_epsilon(sigma, self.noise.delta, self.trivial.value)
        self.run.log("epsilon", epsilon, **where)
        print(f"σ = {sigma:g} certifies ε = {epsilon:.4g}")

    def without_noise(self) -> None:
        """The same three without noise."""
        for name in WITH_NOISE:
            update = self.run.outcome(name, partial(self._update, name), "accuracy")
            if update is not None:
                released = publish(self.problem, update, generator(self.run.setup.seed))
                sets = {f"{split}, no noise": samples for split, samples in self.judged.items()}
                self.run.log_accuracy(name, [released], sets)
                log_accuracy_anew(self.run, name, [released], sets, self.judged["retain"])

    def _update(self, name: str) -> UnlearningResult:
        """A method's result, computed at the first point that needs it."""
        if name not in self._updates:
            methods: dict[str, Method] = {"newton": self.newton, "original": Original(), "retrain": Retrain()}
            own = WITH_NOISE[name]
            self._updates[name] = methods[own](self.problem, generator(self.run.setup.seed, own))
        return self._updates[name]

    # --- radius ----------------------------------------------------------------------------------------------------

    def within(self, radius: float) -> None:
        """The original, trained within another radius C, and ε there at the noise in use."""
        setup = self.run.setup
        where: dict[str, Any] = {"axis": "radius", "point": radius}
        trained = with_recipe(setup, radius=radius).original
        self._log_accuracy("original", [setup.as_trained(trained)], **where)
        sensitivity = certification.trivial_bound(radius).value
        epsilon = certification.gaussian_epsilon(self.noise.sigma, self.noise.delta, sensitivity)
        found = {"norm": trained.w.norm(), "projected": trained.projected_share, "epsilon": epsilon}
        self.run.log_values(found, **where)

    # --- requests --------------------------------------------------------------------------------------------------

    def log_composition(self) -> None:
        """ε of k releases together and of each alone at the noise in use, and σ that the wanted ε needs."""
        log_composition(self.run, self.trivial, range(1, self.settings.requests + 1))

    def yardsticks(self) -> None:
        """The original with the noise of the last request, and the model retrained without all of the forget set."""
        setup, last = self.run.setup, self.settings.requests
        everything = Request(last, setup.forget, setup.forget, setup.retain)
        nothing = Answer(everything, self.problem, UnlearningResult(self.problem.w_star, 0.0), setup.seed)
        self._log_last("original", nothing, {"original": 0.0, "original + noise": self.noise.sigma})
        self._log_accuracy("retrain", [setup.as_trained(setup.retrained)], **self._last)

    def from_the_iterate(self) -> None:
        """Every request answered from the noiseless iterate of the one before."""
        self._answer_all("newton", 0.0, {"newton": 0.0, "newton + noise": self.noise.sigma})

    def from_the_release(self) -> None:
        """Every request answered from the noisy release of the one before."""
        name = "newton, from the release + noise"
        self._answer_all(name, self.noise.sigma, {name: self.noise.sigma})

    @property
    def _last(self) -> dict[str, Any]:
        return {"axis": "request", "point": self.settings.requests}

    def _answer_all(self, name: str, carried: float, sigmas: dict[str, float]) -> None:
        """Answer all requests, each from where the last answer ended, and judge what comes out at the end.

        Args:
            name: What the chain is called.
            carried: σ of the noise that is carried on.
            sigmas: σ of the releases after the last request, by name.
        """
        setup, count = self.run.setup, self.settings.requests
        chain = kept_answers(setup, self.problem, self.newton, count, carried)
        updates: list[UnlearningResult] = []
        try:
            for answer in Progress(chain, desc=name, total=count, unit="request"):
                updates.append(answer.update)
                step = (answer.iterate - answer.problem.w_star).norm()
                found = {"step": step, "residual": answer.update.residual}
                self.run.log_values(found, method=name, axis="request", point=answer.request.number)
        except CduError as error:
            refused = len(updates) + 1
            print(f"{name}, request {refused}: {error}")
            self.run.log("accuracy", None, method=name, axis="request", point=refused, note=str(error))
            return
        costs = {
            "seconds": sum(update.seconds for update in updates),
            "hvp_samples": sum(update.hvp_samples for update in updates),
        }
        self.run.log_values(costs, method=name, split=f"{count} requests")
        self._log_last(name, answer, sigmas)

    def _log_last(self, name: str, answer: Answer, sigmas: dict[str, float]) -> None:
        """Judge what comes out after the last request, with each noise."""
        for label, sigma in sigmas.items():
            self._log_accuracy(label, [answer.release(sigma, self.noise.delta)], **self._last)
        distance = (answer.iterate - self.run.setup.retrained.w).norm()
        self.run.log("distance_to_retrained", distance, method=name, **self._last)

    # --- early stopping --------------------------------------------------------------------------------------------

    def stopped(self, epochs: int) -> None:
        """Bound and error of the step where both trainings are stopped after a few epochs."""
        setup = self.run.setup
        where: dict[str, Any] = {"axis": "epochs", "point": epochs}
        start = setup.stopped(setup.train, epochs, "original")
        target = setup.stopped(setup.retain, epochs, "retrained")
        problem = setup.problem(start, setup.settings.training.model_copy(update={"epochs": epochs}))
        sizes = (self.settings.spectrum_samples, self.settings.lanczos_steps)
        smallest, _ = spectrum_ends(problem, *sizes, generator(setup.seed, "epochs", epochs))
        bend = hessian_lipschitz(problem, target.w, *sizes, generator(setup.seed, "epochs", epochs))
        gradient = setup.objective(target).gradient(target.w, setup.retain).norm().item()
        self.run.log_values({"lambda_min": smallest, "hessian_lipschitz": bend}, method="original", **where)
        self.run.log("gradient_retrained", gradient, method="retrain", **where)
        constants = (problem.radius, bend, self.damping, smallest, gradient)
        self.run.bound("bound", certification.newton_bound, *constants, method="newton", **where)
        for name, model in {"original": start, "retrain": target}.items():
            self._log_accuracy(name, [setup.as_trained(model)], **where)
        self.run.log("distance_to_retrained", (start.w - target.w).norm(), method="original", **where)
        update = self.run.attempt("newton", self.newton, problem, "distance_to_retrained", **where)
        if update is not None:
            released = publish(problem, update, generator(setup.seed))
            self._log_accuracy("newton", [released], **where)
            self.run.log("distance_to_retrained", (released.w - target.w).norm(), method="newton", **where)
