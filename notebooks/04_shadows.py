# %% [markdown]
# # Membership inference with shadow models
#
# The likelihood-ratio attack, one test per sample: hundreds of models are trained with and without it, forget it, and
# show how the model's confidence is distributed in either world. What a method leaves of a forgotten sample is what
# tells it from one never trained on.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu import notebook

run = notebook.begin("04_shadows", globals())

# %%
import time

import numpy as np
import torch
from tqdm import tqdm

from cdu import figures, models
from cdu.config import digest
from cdu.objective import Objective
from cdu.seeding import generator
from cdu.shadows import draw_pool, keep, likelihood_ratio_attack, roc, scaled_logit, train_together
from cdu.training import Trained, train
from cdu.unlearned import Unlearned
from cdu.unlearning import CERTIFIED, Original, Problem, Retrain, build, methods, publish, publish_at

scenario, settings = run.scenario, run.scenario.settings
wanted, recipe, noise = settings.shadows, settings.training, settings.unlearning
unlearned = Unlearned(scenario)

#: Methods that do not start from the original model but train one of their own.
OWN_MODEL = ("rewind, linear", "certified removal", "Langevin, linear")

# %% [markdown]
# ## The shadow models
#
# A fixed pool of targets. Every shadow is trained on the rest and on a random half of the pool, with the recipe of the
# original model; it forgets that half. The other half it has never seen. Retrained shadows see the rest alone.

# %%
samples = scenario.train
pool = draw_pool(len(samples), wanted.pool, wanted.shadows, seed)
targets = samples.subset(pool.targets)
seeds = [10_000 * (seed + 1) + number for number in range(wanted.shadows)]
folder = scenario.checkpoints / "shadows"
origin = digest([scenario.origin(), wanted.model_dump(mode="json"), run.code])


def place(name):
    return folder / f"{dataset}-{origin}-{digest(name)}.safetensors"


def initial(number):
    shape, classes = scenario.data.input_shape, scenario.data.classes
    return models.build(settings.model, shape, classes, seeds[number]).to(scenario.device)


def together(rows, name, epochs=recipe.epochs):
    """Weights of all shadows, trained on some rows."""
    shorter = recipe.model_copy(update={"epochs": epochs})
    starts = [initial(number) for number in range(wanted.shadows)]
    return train_together(starts, samples, rows, shorter, seeds, place((name, epochs)), name)


trained = together(pool.trained, "shadows")
retrained = together(pool.rest.expand(wanted.shadows, -1), "retrained shadows")
run.log("shadows", wanted.shadows)
run.log("pool", wanted.pool)
run.log("shadow_seconds", trained.seconds)

# %% [markdown]
# One after another they would take so long, judged by two of them; and they are the same models.

# %%
alone, differences = [], []
for number in range(2):
    start = time.perf_counter()
    single = train(initial(number), samples.subset(pool.trained[number]), recipe, seeds[number])
    alone.append(time.perf_counter() - start)
    differences.append((single.w - trained.w[number]).norm() / single.w.norm())
run.log("single_seconds", np.mean(alone) * wanted.shadows)
run.log("single_difference", max(differences))
print(f"{wanted.shadows} shadows: {trained.seconds:.1f} s together, {np.mean(alone) * wanted.shadows:.1f} s one by one")
print(f"largest relative difference of the weights: {max(differences):.2g}")

# %% [markdown]
# ## Unlearning on every shadow
#
# With the hyper-parameters that were chosen for the original model. What counts is φ = ln p/(1 − p) of the right class.


# %%
def problem(number):
    """Delete a shadow's half of the pool."""
    model = initial(number)

    def stopped(epochs):
        return Trained(model, together(pool.trained, "shadows", epochs).w[number], [])

    return Problem(
        objective=Objective(model, l2=scenario.l2),
        w_star=trained.w[number],
        retain=samples.subset(pool.rest),
        forget=samples.subset(pool.forgotten(number)),
        radius=recipe.radius,
        retrain=lambda retain, seed: Trained(model, retrained.w[number], []),
        seed=seeds[number],
        training=recipe,
        stopped=stopped,
    )


