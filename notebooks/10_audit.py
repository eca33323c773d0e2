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
from cdu.certification import certify, gaussian_epsilon, gaussian_sigma
from cdu.evaluation.audit import STRATEGIES, audit, clopper_pearson, power
from cdu.evaluation.lira import scaled_logit
from cdu.evaluation.relearning import trainable
from cdu.experiments.forget_sets import hardest, one_class, varied
from cdu.experiments.method_results import MethodResults
from cdu.experiments.run import begin
from cdu.models.training import project
from cdu.report import chapters
from cdu.seeding import generator, seed_for
from cdu.unlearning.references import noiseless_difference, reference
from cdu.unlearning.registry import build, certified_among
from cdu.unlearning.release import distance_bound, publish, publish_at, trials

run = begin("10_audit", globals())

# %%
import math
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

setup, settings = run.setup, run.setup.settings
epsilon, delta = settings.unlearning.epsilon, settings.unlearning.delta
unlearned = MethodResults(setup)
KNOWN = "weights, direction known"

# %% [markdown]
# ## The pairs
#
# The experiment's forget set, and worst cases of the same size: the samples on which the original model does worst,
# samples with wrong labels, samples of one class.


# %%
def variant(kind):
    """The same set-up with another forget set."""
    if kind == "random":
        return setup
    worst = {"outliers": hardest, "one class": one_class}
    if kind in worst:
        return varied(setup, forget=worst[kind](setup, len(setup.forget)))
    other, labels = varied(setup), setup.data.train.targets.clone()
    rows = torch.as_tensor(setup.split.forget)
    labels[rows] = (labels[rows] + 1) % setup.data.classes
    other.data = replace(setup.data, train=replace(setup.data.train, targets=labels))
    return other


# %% [markdown]
# ## Trials
#
# Where noise is the last thing that happens, the models before it are fixed and known to the adversary, and only the
# noise is drawn anew. A method that adds noise on the way is run anew for every trial. The adversary sees the weights,
# or the outputs on the forget set; both are what the certificate covers. The direction to look along is estimated from
# half of the trials, or, by who knows every seed and so both models, known.


# %%
def stream():
    """A stream of noise of its own for every set of trials."""
    drawn.append(None)
    return generator(seed, "audit noise", len(drawn) - 1)


def seen(problem, objective, releases):
    """Weights and outputs of releases, which come in blocks of one a row; ``objective`` is that of all."""
    # The features of a linear model are the same for all its releases.
    objective, samples = trainable(objective, problem.forget)
    weights, outputs = [], []
    for block in releases:
        weights.append(block.float())
        logits = torch.cat([objective.outputs(w, samples) for w in block])
        outputs.append(scaled_logit(logits, samples.targets.repeat(len(block))).float().view(len(block), -1))
    views = {"weights": torch.cat(weights)}
    # No certificate covers BatchNorm's running statistics, which outputs would show.
    return views if any(True for _ in objective.model.buffers()) else views | {"outputs": torch.cat(outputs)}


def own_noise(problem, updates):
    """Views of updates that bring their noise, so that none is added."""
    source = stream()
    released = [publish(problem, one, source) for one in updates]
    return seen(problem, released[0].objective, (one.w[None] for one in released))


def runs(problem, release, fresh, between, count):
    """Views of what a method and its reference give, each run anew with other noise, and along a known direction."""
    pairs = [
        [release(generator(seed, "audit run", number)) for number in range(count)],
        [fresh(generator(seed, "audit reference", number)) for number in range(count)],
    ]
    views = paired(*(own_noise(problem, updates) for updates in pairs))
    return views | {KNOWN: tuple((weights @ between.float())[:, None] for weights in views["weights"])}


def paired(released, fresh):
    return {view: (released[view], fresh[view]) for view in released}


def direction(problem, update, own):
    """From the reference to the release, before noise."""
    ends = [publish(problem, one, generator(seed, "noise")).w for one in (update, own)]
    return ends[0] - ends[1]


