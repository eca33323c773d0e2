# %% [markdown]
# # Membership inference
#
# The paper's attack: logistic regression on the sorted concatenation of the original and the unlearned model's
# posteriors. Members are the forget set, non-members test samples, in equal number; every row is scored by a classifier
# that was fitted on others. This adversary sees the original model, which no certificate covers.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu import notebook

run = notebook.begin("04_attacks", globals())

# %%
import time

import numpy as np
import torch

from cdu import figures
from cdu.attacks import OriginalAndRelease, membership_attack
from cdu.seeding import generator

scenario, settings = run.scenario, run.scenario.settings
problem = scenario.problem()
count = min(len(scenario.forget), len(scenario.test))
draw = generator(seed, "attack samples")
members = scenario.forget.subset(torch.randperm(len(scenario.forget), generator=draw)[:count])
others = scenario.test.subset(torch.randperm(len(scenario.test), generator=draw)[:count])
print(f"{count} members, {count} non-members")


def posteriors(objective, w):
    outputs = torch.cat([objective.outputs(w, samples) for samples in (members, others)])
    return outputs.double().softmax(dim=1).cpu().numpy()


# %%
before = posteriors(problem.objective, problem.w_star)
for label, released in run.releases(problem, "auc").items():
    view = OriginalAndRelease(before, posteriors(released.objective, released.w), np.arange(2 * count) < count)
    start = time.perf_counter()
    result = membership_attack(view, settings.attack.folds, seed)
    run.log("seconds", time.perf_counter() - start, method=label)
    run.log("auc", result.auc, method=label)
    run.log("attack_accuracy", result.accuracy, method=label)
    print(f"{label:>20s}: AUC {result.auc:.3f}, accuracy {result.accuracy:.3f}")

# %%
notebook.show(figures.attacks(run.frame()))

# %%
run.finish()
