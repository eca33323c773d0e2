# %% [markdown]
# # Theory sanity checks
#
# For readers of the paper's section 3 who want to know how far its statements carry: each of them is checked, or
# bounded, by a number. Readers need to know the Gaussian mechanism of differential privacy, and what a Hessian is.
# Constants measured on the data are *indications*: a certificate may only rest on constants that were fixed before.
#
# Notation: w\* is trained on D, w̃\* on the retained set D_r, w̃ is the result of unlearning the forget set D_u of n_u
# samples. C is the radius of the ball that weights are projected onto, λ the damping, Δ a bound on ‖w̃ − w̃\*‖.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from dataclasses import asdict
from functools import partial

from cdu import certification
from cdu.data import features
from cdu.evaluation.accuracy import accuracy
from cdu.evaluation.sweeps import log_spaced
from cdu.evaluation.theory_checks import bound, control, early_stopping, newton, noise, requests
from cdu.evaluation.theory_checks.linear_problem import linear_problem
from cdu.evaluation.theory_checks.lissa import LissaCheck
from cdu.experiments.run import begin
from cdu.report import chapters
from cdu.seeding import generator

run = begin("01_theory", globals())

# %%
setup, settings, checks = run.setup, run.setup.settings, run.setup.settings.theory
radius, delta, sigma = settings.training.radius, settings.unlearning.delta, settings.unlearning.sigma
default = settings.unlearning.dampings[settings.unlearning.default]
run.log_values({"default_damping": default.value, "delta": delta}, told=True)

# %% [markdown]
# ## 1. Noise
#
# The paper's Theorem 2.3 uses σ = (Δ/ε)·√(2 ln(1.25/δ)), which is proved for ε ≤ 1. The exact condition (Balle & Wang
# 2018) is δ = Φ(Δ/2σ − εσ/Δ) − e^ε Φ(−Δ/2σ − εσ/Δ). Where the ratio of the two σ is below one, the classical formula
# adds too little noise. The ε at which that begins is the crossover.

# %%
run.log_each(noise.classical_and_exact(checks.deltas, (0.001, 0.01), sensitivity=2 * radius), quiet=True)

# %% [markdown]
# Releases simulated at distance Δ check the exact condition: δ is the mean of max(0, 1 − e^ε q(x)/p(x)) over releases
# x, where p and q are the densities of the two models' releases. The number says by how many standard errors the
# simulation lies above the formula.

# %%
run.log_each(noise.simulated_and_exact((0.1, 0.5, 1.0, 2.0, 4.0), 1e-2, checks.draws, seed))
chapters.show("01_theory-noise", run.frame())

# %% [markdown]
# ## 2. The Newton step
#
# ### Exact on a quadratic
#
# Ridge regression on the pixels, in float64 and without damping: the step must land on the retrained weights, which are
# computed independently from the normal equations. Inputs are clipped to ‖x‖ ≤ 1, so that the constants of the theory
# are known in advance.

# %%
small = linear_problem(setup.train, checks.rows, setup.data.classes, checks.l2[0], seed)
run.log_values(newton.ridge_check(small), told=True)

# %% [markdown]
# ### Second order in what is forgotten
#
# Softmax regression. One fixed forget set, down-weighted by t ∈ (0, 1]: everything is smooth in t, the step matches the
# first order, and its error falls as t². Against n_u the error follows the square of ‖Σ∇ℓ‖ over the forget set, which
# grows as √n_u where gradients point in random directions, and as n_u where they point the same way, as in one class.

# %%
shares, label = (1.0, 0.5, 0.25, 0.125), seed % setup.data.classes
orders = newton.forget_orders(small, checks.forget_sets, label, seed)
run.log_each(newton.second_order(small, shares, orders, checks.forget_sizes))

# %% [markdown]
# ### Two forms
#
# (H + λI)⁻¹∇L(w\*, D_r) and −n_u/n_r·(H + λI)⁻¹∇L(w\*, D_u) differ by exactly n/n_r·(H + λI)⁻¹∇L(w\*, D): nothing at an
# optimum, and in proportion to ‖∇L(w\*, D)‖ where training stopped early, here by gradient descent.

# %%
run.log_each(newton.stopped_early(small, (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)))
chapters.show("01_theory-newton", run.frame())

# %% [markdown]
# ## 3. Theorem 3.4
#
# ‖w̃ − w̃\*‖ ≤ [2C(MC + λ) + G] / (λ + λ_min), where M is the Lipschitz constant of the Hessian, λ_min its smallest
# eigenvalue at w\*, and G = ‖∇L(w̃\*, D_r)‖. Where true constants are known (ridge and softmax on clipped inputs) the
# bound must hold.

# %%
run.log_each(bound.known_readings(small, log_spaced(1e-3, 1e3, 7), checks.batches, seed))

# %% [markdown]
# For networks the constants are measured: λ_min and λ_max on the retained set by Lanczos, L and M from below along the
# segment w\*–w̃\*, and G at the *retrained* model. Once for the network as the paper has it, and once with a smooth
# activation. A ReLU network has no finite L and M: its row is a number put into the formula, no more.

# %%
networks = {"network": setup}
if settings.model.name == "mlp" and settings.model.activation == "relu":
    networks["smooth network"] = setup.with_model(settings.model.model_copy(update={"activation": "tanh"}))
else:
    run.log("bound", None, method="smooth network", note=f"no smooth twin is defined for {settings.model.name}")

# %% [markdown]
# Beside the constants stand the distance from w\* to w̃\*, the share of training steps in which the projection was
# active, and the trivial bound 2C. Then come, for every λ, the bound and the distance that the step really leaves; and
# the bound that is left of 2C where the step is not projected.

