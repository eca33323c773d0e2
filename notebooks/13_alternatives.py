# %% [markdown]
# # What else deletes, and what it costs
#
# Competitors of the certified linear model, at the same data and seed: the accuracy of what is handed out, what is
# guaranteed for deleting the whole forget set and for deleting one row, what an audit shows, and what training and
# requests cost. A certificate is for ε = 1 where the method lets one choose.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu.experiments.alternatives import Alternatives
from cdu.experiments.run import begin

run = begin("13_alternatives", globals())
alternatives = Alternatives(run)

# %% [markdown]
# ## Exact: retraining, and retraining of shards
#
# What is handed out is what training on the rows left yields. SISA trains one model a shard, slice by slice, and
# retrains the stages that a request touches.

# %%
for name, compare in alternatives.competitors("retraining", "SISA"):
    run.point(name, compare)

# %% [markdown]
# ## A linear model within a budget
#
# On features that never saw the data, and on the features of a network that public rows trained. From public rows
# nobody may delete; the forget set is drawn from the private ones.

# %%
for name, compare in alternatives.competitors("certified linear", "head on public features"):
    run.point(name, compare)

# %% [markdown]
# ## Private training: nothing is done
#
# DP-SGD promises ε = 1 for one row once and for all. For a group of rows the promise is weaker.

# %%
for name, compare in alternatives.competitors("DP-SGD, linear on fixed features", "DP-SGD, network"):
    run.point(name, compare)

# %% [markdown]
# ## Noise and steps from the trained network
#
# Noisy fine-tuning, with clipped gradients and with a clipped model; then ordinary training on the rows left, which
# keeps the certificate, beside a training from scratch of as many epochs. The paper's Newton step with the noise that
# certifies ε = 1 by the ball's diameter, and with the noise used in practice. Vectors that are added, without a
# certificate.

# %%
for name, compare in alternatives.competitors("noisy fine-tuning", "newton", "Hessian-free"):
    run.point(name, compare)

# %%
run.finish()
