# %% [markdown]
# # The bound on a large network
#
# For a reader who knows Theorem 3.4 and asks what it says of networks of the paper's size. This is the paper's Table 3:
# the bound and the real error of the Newton step against λ, where the Hessian is taken over a part S of the retained
# set. The constants are measured, L and M from below: every bound here is an *indication*. A ReLU network has no finite
# M: its bound is a number put into the formula, no more.

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
from cdu.experiments.scale_bound import ScaleBound
from cdu.report import chapters

run = begin("11_bound", globals())

# %% [markdown]
# ## What is computed on what
#
# With BatchNorm, the loss as a function of the weights depends on the running statistics. They are either those that
# training left, or those that D_r has at the original's weights. The theorem is about one function, so that H, M and G
# are all taken with the same kind of statistics.

# %%
bound = ScaleBound(run)
bound.log_sizes()

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
for label in bound.steps:
    run.point(f"constants{label}", partial(bound.log_constants, label))

# %% [markdown]
# ## Bound and error against λ
#
# ‖w̃ − w̃\*‖ ≤ [2C(MC + λ) + G] / (λ + λ_min), with G at the retrained model in the function that H is of. The theorem is
# about the form with ∇L(w\*, D_r); for the other one the difference of the right-hand sides is added to G. Conjugate
# gradient takes as many steps as Lanczos at most; where H_S + λI is indefinite its reason stands in place of the error.

# %%
for name, *point in tqdm(list(bound.tried()), desc="steps", unit="step"):
    run.point(name, partial(bound.log_step, *point))

# %%
chapters.show("11_bound", run.frame())

# %% [markdown]
# ## Solvers side by side
#
# The system of the form with ∇L(w\*, D_r) at the default λ, H over all of D_r: by LiSSA over its mini-batches, with
# BatchNorm in evaluation mode, and by conjugate gradient to LiSSA's residual and to the usual one. Beside them stand
# the whole step with H over S alone, and LiSSA with the constants of the authors' code. A batch times them beside
# whatever else the machine does, once.

# %%
for name, solve in bound.solvers().items():
    run.point(name, solve)

# %%
run.finish()