# %%
constants = {}
for name, twin in networks.items():
    problem, original, retrained = twin.problem(), twin.original, twin.retrained
    constants[name] = bound.network_constants(problem, retrained, twin.train, seed)
    others = {
        "projected": original.history[-1]["projected"],
        "trivial_bound": 2 * radius,
        "accuracy": accuracy(problem.objective, original.w, twin.test),
        "default_exceeds_norm": float(default.value > constants[name].spectral_norm),
    }
    run.log_values({**asdict(constants[name]), **others}, method=name, told=True)
    run.log_each(bound.network_readings(problem, retrained.w, constants[name], checks.dampings), method=name)
    run.log_each([bound.unprojected_reading(problem, default.value)], method=name)
chapters.show("01_theory-bound", run.frame())

# %% [markdown]
# ## 4. LiSSA
#
# At every depth s the estimator's mean is the *truncated* Neumann series of the mean matrix, exactly. That series
# approaches the inverse only as s grows.

# %%
check = LissaCheck(setup.problem(), default.value, default.lissa, seed)
run.log_each(check.biases((2, 5, 20), checks.lissa_draws))

# %% [markdown]
# One constant of LiSSA at a time takes other values. Where the scale h is too small for a mini-batch's Hessian the
# iteration diverges, and the reason stands in place of the error.

# %%
depths, repeats, scales = (5, 10, 20, 40, default.lissa.depth), (1, 3, 10, 30), (0.25, 0.5, 1, 2)
run.log_each(check.errors(depths, repeats, scales))

# %% [markdown]
# The concentration bound needs 0 ≺ H_t + λI ≼ hI for every mini-batch, not for the mean alone. How many mini-batches
# meet that is the condition's share.

# %%
for name, twin in networks.items():
    for size in (10, default.lissa.batch_size):
        numbers = check.batches(twin.problem(), size, checks.batches, generator(seed, "spectra", size))
        run.log_values(numbers, method=name, split=f"batch {size}", told=True)

# %% [markdown]
# The bound with LiSSA in its three forms, with measured constants, at its probability 1 − ρ, so that it would certify
# (ε, δ + ρ), beside the error that LiSSA really adds.

# %%
run.log_each(check.bounds(constants["network"], checks.failure))
chapters.show("01_theory-lissa", run.frame())

# %% [markdown]
# ## 5. Training that has not converged, and a sequence of requests
#
# Stopped after a few epochs, the retrained model has a larger G. The forms of the step part as ‖∇L(w\*, D)‖ grows.

# %%
for name, twin in networks.items():
    for epochs in (*checks.epochs, settings.training.epochs):
        recipe = settings.training.model_copy(update={"epochs": epochs})
        original, retrained = (twin.trained(part, seed, settings=recipe) for part in (twin.train, twin.retain))
        stopped = early_stopping.Stopped(twin.problem(original, recipe), retrained, twin.train)
        known = constants[name] if epochs == settings.training.epochs else None
        readings = early_stopping.early_readings(stopped, default.value, generator(seed, "epochs", epochs), known)
        run.log_each(readings, method=name, axis="epochs", point=epochs)

# %% [markdown]
# The forget set in k requests, one after another: each step starts from the last iterate, projected onto the ball. The
# bound at any request is the largest of the steps' bounds. First on softmax regression, where the constants are known,
# then on the networks, with measured ones.

# %%
run.log_each(requests.softmax_requests(small, 10))
for name, twin in networks.items():
    rows = requests.rows_left(twin.split.train, twin.split.forget, checks.requests)
    remaining = [twin.data.train.subset(left) for left in rows]
    lipschitz = constants[name].hessian_lipschitz
    run.log_each(requests.network_requests(twin.problem(), remaining, default.value, lipschitz), method=name)

# %% [markdown]
# What k releases with the trivial bound 2C cost together: composed, as one Gaussian mechanism of √k times the
# sensitivity, and with the ε of the single releases added up.

# %%
run.log_each(requests.composed(radius, sigma, delta, (1, checks.requests, 10, 100)))
chapters.show("01_theory-requests", run.frame())

# %% [markdown]
# ## 6. The control experiment
#
# L2-regularised softmax regression in float64, on pixels and on random convolutional features that do not depend on D.
# For an l2-strongly convex loss ‖w̃ − w̃\*‖ ≤ ‖∇L(w̃, D_r)‖/l2. The budget Δ and ε are fixed before the data are looked
# at; where the residual exceeds the budget the request falls back to retraining, with the same noise.

# %%
budget = certification.budget_bound(checks.budget)
sigmas = {epsilon: certification.required_sigma(budget, epsilon, delta) for epsilon in checks.epsilons}
for epsilon, needed in sigmas.items():
    run.log_values({"control_sigma": needed}, axis="epsilon", point=epsilon, told=True)
print(certification.certify(budget, sigmas[max(sigmas)], delta))

# %% [markdown]
# Two forget sets of one size are deleted, a random one and one of a single class, by no Newton step, by one and by two.

# %%
kinds = {"pixels": features.flat_pixels, "random features": partial(features.random_features, filters=checks.filters)}
rows, labels = setup.split.train, setup.data.train.targets.cpu().numpy()
one_class = control.rows_of_class(rows, labels, label, len(setup.split.forget), seed)
forget_sets = {"random": setup.split.forget, "one class": one_class}
for name, features_of in kinds.items():
    images, test = (features_of(samples.to("cpu")) for samples in (setup.data.train, setup.test))
    trial = control.Control(images, test, rows, setup.data.classes, checks.budget, sigmas, seed)
    run.log_each(control.control_readings(trial, name, checks.l2, forget_sets))
chapters.show("01_theory-control", run.frame())

# %%
run.finish()
