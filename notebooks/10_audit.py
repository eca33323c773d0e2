# %% [markdown]
# # Audit
#
# A certificate says that nobody can tell a release from what it should equal better than ε allows. Here somebody tries:
# the same release is drawn thousands of times, and so is its reference, from models that never saw the forget set. What
# the trials show is a lower bound on ε. A certificate below it would be wrong.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu import notebook

run = notebook.begin("10_audit", globals())

# %%
import math
from dataclasses import replace
from functools import partial

import torch
from tqdm import tqdm

from cdu import figures
from cdu.audit import audit
from cdu.certification import certify
from cdu.config import ForgetSettings
from cdu.references import reference
from cdu.scenario import Scenario
from cdu.seeding import generator
from cdu.shadows import scaled_logit
from cdu.unlearned import Unlearned
from cdu.unlearning import CERTIFIED, build, distance_bound, publish, publish_at

scenario, settings = run.scenario, run.scenario.settings
epsilon, delta = settings.unlearning.epsilon, settings.unlearning.delta
unlearned = Unlearned(scenario)

# %% [markdown]
# ## The pairs
#
# The experiment's forget set, and worst cases of the same size: the samples on which the original model does worst,
# samples with wrong labels, samples of one class.


# %%
def variant(kind):
    """The same set-up with another forget set."""
    if kind == "random":
        return scenario
    size, base = len(scenario.forget), settings.forget
    if kind == "outliers":
        outputs = scenario.objective(scenario.original).outputs(scenario.original.w, scenario.data.train)
        worst = scaled_logit(outputs, scenario.data.train.targets).argsort()[:size]
        base = ForgetSettings(kind="indices", indices=tuple(worst.tolist()))
    elif kind == "one class":
        counts = scenario.data.train.targets.bincount()
        label = int(counts.argmax())
        base = ForgetSettings(kind="class", label=label, size=min(size, int(counts[label])))
    changed = settings.model_copy(update={"forget": base})
    experiment = scenario.experiment.model_copy(
        update={"datasets": {**scenario.experiment.datasets, scenario.name: changed}}
    )
    other = Scenario(experiment, scenario.name, seed, scenario.checkpoints, scenario.device)
    if kind == "mislabelled":
        labels = scenario.data.train.targets.clone()
        rows = torch.as_tensor(scenario.split.forget)
        labels[rows] = (labels[rows] + 1) % scenario.data.classes
        other.data = replace(scenario.data, train=replace(scenario.data.train, targets=labels))
    return other


# %% [markdown]
# ## Trials
#
# Where noise is the last thing that happens, the models before it are fixed and known to the adversary, and only the
# noise is drawn anew. A method that adds noise on the way is run anew for every trial. The adversary sees the weights,
# or the outputs on the forget set; both are what the certificate covers.


# %%
def outputs(released, samples):
    return scaled_logit(released.objective.outputs(released.w, samples), samples.targets).float()


def draw(problem, updates, sigma):
    """Weights and outputs of releases, one a row; ``updates`` yields what the noise is added to."""
    source = generator(seed, "audit noise", len(trials))
    trials.append(sigma)
    # The certificate of each is known already; without an excuse it would be computed for every trial.
    releases = (publish(problem, replace(one, excuse="a trial"), source, sigma, delta) for one in updates)
    rows = [(one.w.float(), outputs(one, problem.forget)) for one in releases]
    return {"weights": torch.stack([w for w, _ in rows]), "outputs": torch.stack([seen for _, seen in rows])}


def runs(method, problem, update, count):
    """What a method and its reference give, run anew with other noise."""
    released = [method(problem, generator(seed, "audit run", number)) for number in range(count)]
    fresh = (generator(seed, "audit reference", number) for number in range(count))
    return released, [reference(method, problem, update, source) for source in fresh]


def direction(problem, update, own):
    """From the reference to the release, before noise: all that an adversary who knows every seed needs."""
    ends = [publish(problem, one, generator(seed, "noise")).w.double() for one in (update, own)]
    return ends[0] - ends[1]


