# %% [markdown]
# # A certificate worth having
#
# For a reader who has to delete data and asks what to train instead of a network. Features that never saw the data, and
# a linear model on them, trained to the minimiser of a strongly convex loss. A gradient then bounds the distance to the
# model trained without the deleted samples, and a budget for that distance is fixed before the data are seen.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from functools import partial

from cdu.experiments.certified_linear import LinearCertificates
from cdu.experiments.run import begin
from cdu.report import chapters

run = begin("12_certified_linear", globals())

# %% [markdown]
# ## Features and models
#
# A scattering transform or random convolutions, normalised image by image: the features of one image depend on that
# image alone. L(w) = mean cross-entropy + (l2/2)‖w‖² is minimised in float64 until ‖∇L(w)‖ ≤ l2·Δ/10. Seeds differ in
# what is deleted; the model on all samples is the same.

# %%
linear = LinearCertificates(run)
settings = linear.settings
run.point("sizes", linear.log_sizes)
for l2 in settings.l2:
    run.point(f"training, l2 = {l2:g}", partial(linear.log_model, l2))

# %% [markdown]
# ## Deletions within the budget
#
# Newton steps on the rows left end as soon as ‖∇L(w̃, D_r)‖/l2 ≤ Δ. Where they do not get there the model is trained
# anew. Beside every release stands the true minimiser on the rows left. Noise is scaled to Δ, which was fixed in
# advance.

# %%
for kind in linear.forget_sets:
    run.point(kind, partial(linear.log_deletion, kind, settings.l2[0], settings.budgets[0]))

# %% [markdown]
# ## What l2 and the budget cost

# %%
for l2 in settings.l2[1:]:
    run.point(f"l2 = {l2:g}", partial(linear.log_deletion, linear.usual, l2, settings.budgets[0]))
for budget in settings.budgets[1:]:
    run.point(f"Δ = {budget:g}", partial(linear.log_deletion, linear.usual, settings.l2[0], budget))

# %% [markdown]
# ## Many requests under one ε
#
# k releases, each within Δ of its reference and with noise of its own, certify together what one release at a distance
# of √k·Δ does. The noiseless iterate is carried on, and every release has fresh noise. Where the release itself is
# carried on, so that nothing noiseless is kept, a request takes longer.

# %%
run.point("chain", partial(linear.log_chain, settings.chain, settings.chain_size))
if seed in settings.long_chains:
    run.point("from releases", partial(linear.log_chain_from_releases, settings.chain, settings.chain_size, 3))
    run.point("long chain", partial(linear.log_chain, 10 * settings.chain, settings.chain_size // 10))

# %% [markdown]
# ## Training anew
#
# From zero on the rows left, which is what a deletion is compared with, in time and in weights.

# %%
if seed in settings.retrained:
    run.point("training anew", partial(linear.log_retraining, settings.l2[0], settings.budgets[0]))

# %% [markdown]
# ## Audits
#
# The release and its reference are two Gaussians; an adversary who knows both models looks along the line between them.
# Then the same with an error planted: the budget is ignored, the fallback is left out, or the noise is scaled to the
# residual that was measured instead of the budget, so that its length tells what was deleted.

# %%
run.point("audits", linear.log_audits)

# %%
chapters.show("12_certified_linear", run.frame())

# %%
run.finish()
