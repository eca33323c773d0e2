# %% [markdown]
# # Ablations
#
# One quantity at a time: the damping λ, the radius C, the noise σ, the forget set, the training, and LiSSA's constants.
# Every point is kept as soon as it is computed: an interrupted run goes on from there.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu import certification
from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import extreme_eigenvalues
from cdu.curvature.lissa import lissa
from cdu.curvature.solution import SolverError
from cdu.data.settings import ForgetSettings
from cdu.evaluation import theory_checks
from cdu.evaluation.accuracy import accuracy
from cdu.evaluation.posterior_attacks import OriginalAndRelease, draw_candidates, membership_attack
from cdu.evaluation.sweeps import crossing
from cdu.experiments.forget_sets import hardest, one_class, varied
from cdu.experiments.run import begin
from cdu.report import chapters
from cdu.seeding import generator, seed_for
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.release import publish

run = begin("06_ablations", globals())

# %%
from functools import partial

from tqdm import tqdm

setup, settings = run.setup, run.setup.settings
unlearning, grid = settings.unlearning, settings.ablations
default = unlearning.dampings[unlearning.default]
run.log("sigma", unlearning.sigma)
run.log("delta", unlearning.delta)
run.log("epsilon_wanted", unlearning.epsilon)


# %% [markdown]
# ## What is measured at a point
#
# The original model, the Newton step and the retrained model: accuracy, distance to the retrained model, and the
# paper's attack.


# %%
def judge(task, axis, point, damping=default.value):
    """Log what a deletion comes to."""
    keys = {"axis": axis, "point": point}
    problem, retrained = task.problem(), task.retrained
    parts = {"forget": task.forget, "retain": task.retain, "test": task.test}
    candidates = draw_candidates(task.forget, task.test, seed_for(seed, "attack samples"))
    before = candidates.posteriors(problem.objective, problem.w_star)
    for name, method in {"original": Original(), "newton": NewtonStep(damping), "retrain": Retrain()}.items():
        update = run.attempt(name, method, problem, "distance_to_retrained", **keys)
        if update is None:
            continue
        one = publish(problem, update, generator(seed))
        for split, samples in parts.items():
            run.log("accuracy", accuracy(one.objective, one.w, samples), method=name, split=split, **keys)
        run.log("distance_to_retrained", (one.w - retrained.w).norm(), method=name, **keys)
        view = OriginalAndRelease(before, candidates.posteriors(one.objective, one.w), candidates.members)
        attack = membership_attack(view, settings.attack.folds, seed, strata=candidates.classes)
        run.log("auc", attack.auc, method=name, **keys)
    run.log("norm", task.original.w.norm(), **keys)
    active = sum(row["projected"] for row in task.original.history) / len(task.original.history)
    run.log("projected", active, **keys)
    run.log("trivial_bound", 2 * task.settings.training.radius, **keys)


def sweep(axis, points, compute):
    for point in tqdm(points, desc=axis, unit="point"):
        run.point(f"{axis} = {point}", partial(compute, point))


# %% [markdown]
# ## Damping λ
#
# Where λ ≤ −λ_min the system is indefinite and the step undefined; the solver says so. Theorem 3.4's bound is computed
# with M measured from below along the segment from w\* to w̃\*, and with G of the retrained model: no certificate.


# %%
def constants():
    """Log what the bound needs."""
    objective, w, retrained = setup.objective(setup.original), setup.original.w, setup.retrained
    hessian = Hessian(objective, w, setup.retain)
    smallest, largest = extreme_eigenvalues(hessian.__matmul__, w, generator(seed, "lanczos"))
    segment = theory_checks.segment_constants(objective, w, retrained.w, setup.retain, generator(seed, "segment"))
    run.log("lambda_min", smallest.value)
    run.log("lambda_max", largest.value)
    run.log("hessian_lipschitz", segment.hessian_lipschitz)
    slope = setup.objective(retrained).gradient(retrained.w, setup.retain).norm()
    run.log("gradient_retrained", slope)


def logged(metric):
    return next(one.value for one in run.metrics if one.metric == metric)


def damped(damping):
    judge(setup, "damping", damping, damping)
    facts = (logged("hessian_lipschitz"), damping, logged("lambda_min"), logged("gradient_retrained"))
    keys = {"method": "newton", "axis": "damping", "point": damping}
    run.bound("bound", certification.newton_bound, settings.training.radius, *facts, **keys)


run.point("constants", constants)
sweep("damping", grid.dampings, damped)

# %% [markdown]
# ## Radius C
#
# Original and retrained model are trained anew for every C. Where the ball is never reached, C changes the bound and
# not the model.

# %%


def trained(**changes):
    """The same set-up with another training."""
    return varied(setup, training=settings.training.model_copy(update=changes))


sweep("radius", grid.radii, lambda radius: judge(trained(radius=radius), "radius", radius))