def fixed_pair(problem, update, own, sigma):
    """Trials of a release and its reference that differ in the last noise alone, by view."""
    count = settings.audit.trials
    drawn = [draw(problem, (one for _ in range(count)), sigma) for one in (update, own)]
    views = {view: (drawn[0][view], drawn[1][view]) for view in drawn[0]}
    between = direction(problem, update, own).float()
    views["weights, direction known"] = tuple((weights @ between)[:, None] for weights in views["weights"])
    return views


def report(name, kind, views, certified, note=""):
    for view, (release, fresh) in views.items():
        result = audit(release, fresh, delta)
        where = {"method": name, "split": f"{kind}, {view}"}
        run.log("audit_epsilon", result.epsilon, **where, note=note)
        run.log("audit_gaussian", result.gaussian_epsilon, **where)
        for metric in ("mu", "mu_low", "detectable", "trials"):
            run.log(metric, getattr(result, metric), **where)
        if math.isfinite(result.mu_high):
            run.log("mu_high", result.mu_high, **where)
        run.log("certified_epsilon", certified, **where)
        run.log("contradicted", result.contradicts(certified), **where)
        verdict = "CONTRADICTED" if result.contradicts(certified) else "consistent"
        print(
            f"{name}, {kind}, {view}: ε = {certified:.3g} certified, at least {result.epsilon:.3g} or "
            f"{result.gaussian_epsilon:.3g} (Gaussian) shown, {result.detectable:.3g} detectable: {verdict}"
        )


def examine(name, kind, problem):
    """Audit one method on one forget set."""
    method = build(name, unlearned.chosen(name), epsilon, delta)
    update = method(problem, generator(seed, name))
    own = reference(method, problem, update, generator(seed, "reference", name))
    released = publish_at(problem, update, generator(seed, "noise"), epsilon, delta)
    certificate = released.certificate
    if update.certificate is not None:
        if kind != "random":
            return  # every trial is a run of its own: one forget set has to do
        pairs = runs(method, problem, update, settings.audit.runs)
        views = [draw(problem, updates, 0.0) for updates in pairs]
        report(name, kind, {view: (views[0][view], views[1][view]) for view in views[0]}, certificate.epsilon)
        return
    run.log("pair_distance", direction(problem, update, own).norm(), method=name, split=kind)
    run.log("sensitivity", certificate.sensitivity, method=name, split=kind)
    report(name, kind, fixed_pair(problem, update, own, certificate.sigma), certificate.epsilon)


trials = []
kinds = ("random", *settings.audit.forget)
for kind in kinds:
    problem = variant(kind).problem()
    for name in tqdm([name for name in CERTIFIED if name in settings.methods.spaces], desc=kind, unit="method"):
        run.outcome(name, partial(examine, name, kind, problem), "audit_epsilon", split=kind)

# %% [markdown]
# ## A planted error
#
# Would a wrong certificate be caught? The noise is made ten times smaller than the certificate says, on the pair of
# models that are farthest apart; next to it the same pair with the right noise.

# %%
name = "output perturbation"
found = run.frame()
found = found[(found["metric"] == "pair_distance") & (found["method"] == name)].set_index("split")["value"]
kind = str(found.idxmax())
problem = variant(kind).problem()
update = build(name, {}, epsilon, delta)(problem, generator(seed, name))
own = reference(build(name, {}, epsilon, delta), problem, update, generator(seed, "reference", name))
bound = distance_bound(problem, update)
right = publish_at(problem, update, generator(seed, "noise"), epsilon, delta).certificate.sigma
run.log("planted_distance", found[kind] / bound.value, split=kind)
for words, sigma in {"right": right, "ten times too little": right / 10}.items():
    note = f"ε of this noise for Δ: {certify(bound, sigma, delta).epsilon:.4g}"
    report(f"planted: noise {words}", kind, fixed_pair(problem, update, own, sigma), epsilon, note)

# %%
notebook.show(figures.audit(run.frame()))

# %%
run.finish()
