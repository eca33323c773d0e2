"""Ablations: the same set-up with one quantity changed, and what is measured of it."""

from typing import Any

from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import extreme_eigenvalues
from cdu.evaluation.posterior_attacks import OriginalAndRelease, draw_candidates, membership_attack
from cdu.evaluation.theory_checks import segment_constants
from cdu.experiments.forget_sets import varied
from cdu.experiments.run import Run
from cdu.experiments.setup import Setup
from cdu.seeding import generator, seed_for
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.problem import Method
from cdu.unlearning.release import publish


def with_recipe(setup: Setup, **changes: Any) -> Setup:
    """The same set-up, trained with some constants of the recipe changed, such as ``radius`` or ``weight_decay``."""
    return varied(setup, training=setup.settings.training.model_copy(update=changes))


def with_width(setup: Setup, width: float) -> Setup:
    """The same set-up with another width: neurons of every hidden layer of an MLP, or a factor of a network's filters.

    Args:
        setup: The set-up.
        width: The width.
    """
    model = setup.settings.model
    changes = {"hidden": (int(width),) * len(model.hidden)} if model.name == "mlp" else {"width": width}
    return varied(setup, model=model.model_copy(update=changes))


def log_bound_constants(run: Run) -> None:
    """Log what the bound of Theorem 3.4 needs of the original and the retrained model.

    λ_min and λ_max of the Hessian on D_r at w*, M from below along the segment from w* to w̃*, and G = ‖∇L(w̃*, D_r)‖.
    They are measured, so that no certificate rests on them.

    Args:
        run: Whose models are looked at, and where it is logged.
    """
    setup = run.setup
    original, retrained, objective = setup.original, setup.retrained, setup.objective(setup.original)
    hessian = Hessian(objective, original.w, setup.retain)
    smallest, largest = extreme_eigenvalues(hessian.__matmul__, original.w, generator(setup.seed, "lanczos"))
    draws = generator(setup.seed, "segment")
    segment = segment_constants(objective, original.w, retrained.w, setup.retain, draws)
    run.log_values({"lambda_min": smallest.value, "lambda_max": largest.value})
    run.log("hessian_lipschitz", segment.hessian_lipschitz)
    run.log("gradient_retrained", setup.objective(retrained).gradient(retrained.w, setup.retain).norm())


def log_deletion(run: Run, setup: Setup, damping: float, axis: str, point: float) -> None:
    """Log what deleting the forget set comes to: for the original model, the Newton step and the retrained model.

    Of each the accuracy, the distance to the retrained model and the area of the paper's attack; then the norm of the
    original's weights, the share of its training's steps in which the projection was active, and 2C.

    Args:
        run: Where it is logged.
        setup: The set-up with one quantity changed.
        damping: λ of the step.
        axis: What was changed.
        point: Its value.
    """
    keys: dict[str, Any] = {"axis": axis, "point": point}
    problem, seed = setup.problem(), run.setup.seed
    candidates = draw_candidates(setup.forget, setup.test, seed_for(seed, "attack samples"))
    before = candidates.posteriors(problem.objective, problem.w_star)
    methods: dict[str, Method] = {"original": Original(), "newton": NewtonStep(damping), "retrain": Retrain()}
    for name, method in methods.items():
        update = run.attempt(name, method, problem, "distance_to_retrained", **keys)
        if update is None:
            continue
        released = publish(problem, update, generator(seed))
        run.log_release(name, released, setup.sets, {"distance_to_retrained": setup.retrained.w}, **keys)
        after = candidates.posteriors(released.objective, released.w)
        view = OriginalAndRelease(before, after, candidates.members)
        attack = membership_attack(view, run.setup.settings.attack.folds, seed, strata=candidates.classes)
        run.log("auc", attack.auc, method=name, **keys)
    training = {"norm": setup.original.w.norm(), "projected": setup.original.projected_share}
    run.log_values({**training, "trivial_bound": 2 * setup.settings.training.radius}, **keys)
