# %% [markdown]
# # The bound on a large network
#
# The paper's Table 3: the bound of Theorem 3.4 and the real error of the Newton step against λ, for networks whose
# Hessian is taken over a part S of the retained set. The constants are measured, L and M from below: every bound
# here is an *indication*. A ReLU network has no finite M: its bound is a number put into the formula, no more.

# %% tags=["parameters"]
dataset = "cifar10"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu import certification
from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import ritz_norm, ritz_values
from cdu.curvature.lissa import lissa
from cdu.data.samples import part_of
from cdu.errors import CduError
from cdu.evaluation import theory_checks
from cdu.evaluation.settings import OfficialSettings
from cdu.experiments.names import ANEW, AUTHORS, FORGET_FORM, NETWORK
from cdu.experiments.run import begin
from cdu.models.batchnorm import has_statistics
from cdu.models.training import project
from cdu.report import chapters
from cdu.report.query import select
from cdu.seeding import generator
from cdu.unlearning.methods.newton import NewtonStep, right_hand_side
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.methods.subsampled_newton import SubsampledNewton
from cdu.unlearning.release import publish, recalibrated
from cdu.unlearning.settings import DampingSettings

run = begin("11_bound", globals())

# %%
from dataclasses import replace
from functools import cache, partial

import torch
from tqdm import tqdm

setup, settings = run.setup, run.setup.settings
chosen, unlearning, radius = settings.bound, settings.unlearning, settings.training.radius
if chosen is None:
    raise CduError(
        f"the experiment '{setup.experiment.name}' has no block 'bound' for {dataset}; "
        "'batchnorm', 'paper' and 'paper-resnet18' have one"
    )
problem, original, retrained = setup.problem(), setup.original, setup.retrained
default = unlearning.dampings[unlearning.default]
part = part_of(setup.retain, chosen.hessian_samples, generator(seed, "hessian"))
spectrum_part = part_of(setup.retain, chosen.spectrum_samples, generator(seed, "spectrum"))
official = OfficialSettings()
authors = unlearning.dampings.get("code", DampingSettings(value=official.damping, lissa=official.lissa))

run.log("default_damping", default.value)
run.log("parameters", problem.objective.size)
run.log("train_samples", len(setup.train))
run.log("hessian_samples", len(part))
print(
    f"{problem.objective.size:,} parameters; of {len(setup.retain):,} retained samples {len(spectrum_part):,} are "
    f"behind the spectrum and {len(part):,} behind the steps"
)

# %% [markdown]
# ## Functions
#
# With BatchNorm the loss as a function of the weights is another for other running statistics: those that training
# left, and those that D_r has at the original's weights. The theorem is about one function. H, M and G are each taken
# with one kind of statistics.

# %%
problems = {"": problem}
own = {"": setup.objective(retrained)}
if has_statistics(original.model):
    recipe = settings.training

    def renewed(method):
        """The objective with the statistics that D_r has at the weights of a model."""
        update = method(problem, generator(seed, "statistics"))
        return recalibrated(publish(problem, update, generator(seed)), setup.retain, recipe.batch_size).objective

    problems[ANEW] = replace(problem, objective=renewed(Original()))
    own[ANEW] = renewed(Retrain())
hessians = {label: Hessian(where.objective, where.w_star, part) for label, where in problems.items()}
forms = {"retain": "", "forget": FORGET_FORM}


@cache
def right(label, form):
    """What (H + λI)⁻¹ is applied to in one form of the step."""
    return right_hand_side(problems[label], form)


def error_of(solution):
    """‖w̃ − w̃*‖ of a step, projected, in double precision: a step can be shorter than the rounding of the weights."""
    moved = project(original.w.double() - solution.double(), radius)
    return (moved - retrained.w.double()).norm()


