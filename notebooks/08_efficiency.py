# %% [markdown]
# # Efficiency
#
# For a reader who wants to know what unlearning costs. The Newton step w̃ = w\* − (H + λI)⁻¹ ∇L(w\*, D_r) asks for one
# inverse-Hessian-vector product, and that is the method's cost. Its solvers are timed against each other, against the
# authors' code and against curvlinops: on one machine, with the same data and the same right-hand side, in turns. Every
# time is a median over repetitions, and beside every time stands the error.
#
# `make bench` runs this, a batch never does: timings want the machine to themselves.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"
official = ""  # the path of a clone of the authors' repository; empty: their rows are left out

# %%
from cdu.experiments.efficiency import Benchmark
from cdu.experiments.run import begin
from cdu.report import chapters

run = begin("08_efficiency", globals(), extra=("official",))

# %% [markdown]
# ## The system
#
# H = ∇²L(w\*, D_r) is the Hessian at the original model over the retained samples, and ∇L(w\*, D_r) is the right-hand
# side. The rate of a product of two large matrices says how fast this machine can be at best.

# %%
benchmark = Benchmark(run, official)
benchmark.log_sizes()

# %% [markdown]
# ## Gradient and Hessian-vector product
#
# Every solver is made of products Hv over all retained samples. The first product at a point computes the gradient's
# graph, the next ones find it kept. The package differentiates the gradient in reverse mode (reverse over reverse); the
# alternative is forward over reverse. Operations are counted, not estimated, and set against the machine's own rate.

# %%
benchmark.products()

# %% [markdown]
# ## LiSSA's steps against the authors' code
#
# A step of LiSSA is X_t v = v + (I − (H_t + λI)/h) X_{t−1} v with the Hessian H_t of a mini-batch. Ours advances all
# repeats together, the authors' `newton_update` one after another. Theirs draws its batches through a data loader that
# decodes image by image; with ready tensors in memory less of that is left.

# %%
benchmark.lissa_steps()

# %% [markdown]
# ## An epoch of training against the authors' code
#
# The same network on the same samples: batches of the same size, Adam, projection after every step.

# %%
benchmark.epoch()

# %% [markdown]
# ## Where the spectrum ends
#
# The system is solvable by these methods where H + λI is positive definite, thus for λ > −λ_min. The condition number
# (λ + λ_max)/(λ + λ_min) says how hard it is. Both ends come from Lanczos, with the norms of their residuals.

# %%
ends = benchmark.spectrum_ends()

# %% [markdown]
# ## Time to an error
#
# (H + λI)x = ∇L(w\*, D_r) by every solver. The error is the true relative residual ‖(H + λI)x − v‖/‖v‖ on all retained
# samples, computed afterwards and outside the clock. Each run starts cold: the graph of the gradient and the
# preconditioner are part of its time. LiSSA is run to several depths, the others to several tolerances.

# %%
for damping in benchmark.settings.dampings:
    benchmark.solvers(damping, ends)

# %% [markdown]
# ## The paper's claim: LiSSA against the exact inverse
#
# At the default λ and constants, on all retained samples or on as many as the experiment says: once with LiSSA, once
# with the exact inverse, whose Hessian is built row by row. Beside it stands what reaches LiSSA's residual, or a better
# one, without any inverse.

# %%
benchmark.lissa_or_without()

# %% [markdown]
# ## Scaling
#
# Time and peak memory against the number of samples, of parameters, LiSSA's depth and its repeats. The exponent a of
# time ∝ xᵃ is the slope on log-log axes.

# %%
benchmark.scaling()

# %% [markdown]
# The convolutional network at several widths, freshly initialised: one gradient and one product, once, since a product
# at full width takes minutes on a CPU.

# %%
benchmark.convolutional()

# %% [markdown]
# ## Unlearning against retraining
#
# Each method at its own cost, and beside it the accuracy that it reaches. Retraining is stopped after fewer epochs too,
# so that both can be read off at the same accuracy. Models are trained here and now, not loaded.

# %%
benchmark.unlearning()

# %% [markdown]
# ## The spectrum
#
# The density of H's eigenvalues by stochastic Lanczos quadrature: what makes the systems easy or hard.

# %%
benchmark.density()

# %%
chapters.show("08_efficiency-solvers", run.frame())

# %%
run.finish()
