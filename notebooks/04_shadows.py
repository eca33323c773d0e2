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
from cdu import clock
from cdu.errors import CduError
from cdu.evaluation.lira import draw_pool, likelihood_ratio_attack, roc, scaled_logit
from cdu.experiments.method_results import MethodResults, scale_methods
from cdu.experiments.release_variants import released
from cdu.experiments.run import begin
from cdu.models import architectures
from cdu.models.batched_training import train_shadows
from cdu.models.objective import Objective
from cdu.models.training import train
from cdu.report import chapters
from cdu.seeding import generator
from cdu.settings import digest
from cdu.storage import kept_tensors
from cdu.unlearning.names import FIXED
from cdu.unlearning.problem import Problem
from cdu.unlearning.registry import SECOND_SEED, build, methods, traits

run = begin("04_shadows", globals())

# %%
import time
from functools import cache, partial

import numpy as np
import torch
from tqdm import tqdm

setup, settings = run.setup, run.setup.settings
wanted, recipe, noise, scale = settings.shadows, settings.training, settings.unlearning, settings.scale
# With a block `scale` the methods' constants are given there, and nothing is chosen for the original model.
searched = MethodResults(setup) if scale is None else None
known = tuple(scale_methods(noise, scale, seed)) if searched is None else searched.names

chosen = wanted.methods or known
unknown = set(chosen) - set(known)
if unknown:
    raise CduError(f"shadows.methods names '{min(unknown)}', which is none of {', '.join(known)}")

# %% [markdown]
# ## The shadow models
#
# A fixed pool of targets. Every shadow is trained on the rest and on a random half of the pool, with the recipe of the
# original model; it forgets that half. The other half it has never seen. Retrained shadows see the rest alone. Networks
# with BatchNorm are trained one after another, others all at once.

# %%
samples = setup.train
pool = draw_pool(len(samples), wanted.pool, wanted.shadows, seed)
rest, targets = samples.subset(pool.rest), samples.subset(pool.targets)
seeds = [10_000 * (seed + 1) + number for number in range(wanted.shadows)]
folder = setup.checkpoints / "shadows"
origin = digest([setup.origin(), wanted.shadows, wanted.pool])


def place(*key):
    return folder / f"{dataset}-{origin}-{digest(key)}.safetensors"


def initial(own):
    shape, classes = setup.data.input_shape, setup.data.classes
    return architectures.build(settings.model, shape, classes, own).to(setup.device)


rest_alone = pool.rest.expand(wanted.shadows, -1)
#: By kind of shadows the rows that they are trained on, and what is added to their seeds.
KINDS = {
    "shadows": (pool.trained, 0),
    "retrained shadows": (rest_alone, 0),
    "shadows retrained again": (rest_alone, SECOND_SEED),
}


@cache
def shadows(kind, epochs=recipe.epochs):
    """All shadows of a kind, trained when they are first asked for."""
    rows, shift = KINDS[kind]
    shorter = recipe.model_copy(update={"epochs": epochs})
    drawn = [own + shift for own in seeds]
    starts = [initial(own) for own in drawn]
    return train_shadows(starts, samples, rows, shorter, drawn, place(kind, epochs), kind)


trained, retrained = shadows("shadows"), shadows("retrained shadows")
run.log("shadows", wanted.shadows)
run.log("pool", wanted.pool)
run.log("shadow_seconds" if trained.together else "single_seconds", trained.seconds)

# %% [markdown]
# One after another those trained at once would take so long, judged by two of them; and they are the same models.

# %%
if trained.together:
    alone, differences = [], []
    for number in range(2):
        start = time.perf_counter()
        single = train(initial(seeds[number]), samples.subset(pool.trained[number]), recipe, seeds[number])
        alone.append(time.perf_counter() - start)
        differences.append((single.w - trained.each[number].w).norm() / single.w.norm())
    one_by_one = np.mean(alone) * wanted.shadows
    run.log("single_seconds", one_by_one)
    run.log("single_difference", max(differences))
    print(f"{wanted.shadows} shadows: {trained.seconds:.1f} s together, {one_by_one:.1f} s one by one")
    print(f"largest relative difference of the weights: {max(differences):.2g}")

# %% [markdown]
# ## Unlearning on every shadow
#
# With the hyper-parameters that were chosen for the original model, or with those that the experiment gives in its
# block `scale`. What counts is φ = ln p/(1 − p) of the right class.


# %%
def problem(number):
    """Delete a shadow's half of the pool."""
    shadow, own = trained.each[number], seeds[number]

    def retrain(retain, with_seed):
        return shadows("retrained shadows" if with_seed == own else "shadows retrained again").each[number]

    return Problem(
        objective=Objective(shadow.model, l2=setup.l2),
        w_star=shadow.w,
        retain=rest,
        forget=samples.subset(pool.forgotten(number)),
        radius=recipe.radius,
        retrain=retrain,
        seed=own,
        training=recipe,
        stopped=lambda epochs: shadows("shadows", epochs).each[number],
    )


def constants(name):
    """What a method is made from: given by the experiment, chosen for the original model, or fixed."""
    if searched is None:
        return {"hessian_samples": scale.hessian_samples, **scale.methods.get(name, {})}
    return {} if name in FIXED else searched.chosen(name)


def make(name, own):
    """A method for the shadow of a seed."""
    fixed = methods(noise, own) if searched is not None else scale_methods(noise, scale, own)
    return fixed[name] if name in fixed else build(name, constants(name), noise.epsilon, noise.delta)


def everything(name):
    """φ of every target by label, shape (shadows, targets), and the seconds that unlearning took."""
    rows, seconds = [], 0.0
    for number in tqdm(range(wanted.shadows), desc=name, unit="shadow"):
        clock.require(f"{name} on shadow {number}")
        task, own = problem(number), seeds[number]
        update = make(name, own)(task, generator(own, name))
        seconds += update.seconds
        found = released(name, task, update, noise, partial(generator, own, "noise"))
        rows.append(
            {label: scaled_logit(one.objective.outputs(one.w, targets), targets.targets) for label, one in found}
        )
    kept = {label: torch.stack([row[label] for row in rows]) for label in rows[0]}
    return {**kept, SECONDS: torch.tensor(seconds)}


def phi_of(name):
    """The same, from a file if it is there."""
    path = place("phi", name, constants(name), noise.model_dump(mode="json"), run.revision)
    return kept_tensors(path, partial(everything, name))


SECONDS = "seconds"
# Where shadows are trained one after another the second retraining is made for those who name it.
yardsticks = ["original", "retrain", *(["second retraining"] if trained.together else [])]
phi = {}
for name in dict.fromkeys([*yardsticks, *chosen]):
    found = run.outcome(name, partial(phi_of, name), "lira_auc")
    if found is not None:
        run.log("seconds", found.pop(SECONDS), method=name)
        for label, values in found.items():
            if values.isfinite().all():
                phi[label] = values.cpu().numpy()
            else:
                run.log("lira_auc", None, method=label, note="the outputs overflow in float32: there is no φ to attack")

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
    alike = counterpart in phi and label != counterpart and not traits(label).own_model
    if alike and "ε = " not in label:
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
chapters.show("04_shadows", run.frame())

# %%
run.finish()
