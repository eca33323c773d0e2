# %% [markdown]
# # BatchNorm and large networks
#
# For a reader who asks whether what holds for small networks holds for those of the paper's size. Convolutional
# networks with BatchNorm, up to full width: the original, two retrainings, the Newton step with the gradient over the
# forget set, the noise that certifies it, the paper's attack and relearn time, in one notebook. What a small machine
# has to cut (epochs, the samples of the Hessian) is a setting and stands beside every number.

# %% tags=["parameters"]
dataset = "cifar10"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from functools import partial

from tqdm import tqdm

from cdu.experiments.run import begin
from cdu.experiments.scale import Scale
from cdu.report import chapters

run = begin("11_scale", globals())

# %% [markdown]
# ## What is computed on what
#
# Accuracy is taken on D_u and on parts of D_r and of the test set. The Hessian of the step is taken over a random part
# S of D_r.

# %%
scale = Scale(run)
scale.log_sizes()

# %% [markdown]
# ## Does λ lie above the spectrum?
#
# The step needs (H + λI)⁻¹, and so λ > −λ_min. Lanczos gives Ritz values from inside the spectrum: λ_max is at least
# the larger, λ_min at most the smaller. With BatchNorm the spectrum is also taken where its statistics are those of
# D_r: the same weights, another function, another Hessian.

# %%
unlearning = run.setup.settings.unlearning
run.log("damping", unlearning.dampings[unlearning.default].value)
run.log("spectrum_samples", min(scale.settings.spectrum_samples, len(run.setup.retain)))
for label in scale.problems:
    run.point(f"spectrum{label}", partial(scale.log_spectrum, label))

# %% [markdown]
# ## Unlearning
#
# Every method runs once; those that stand with noise have the same draw of it. σ is the one used in practice, and the
# one that certifies ε for the sensitivity 2C of every projected release. The step is tried at every λ that has a name
# in the experiment, and is called *newton* at the default.

# %%
for name, method, problem in tqdm(list(scale.methods()), desc="unlearning", unit="method"):
    run.point(name, partial(scale.log_method, name, method, problem))
scale.log_noise()

# %%
chapters.show("11_scale", run.frame())

# %%
run.finish()
