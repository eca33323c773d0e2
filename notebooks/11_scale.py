# %% [markdown]
# # BatchNorm and large networks
#
# Convolutional networks with BatchNorm, up to full width: the original, two retrainings, the Newton step with the
# gradient over the forget set, the noise that certifies it, the paper's attack and relearn time, in one notebook. What
# a small machine has to cut (epochs, the samples of the Hessian) is a setting and stands beside every number.

# %% tags=["parameters"]
dataset = "cifar10"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu import certification
from cdu.data.samples import part_of
from cdu.errors import CduError
from cdu.evaluation.accuracy import accuracy
from cdu.evaluation.posterior_attacks import OriginalAndRelease, draw_candidates, membership_attack
from cdu.evaluation.relearning import relearn
from cdu.evaluation.theory_checks import spectrum_ends
from cdu.experiments.method_results import scale_methods
from cdu.experiments.run import begin
from cdu.models.batchnorm import has_statistics
from cdu.report import chapters
from cdu.seeding import generator, seed_for
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.subsampled_newton import SubsampledNewton
from cdu.unlearning.names import NOISED
from cdu.unlearning.release import publish, recalibrated

run = begin("11_scale", globals())

# %%
from dataclasses import replace
from functools import partial

import numpy as np
from tqdm import tqdm

setup, settings = run.setup, run.setup.settings
scale, unlearning, recipe = settings.scale, settings.unlearning, settings.training
if scale is None:
    raise CduError(
        f"the experiment '{setup.experiment.name}' has no block 'scale' for {dataset}; "
        "'batchnorm', 'paper' and 'paper-cpu' have one"
    )
problem = setup.problem()
original, retrained, _ = setup.original, setup.retrained, setup.second

# %% [markdown]
# ## What is computed on what

# %%
judged = {
    "forget": setup.forget,
    "retain": part_of(setup.retain, scale.judged, generator(seed, "judged, retained")),
    "test": part_of(setup.test, scale.judged, generator(seed, "judged, test")),
}
hessian_samples = min(scale.hessian_samples or len(setup.retain), len(setup.retain))
statistics = part_of(setup.retain, scale.recalibrated, generator(seed, "recalibrated"))
sizes = {
    "parameters": problem.objective.size,
    "train_samples": len(setup.train),
    "hessian_samples": hessian_samples,
    "epochs_trained": recipe.epochs,
    **({"recalibration_samples": len(statistics)} if has_statistics(original.model) else {}),
}
for metric, value in sizes.items():
    run.log(metric, value)
    print(f"{metric}: {value:,}")
for split, samples in judged.items():
    run.log("judged_samples", len(samples), split=split)

# %% [markdown]
# ## Does λ lie above the spectrum?
#
# Ritz values from inside the spectrum: λ_max is at least the larger, λ_min at most the smaller. With BatchNorm also
# where its statistics are those of D_r: the same weights, another function, another Hessian.

# %%
damping = unlearning.dampings[unlearning.default].value
problems = {"": problem}
if has_statistics(original.model):
    as_trained = publish(problem, Original()(problem, generator(seed, "original")), generator(seed, "noise"))
    renewed = recalibrated(as_trained, statistics, recipe.batch_size)
    problems[", statistics of D_r first"] = replace(problem, objective=renewed.objective)


def ends(where, label):
    low, high = spectrum_ends(where, scale.spectrum_samples, scale.lanczos_steps, generator(seed, "lanczos"))
    name = f"newton{label}" if label else ""
    run.log("lambda_min", low, method=name)
    run.log("lambda_max", high, method=name)
    print(f"λ_min ≤ {low:.3g}, λ_max ≥ {high:.3g}{label}")


run.log("damping", damping)
run.log("spectrum_samples", min(scale.spectrum_samples, len(setup.retain)))
for label, where in problems.items():
    run.point(f"spectrum{label}", partial(ends, where, label))

