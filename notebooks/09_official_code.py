# %% [markdown]
# # Paper and code
#
# For readers who have run the authors' published code, or want to compare with its numbers. It departs from the paper
# in fourteen places. Each departure that changes a number is turned on by itself here, then all together. Numbers 12
# and 14 are broken paths and change none. Readers need to know the paper's damped Newton step, and LiSSA, by which the
# code solves for it.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"
official = ""  # the path of a clone of the authors' repository; empty: the check against it is not run

# %%
from cdu.evaluation.official_code import batchnorm, clone, draws, solvers
from cdu.evaluation.official_code.judge import Judge
from cdu.evaluation.official_code.steps import Steps
from cdu.experiments.official_models import batchnorm_problem, official_models
from cdu.experiments.run import begin
from cdu.report import chapters

run = begin("09_official_code", globals(), extra=("official",))

# %%
setup, settings, problem = run.setup, run.setup.settings, run.setup.problem()
code, sigma, delta = settings.official, settings.unlearning.sigma, settings.unlearning.delta
default, folds = settings.unlearning.dampings[settings.unlearning.default], settings.attack.folds
for metric, of_paper, of_code in (("sigma", sigma, code.sigma), ("damping", default.value, code.damping)):
    run.log_values({metric: of_paper}, method="paper", told=True)
    run.log_values({metric: of_code}, method="code", told=True)
run.log_values({"delta": delta}, told=True)

# %% [markdown]
# ## What is measured of every variant
#
# Its step x against the paper's; how well x solves the paper's system (H + λI)x = ∇L(w\*, D_r) at the variant's own λ;
# the gradient of its objective over D at w\*; then its release with noise: accuracy on three sets, the attack by the
# paper's features on held-out rows, and the published attack, fitted and scored on the same rows (departure 11). ε
# follows from σ and Δ = 2C, if the step is projected; without projection 2C + ‖x‖ is an indication only.

# %%
steps = Steps(problem, default.value, sigma, code, seed)
judge = Judge(problem, steps.solution.x, setup.test, folds, delta, seed)

# %% [markdown]
# ## The step: departures 1 to 6
#
# The paper's step solves (H + λI)x = ∇L(w\*, D_r) by conjugate gradient. The systems of the code can be indefinite;
# the least residual over a Krylov space stands in for LiSSA there, so that the system is looked at and not the solver.

# %%
run.log_each(judge.measured(steps.paper, steps.solution.x), method="paper")
run.log_values({"never_trained": 0.0}, method="paper", told=True)

# %% [markdown]
# 1: the regulariser Σ‖W_l‖ in place of (λ/2)‖w‖² in the Hessian, where it should add λI. 2: the same in the gradient,
# with the weight decay that training used. 3: the form that needs D_u alone, on which the cost claim rests and which
# the code has commented out; both forms agree where ∇L(w\*, D) = 0.

# %%
run.log_each(judge.solved(steps.norms_in_hessian), method="1: norms in the Hessian")
run.log_each(judge.solved(steps.norms_in_gradient), method="2: norms in the gradient")
run.log_each(judge.solved(steps.gradient_over_forget), method="3: gradient over D_u")

# %% [markdown]
# 4: λ = 0.01 with LiSSA's h = 1000 and s₂ = 1000; the system itself first. 5: the noise is an argument of its own, and
# nothing is projected. 6, which is commented out: the exact path adds up the mean losses of all batches, so that H is
# as many times too large as there are batches.

# %%
run.log_each(judge.solved(steps.small_damping), method=f"4: λ = {code.damping:g}, system")
run.log_each(judge.solved(steps.small_damping_by_lissa), method=f"4: λ = {code.damping:g}, LiSSA")
run.log_each(judge.measured(steps.free_noise, steps.solution.x), method="5: free noise, no projection")
run.log_values({"batches": steps.batches}, told=True)
run.log_each(judge.solved(steps.summed_losses), method="6: batch losses summed")

