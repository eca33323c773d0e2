# %% [markdown]
# # Membership inference with shadow models
#
# The likelihood-ratio attack, one test per sample: hundreds of models are trained with and without it, forget it, and
# show how the model's confidence is distributed in either world. For readers who know the attack on posteriors and its
# ROC curve; it asks what a method leaves of a forgotten sample that tells it from one never trained on.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
import time
from functools import partial

import numpy as np
from tqdm import tqdm

from cdu.evaluation.lira import likelihood_ratio_attack, roc
from cdu.experiments.run import begin
from cdu.experiments.shadows import RETRAINED, ShadowModels, ShadowResults, retrained_counterpart
from cdu.report import chapters

run = begin("04_shadows", globals())

# %% [markdown]
# ## The shadow models
#
# A fixed pool of targets. Every shadow is trained on the rest and on a random half of the pool, with the recipe of the
# original model; it forgets that half. The other half it has never seen. Retrained shadows see the rest alone. Networks
# with BatchNorm are trained one after another, others all at once.

# %%
wanted = run.setup.settings.shadows
shadows = ShadowModels(run.setup)
results = ShadowResults(shadows)
trained, retrained = shadows.trained(), shadows.trained(RETRAINED)
run.log("shadows", wanted.shadows)
run.log("pool", wanted.pool)
run.log("shadow_seconds" if trained.batched else "single_seconds", trained.seconds)

# %% [markdown]
# Shadows that were trained at once are compared with two of them trained alone: how long all would take one after
# another, and how far the weights differ.

# %%
if trained.batched:
    alone, differences = [], []
    for number in range(2):
        start = time.perf_counter()
        single = shadows.alone(number)
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
phi = {}
for name in results.names:
    found = run.outcome(name, partial(results.confidences, name), "lira_auc")
    if found is not None:
        run.log("seconds", found.seconds, method=name)
        for label, values in found.phi.items():
            if values.isfinite().all():
                phi[label] = values.cpu().numpy()
            else:
                run.log("lira_auc", None, method=label, note="the outputs overflow in float32: there is no φ to attack")

# %% [markdown]
# ## Two questions of every method
#
# Can a forgotten sample be told from one never trained on? And can the unlearned models be told from retrained ones on
# the samples that were forgotten? The second is asked only where retraining gives a model of the same kind, with the
# same noise: methods that train their own model are told from it by that alone.

# %%
inside = shadows.pool.members.numpy()


def worlds(label, values):
    """φ in the world where a sample is out, and which pairs of shadow and target are out there, by the question."""
    asked = {"never trained": (values, ~inside)}
    counterpart = retrained_counterpart(label, phi)
    return asked if counterpart is None else {**asked, "retrained": (phi[counterpart], inside)}


# %% [markdown]
# ## What an attack shows
#
# The area under the curve and the true-positive rate at small false-positive rates, with intervals from a bootstrap
# over shadows; and how vulnerable single samples are: 0.5 is chance.

# %%
grid = [float(f"{level:.3g}") for level in np.geomspace(1e-3, 1, 25)]
levels = list(dict.fromkeys([*wanted.levels, *grid]))


def log_attack(attack, curve, **where):
    """Log areas, rates, the curve, and quantiles over the targets."""
    ends = ("", "_low", "_high")
    for end, value in zip(ends, curve.auc, strict=True):
        run.log(f"lira_auc{end}", value, **where)
    for level in wanted.levels:
        for end, value in zip(ends, curve.rates[level], strict=True):
            run.log(f"lira_tpr{end}", value, **where, axis="fpr", point=level)
    for level in grid:
        run.log("lira_roc", curve.rates[level][0], **where, axis="fpr", point=level)
    for quantile in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1):
        value = np.quantile(attack.vulnerability, quantile)
        run.log("vulnerability", value, **where, axis="quantile", point=quantile)


# %% [markdown]
# ## The attack
#
# ln N(φ; μ_in, σ_in²) − ln N(φ; μ_out, σ_out²): per target a Gaussian for φ with the sample in and one with it out,
# both made without the shadow that is scored.

# %%
for label, values in tqdm(phi.items(), desc="attacking", unit="model"):
    for world, (outside, others) in worlds(label, values).items():
        attack = likelihood_ratio_attack(values, inside, outside, others)
        curve = roc(attack, levels, seed)
        log_attack(attack, curve, method=label, split=world)
        print(f"{label:>30s}, {world:>13s}: AUC {curve.auc[0]:.3f} [{curve.auc[1]:.3f}, {curve.auc[2]:.3f}]")

# %%
chapters.show("04_shadows", run.frame())

# %%
run.finish()
