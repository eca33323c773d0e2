# %% [markdown]
# # Audit
#
# A certificate says that nobody can tell a release from what it should equal better than ε allows. Here somebody tries:
# the same release is drawn thousands of times, and so is its reference, from models that never saw the forget set. What
# the trials show is a lower bound on ε. A certificate below it would be wrong. For readers who know the definition of
# (ε, δ) and want to see it tested, and not only proven.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from dataclasses import replace
from functools import partial

from tqdm import tqdm

from cdu.certification import certify, gaussian_epsilon
from cdu.evaluation.audit import STRATEGIES
from cdu.evaluation.audit_trials import Trials, difference
from cdu.experiments.audits import DISTANCES, log_audit, log_method, log_share, simulated
from cdu.experiments.forget_sets import with_forget_set
from cdu.experiments.method_results import MethodResults
from cdu.experiments.run import begin
from cdu.models.training import project
from cdu.report import chapters
from cdu.seeding import generator
from cdu.unlearning.registry import build, certified_among
from cdu.unlearning.release import distance_bound, publish_at

run = begin("10_audit", globals())

# %% [markdown]
# ## Who looks, and at what
#
# Where noise is the last thing that happens, the models before it are fixed and known to the adversary, and only the
# noise is drawn anew. A method that adds noise on the way is run anew for every trial. The adversary sees the weights,
# or the outputs on the forget set; the certificate covers both. The direction to look along is estimated from two
# fifths of the trials, or is known to an adversary who knows every seed, and so both models.

# %%
setup, settings = run.setup, run.setup.settings
epsilon, delta = settings.unlearning.epsilon, settings.unlearning.delta
unlearned, trials = MethodResults(setup), Trials(settings.audit, seed)

# %% [markdown]
# ## The pairs
#
# The experiment's forget set, and worst cases of the same size: the samples on which the original model does worst,
# samples with wrong labels, samples of one class. For a test with true-positive rate t and false-positive rate f every
# (ε, δ) guarantee has t ≤ e^ε f + δ, so that ε ≥ ln((t − δ)/f): that is what the trials are asked for.

# %%
certified = certified_among(settings.methods.spaces)
for kind in ("random", *settings.audit.forget):
    problem = with_forget_set(setup, kind).problem()
    for name in tqdm(certified, desc=kind, unit="method"):
        examine = partial(log_method, run, unlearned, trials, name, kind, problem)
        run.outcome(name, examine, "audit_epsilon", split=kind)

# %% [markdown]
# ## A pair for planted errors
#
# Would a wrong certificate be caught? The pair is the original and a retraining from another seed: farther apart than
# one from the same, and no farther than 2C, so that the certificate by projection covers it too.

# %%
problem = unlearned.problem
update, own = unlearned.update("original"), unlearned.update("second retraining")
bound = distance_bound(problem, update)
right = publish_at(problem, update, generator(seed, "noise"), epsilon, delta).certificate.sigma
run.log("planted_distance", difference(problem, update, own).norm() / bound.value)

# %% [markdown]
# ## Noise that is too small
#
# The noise is made 1.5, 2, 3 and ten times smaller than the certificate says; next to it the same pair with the right
# noise. An adversary who has to estimate the direction tries the right noise and a tenth of it; one who knows the
# direction tries all five.

# %%
little = {f"{factor:g} times too little": factor for factor in (1.5, 2, 3)}
for words, factor in {"right": 1, **little, "ten times too little": 10}.items():
    sigma = right / factor
    note = f"ε of this noise for Δ: {certify(bound, sigma, delta).epsilon:.4g}"
    drawn = trials.last_noise if factor in (1, 10) else trials.along_difference
    log_audit(run, f"planted: noise {words}", "another seed", drawn(problem, update, own, sigma), epsilon, note)

# %% [markdown]
# ## The same for noise that is added on the way
#
# Every step of noisy fine-tuning gets a tenth of its noise. It starts from the same two models, clipped; its
# certificate is for any two starts in that ball. It takes two steps with small gradients, so that the distance of the
# starts is most of what its noise is made for: with the constants chosen for use most of the noise is for gradients as
# different as can be, which these two models do not have.

# %%
name = "noisy fine-tuning"
if name in settings.methods.spaces:
    method = build(name, {**unlearned.chosen(name), "steps": 2, "gradient_clip": 0.01}, epsilon, delta)
    starts = [project(one.w, method.start_clip) for one in (update, own)]
    between, right = starts[0] - starts[1], method.sigma
    run.log("planted_distance", between.norm() / (2 * method.start_clip), method=name)
    for words, sigma in {"right": right, "ten times too little": right / 10}.items():
        method.sigma = sigma
        note = f"ε of this noise for Δ: {certify(method.bound, sigma, delta).epsilon:.4g}"
        pair = (partial(method, replace(problem, w_star=start)) for start in starts)
        views = trials.noise_on_the_way(problem, *pair, between, settings.audit.planted_runs)
        log_audit(run, f"planted: noise on the way {words}", "another seed", views, epsilon, note)

# %% [markdown]
# ## How large an error has to be
#
# Where noise comes last and the direction is known, an audit is one of N(0, 1) against N(d, 1), whatever the model:
# d = k·μ for noise k times too small and a pair that is Δ apart, μ = Δ/σ of the certificate; half of that at Δ/2. So
# the audit can be simulated, with as many trials as above, and its power is the share of simulations in which it
# contradicts. k = 1 is the right noise.

# %%
for distance in DISTANCES:
    for factor in (1, 1.5, 2, 3, 10):
        where = {"method": "simulated", "split": distance, "axis": "times too little", "point": factor}
        mu, found = simulated(run, next(iter(STRATEGIES)), distance, factor)
        simulation = {"simulated_epsilon": gaussian_epsilon(1.0, delta, mu), "simulated_trials": settings.audit.trials}
        run.log_values(simulation, **where)
        log_share(run, "detected", found.detected, **where)
        print(f"noise {factor:g} times smaller at {distance}: contradicted in {found.detected} of {found.seeds} audits")

# %% [markdown]
# ## Other ways to choose thresholds
#
# At k where they differ: by either bound, and by counts alone, which do not assume Gaussian noise.

# %%
for strategy in STRATEGIES:
    where = {"method": f"simulated: {strategy}", "split": "Δ", "axis": "times too little"}
    log_share(run, "detected", simulated(run, strategy, "Δ", 1.5)[1].detected, **where, point=1.5)
    log_share(run, "counted", simulated(run, strategy, "Δ", 3)[1].counted, **where, point=3)

# %%
chapters.show("10_audit-power", run.frame())
chapters.show("10_audit", run.frame())

# %%
run.finish()