def fixed_pair(problem, update, own, sigma):
    """Trials of a release and its reference that differ in the last noise alone, by view."""
    few = settings.audit.estimated
    objectives = [publish(problem, one, generator(seed, "noise")).objective for one in (update, own)]
    sets = zip(objectives, (update, own), strict=True)
    views = paired(*(seen(problem, of, trials(problem, one, stream(), sigma, few)) for of, one in sets))
    return views | along(problem, update, own, sigma)


def along(problem, update, own, sigma):
    """The same along the known direction, where more trials are cheap."""
    between, many = direction(problem, update, own), settings.audit.trials
    if not between.any():
        # Two answers by the same retraining: along no direction every trial is 0, whatever the noise.
        return {KNOWN: (torch.zeros(many, 1), torch.zeros(many, 1))}
    pair = (trials(problem, base, stream(), sigma, many) for base in (update, own))
    return {KNOWN: tuple(torch.cat([block @ between for block in blocks])[:, None] for blocks in pair)}


def report(name, kind, views, certified, note=""):
    for view, (release, fresh) in views.items():
        result = audit(release, fresh, delta)
        where = {"method": name, "split": f"{kind}, {view}"}
        run.log("audit_epsilon", result.epsilon, **where, note=note)
        run.log("audit_gaussian", result.gaussian_epsilon, **where)
        for metric in ("mu", "mu_low", "mu_high", "detectable", "gaussian_detectable", "trials"):
            value = getattr(result, metric)
            # An end of the interval is infinite where all trials lie on one side of the threshold.
            if math.isfinite(value):
                run.log(metric, value, **where)
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
        fresh = partial(reference, method, problem, update)
        between = noiseless_difference(method, problem)
        views = runs(problem, partial(method, problem), fresh, between, settings.audit.runs)
        report(name, kind, views, certificate.epsilon)
        return
    distance = direction(problem, update, own).double().norm().item()
    run.log("pair_distance", distance, method=name, split=kind)
    # Two fixed Gaussians: their ε needs no trial, but says nothing of other pairs.
    pair = gaussian_epsilon(certificate.sigma, delta, distance) if distance > 0 else 0.0
    run.log("pair_epsilon", pair, method=name, split=kind)
    run.log("sensitivity", certificate.sensitivity, method=name, split=kind)
    report(name, kind, fixed_pair(problem, update, own, certificate.sigma), certificate.epsilon)


drawn = []
kinds = ("random", *settings.audit.forget)
for kind in kinds:
    problem = variant(kind).problem()
    for name in tqdm(certified_among(settings.methods.spaces), desc=kind, unit="method"):
        run.outcome(name, partial(examine, name, kind, problem), "audit_epsilon", split=kind)

# %% [markdown]
# ## Planted errors
#
# Would a wrong certificate be caught? The noise is made 1.5, 2, 3 and ten times smaller than the certificate says. The
# pair is the original and a retraining from another seed: farther apart than one from the same, and no farther than 2C,
# so that the certificate by projection covers it too. Next to it the same pair with the right noise. An adversary who
# has to estimate the direction tries the right noise and a tenth of it, one who knows it all five.

# %%
name, problem = "output perturbation", unlearned.problem
update, own = unlearned.update("original"), unlearned.update("second retraining")
bound = distance_bound(problem, update)
right = publish_at(problem, update, generator(seed, "noise"), epsilon, delta).certificate.sigma
run.log("planted_distance", direction(problem, update, own).norm() / bound.value)
PLANTED = {"right": 1, "1.5 times too little": 1.5, "2 times too little": 2, "3 times too little": 3}
for words, factor in {**PLANTED, "ten times too little": 10}.items():
    sigma = right / factor
    note = f"ε of this noise for Δ: {certify(bound, sigma, delta).epsilon:.4g}"
    views = (fixed_pair if factor in (1, 10) else along)(problem, update, own, sigma)
    report(f"planted: noise {words}", "another seed", views, epsilon, note)

