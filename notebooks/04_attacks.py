# %% [markdown]
# # Membership inference
#
# The attack of the paper's Table 2: from the original and the unlearned model's posteriors an attack model tells
# samples of the forget set from others. This adversary sees the original model, which no certificate covers. The
# notebook is for readers who know what an ROC curve is; the methods under attack are those of the chapter before.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
import time
from functools import partial

from tqdm import tqdm

from cdu.evaluation.posterior_attacks import FEATURES, PAPER, OriginalAndRelease, draw_candidates, membership_attack
from cdu.experiments.method_results import MethodResults
from cdu.experiments.release_variants import every_release
from cdu.experiments.run import begin
from cdu.report import chapters
from cdu.seeding import seed_for

run = begin("04_attacks", globals())

# %% [markdown]
# ## Who is told from whom
#
# Members are the forget set. Non-members are samples never trained on, of the same classes in the same numbers; and,
# as the paper compares, retained ones, which *were* trained on.

# %%
setup, settings = run.setup, run.setup.settings.attack
unlearned = MethodResults(setup)
comparisons = {
    "test": draw_candidates(setup.forget, setup.test, seed_for(seed, "attack samples")),
    "retain": draw_candidates(setup.forget, setup.retain, seed_for(seed, "attack samples, retained")),
}
for name, candidates in comparisons.items():
    members = candidates.members
    run.log("members", members.sum(), split=name)
    print(f"{name}: {members.sum()} members, {(~members).sum()} non-members")

# %% [markdown]
# ## What the adversary sees
#
# The class probabilities of the original model and of the release, for every candidate. A false-positive rate is asked
# for only where there are enough non-members to see it.

# %%
problem = unlearned.problem
before = {name: one.posteriors(problem.objective, problem.w_star) for name, one in comparisons.items()}
levels = {
    name: tuple(level for level in settings.levels if (~one.members).sum() >= 1 / level)
    for name, one in comparisons.items()
}


def seen(released, name):
    """The view of who attacks a release."""
    one = comparisons[name]
    return OriginalAndRelease(before[name], one.posteriors(released.objective, released.w), one.members)


# %% [markdown]
# ## Which attacks
#
# Five constructions of features and four attack models: all combinations against samples never trained on; against
# retained ones logistic regression on each construction.

# %%
attacks = [("test", features, classifier) for features in FEATURES for classifier in settings.classifiers]
attacks += [("retain", features, PAPER[1]) for features in FEATURES]


def log_paper_attack(label, result, seconds):
    """Log all that the attack of the paper shows, with intervals."""
    areas = {"auc": result.auc, "auc_half": result.auc_half, "attack_accuracy": result.accuracy}
    run.log_values({"seconds": seconds, **areas}, method=label)
    for level, rate in result.rates.items():
        rates = {"tpr": rate.value, "tpr_low": rate.low, "tpr_high": rate.high}
        run.log_values(rates, method=label, axis="fpr", point=level)
    print(f"{label:>30s}: AUC {result.auc:.3f} ± {result.auc_half:.3f}, accuracy {result.accuracy:.3f}")


# %% [markdown]
# ## Every model under every attack
#
# Every row is scored by a fit that did not see it; an area of 0.5 is chance. The paper's own attack is the sorted
# concatenation with logistic regression; of it more is recorded.

# %%
releases = every_release(unlearned, partial(run.outcome, metric="auc"))
for label, released in tqdm(releases, desc="attacking", unit="model"):
    views = {name: seen(released, name) for name in comparisons}
    for name, features, classifier in attacks:
        start, classes = time.perf_counter(), comparisons[name].classes
        result = membership_attack(views[name], settings.folds, seed, features, classifier, levels[name], classes)
        where = {"method": label, "split": f"{name}: {features}, {classifier}"}
        run.log("attack_auc", result.auc, **where)
        for level, rate in result.rates.items():
            run.log("attack_tpr", rate.value, **where, axis="fpr", point=level)
        if (name, features, classifier) == ("test", *PAPER):
            log_paper_attack(label, result, time.perf_counter() - start)

# %%
chapters.show("04_attacks", run.frame())

# %%
run.finish()