# %% [markdown]
# ## Noise σ
#
# Accuracy is the mean over several draws of the noise; ε is what σ certifies at the sensitivity 2C. Where has accuracy
# fallen by one point, and which ε does that σ certify?

# %%
problem, delta = setup.problem(), unlearning.delta
sensitivity = certification.trivial_bound(problem.radius).value
bases = {"newton + noise": NewtonStep(default.value), "original + noise": Original(), "retrain + noise": Retrain()}
updates = {name: run.attempt(name, method, problem, axis="sigma") for name, method in bases.items()}


def noisy(sigma):
    keys = {"axis": "sigma", "point": sigma}
    for name, update in updates.items():
        if update is None:
            continue
        sources = (generator(seed, "noise", draw) for draw in range(grid.noise_draws))
        draws = [publish(problem, update, source, sigma, delta) for source in sources]
        for split, samples in {"test": setup.test, "forget": setup.forget}.items():
            mean = sum(accuracy(draw.objective, draw.w, samples) for draw in draws) / len(draws)
            run.log("accuracy", mean, method=name, split=split, **keys)
    epsilon = certification.gaussian_epsilon(sigma, delta, sensitivity)
    run.log("epsilon", epsilon, **keys)
    print(f"σ = {sigma:g} certifies ε = {epsilon:.4g}")


sweep("sigma", grid.sigmas, noisy)
for name, update in updates.items():
    if update is None:
        continue
    without = publish(problem, update, generator(seed))
    noiseless = accuracy(without.objective, without.w, setup.test)
    values = [one.value for one in run.metrics if (one.metric, one.method, one.split) == ("accuracy", name, "test")]
    lost = partial(crossing, grid.sigmas, values, noiseless - 0.01)
    found = run.outcome(name, lost, "sigma_one_point")
    run.log("accuracy", noiseless, method=name, split="test, no noise")
    if found is not None and found < grid.sigmas[-1]:
        run.log("sigma_one_point", found, method=name)
        run.log("epsilon_one_point", certification.gaussian_epsilon(found, delta, sensitivity), method=name)
        print(f"{name}: one point is lost at σ = {found:.3g}")

# %% [markdown]
# ## Which samples, and how many

# %%
samples = len(setup.data.train)


def shared(share):
    forget = ForgetSettings(kind="random", size=round(share * samples))
    judge(varied(setup, forget=forget), "forgotten share", share)


sweep("share", grid.shares, shared)
kinds = {"one class": one_class, "hardest": hardest}
size = len(setup.forget)
run.point("forget, usual", partial(judge, setup, "forget set: usual", size))


def other_kind(kind):
    judge(varied(setup, forget=kinds[kind](setup, size)), f"forget set: {kind}", size)


sweep("forget", grid.forget, other_kind)

# %% [markdown]
# ## Training: weight decay and width


# %%
def widened(width):
    model = settings.model
    changes = {"hidden": (int(width),) * len(model.hidden)} if model.name == "mlp" else {"width": width}
    return model.model_copy(update=changes)


sweep("weight decay", grid.weight_decays, lambda decay: judge(trained(weight_decay=decay), "weight decay", decay))
sweep("width", grid.widths, lambda width: judge(varied(setup, model=widened(width)), "width", width))

# %% [markdown]
# ## LiSSA
#
# Its depth s₂, repeats s₁, scale h and batch size, each from the usual values: the residual of (H + λI)x = g, and how
# far its step is from that of conjugate gradients. Where a mini-batch's Hessian exceeds h it diverges.

# %%
gradient = problem.objective.gradient(problem.w_star, problem.retain)
operator = Hessian(problem.objective, problem.w_star, problem.retain) + default.value
target = conjugate_gradient(operator, gradient, 1e-6).x


def estimate(axis, field, point, name="lissa", factor=1.0, **changes):
    keys = {"method": name, "axis": axis, "point": point}
    chosen = {**default.lissa.model_dump(), **changes, field: type(point)(point * factor)}
    try:
        solution = lissa(operator, gradient, **chosen, generator=generator(seed, axis, point))
    except SolverError as error:
        run.log("residual", None, note=str(error), **keys)
        print(error)
        return
    run.log("residual", solution.residual, **keys)
    run.log("step_error", (solution.x - target).norm() / target.norm(), **keys)


for batch_size in (10, 128):
    compute = partial(estimate, "depth", "depth", name=f"batch {batch_size}", batch_size=batch_size)
    sweep(f"depth, batch {batch_size}", grid.depths, compute)
sweep("repeats", grid.repeats, partial(estimate, "repeats", "repeats"))
sweep("scale", grid.scales, partial(estimate, "scale", "scale", factor=default.lissa.scale))
sweep("batch", grid.batches, partial(estimate, "batch", "batch_size"))

# %%
chapters.show("06_ablations", run.frame())

# %%
run.finish()
