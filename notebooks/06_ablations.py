# %% [markdown]
# # Ablations
#
# One quantity at a time: the damping λ, the radius C, the noise σ, the forget set, the training, and LiSSA's constants.
# For readers who know the paper's step and Theorem 3.4, and ask which of its constants matter. Every point is kept as
# soon as it is computed: an interrupted run goes on from there.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from functools import partial

from cdu.certification import gaussian_epsilon, newton_bound, trivial_bound
from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.lissa import lissa
from cdu.data.settings import ForgetSettings
from cdu.evaluation.accuracy import accuracy
from cdu.evaluation.sweeps import crossing
from cdu.experiments.ablations import log_bound_constants, log_deletion, with_recipe, with_width
from cdu.experiments.forget_sets import varied, with_forget_set
from cdu.experiments.run import begin
from cdu.report import chapters
from cdu.seeding import generator
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.release import publish

run = begin("06_ablations", globals())

# %% [markdown]
# ## What is measured at a point
#
# The original model, the Newton step and the retrained model: accuracy, distance to the retrained model, and the
# paper's attack. All that is not varied is the experiment's.

# %%
setup, grid = run.setup, run.setup.settings.ablations
problem, unlearning = setup.problem(), setup.settings.unlearning
default, delta = unlearning.dampings[unlearning.default], unlearning.delta
run.log_values({"sigma": unlearning.sigma, "delta": delta, "epsilon_wanted": unlearning.epsilon})


def judge(axis, point, changed, damping=default.value):
    log_deletion(run, changed, damping, axis, point)


# %% [markdown]
# ## What the bound needs
#
# λ_min and λ_max at w\*; M measured from below along the segment from w\* to w̃\*; and G = ‖∇L(w̃\*, D_r)‖ of the
# retrained model. Measured constants make no certificate.

# %%
run.point("constants", partial(log_bound_constants, run))

# %% [markdown]
# ## Damping λ
#
# Where λ ≤ −λ_min the system is indefinite and the step undefined; the solver says so. The bound of Theorem 3.4 is
# computed beside the distance that it is about.


# %%
def damped(damping):
    """Judge the step with this λ, and log its bound."""
    judge("damping", damping, setup, damping)
    (bend,), (low,), (slope,) = map(run.values, ("hessian_lipschitz", "lambda_min", "gradient_retrained"))
    facts = (problem.radius, bend, damping, low, slope)
    run.bound("bound", newton_bound, *facts, method="newton", axis="damping", point=damping)


run.sweep("damping", grid.dampings, damped)

# %% [markdown]
# ## Radius C
#
# Original and retrained model are trained anew for every C. Where the ball is never reached, C changes the bound and
# not the model.

# %%
run.sweep("radius", grid.radii, lambda radius: judge("radius", radius, with_recipe(setup, radius=radius)))

# %% [markdown]
# ## Noise σ
#
# Accuracy is the mean over several draws of the noise; ε is what σ certifies at the sensitivity 2C.

# %%
sensitivity = trivial_bound(problem.radius).value
bases = {"newton + noise": NewtonStep(default.value), "original + noise": Original(), "retrain + noise": Retrain()}
attempts = {name: run.attempt(name, method, problem, axis="sigma") for name, method in bases.items()}
updates = {name: update for name, update in attempts.items() if update is not None}


def noisy(sigma):
    """Log accuracy with this noise, and the ε that it certifies."""
    for name, update in updates.items():
        sources = (generator(seed, "noise", draw) for draw in range(grid.noise_draws))
        draws = [publish(problem, update, source, sigma, delta) for source in sources]
        run.log_accuracy(name, draws, {"test": setup.test, "forget": setup.forget}, axis="sigma", point=sigma)
    epsilon = gaussian_epsilon(sigma, delta, sensitivity)
    run.log("epsilon", epsilon, axis="sigma", point=sigma)
    print(f"σ = {sigma:g} certifies ε = {epsilon:.4g}")


run.sweep("sigma", grid.sigmas, noisy)

# %% [markdown]
# Where has accuracy fallen by one point, and which ε does that σ certify?

# %%
for name, update in updates.items():
    without = publish(problem, update, generator(seed))
    noiseless, values = (
        accuracy(without.objective, without.w, setup.test),
        run.values("accuracy", method=name, split="test"),
    )
    found = run.outcome(name, partial(crossing, grid.sigmas, values, noiseless - 0.01), "sigma_one_point")
    run.log("accuracy", noiseless, method=name, split="test, no noise")
    if found is not None and found < grid.sigmas[-1]:
        certified = gaussian_epsilon(found, delta, sensitivity)
        run.log_values({"sigma_one_point": found, "epsilon_one_point": certified}, method=name)
        print(f"{name}: one point is lost at σ = {found:.3g}")

# %% [markdown]
# ## Which samples, and how many
#
# A share of the training set, drawn at random; then as many samples as usual, all of one class, or those on which the
# original model does worst.


# %%
def share(part):
    """Judge a random forget set that is this part of the training set."""
    forget = ForgetSettings(kind="random", size=round(part * len(setup.data.train)))
    judge("forgotten share", part, varied(setup, forget=forget))


size = len(setup.forget)
run.sweep("share", grid.shares, share)
run.point("forget, usual", partial(judge, "forget set: usual", size, setup))
run.sweep("forget", grid.forget, lambda kind: judge(f"forget set: {kind}", size, with_forget_set(setup, kind)))

# %% [markdown]
# ## Training: weight decay and width
#
# The l2 weight is that of training and of unlearning. The width is that of every hidden layer.

# %%
decays = grid.weight_decays
run.sweep("weight decay", decays, lambda l2: judge("weight decay", l2, with_recipe(setup, weight_decay=l2)))
run.sweep("width", grid.widths, lambda width: judge("width", width, with_width(setup, width)))

# %% [markdown]
# ## LiSSA
#
# Its depth s₂, repeats s₁, scale h and batch size, each from the usual values: the residual of (H + λI)x = g, and how
# far its step is from that of conjugate gradient. Where a mini-batch's Hessian exceeds h, LiSSA diverges.

# %%
gradient = problem.objective.gradient(problem.w_star, problem.retain)
operator = Hessian(problem.objective, problem.w_star, problem.retain) + default.value
target = conjugate_gradient(operator, gradient, 1e-6).x


def estimate(name, axis, point, **changes):
    """Log how good an estimate LiSSA gives with some constants changed."""
    chosen = {**default.lissa.model_dump(), **changes, "generator": generator(seed, axis, point)}
    found = run.outcome(name, partial(lissa, operator, gradient, **chosen), "residual", axis=axis, point=point)
    if found is not None:
        errors = {"residual": found.residual, "step_error": (found.x - target).norm() / target.norm()}
        run.log_values(errors, method=name, axis=axis, point=point)


for batch in (10, 128):
    deep = partial(estimate, f"batch {batch}", "depth", batch_size=batch)
    run.sweep(f"depth, batch {batch}", grid.depths, lambda depth, deep=deep: deep(depth, depth=depth))
scale = default.lissa.scale
run.sweep("repeats", grid.repeats, lambda repeats: estimate("lissa", "repeats", repeats, repeats=repeats))
run.sweep("scale", grid.scales, lambda factor: estimate("lissa", "scale", factor, scale=factor * scale))
run.sweep("batch", grid.batches, lambda batch: estimate("lissa", "batch", batch, batch_size=batch))

# %%
chapters.show("06_ablations", run.frame())

# %%
run.finish()