# %% [markdown]
# ## Unlearning
#
# Every method once; those that stand with noise have the same draw of it. σ is the one used in practice, and the one
# that certifies ε for the sensitivity 2C. The step is tried at every λ that has a name in the experiment, and is called
# *newton* at the default.

# %%
methods = scale_methods(unlearning, scale, seed)
newton = {name: method for name, method in methods.items() if isinstance(method, SubsampledNewton)}
distance = certification.trivial_bound(problem.radius).value
needed = certification.gaussian_sigma(unlearning.epsilon, unlearning.delta, distance)
noises = {"noise": unlearning.sigma, f"noise for ε = {unlearning.epsilon:g}": needed}

candidates = draw_candidates(setup.forget, setup.test, seed_for(seed, "attack samples"))
before = candidates.posteriors(problem.objective, original.w)
target = problem.objective.mean_loss(original.w, setup.forget)


def judge(label, released):
    """Accuracy with the statistics as they are and as they would be on D_r, distances, attack and relearn time."""
    for split, samples in judged.items():
        run.log("accuracy", accuracy(released.objective, released.w, samples), method=label, split=split)
    run.log("distance_to_original", (released.w - original.w).norm(), method=label)
    run.log("distance_to_retrained", (released.w - retrained.w).norm(), method=label)
    if has_statistics(released.objective.model):
        anew = recalibrated(released, statistics, recipe.batch_size)
        for split, samples in judged.items():
            value = accuracy(anew.objective, anew.w, samples)
            run.log("recalibrated_accuracy", value, method=label, split=split)
    after = candidates.posteriors(released.objective, released.w)
    if np.isfinite(after).all():
        view = OriginalAndRelease(before, after, candidates.members)
        attack = membership_attack(view, settings.attack.folds, seed, strata=candidates.classes)
        for metric, value in (("auc", attack.auc), ("auc_half", attack.auc_half), ("attack_accuracy", attack.accuracy)):
            run.log(metric, value, method=label)
    else:
        run.log("auc", None, method=label, note="the outputs overflow in float32: there are no posteriors to attack")
    limit = settings.relearn.max_epochs
    found = relearn(released.objective, released.w, setup.forget, target, settings.relearn, seed).epochs
    censored = "" if found is not None else f"censored: > {limit} epochs, counted as {limit + 1}"
    run.log("epochs", limit + 1 if found is None else found, method=label, note=censored)


def noisy(name, update, label, sigma):
    released = publish(problem, update, generator(seed, "noise"), sigma, unlearning.delta)
    judge(f"{name} + {label}", released)
    run.log("epsilon", released.certificate.epsilon, method=f"{name} + {label}")
    run.log("sigma", sigma, method=f"{name} + {label}")


def unlearn(name, method, where=problem):
    update = run.attempt(name, method, where)
    if update is None:
        return
    run.log("seconds", update.seconds, method=name)
    run.log("hvp_samples", update.hvp_samples, method=name)
    run.log("gradient_samples", update.gradient_samples, method=name)
    if update.residual is not None:
        run.log("residual", update.residual, method=name)
    judge(name, publish(where, update, generator(seed, "noise")))
    for label, sigma in noises.items() if name in NOISED else ():
        noisy(name, update, label, sigma)


tried = [(name, method, problem) for name, method in methods.items()]
tried += [
    (f"{name}{label}", method, where) for label, where in problems.items() if label for name, method in newton.items()
]
for name, method, where in tqdm(tried, desc="unlearning", unit="method"):
    run.point(name, partial(unlearn, name, method, where))
for name in NOISED:
    run.log("sigma_needed", needed, method=f"{name} + noise")
    run.log("epsilon_wanted", unlearning.epsilon, method=f"{name} + noise")
print(f"σ = {unlearning.sigma:g}; ε = {unlearning.epsilon:g} needs σ = {needed:.4g}")

# %%
chapters.show("11_scale", run.frame())

# %%
run.finish()
