# %% [markdown]
# # Membership inference
#
# The attack of the paper's Table 2: from the original and the unlearned model's posteriors an attack model tells
# samples of the forget set from others. Five constructions of features, four attack models; every row is scored by a
# fit that did not see it. This adversary sees the original model, which no certificate covers.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu.evaluation.posterior_attacks import FEATURES, PAPER, OriginalAndRelease, draw_candidates, membership_attack
from cdu.experiments.method_results import MethodResults
from cdu.experiments.release_variants import every_release
from cdu.experiments.run import begin
from cdu.report import chapters
from cdu.seeding import seed_for

run = begin("04_attacks", globals())

# %%
import time
from functools import partial

from tqdm import tqdm

setup, settings = run.setup, run.setup.settings.attack
unlearned = MethodResults(setup)
original = unlearned.problem.objective

# %% [markdown]
# ## Who is told from whom
#
# Members are the forget set. Non-members are samples never trained on, of the same classes in the same numbers; and,
# as the paper compares, retained ones, which *were* trained on.

# %%
w_star = unlearned.problem.w_star
comparisons = {
    "test": draw_candidates(setup.forget, setup.test, seed_for(seed, "attack samples")),
    "retain": draw_candidates(setup.forget, setup.retain, seed_for(seed, "attack samples, retained")),
}
before = {name: candidates.posteriors(original, w_star) for name, candidates in comparisons.items()}
for name, candidates in comparisons.items():
    members = candidates.members
    run.log("members", members.sum(), split=name)
    print(f"{name}: {members.sum()} members, {(~members).sum()} non-members")

# %% [markdown]
# ## The attack
#
# All combinations against samples never trained on; against retained ones logistic regression on each construction.


# %%
def attack(view, classes, features, classifier):
    enough = tuple(level for level in settings.levels if (~view.members).sum() >= 1 / level)
    return membership_attack(view, settings.folds, seed, features, classifier, enough, classes)


releases = every_release(unlearned, partial(run.outcome, metric="auc"))
for label, released in tqdm(releases, desc="attacking", unit="model"):
    for name, candidates in comparisons.items():
        after = candidates.posteriors(released.objective, released.w)
        view = OriginalAndRelease(before[name], after, candidates.members)
        for features in FEATURES:
            for classifier in settings.classifiers if name == "test" else (PAPER[1],):
                start = time.perf_counter()
                result = attack(view, candidates.classes, features, classifier)
                where = {"method": label, "split": f"{name}: {features}, {classifier}"}
                run.log("attack_auc", result.auc, **where)
                for level, rate in result.rates.items():
                    run.log("attack_tpr", rate.value, **where, axis="fpr", point=level)
                if (name, features, classifier) != ("test", *PAPER):
                    continue
                run.log("seconds", time.perf_counter() - start, method=label)
                run.log("auc", result.auc, method=label)
                run.log("auc_half", result.auc_half, method=label)
                run.log("attack_accuracy", result.accuracy, method=label)
                for level, rate in result.rates.items():
                    for metric, value in (("tpr", rate.value), ("tpr_low", rate.low), ("tpr_high", rate.high)):
                        run.log(metric, value, method=label, axis="fpr", point=level)
                print(f"{label:>30s}: AUC {result.auc:.3f} ± {result.auc_half:.3f}, accuracy {result.accuracy:.3f}")

# %%
chapters.show("04_attacks", run.frame())

# %%
run.finish()
