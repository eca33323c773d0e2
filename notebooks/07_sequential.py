# %% [markdown]
# # Requests one after another, and training that stopped early
#
# The forget set comes in many requests instead of one, each answered by a step from where the last one ended. Then the
# same single request as everywhere, on models whose training was stopped long before it converged.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu import certification
from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import extreme_eigenvalues
from cdu.errors import CduError
from cdu.evaluation import theory_checks
from cdu.evaluation.accuracy import accuracy
from cdu.experiments import kept_requests
from cdu.experiments.run import begin
from cdu.report import chapters
from cdu.seeding import generator
from cdu.unlearning import requests
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.problem import UnlearningResult
from cdu.unlearning.release import publish

run = begin("07_sequential", globals())

# %%
from tqdm import tqdm

setup, settings = run.setup, run.setup.settings
plan, unlearning = settings.sequential, settings.unlearning
problem, default = setup.problem(), unlearning.dampings[unlearning.default]
trivial = certification.trivial_bound(problem.radius)
run.log("trivial_bound", trivial.value)
run.log("sigma", unlearning.sigma)
run.log("delta", unlearning.delta)
run.log("epsilon_wanted", unlearning.epsilon)


def judge(objective, w, forget, retain, **keys):
    for split, samples in {"forget": forget, "retain": retain, "test": setup.test}.items():
        run.log("accuracy", accuracy(objective, w, samples), split=split, **keys)


# %% [markdown]
# ## 1. What k releases certify together
#
# Each release is w̃_k + N(0, σ²I) at a distance of at most 2C from the model retrained after that request. Together k of
# them are one Gaussian release with μ = √k·2C/σ. Read step by step, every release has the ε of the first.

# %%
counts = sorted({*range(1, plan.requests + 1), *range(plan.requests, plan.long_requests + 1, plan.requests)})
for count in counts:
    keys = {"axis": "releases", "point": count}
    together = certification.certify(trivial, unlearning.sigma, unlearning.delta, count).epsilon
    alone = certification.certify(trivial, unlearning.sigma, unlearning.delta).epsilon
    needed = certification.required_sigma(trivial, unlearning.epsilon, unlearning.delta, count)
    run.log("epsilon", together, method="together", **keys)
    run.log("epsilon", alone, method="each alone", **keys)
    run.log("sigma_needed", needed, **keys)
    print(f"{count} releases: ε = {together:.4g} together, {alone:.4g} each; σ = {needed:.4g} for the ε wanted")

# %% [markdown]
# ## 2. The retrained models
#
# Where a short and a long sequence have deleted as many samples they have deleted the same, and share these models.


# %%
def asked(count):
    return requests.requests(setup.data.train, setup.split.train, setup.split.forget, count, seed)


retrained = {}
for request in asked(plan.requests):
    if request.number in (*plan.retrained_at, plan.requests):
        label = f"after request {request.number}, retrained"
        retrained[len(request.gone)] = setup.trained(request.retain, seed, label)
retraining = sum(trained.seconds for trained in retrained.values()) / len(retrained)

# %% [markdown]
# ## 3. Ten requests, and fifty
#
# Both forms of the step; continuing from the noiseless iterate, from the release with the noise used in practice, and
# from the release with the noise that certifies the wanted ε in total. The original model with the same draws of noise
# is the yardstick. Distances are those that Δ is about: of the projected iterate before its noise.

# %%
step, forget_step = NewtonStep(default.value), NewtonStep(default.value, gradient="forget")
certifying = f"noise for ε = {unlearning.epsilon:g}"


def follow(name, method, count, axis, carried, sigmas, checkpoints=None):
    """Answer all requests with one method; log what comes out after each, or where so many are gone."""
    kept, total = kept_requests.keeper(setup, method, count, carried), 0.0
    chain = requests.answers(problem, asked(count), method, carried, kept, unsafe_seed=seed)
    answered = 0
    try:
        for answer in tqdm(chain, desc=f"{name}, {count} requests", total=count, unit="request"):
            request, update = answer.request, answer.update
            answered, total = request.number, total + update.seconds
            if checkpoints is not None and len(request.gone) not in checkpoints:
                continue
            where = {"axis": axis, "point": request.number}
            run.log("step", (answer.iterate - answer.problem.w_star).norm(), method=name, **where)
            run.log("residual", update.residual, method=name, **where)
            target = retrained.get(len(request.gone))
            if target is not None:
                run.log("distance_to_retrained", (answer.iterate - target.w).norm(), method=name, **where)
            for label, sigma in sigmas.items():
                released = answer.release(sigma, unlearning.delta)
                judge(released.objective, released.w, request.gone, request.retain, method=label, **where)
    except CduError as error:
        print(f"{name}, request {answered + 1}: {error}")
        run.log("accuracy", None, method=name, axis=axis, point=answered + 1, note=str(error))
        return
    run.log("seconds", total, method=name, split=f"{count} requests")
    print(f"{name}: {count} requests in {total:.3g} s")


