"""The section on the bound of a large network: bound and error of the step, and its solvers side by side."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial

from cdu import certification
from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.lissa import lissa
from cdu.curvature.solution import Solution
from cdu.data.samples import part_of
from cdu.evaluation.network_bound import NetworkStep
from cdu.evaluation.settings import OfficialSettings
from cdu.experiments.run import Run
from cdu.experiments.scale import objective_with_statistics_of, required
from cdu.models.batchnorm import has_statistics
from cdu.models.objective import Objective
from cdu.seeding import generator
from cdu.unlearning.methods.newton import Form, NewtonStep
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.methods.subsampled_newton import SubsampledNewton
from cdu.unlearning.names import ANEW, AUTHORS, FORGET_FORM, NETWORK
from cdu.unlearning.problem import UnlearningResult
from cdu.unlearning.settings import DampingSettings

#: Suffix of a step's name by form: with ∇L(w*, D_r), and with ∇L(w*, D_u).
FORMS: dict[Form, str] = {"retain": "", "forget": FORGET_FORM}

#: The solvers beside LiSSA: to LiSSA's residual, to the usual one, and with H over S alone.
SAME, USUAL, SAMPLED = "conjugate gradient, same residual", "conjugate gradient", "conjugate gradient, H over S"


class ScaleBound:
    """The section: each method logs one point.

    Args:
        run: The run; the block ``bound`` of its settings says what is taken over what.

    Attributes:
        run: The same.
        settings: The block ``bound``.
        part: S, what steps and Lipschitz constants are taken over.
        spectrum_part: What the ends of the spectrum are taken over.
        default: The λ of the experiment, with LiSSA's constants.

    Raises:
        CduError: There is no such block.
    """

    def __init__(self, run: Run) -> None:
        setup = run.setup
        self.run = run
        self.settings = required(setup, "bound", setup.settings.bound)
        self.problem, self.retrained = setup.problem(), setup.retrained
        self.part = part_of(setup.retain, self.settings.hessian_samples, generator(setup.seed, "hessian"))
        self.spectrum_part = part_of(setup.retain, self.settings.spectrum_samples, generator(setup.seed, "spectrum"))
        unlearning = setup.settings.unlearning
        self.default = unlearning.dampings[unlearning.default]

    def log_sizes(self) -> None:
        """λ in use, and how large everything is."""
        sizes = {
            "default_damping": self.default.value,
            "parameters": self.problem.objective.size,
            "train_samples": len(self.run.setup.train),
            "hessian_samples": len(self.part),
        }
        self.run.log_values(sizes)
        print(", ".join(f"{metric} {value:,}" for metric, value in sizes.items()))

    @cached_property
    def _functions(self) -> dict[str, tuple[Objective, Objective]]:
        """L, and L with the retrained model's statistics, by suffix of the steps' names."""
        setup = self.run.setup
        found = {"": (self.problem.objective, setup.objective(self.retrained))}
        if has_statistics(setup.original.model):
            anew = partial(objective_with_statistics_of, setup.retain, setup.settings.training.batch_size, self.problem)
            found[ANEW] = (anew(Original()), anew(Retrain()))
        return found

    @cached_property
    def steps(self) -> dict[str, NetworkStep]:
        """The step by suffix of its name: in the function as trained, and with BatchNorm's statistics of D_r."""
        return {
            label: NetworkStep(replace(self.problem, objective=objective), self.retrained.w, self.part)
            for label, (objective, _) in self._functions.items()
        }

    # --- bound and error -------------------------------------------------------------------------------------------

    def log_constants(self, label: str) -> None:
        """The constants of the bound in one of the functions of :attr:`steps`."""
        setup, step, method = self.run.setup, self.steps[label], f"{NETWORK}{label}"
        original, model = setup.original, setup.settings.model
        curvature = step.curvature(self.spectrum_part, self.settings.lanczos_steps, self.settings.nodes, setup.seed)
        found = {
            "damping": self.default.value,
            "spectrum_samples": len(self.spectrum_part),
            "epochs_trained": setup.settings.training.epochs,
            "relu": model.name != "logistic" and model.activation == "relu",
            **curvature,
            **step.gradients(self._functions[label][1]),
            "norm": float(max(original.w.norm(), self.retrained.w.norm())),
            "projected": original.history[-1]["projected"],
            "trivial_bound": 2 * self.problem.radius,
        }
        self.run.log_values(found, method=method)
        for form, name in FORMS.items():
            self.run.log("right_hand_side", step.right_hand_sides[form].norm(), method=f"{NETWORK}{name}{label}")
        print(*(f"{method}: {metric:>22s} = {float(value):.5g}" for metric, value in found.items()), sep="\n")

    def tried(self) -> Iterator[tuple[str, str, Form, float]]:
        """The name of every point against λ, and what :meth:`log_step` is given for it."""
        for label in self.steps:
            for form in FORMS:
                for damping in sorted(self.settings.dampings):
                    yield f"{form}, λ = {damping}{label}", label, form, damping

    def log_step(self, label: str, form: Form, damping: float) -> None:
        """Bound and error at λ; where H_S + λI is indefinite its reason stands in place of the error."""
        name = f"{NETWORK}{FORMS[form]}{label}"
        bend, low, left = (
            self._known(metric, f"{NETWORK}{label}")
            for metric in ("hessian_lipschitz", "lambda_min", "gradient_retrained")
        )
        if form == "forget":
            left += self._known("forms_gap", f"{NETWORK}{label}")
        constants = (self.problem.radius, bend, damping, low, left)
        self.run.bound("bound", certification.newton_bound, *constants, method=name, axis="damping", point=damping)
        solve = partial(self.steps[label].solve, form, damping, self.settings.lanczos_steps)
        solution = self.run.outcome(name, solve, "distance", axis="damping", point=damping)
        if solution is None:
            return
        found = {
            "distance": self.steps[label].error(solution.x),
            "step_norm": float(solution.x.norm()),
            "residual": solution.residual,
            "hvp_samples": solution.hvp_samples,
            "seconds": solution.seconds,
        }
        self.run.log_values(found, method=name, axis="damping", point=damping)

    def _known(self, metric: str, method: str) -> float:
        """A constant that is logged, in this sitting or an earlier one."""
        value = self.run.values(metric, method=method)[0]
        assert value is not None
        return value

    # --- solvers side by side --------------------------------------------------------------------------------------

    def solvers(self) -> dict[str, Callable[[], None]]:
        """Every solver by the name of its point."""
        found: dict[str, Callable[[], None]] = {
            "references": self._references,
            "lissa": self._by_lissa,
            SAME: self._to_the_same,
            USUAL: self._to_the_usual,
            SAMPLED: self._sampled,
            AUTHORS: self._by_the_authors,
        }
        if len(self.part) == len(self.run.setup.retain):
            del found[SAMPLED]
        return found

    @cached_property
    def _whole(self) -> Hessian:
        """H + λI over all of D_r at the default λ."""
        problem = self.problem
        return Hessian(problem.objective, problem.w_star, problem.retain) + self.default.value

    @property
    def _step(self) -> NetworkStep:
        return self.steps[""]

    def _references(self) -> None:
        """What the times and errors are compared with."""
        self.run.log("distance_to_retrained", self._known("distance_original", NETWORK), method="original")
        for method, split in (("retrain", ""), ("retraining in full", "unlearning")):
            self.run.log("seconds", self.retrained.seconds, method=method, split=split)

    def _by_lissa(self) -> None:
        constants, draws = self.default.lissa.model_dump(), generator(self.run.setup.seed, "lissa")
        right = self._step.right_hand_sides["retain"]
        self._log_solver("lissa", lambda: lissa(self._whole, right, **constants, generator=draws))

    def _to_the_same(self) -> None:
        if not self.run.values("claim_residual", method="lissa"):
            note = "LiSSA has no solution whose residual could be reached"
            self.run.log("claim_seconds", None, method=SAME, note=note)
            return
        reached = self._known("claim_residual", "lissa")
        right, most = self._step.right_hand_sides["retain"], self.settings.lanczos_steps
        self._log_solver(SAME, lambda: conjugate_gradient(self._whole, right, reached, most))

    def _to_the_usual(self) -> None:
        right, most = self._step.right_hand_sides["retain"], self.settings.lanczos_steps
        self._log_solver(USUAL, lambda: conjugate_gradient(self._whole, right, max_steps=most))

    def _sampled(self) -> None:
        """The whole step with H over S alone."""
        method = SubsampledNewton(self.default.value, self.settings.hessian_samples, gradient="retain")
        draws = generator(self.run.setup.seed, "hessian")
        self._log_step_costs(SAMPLED, self.run.outcome(SAMPLED, lambda: method(self.problem, draws), "seconds"))

    def _by_the_authors(self) -> None:
        """The whole step by LiSSA, at the λ and with the constants of the authors' code."""
        official = OfficialSettings()
        own = DampingSettings(value=official.damping, lissa=official.lissa)
        chosen = self.run.setup.settings.unlearning.dampings.get("code", own)
        method = NewtonStep(chosen.value, "lissa", lissa_settings=chosen.lissa)
        self._log_step_costs(AUTHORS, self.run.attempt(AUTHORS, method, self.problem, "seconds"))

    def _log_solver(self, name: str, solve: Callable[[], Solution]) -> None:
        """Solve the system at the default λ, and say what came of it."""
        solution = self.run.outcome(name, solve, "claim_seconds")
        if solution is None:
            return
        found = {
            "claim_seconds": solution.seconds,
            "claim_residual": solution.residual,
            "hvp_samples": solution.hvp_samples,
            "distance_to_retrained": self._step.error(solution.x),
            "timed_alone": False,
        }
        self.run.log_values(found, method=name)
        print(f"{name}: {solution.seconds:.3f} s to a relative residual of {solution.residual:.2e}")

    def _log_step_costs(self, name: str, update: UnlearningResult | None) -> None:
        """What came of a whole step, whose time includes that of the gradient over D_r."""
        if update is None:
            return
        self.run.log_costs(name, update, "seconds", "residual", "hvp_samples")
        error = self._step.error(self.problem.w_star - update.w)
        self.run.log_values({"distance_to_retrained": error, "timed_alone": False}, method=name)
