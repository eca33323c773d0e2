# %% [markdown]
# # Relearn time
#
# How many epochs on the forget set alone, with a fresh Adam, until its loss is back at the original model's? A
# model that truly forgot needs as long as the retrained one; zero epochs are allowed.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu.evaluation.relearning import relearn, trainable
from cdu.experiments.method_results import MethodResults
from cdu.experiments.release_variants import every_release
from cdu.experiments.run import begin
from cdu.report import chapters

run = begin("05_relearn", globals())

# %%
import time
from functools import partial

from tqdm import tqdm

setup, settings = run.setup, run.setup.settings.relearn
unlearned = MethodResults(setup)
problem = unlearned.problem
target = problem.objective.mean_loss(problem.w_star, problem.forget)
run.log("target_loss", target)

# %% [markdown]
# Every model gets the same optimiser and the same batches. A linear model's features are computed once: they have
# nothing to learn.

# %%
releases = every_release(unlearned, partial(run.outcome, metric="epochs"))
for label, released in tqdm(releases, desc="relearning", unit="model"):
    objective, samples = trainable(released.objective, problem.forget)
    start = time.perf_counter()
    result = relearn(objective, released.w, samples, target, settings, seed)
    run.log("seconds", time.perf_counter() - start, method=label)
    limit = settings.max_epochs
    censored = "" if result.epochs is not None else f"censored: > {limit} epochs, counted as {limit + 1}"
    run.log("epochs", limit + 1 if result.epochs is None else result.epochs, method=label, note=censored)
    for epoch, loss in enumerate(result.losses):
        run.log("relearn_loss", loss / target, method=label, axis="epoch", point=epoch)
    print(f"{label:>30s}: {result.epochs if result.epochs is not None else f'> {limit}'} epochs")

# %%
chapters.show("05_relearn", run.frame())

# %%
run.finish()