# %% [markdown]
# The whole of unlearning as published, on the same model: LiSSA on the norms' Hessian, with the norms' gradient.

# %%
run.log_each(judge.solved(steps.as_published), method="1-5 together")

# %% [markdown]
# ## LiSSA's constants
#
# A direction of curvature a is to be multiplied by 1/a. LiSSA multiplies it by (1 − (1 − a/h)^{s+1})/a. Its theorem
# asks for a depth of 2κ ln 4κ, κ = h/(λ + λ_min), here with λ_min = 0.

# %%
run.log_each(solvers.lissa_gains(code.lissa, code.damping, (code.damping, 0.1, 1.0, 10.0, 100.0)))

# %% [markdown]
# What LiSSA leaves of the system is its residual. It is taken at several depths, with the code's constants and with the
# paper's; the last depth is the code's own.

# %%
run.log_each(steps.depth_residuals("code", code.damping, code.lissa, code.depths))
run.log_each(steps.depth_residuals("paper", default.value, default.lissa, code.depths))
run.log_each(steps.full_depth_residual())

# %% [markdown]
# ## The model: departures 7 and 9
#
# 7: a fifth of the training set is held out and never trained on, while D_u is drawn from all of it. 9: another
# learning rate, fewer epochs, a wider ball; and the checkpoint of lowest validation loss. From each of these models
# the paper's step is taken; from the last one also the published step.

# %%
models = official_models(setup, code, run.revision)
run.log_values({"chosen_epoch": models.chosen_epoch}, told=True)
for name, start in models.problems.items():
    run.log_values({"never_trained": models.share_never_trained(name)}, method=name, told=True)
    run.log_each(judge.solved(Steps(start, default.value, sigma, code, seed).paper), method=name)
run.log_values({"never_trained": models.never_trained}, method="1-5, 7, 9 together", told=True)
published = Steps(models.chosen, default.value, sigma, code, seed).as_published
run.log_each(judge.solved(published), method="1-5, 7, 9 together")

# %% [markdown]
# ## The seed: departure 8
#
# `--seed` does nothing in unlearning: D_u, LiSSA's batches and the noise are those of seed 0, whatever it is. How much
# would they matter? Releases of one model with everything in unlearning drawn anew are compared with the code's way.

# %%
for name, seeds in {"paper": range(code.draws), "8: seed without effect": [0] * code.draws}.items():
    run.log_each(draws.spread(problem, setup.train, default.value, sigma, seeds), method=name)

# %% [markdown]
# ## Sequential requests: departure 13
#
# The tensors of a `state_dict` never require a gradient, and noise is added to those that do: to none. The same
# requests, the last release with noise and without.

# %%
run.log_each(
    draws.requests_without_noise(
        problem, setup.test, damping=default.value, sigma=code.sigma, delta=delta, count=code.requests, seed=seed
    )
)

# %% [markdown]
# ## No `eval()`: departure 10
#
# A narrow network with BatchNorm. Evaluation and attack of the code leave it in training mode: what it says of a sample
# then depends on the batch that the sample is in, and looking at it changes the running statistics.

# %%
narrow = batchnorm_problem(setup, code)
run.log_values({"network_samples": len(narrow.everything)}, told=True)
size = settings.training.batch_size
run.log_each(
    batchnorm.training_mode_readings(
        narrow, setup.test, damping=default.value, sigma=code.sigma, folds=folds, batch_size=size, seed=seed
    )
)

# %% [markdown]
# ## Does this reproduce the authors' code?
#
# Their own functions on the same model and data, and the variant with all departures of the step on the mini-batches
# that they drew.

# %%
constants = code.lissa.model_copy(update={"repeats": code.check_repeats})
run.log_each(clone.comparison(official, problem, code.damping, constants, seed))
chapters.show("09_official_code", run.frame())

# %%
run.finish()
