# %% [markdown]
# # Radius, requests, early stopping and small noise
#
# For a reader of the chapters on ablations and on requests, which ask the same of small networks. Here it is cut down
# to what decides the claims and to what a network of the paper's size can afford. Every point is kept as soon as it is
# computed: an interrupted run goes on from there.

# %% tags=["parameters"]
dataset = "cifar10"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu.experiments.run import begin
from cdu.experiments.scale_sweeps import ScaleSweeps
from cdu.report import chapters

run = begin("11_sweeps", globals())

# %% [markdown]
# ## What is computed on what
#
# Accuracy is taken on parts of D_r and of the test set, the Hessian of the step on a random part of D_r. With BatchNorm
# every model is judged twice: with the statistics that training left, and with those of D_r at its own weights.

# %%
sweeps = ScaleSweeps(run)
plan = sweeps.settings
sweeps.log_sizes()

# %% [markdown]
# ## Noise σ
#
# The Newton step, the original and the retrained model get the same draws of noise, down to the σ of the authors'
# code. The original with noise has the same certificate as the step: ε of the Gaussian mechanism for the sensitivity
# 2C. So the step is worth its cost only where its model is the better one.

# %%
run.sweep("sigma", plan.sigmas, sweeps.noisy)
run.point("no noise", sweeps.without_noise)

# %% [markdown]
# ## Radius C
#
# Training ends in the ball ‖w‖ ≤ C. Since the sensitivity is 2C, a small C needs little noise for the same ε, but it
# leaves little room for the weights. The original is trained anew for every C; the experiment's own is there already.

# %%
run.sweep("radius", plan.radii, sweeps.within)

# %% [markdown]
# ## Requests one after another
#
# The forget set is deleted in k requests, each answered from where the last answer ended: from the noiseless iterate,
# and then from the release with the noise in use. Each release spends privacy, so that ε of k releases together exceeds
# that of one. Accuracy is that after the last request, when all of the forget set is gone.

# %%
sweeps.log_composition()
run.point("yardsticks", sweeps.yardsticks)
run.point("requests", sweeps.from_the_iterate)
run.point("requests, from the release", sweeps.from_the_release)

# %% [markdown]
# ## Training that has not converged
#
# Original and retrained model are stopped after a few epochs. The bound of Theorem 3.4 is then
# [2C(MC + λ) + G] / (λ + λ_min), with G = ‖∇L(w̃\*, D_r)‖, which is measured. λ_min and M are seen from inside, by Ritz
# values, so that the bound is an *indication*, and too small rather than too large. The step has the gradient over D_u,
# Theorem 3.4 is about the one over D_r: the two agree where ∇L(w\*, D) = 0.

# %%
run.sweep("epochs", plan.epochs, sweeps.stopped)

# %%
chapters.show("11_sweeps", run.frame())

# %%
run.finish()