def yardsticks(count, axis, sigmas, checkpoints=None):
    """The original model, with the same noise, and the retrained ones."""
    for request in asked(count):
        if checkpoints is not None and len(request.gone) not in checkpoints:
            continue
        where = {"axis": axis, "point": request.number}
        nothing = requests.Answer(request, problem, UnlearningResult(problem.w_star, 0.0), seed)
        for label, sigma in sigmas.items():
            released = nothing.release(sigma, unlearning.delta)
            judge(released.objective, released.w, request.gone, request.retain, method=label, **where)
        target = retrained.get(len(request.gone))
        if target is not None:
            judge(setup.objective(target), target.w, request.gone, request.retain, method="retrain", **where)
            run.log("distance_to_retrained", (problem.w_star - target.w).norm(), method="original", **where)
    run.log("seconds", count * retraining, method="retrain", split=f"{count} requests")


# %%
used = unlearning.sigma
for count, axis in ((plan.requests, "request"), (plan.long_requests, "long request")):
    # Of the long sequence those requests are looked at after which as many samples are gone as after a short one's.
    seen = None if axis == "request" else {len(request.gone) for request in asked(plan.requests)}
    enough = certification.required_sigma(trivial, unlearning.epsilon, unlearning.delta, count)
    noises = {"": 0.0, " + noise": used, f" + {certifying}": enough}
    yardsticks(count, axis, {f"original{noise}": sigma for noise, sigma in noises.items()}, seen)
    follow("newton", step, count, axis, 0.0, {f"newton{noise}": sigma for noise, sigma in noises.items()}, seen)
    name = "newton, from the release + noise"
    follow(name, step, count, axis, used, {name: used}, seen)
    if axis == "request":
        name = f"newton, from the release + {certifying}"
        follow(name, step, count, axis, enough, {name: enough})
        follow("newton, forget gradient", forget_step, count, axis, 0.0, {"newton, forget gradient": 0.0})
        name = "newton, forget gradient, from the release + noise"
        follow(name, forget_step, count, axis, used, {name: used})

# %% [markdown]
# ## 4. Training that has not converged
#
# Original and retrained model are stopped after a few epochs. Theorem 3.4 then has the retrained model's gradient norm
# G = ‖∇L(w̃\*, D_r)‖ in it. G, λ_min and M are measured on the data, M from below along the straight line between the
# two models, so that the bound is an *indication*; and a ReLU network has no finite M.

# %%
for epochs in plan.epochs:
    recipe = settings.training.model_copy(update={"epochs": epochs})
    original = problem.stopped(epochs)
    target = setup.trained(setup.retain, seed, f"{epochs} epochs, retrained", recipe)
    early, objective = setup.problem(original, recipe), setup.objective(original)
    where, stream = {"axis": "epochs", "point": epochs}, generator(seed, "epochs", epochs)
    hessian = Hessian(objective, original.w, setup.retain)
    smallest = extreme_eigenvalues(hessian.__matmul__, original.w, stream, 1e-2, 20)[0].value
    segment = theory_checks.segment_constants(objective, original.w, target.w, setup.retain, stream, 2)
    gradient = setup.objective(target).gradient(target.w, setup.retain).norm().item()
    run.log("lambda_min", smallest, method="original", **where)
    run.log("hessian_lipschitz", segment.hessian_lipschitz, method="original", **where)
    run.log("gradient_retrained", gradient, method="retrain", **where)
    run.log("gradient_original", objective.gradient(original.w, setup.train).norm(), method="original", **where)
    facts = (segment.hessian_lipschitz, default.value, smallest, gradient)
    run.bound("bound", certification.newton_bound, problem.radius, *facts, method="newton", **where)
    run.log("distance_to_retrained", segment.length, method="original", **where)
    judge(objective, original.w, setup.forget, setup.retain, method="original", **where)
    judge(setup.objective(target), target.w, setup.forget, setup.retain, method="retrain", **where)
    for name, method in {"newton": step, "newton, forget gradient": forget_step}.items():
        update = run.attempt(name, method, early, "distance_to_retrained", **where)
        if update is not None:
            released = publish(early, update, generator(seed))
            run.log("distance_to_retrained", (released.w - target.w).norm(), method=name, **where)
            judge(released.objective, released.w, setup.forget, setup.retain, method=name, **where)

# %%
chapters.show("07_sequential", run.frame())

# %%
run.finish()