# %% [markdown]
# ## Constants
#
# Ritz values lie within the spectrum of H: λ_max is at least the largest, λ_min at most the smallest. L and M are the
# largest that is met along the segment w\*–w̃\*, from below. The two forms of the step,
#
# - −(H + λI)⁻¹ ∇L(w\*, D_r), and
# - n_u/n_r · (H + λI)⁻¹ ∇L(w\*, D_u),
#
# agree where ∇L(w\*, D) = 0. Their right-hand sides differ by n/n_r · ∇L(w\*, D).


# %%
def constants(label):
    where, method = problems[label], f"{NETWORK}{label}"
    steps = chosen.lanczos_steps
    spectrum = Hessian(where.objective, where.w_star, spectrum_part)
    values = ritz_values(spectrum.__matmul__, where.w_star, generator(seed, "lanczos"), steps)
    low, high = values[0].item(), values[-1].item()
    norm = partial(ritz_norm, steps=steps)
    segment = theory_checks.segment_constants(
        where.objective, original.w, retrained.w, part, generator(seed, "segment"), chosen.nodes, norm
    )
    retain, forget = right(label, "retain"), right(label, "forget")
    gap = retain - forget
    found = {
        "damping": default.value,
        "spectrum_samples": len(spectrum_part),
        "epochs_trained": settings.training.epochs,
        "relu": settings.model.name != "logistic" and settings.model.activation == "relu",
        "lambda_min": low,
        "lambda_max": high,
        "gradient_lipschitz": max(segment.gradient_lipschitz, abs(low), abs(high)),
        "hessian_lipschitz": segment.hessian_lipschitz,
        "gradient_retrained": where.objective.gradient(retrained.w, setup.retain).norm(),
        "gradient_retrained_own": own[label].gradient(retrained.w, setup.retain).norm(),
        "gradient_original": gap.norm() * len(setup.retain) / len(setup.train),
        "forms_gap": gap.norm(),
        "forms_cosine": torch.nn.functional.cosine_similarity(retain.double(), forget.double(), dim=0),
        "distance_original": (original.w.double() - retrained.w.double()).norm(),
        "norm": max(original.w.norm(), retrained.w.norm()),
        "projected": original.history[-1]["projected"],
        "trivial_bound": 2 * radius,
    }
    for metric, value in found.items():
        run.log(metric, value, method=method)
        print(f"{method}: {metric:>22s} = {float(value):.5g}")
    for form, name in forms.items():
        run.log("right_hand_side", right(label, form).norm(), method=f"{NETWORK}{name}{label}")


for label in problems:
    run.point(f"constants{label}", partial(constants, label))


def known(metric, label):
    """A constant that is logged, in this sitting or an earlier one."""
    return select(run.frame(), metric=metric, method=f"{NETWORK}{label}")["value"].iloc[0]


# %% [markdown]
# ## Bound and error against λ
#
# ‖w̃ − w̃\*‖ ≤ [2C(MC + λ) + G] / (λ + λ_min), with G at the retrained model in the function that H is of. The theorem is
# about the form with ∇L(w\*, D_r); for the other one the difference of the right-hand sides is added to G. Conjugate
# gradient takes as many steps as Lanczos at most; where H_S + λI is indefinite its reason stands in place of the error.


# %%
def step(label, form, damping):
    name = f"{NETWORK}{forms[form]}{label}"
    keys = {"axis": "damping", "point": damping}
    lipschitz, low, left = (
        known(metric, label) for metric in ("hessian_lipschitz", "lambda_min", "gradient_retrained")
    )
    if form == "forget":
        left += known("forms_gap", label)
    run.bound("bound", certification.newton_bound, radius, lipschitz, damping, low, left, method=name, **keys)
    operator, vector = hessians[label] + damping, right(label, form)
    solution = run.outcome(
        name, lambda: conjugate_gradient(operator, vector, max_steps=chosen.lanczos_steps), "distance", **keys
    )
    if solution is None:
        return
    run.log("distance", error_of(solution.x), method=name, **keys)
    run.log("step_norm", solution.x.norm(), method=name, **keys)
    run.log("residual", solution.residual, method=name, **keys)
    run.log("hvp_samples", solution.hvp_samples, method=name, **keys)
    run.log("seconds", solution.seconds, method=name, **keys)


