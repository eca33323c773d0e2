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
from cdu.certification.amplification import coupled_distance
from cdu.evaluation.accuracy import accuracy
from cdu.experiments.method_results import MethodResults
from cdu.experiments.run import begin
from cdu.experiments.tuning import best
from cdu.report import chapters
from cdu.seeding import generator
from cdu.unlearning.problem import UnlearningResult
from cdu.unlearning.references import reference
from cdu.unlearning.registry import build, certified_among, traits
from cdu.unlearning.release import distance_bound, post_process, publish, publish_at

run = begin("03_methods", globals())

# %%
from functools import partial

import torch
from tqdm import tqdm

setup, settings = run.setup, run.setup.settings
epsilon, delta = settings.unlearning.epsilon, settings.unlearning.delta
unlearned = MethodResults(setup)
problem = unlearned.problem
retrained = setup.retrained.w
sets = {"forget": setup.forget, "retain": setup.retain, "test": setup.test}


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
    # What another row shows already, such as output perturbation without noise, needs no second.
    if update.certificate is None and not traits(name).without_noise:
        evaluate(name, publish(problem, update, generator(seed, "noise")))
    if traits(name).certified:
        evaluate(f"{name}, ε = {epsilon:g}", publish_at(problem, update, generator(seed, "noise"), epsilon, delta))

# %% [markdown]
# The linear methods' l2 above was searched with this request's size in view. Here it is the same for every request and
# every dataset; of the other constants the last of every grid is taken.


# %%
def in_advance(name):
    space = settings.methods.spaces[name]
    last = {axis: value if isinstance(value, int | float | str) else value[-1] for axis, value in space.items()}
    method = build(name, {**last, "l2": traits(name).l2_in_advance}, epsilon, delta)
    return method, method(problem, generator(seed, name))


advance = {}
for name in [name for name in settings.methods.spaces if traits(name).l2_in_advance is not None]:
    label = f"{name}, l2 in advance"
    found = run.outcome(f"{label}, ε = {epsilon:g}", partial(in_advance, name), "accuracy")
    if found is not None:
        advance[label] = found
        released = publish_at(problem, found[1], generator(seed, "noise"), epsilon, delta)
        evaluate(f"{label}, ε = {epsilon:g}", released)

# %% [markdown]
# ## Measured against certified
#
# A certificate rests on Δ: the release without its noise and what it is compared with are no farther apart. Both are
# computed here. A method that adds noise on the way is run twice with the same noise, as a release and as its
# reference: for that distance a bound of the same proof holds.


# %%
def measure(name, method, update):
    """Log the measured distance beside the certified one, rounding included."""
    own = reference(method, problem, update, generator(seed, name.removesuffix(", l2 in advance")))
    if update.certificate is None:
        bound = distance_bound(problem, update)
        certified = bound.sensitivity
        ends = [publish(problem, one, generator(seed, "noise")).w.double() for one in (update, own)]
    else:
        bound = update.bound
        certified = coupled_distance(bound)
        ends = [one.w.double() for one in (update, own)]
    measured = (ends[0] - ends[1]).norm().item()
    run.log("measured_distance", measured, method=name)
    run.log("certified_distance", certified, method=name, note=bound.arithmetic)
    run.log("rounding", bound.rounding, method=name)
    run.log("distance_ratio", measured / certified, method=name)
    print(f"{name}: {measured:.3g} measured, {certified:.3g} certified ({bound.arithmetic})")


chosen = {
    name: (build(name, unlearned.chosen(name), epsilon, delta), updates[name]) for name in certified_among(updates)
}
for name, (method, update) in tqdm({**chosen, **advance}.items(), desc="references", unit="method"):
    run.outcome(name, partial(measure, name, method, update), "distance_ratio")

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


fresh = setup.initial
noise = torch.randn(fresh.w.shape, generator=generator(seed, "noise")).to(fresh.w)
starts = {"from scratch": fresh.w, "from noise": noise * problem.radius / noise.norm()}
starts_of = {name: UnlearningResult(w, 0.0, model=fresh.model) for name, w in starts.items()}
starts_of["original"] = UnlearningResult(problem.w_star, 0.0)
for name, update in starts_of.items():
    follow(name, publish(problem, update, generator(seed, "noise")), "no noise")
for name in tqdm(certified_among(updates), desc="epochs after the noise", unit="method"):
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
    chapters.show(f"03_methods-{part}", run.frame())

# %%
run.finish()