# %% [markdown]
# The same for noise that is added on the way: every step of noisy fine-tuning gets a tenth of its noise. It starts from
# the same two models, clipped; its certificate is for any two starts in that ball. It takes two steps with small
# gradients, so that the distance of the starts is most of what its noise is made for: with the constants chosen for use
# most of the noise is for gradients as different as can be, which these two models do not have.

# %%
name = "noisy fine-tuning"
if name in settings.methods.spaces:
    constants = {**unlearned.chosen(name), "steps": 2, "gradient_clip": 0.01}
    method = build(name, constants, epsilon, delta)
    starts = [project(one.w, method.start_clip) for one in (update, own)]
    right = method.sigma
    run.log("planted_distance", (starts[0] - starts[1]).norm() / (2 * method.start_clip), method=name)
    for words, sigma in {"right": right, "ten times too little": right / 10}.items():
        method.sigma = sigma
        note = f"ε of this noise for Δ: {certify(method.bound, sigma, delta).epsilon:.4g}"
        release, fresh = (partial(method, replace(problem, w_star=start)) for start in starts)
        views = runs(problem, release, fresh, starts[0] - starts[1], settings.audit.planted_runs)
        report(f"planted: noise on the way {words}", "another seed", views, epsilon, note)

# %% [markdown]
# ## How large an error has to be
#
# Where noise comes last and the direction is known, an audit is one of N(0, 1) against N(d, 1), whatever the model:
# d = k·μ for noise k times too small and a pair that is Δ apart, μ = Δ/σ of the certificate; half of that at Δ/2. So
# the audit can be simulated, with as many trials as above, and its power is the share of simulations in which it
# contradicts. k = 1 is the right noise. Then the same for other ways to choose thresholds, at k where they differ: by
# either bound, and by counts alone, which do not assume Gaussian noise.

# %%
SIMULATED, CERTIFIED_MU = 200, 1 / gaussian_sigma(epsilon, delta, 1.0)
DISTANCES = {"Δ/2": 0.5, "Δ": 1.0}


def simulate(strategy, distance, factor):
    """Audits of a pair at a distance with noise that many times too small."""
    draws = np.random.default_rng(seed_for(seed, "audit power", strategy, distance, f"{factor:g}"))
    mu = factor * DISTANCES[distance] * CERTIFIED_MU
    return mu, power(STRATEGIES[strategy], mu, settings.audit.trials, epsilon, delta, SIMULATED, draws)


def log_share(metric, found, **where):
    """A share of the simulations with its 95 % interval."""
    low, high = clopper_pearson(np.array([found]), SIMULATED, 0.975)
    for end, value in (("", found / SIMULATED), ("_low", low[0]), ("_high", high[0])):
        run.log(f"{metric}{end}", value, **where)


for distance in DISTANCES:
    for factor in (1, 1.5, 2, 3, 10):
        where = {"method": "simulated", "split": distance, "axis": "times too little", "point": factor}
        mu, found = simulate(next(iter(STRATEGIES)), distance, factor)
        run.log("simulated_epsilon", gaussian_epsilon(1.0, delta, mu), **where)
        run.log("simulated_trials", settings.audit.trials, **where)
        log_share("detected", found.detected, **where)
        print(f"noise {factor:g} times smaller at {distance}: contradicted in {found.detected} of {found.seeds} audits")

for strategy in STRATEGIES:
    where = {"method": f"simulated: {strategy}", "split": "Δ", "axis": "times too little"}
    log_share("detected", simulate(strategy, "Δ", 1.5)[1].detected, **where, point=1.5)
    log_share("counted", simulate(strategy, "Δ", 3)[1].counted, **where, point=3)

# %%
chapters.show("10_audit-power", run.frame())
chapters.show("10_audit", run.frame())

# %%
run.finish()
