"""The section on large networks: every method once, and what all sections on large networks share."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from cdu import certification
from cdu.data.samples import Samples, part_of
from cdu.errors import CduError
from cdu.evaluation.posterior_attacks import OriginalAndRelease, draw_candidates, membership_attack
from cdu.evaluation.relearning import relearn
from cdu.evaluation.theory_checks import spectrum_ends
from cdu.experiments.experiment import available_experiments, load_experiment
from cdu.experiments.run import Run
from cdu.experiments.settings import ScaleSettings
from cdu.experiments.setup import Setup
from cdu.models.batchnorm import has_statistics
from cdu.models.objective import Objective
from cdu.seeding import generator, seed_for
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.subsampled_newton import SubsampledNewton
from cdu.unlearning.names import ANEW, NOISED
from cdu.unlearning.problem import Method, Problem
from cdu.unlearning.registry import build, yardsticks
from cdu.unlearning.release import Release, publish, recalibrated
from cdu.unlearning.settings import UnlearningSettings

Block = TypeVar("Block")


def required(setup: Setup, name: str, block: Block | None) -> Block:
    """A block of settings that not every experiment has.

    Raises:
        CduError: This one has none; the sentence names those that do.
    """
    if block is not None:
        return block
    settings = {one: load_experiment(one).datasets.values() for one in available_experiments()}
    known = [f"'{one}'" for one, blocks in settings.items() if any(getattr(own, name) for own in blocks)]
    raise CduError(
        f"the experiment '{setup.experiment.name}' has no block '{name}' for {setup.name}; {', '.join(known)} have one"
    )


def judged_samples(setup: Setup, size: int | None) -> dict[str, Samples]:
    """``size`` random samples of D_r, and of the test set, that accuracy is taken on; all when None."""
    return {
        "retain": part_of(setup.retain, size, generator(setup.seed, "judged, retained")),
        "test": part_of(setup.test, size, generator(setup.seed, "judged, test")),
    }


def objective_with_statistics_of(samples: Samples, batch_size: int, problem: Problem, method: Method) -> Objective:
    """L with the BatchNorm statistics that samples have at the weights of a method's result.

    Args:
        samples: D_r, or part of it.
        batch_size: Samples a batch.
        problem: What the method is given.
        method: A yardstick, which draws nothing.
    """
    update = method(problem, generator(problem.seed, "statistics"))
    return recalibrated(publish(problem, update, generator(problem.seed)), samples, batch_size).objective


def log_accuracy_anew(
    run: Run, name: str, draws: Sequence[Release], judged: dict[str, Samples], statistics: Samples, **keys: Any
) -> None:
    """Log mean accuracy with BatchNorm's statistics taken anew, where the network has any.

    Args:
        run: The run.
        name: The method's name.
        draws: Releases that differ in their noise alone.
        judged: What accuracy is taken on, by the name of the split.
        statistics: Samples of D_r that the statistics are taken over.
        keys: As for :meth:`Run.log`.
    """
    if has_statistics(draws[0].objective.model):
        size = run.setup.settings.training.batch_size
        anew = [recalibrated(one, statistics, size) for one in draws]
        run.log_accuracy(name, anew, judged, "recalibrated_accuracy", **keys)


class Scale:
    """The section on large networks.

    Args:
        run: The run; the block ``scale`` of its settings says what is cut.

    Attributes:
        run: The same.
        settings: The block ``scale``.
        judged: What accuracy is taken on, by the name of the split.
        statistics: The samples of D_r that BatchNorm's statistics are taken anew over.

    Raises:
        CduError: There is no such block.
    """

    def __init__(self, run: Run) -> None:
        setup = run.setup
        self.run = run
        self.settings = required(setup, "scale", setup.settings.scale)
        self.problem = setup.problem()
        self.judged = {"forget": setup.forget, **judged_samples(setup, self.settings.judged)}
        self.statistics = part_of(setup.retain, self.settings.recalibrated, generator(setup.seed, "recalibrated"))
        self._candidates = draw_candidates(setup.forget, setup.test, seed_for(setup.seed, "attack samples"))

    def log_sizes(self) -> None:
        """How large everything is, and how much is cut."""
        setup, retained = self.run.setup, len(self.run.setup.retain)
        sizes = {
            "parameters": self.problem.objective.size,
            "train_samples": len(setup.train),
            "hessian_samples": min(self.settings.hessian_samples or retained, retained),
            "epochs_trained": setup.settings.training.epochs,
        }
        if has_statistics(setup.original.model):
            sizes["recalibration_samples"] = len(self.statistics)
        self.run.log_values(sizes)
        for split, samples in self.judged.items():
            self.run.log("judged_samples", len(samples), split=split)
        print(", ".join(f"{metric} {value:,}" for metric, value in sizes.items()))

    @cached_property
    def problems(self) -> dict[str, Problem]:
        """The deletion by suffix of the steps' names: as it is, and with BatchNorm's statistics of D_r."""
        found = {"": self.problem}
        if has_statistics(self.problem.objective.model):
            size = self.run.setup.settings.training.batch_size
            objective = objective_with_statistics_of(self.statistics, size, self.problem, Original())
            found[ANEW] = replace(self.problem, objective=objective)
        return found

    def log_spectrum(self, label: str) -> None:
        """Ritz values near both ends of the spectrum, in one of :attr:`problems`."""
        draws = generator(self.run.setup.seed, "lanczos")
        samples, steps = self.settings.spectrum_samples, self.settings.lanczos_steps
        low, high = spectrum_ends(self.problems[label], samples, steps, draws)
        self.run.log_values({"lambda_min": low, "lambda_max": high}, method=f"newton{label}" if label else "")
        print(f"λ_min ≤ {low:.3g}, λ_max ≥ {high:.3g}{label}")

    # --- unlearning ------------------------------------------------------------------------------------------------

    @cached_property
    def needed_sigma(self) -> float:
        """σ that certifies the experiment's ε for the sensitivity 2C."""
        noise = self.run.setup.settings.unlearning
        sensitivity = certification.trivial_bound(self.problem.radius).value
        return certification.gaussian_sigma(noise.epsilon, noise.delta, sensitivity)

    @property
    def noises(self) -> dict[str, float]:
        """σ by suffix of the models' names: the one in use, and the one that certifies ε."""
        noise = self.run.setup.settings.unlearning
        return {"noise": noise.sigma, f"noise for ε = {noise.epsilon:g}": self.needed_sigma}

    def methods(self) -> Iterator[tuple[str, Method, Problem]]:
        """Every method with what it is given; then the steps again, with BatchNorm's statistics of D_r."""
        found = scale_methods(self.run.setup.settings.unlearning, self.settings, self.run.setup.seed)
        for label, problem in self.problems.items():
            for name, method in found.items():
                if not label or isinstance(method, SubsampledNewton):
                    yield f"{name}{label}", method, problem

    def log_method(self, name: str, method: Method, problem: Problem) -> None:
        """Run a method, and judge its result without noise; for :data:`NOISED` with every noise too."""
        seed, delta = self.run.setup.seed, self.run.setup.settings.unlearning.delta
        update = self.run.attempt(name, method, problem)
        if update is None:
            return
        self.run.log_costs(name, update, "seconds", "hvp_samples", "gradient_samples", "residual")
        self.log_release(name, publish(problem, update, generator(seed, "noise")))
        for label, sigma in self.noises.items() if name in NOISED else ():
            released = publish(problem, update, generator(seed, "noise"), sigma, delta)
            noisy = f"{name} + {label}"
            self.log_release(noisy, released)
            assert released.certificate is not None
            self.run.log_values({"epsilon": released.certificate.epsilon, "sigma": sigma}, method=noisy)

    def log_release(self, name: str, released: Release) -> None:
        """Accuracy with the statistics as they are and as they would be on D_r, distances, attack, relearn time."""
        setup, settings = self.run.setup, self.run.setup.settings
        distances = {"distance_to_original": setup.original.w, "distance_to_retrained": setup.retrained.w}
        self.run.log_release(name, released, self.judged, distances)
        log_accuracy_anew(self.run, name, [released], self.judged, self.statistics)
        self._log_attack(name, released)
        again = relearn(released.objective, released.w, setup.forget, self._target, settings.relearn, setup.seed)
        self.run.log("epochs", again.counted, method=name, note=again.note)

    def _log_attack(self, name: str, released: Release) -> None:
        """The paper's attack on the original model and the release."""
        after = self._candidates.posteriors(released.objective, released.w)
        if not np.isfinite(after).all():
            note = "the outputs overflow in float32: there are no posteriors to attack"
            self.run.log("auc", None, method=name, note=note)
            return
        view = OriginalAndRelease(self._before, after, self._candidates.members)
        folds, seed = self.run.setup.settings.attack.folds, self.run.setup.seed
        attack = membership_attack(view, folds, seed, strata=self._candidates.classes)
        found = {"auc": attack.auc, "auc_half": attack.auc_half, "attack_accuracy": attack.accuracy}
        self.run.log_values(found, method=name)

    @cached_property
    def _before(self) -> Any:
        """The original model's posteriors."""
        return self._candidates.posteriors(self.problem.objective, self.problem.w_star)

    @cached_property
    def _target(self) -> float:
        """The original model's loss on D_u: what relearning has to reach."""
        return self.problem.objective.mean_loss(self.problem.w_star, self.run.setup.forget)

    def log_noise(self) -> None:
        """σ that the wanted ε needs, beside every model with noise."""
        noise = self.run.setup.settings.unlearning
        for name in NOISED:
            needed = {"sigma_needed": self.needed_sigma, "epsilon_wanted": noise.epsilon}
            self.run.log_values(needed, method=f"{name} + noise")
        print(f"σ = {noise.sigma:g}; ε = {noise.epsilon:g} needs σ = {self.needed_sigma:.4g}")


def scale_methods(unlearning: UnlearningSettings, scale: ScaleSettings, seed: int) -> dict[str, Method]:
    """The methods on a network for which no hyper-parameters are searched, by the name they have in tables.

    The yardsticks come first. Then comes the Newton step over part of D_r at every λ that has a name in the experiment,
    called *newton* at the default λ and *newton, λ = …* at the others. Last are the methods of ``scale.methods`` with
    the hyper-parameters that are given there.

    Args:
        unlearning: λ, and ε and δ for methods that add noise of their own.
        scale: The part of D_r, and the further methods.
        seed: Seed that the original model was trained with.

    Raises:
        CduError: ``scale.methods`` names an unknown method, or hyper-parameters that a method does not take.
    """
    default = unlearning.dampings[unlearning.default].value
    others = sorted({named.value for named in unlearning.dampings.values()} - {default})
    dampings = {"newton": default, **{f"newton, λ = {value:g}": value for value in others}}
    return {
        **yardsticks(seed),
        **{name: SubsampledNewton(value, scale.hessian_samples) for name, value in dampings.items()},
        **{name: build(name, values, unlearning.epsilon, unlearning.delta) for name, values in scale.methods.items()},
    }
