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
from cdu import notebook

run = notebook.begin("05_relearn", globals())

# %%
import time

from cdu import figures
from cdu.evaluation import relearn

scenario, settings = run.scenario, run.scenario.settings
problem = scenario.problem()
target = problem.objective.mean_loss(problem.w_star, problem.forget)
run.log("target_loss", target)

# %%
for label, released in run.releases(problem, "epochs").items():
    start = time.perf_counter()
    result = relearn(released.objective, released.w, problem.forget, target, settings.relearn, seed)
    run.log("seconds", time.perf_counter() - start, method=label)
    limit = settings.relearn.max_epochs
    censored = "" if result.epochs is not None else f"censored: > {limit} epochs, counted as {limit + 1}"
    run.log("epochs", limit + 1 if result.epochs is None else result.epochs, method=label, note=censored)
    for epoch, loss in enumerate(result.losses):
        run.log("relearn_loss", loss / target, method=label, axis="epoch", point=epoch)
    print(f"{label:>20s}: {result.epochs if result.epochs is not None else f'> {limit}'} epochs")

# %%
notebook.show(figures.relearn(run.frame()))

# %%
run.finish()
