# %% [markdown]
# # All methods
#
# The paper's baselines, the certified methods that came after and the heuristics in use, under one protocol: the same
# number of trials for each on a deletion that none is judged by, then one run each, with utility, forgetting, cost and
# certificate. After the noise every certified method may train on the retained set: post-processing is free.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu import notebook

run = notebook.begin("03_methods", globals())

# %%
from functools import partial

import torch
from tqdm import tqdm

from cdu import figures
from cdu.evaluation import accuracy
from cdu.seeding import generator
from cdu.tuning import best
from cdu.unlearned import Unlearned
from cdu.unlearning import CERTIFIED, Update, post_process, publish, publish_at

scenario, settings = run.scenario, run.scenario.settings
epsilon, delta = settings.unlearning.epsilon, settings.unlearning.delta
unlearned = Unlearned(scenario)
problem = unlearned.problem
retrained = scenario.retrained.w
sets = {"forget": scenario.forget, "retain": scenario.retain, "test": scenario.test}


def words(values):
    return ", ".join(f"{name} = {value}" for name, value in values.items())


# %% [markdown]
# ## Hyper-parameters
#
# Chosen on D_r alone: some of its samples judge, some others are to be forgotten, and a model is trained with and
# without these. What a method is judged by later has no part in the choice.


# %%
def choose(name, wanted, split=""):
    """Log what was tried, judged at ε, and what came nearest to retraining."""
    trials = unlearned.trials(name, wanted)
    for number, trial in enumerate(trials):
        note = f"{words(trial.values)}: {trial.note}" if trial.note else words(trial.values)
        run.log("trial_gap", trial.gap, method=name, split=split, axis="trial", point=number, note=note)
    winner = best(trials)
    if winner is not None:
        run.log("chosen_gap", winner.gap, method=name, split=split, note=words(winner.values))
        print(f"{name}: {words(winner.values)} (gap {winner.gap:.4f}, {len(trials)} trials)")


for name in tqdm(settings.methods.spaces, desc="choosing hyper-parameters", unit="method"):
    choose(name, epsilon)

# %% [markdown]
# ## One run of each
#
# A method that cannot run says why, and its row stays. Rows that end in ε carry the noise that certifies it.


# %%
def evaluate(name, released):
    for split, samples in sets.items():
        run.log("accuracy", accuracy(released.objective, released.w, samples), method=name, split=split)
    if released.w.shape == retrained.shape:
        run.log("distance_to_retrained", (released.w - retrained).norm(), method=name)
    run.log("certified", released.certificate is not None, method=name, note=released.promise)
    if released.certificate is not None:
        run.log("epsilon", released.certificate.epsilon, method=name)
        run.log("sigma", released.certificate.sigma, method=name)
    update = released.update
    run.log("seconds", update.seconds, method=name, note=update.note)
    run.log("training_seconds", update.training_seconds, method=name)
    run.log("hvp_samples", update.hvp_samples, method=name)
    run.log("gradient_samples", update.gradient_samples, method=name)


updates = {}
for name in tqdm(unlearned.names, desc="unlearning", unit="method"):
    update = run.outcome(name, partial(unlearned.update, name), "accuracy")
    if update is None:
        continue
    updates[name] = update
    # Without noise output perturbation is the original, whose row stands already.
    if update.certificate is None and name != "output perturbation":
        evaluate(name, publish(problem, update, generator(seed, "noise")))
    if name in CERTIFIED:
        evaluate(f"{name}, ε = {epsilon:g}", publish_at(problem, update, generator(seed, "noise"), epsilon, delta))

# %% [markdown]
# ## The compute axis
#
# After the noise the certificate stands, whatever is done to the release with the retained set alone. So every
# certified method goes on with k epochs on D_r, beside the same program started from untrained weights, from the noise
# alone, and from the original.


# %%
def follow(name, released, label):
    # The linear models need no mending, and their features would be computed anew for every batch.
    wanted = settings.methods.epochs if released.w.shape == retrained.shape else (0,)
    for epochs, later in post_process(problem, released, generator(seed, "post-processing"), wanted):
        for split in ("forget", "test"):
            value = accuracy(later.objective, later.w, sets[split])
            run.log("later_accuracy", value, method=name, split=f"{split}, {label}", axis="epochs", point=epochs)


fresh = scenario.initial
noise = torch.randn(fresh.w.shape, generator=generator(seed, "noise")).to(fresh.w)
starts = {"from scratch": fresh.w, "from noise": noise * problem.radius / noise.norm()}
starts_of = {name: Update(w, 0.0, model=fresh.model) for name, w in starts.items()}
starts_of["original"] = Update(problem.w_star, 0.0)
for name, update in starts_of.items():
    follow(name, publish(problem, update, generator(seed, "noise")), "no noise")
certified = [name for name in CERTIFIED if name in updates]
for name in tqdm(certified, desc="epochs after the noise", unit="method"):
    for wanted in settings.methods.epsilons:
        update = updates[name]
        if update.certificate is not None and wanted != epsilon:
            # Noise is part of such a method, and its constants belong to one ε.
            choose(name, wanted, f"ε = {wanted:g}")
            update = run.outcome(name, partial(unlearned.update, name, wanted), "later_accuracy")
        if update is not None:
            released = publish_at(problem, update, generator(seed, "noise"), wanted, delta)
            follow(name, released, f"ε = {wanted:g}")

# %%
for part in ("table", "compute", "tuning"):
    notebook.show(figures.FIGURES[f"03_methods-{part}"](run.frame()))

# %%
run.finish()