tried = [(label, form, damping) for label in problems for form in forms for damping in sorted(chosen.dampings)]
for label, form, damping in tqdm(tried, desc="steps", unit="step"):
    run.point(f"{form}, λ = {damping}{label}", partial(step, label, form, damping))

# %%
chapters.show("11_bound", run.frame())

# %% [markdown]
# ## Solvers side by side
#
# The system of the form with ∇L(w\*, D_r) at the default λ, H over all of D_r: by LiSSA over its mini-batches, with
# BatchNorm in evaluation mode, and by conjugate gradient to LiSSA's residual and to the usual one. A batch times them
# beside whatever else the machine does, once.

# %%
whole = Hessian(problem.objective, problem.w_star, problem.retain) + default.value
SAME, USUAL, SAMPLED = "conjugate gradient, same residual", "conjugate gradient", "conjugate gradient, H over S"


def timed(name, compute):
    """Solve the system at the default λ, and say what came of it."""
    solution = run.outcome(name, compute, "claim_seconds")
    if solution is None:
        return
    run.log("claim_seconds", solution.seconds, method=name)
    run.log("claim_residual", solution.residual, method=name)
    run.log("hvp_samples", solution.hvp_samples, method=name)
    run.log("distance_to_retrained", error_of(solution.x), method=name)
    run.log("timed_alone", False, method=name)
    print(f"{name}: {solution.seconds:.3f} s to a relative residual of {solution.residual:.2e}")


def stepped(name, update):
    """What came of a whole step, whose time includes that of the gradient over D_r."""
    if update is None:
        return
    run.log("seconds", update.seconds, method=name)
    run.log("residual", update.residual, method=name)
    run.log("hvp_samples", update.hvp_samples, method=name)
    run.log("distance_to_retrained", error_of(original.w - update.w), method=name)
    run.log("timed_alone", False, method=name)


def references():
    """What the times and errors are compared with."""
    run.log("distance_to_retrained", known("distance_original", ""), method="original")
    for method, split in (("retrain", ""), ("retraining in full", "unlearning")):
        run.log("seconds", retrained.seconds, method=method, split=split)


def by_lissa():
    constants = default.lissa.model_dump()
    timed("lissa", lambda: lissa(whole, right("", "retain"), **constants, generator=generator(seed, "lissa")))


def to_the_same():
    reached = select(run.frame(), metric="claim_residual", method="lissa")["value"]
    if reached.empty:
        run.log("claim_seconds", None, method=SAME, note="LiSSA has no solution whose residual could be reached")
    else:
        timed(SAME, lambda: conjugate_gradient(whole, right("", "retain"), reached.iloc[0], chosen.lanczos_steps))


def to_the_usual():
    timed(USUAL, lambda: conjugate_gradient(whole, right("", "retain"), max_steps=chosen.lanczos_steps))


def sampled():
    """The same step with H over S alone."""
    method = SubsampledNewton(default.value, chosen.hessian_samples, gradient="retain")
    stepped(SAMPLED, run.outcome(SAMPLED, lambda: method(problem, generator(seed, "hessian")), "seconds"))


def by_the_authors():
    """LiSSA at the λ and with the constants of the authors' code."""
    method = NewtonStep(authors.value, "lissa", lissa_settings=authors.lissa)
    stepped(AUTHORS, run.attempt(AUTHORS, method, problem, "seconds"))


run.point("references", references)
run.point("lissa", by_lissa)
run.point(SAME, to_the_same)
run.point(USUAL, to_the_usual)
if len(part) < len(setup.retain):
    run.point(SAMPLED, sampled)
run.point(AUTHORS, by_the_authors)

# %%
run.finish()