def make(name):
    if name in {"original", "retrain"}:
        return {"original": Original, "retrain": Retrain}[name]()
    fixed = methods(noise, seed)
    return fixed[name] if name in fixed else build(name, unlearned.chosen(name), noise.epsilon, noise.delta)


def confidences(name, number, method):
    """φ of every target under what a method makes of one shadow, by label: without noise and with."""
    task, own = problem(number), seeds[number]
    update = method(task, generator(own, name))
    draw = generator(own, "noise")
    released = {}
    if update.certificate is None and name != "output perturbation":
        released[name] = publish(task, update, draw)
    if name in notebook.WITH_NOISE:
        released[f"{name} + noise"] = publish(task, update, draw, noise.sigma, noise.delta)
    if name in CERTIFIED:
        released[f"{name}, ε = {noise.epsilon:g}"] = publish_at(task, update, draw, noise.epsilon, noise.delta)
    return {
        label: scaled_logit(one.objective.outputs(one.w, targets), targets.targets) for label, one in released.items()
    }


def everything(name):
    """φ by label, shape (shadows, targets)."""
    method = make(name)
    bar = tqdm(range(wanted.shadows), desc=name, unit="shadow")
    rows = [confidences(name, number, method) for number in bar]
    return {label: torch.stack([row[label] for row in rows]) for label in rows[0]}


phi = {}
names = wanted.methods or [name for name in unlearned.names if name != "second retraining"]
for name in dict.fromkeys(["original", "retrain", *names]):
    start = time.perf_counter()
    found = run.outcome(name, lambda name=name: keep(place(name), lambda: everything(name)), "lira_auc")
    if found is not None:
        phi |= {label: values.cpu().numpy() for label, values in found.items()}
        run.log("seconds", time.perf_counter() - start, method=name)

# %% [markdown]
# ## The attack
#
# Two questions of every method: can a forgotten sample be told from one never trained on, and can the unlearned models
# be told from retrained ones on the samples that were forgotten? The second is asked only where retraining gives a
# model of the same kind, with the same noise: methods that train their own model are told from it by that alone.

# %%
inside = pool.members.numpy()
grid = [float(f"{level:.3g}") for level in np.geomspace(1e-3, 1, 25)]
levels = list(dict.fromkeys([*wanted.levels, *grid]))
for label, values in tqdm(phi.items(), desc="attacking", unit="model"):
    worlds = {"never trained": (values, ~inside)}
    counterpart = "retrain + noise" if label.endswith("+ noise") else "retrain"
    if label not in {counterpart, "rewind"} and not label.startswith(OWN_MODEL) and "ε = " not in label:
        worlds["retrained"] = (phi[counterpart], inside)
    for world, (outside, others) in worlds.items():
        attack = likelihood_ratio_attack(values, inside, outside, others)
        curve = roc(attack, levels, seed)
        where = {"method": label, "split": world}
        for metric, value in zip(("lira_auc", "lira_auc_low", "lira_auc_high"), curve.auc, strict=True):
            run.log(metric, value, **where)
        for level in wanted.levels:
            parts = zip(("lira_tpr", "lira_tpr_low", "lira_tpr_high"), curve.rates[level], strict=True)
            for metric, value in parts:
                run.log(metric, value, **where, axis="fpr", point=level)
        for level in grid:
            run.log("lira_roc", curve.rates[level][0], **where, axis="fpr", point=level)
        for quantile in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1):
            value = np.quantile(attack.vulnerability, quantile)
            run.log("vulnerability", value, **where, axis="quantile", point=quantile)
        print(f"{label:>30s}, {world:>13s}: AUC {curve.auc[0]:.3f} [{curve.auc[1]:.3f}, {curve.auc[2]:.3f}]")

# %%
notebook.show(figures.shadows(run.frame()))

# %%
run.finish()
