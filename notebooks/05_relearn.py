# %% [markdown]
# # Relearn time
#
# How many epochs on the forget set alone, with a fresh Adam, until its loss is back at the original model's? A
# model that truly forgot needs as long as the retrained one; zero epochs are allowed. This notebook is for readers who
# know the methods of the chapter before; it asks whether a method removes what it was told to, or hides it.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
import time
from functools import partial

from tqdm import tqdm

from cdu.evaluation.relearning import relearn, trainable
from cdu.experiments.method_results import MethodResults
from cdu.experiments.release_variants import every_release
from cdu.experiments.run import begin
from cdu.report import chapters

run = begin("05_relearn", globals())

# %% [markdown]
# ## The loss to reach
#
# The target is the original model's own mean loss on D_u: L(w\*, D_u), without the l2 term.

# %%
settings, unlearned = run.setup.settings.relearn, MethodResults(run.setup)
problem = unlearned.problem
target = problem.objective.mean_loss(problem.w_star, problem.forget)
run.log("target_loss", target)

# %% [markdown]
# ## Every model learns it again
#
# All get the same optimiser and the same batches. A linear model's features are computed once: they have nothing to
# learn. Where the target is not reached within the allowed epochs, the count is censored and says so.

# %%
releases = every_release(unlearned, partial(run.outcome, metric="epochs"))
for label, released in tqdm(releases, desc="relearning", unit="model"):
    objective, samples = trainable(released.objective, problem.forget)
    start = time.perf_counter()
    result = relearn(objective, released.w, samples, target, settings, seed)
    run.log("seconds", time.perf_counter() - start, method=label)
    run.log("epochs", result.counted, method=label, note=result.note)
    for epoch, loss in enumerate(result.losses):
        run.log("relearn_loss", loss / target, method=label, axis="epoch", point=epoch)
    print(f"{label:>30s}: {result.epochs if result.epochs is not None else f'> {settings.max_epochs}'} epochs")

# %%
chapters.show("05_relearn", run.frame())

# %%
run.finish()
