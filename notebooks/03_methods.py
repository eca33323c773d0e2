# %% [markdown]
# # All methods
#
# The paper's baselines, the certified methods that came after and the heuristics in use, under one protocol: the same
# number of trials for each on a deletion that none is judged by, then one run each, with utility, forgetting, cost and
# certificate. For readers who know the paper's step and its yardsticks, and ask what else there is for the same ε.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from functools import partial

import torch
from tqdm import tqdm

from cdu.experiments.method_results import MethodResults
from cdu.experiments.run import begin
from cdu.experiments.tuning import best, last_of_grid
from cdu.report import chapters
from cdu.seeding import generator
from cdu.unlearning.problem import UnlearningResult
from cdu.unlearning.references import distance, reference
from cdu.unlearning.registry import build, certified_among, traits
from cdu.unlearning.release import post_process, publish, publish_at

run = begin("03_methods", globals())

# %%
setup, settings = run.setup, run.setup.settings
epsilon, delta = settings.unlearning.epsilon, settings.unlearning.delta
unlearned = MethodResults(setup)
problem, retrained = unlearned.problem, setup.retrained.w

# %% [markdown]
# ## Hyper-parameters
#
# Chosen on D_r alone: some of its samples judge, some others are to be forgotten, and a model is trained with and
# without these. What a method is judged by later has no part in the choice. A trial's gap is its distance to
# retraining, in accuracy.


# %%
def choose(name, wanted, split=""):
    """Log what was tried, judged at ε, and what came nearest to retraining."""
    trials = unlearned.trials(name, wanted)
    for number, trial in enumerate(trials):
        note = f"{trial.words}: {trial.note}" if trial.note else trial.words
        run.log("trial_gap", trial.gap, method=name, split=split, axis="trial", point=number, note=note)
    winner = best(trials)
    if winner is not None:
        run.log("chosen_gap", winner.gap, method=name, split=split, note=winner.words)
        print(f"{name}: {winner.words} (gap {winner.gap:.4f}, {len(trials)} trials)")


for name in tqdm(settings.methods.spaces, desc="choosing hyper-parameters", unit="method"):
    choose(name, epsilon)

# %% [markdown]
# ## One run of each
#
# A method that cannot run says why, and its row stays. Rows that end in ε carry the noise that certifies it. What
# another row shows already, such as output perturbation without noise, needs no second.


# %%
def evaluate(name, released):
    """Log utility, forgetting, certificate and cost of a release."""
    run.log_release(name, released, setup.sets, {"distance_to_retrained": retrained})
    run.log("certified", released.certificate is not None, method=name, note=released.promise)
    if released.certificate is not None:
        run.log_values({"epsilon": released.certificate.epsilon, "sigma": released.certificate.sigma}, method=name)
    costs = ("seconds", "training_seconds", "hvp_samples", "gradient_samples")
    run.log_costs(name, released.update, *costs, note=released.update.note)


updates = {}
for name in tqdm(unlearned.names, desc="unlearning", unit="method"):
    update = run.outcome(name, partial(unlearned.update, name), "accuracy")
    if update is None:
        continue
    updates[name] = update
    if update.certificate is None and not traits(name).without_noise:
        evaluate(name, publish(problem, update, generator(seed, "noise")))
    if traits(name).certified:
        evaluate(f"{name}, ε = {epsilon:g}", publish_at(problem, update, generator(seed, "noise"), epsilon, delta))
certified = certified_among(updates)
runs = {name: (build(name, unlearned.chosen(name), epsilon, delta), updates[name]) for name in certified}

# %% [markdown]
# ## Constants chosen in advance
#
# The linear methods' l2 above was searched with this request's size in view. Here it is the same for every request and
# every dataset; of the other constants the last of every grid is taken.


# %%
def in_advance(name):
    """The method with constants that were fixed before the request, and what it returns."""
    constants = {**last_of_grid(settings.methods.spaces[name]), "l2": traits(name).l2_in_advance}
    method = build(name, constants, epsilon, delta)
    return method, method(problem, generator(seed, name))


for name in [name for name in settings.methods.spaces if traits(name).l2_in_advance is not None]:
    label = f"{name}, l2 in advance"
    found = run.outcome(f"{label}, ε = {epsilon:g}", partial(in_advance, name), "accuracy")
    if found is not None:
        runs[label] = found
        evaluate(f"{label}, ε = {epsilon:g}", publish_at(problem, found[1], generator(seed, "noise"), epsilon, delta))

# %% [markdown]
# ## Measured against certified
#
# A certificate rests on Δ: the release w̃ without its noise and the reference w̃′ that it is compared with have
# ‖w̃ − w̃′‖₂ ≤ Δ. Both sides are computed here. A method that adds noise on the way is run twice with the same noise,
# as a release and as its reference: for that distance a bound of the same proof holds.


# %%
def measure(name, method, update):
    """Log the measured distance beside the certified one, rounding included."""
    own = reference(method, problem, update, generator(seed, name.removesuffix(", l2 in advance")))
    found = distance(problem, update, own)
    run.log("measured_distance", found.measured, method=name)
    run.log("certified_distance", found.certified, method=name, note=found.bound.arithmetic)
    ratio = found.measured / found.certified
    run.log_values({"rounding": found.bound.rounding, "distance_ratio": ratio}, method=name)
    print(f"{name}: {found.measured:.3g} measured, {found.certified:.3g} certified ({found.bound.arithmetic})")


for name, (method, update) in tqdm(runs.items(), desc="references", unit="method"):
    run.outcome(name, partial(measure, name, method, update), "distance_ratio")

# %% [markdown]
# ## The compute axis
#
# After the noise the certificate stands, whatever is done to the release with the retained set alone: post-processing
# is free. So a release goes on with k epochs on D_r. Linear models need no mending, and their features would be
# computed anew for every batch.


# %%
def follow(name, released, label):
    """Log accuracy after every number of epochs."""
    epochs = settings.methods.epochs if released.w.shape == retrained.shape else (0,)
    judged = {f"{split}, {label}": setup.sets[split] for split in ("forget", "test")}
    for done, later in post_process(problem, released, generator(seed, "post-processing"), epochs):
        run.log_accuracy(name, [later], judged, "later_accuracy", axis="epochs", point=done)


# %% [markdown]
# The same epochs from untrained weights, from the noise alone and from the original show what the epochs do by
# themselves.

# %%
fresh = setup.initial
noise = torch.randn(fresh.w.shape, generator=generator(seed, "noise")).to(fresh.w)
starts = {"from scratch": fresh.w, "from noise": noise * problem.radius / noise.norm()}
starts_of = {name: UnlearningResult(w, 0.0, model=fresh.model) for name, w in starts.items()}
starts_of["original"] = UnlearningResult(problem.w_star, 0.0)
for name, update in starts_of.items():
    follow(name, publish(problem, update, generator(seed, "noise")), "no noise")

# %% [markdown]
# Every certified method at every ε. Noise is part of some methods, whose constants belong to one ε: they are chosen and
# run again.

# %%
for name in tqdm(certified, desc="epochs after the noise", unit="method"):
    for wanted in settings.methods.epsilons:
        update = updates[name]
        if update.certificate is not None and wanted != epsilon:
            choose(name, wanted, f"ε = {wanted:g}")
            update = run.outcome(name, partial(unlearned.update, name, wanted), "later_accuracy")
        if update is not None:
            follow(name, publish_at(problem, update, generator(seed, "noise"), wanted, delta), f"ε = {wanted:g}")

# %%
for part in ("table", "compute", "tuning"):
    chapters.show(f"03_methods-{part}", run.frame())

# %%
run.finish()
