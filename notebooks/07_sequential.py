# %% [markdown]
# # Requests one after another, and training that stopped early
#
# The forget set comes in many requests instead of one, each answered by a step from where the last one ended. Then the
# same single request as everywhere, on models whose training was stopped long before it converged. For readers who know
# the step and its certificate for one request: the paper claims both for many requests, and for early stopping.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu.certification import newton_bound, required_sigma, trivial_bound
from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import extreme_eigenvalues
from cdu.evaluation.theory_checks import segment_constants
from cdu.experiments.request_chains import Chain, asked, log_composition
from cdu.experiments.run import begin
from cdu.report import chapters
from cdu.seeding import generator
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.release import publish

run = begin("07_sequential", globals())

# %%
setup, plan, unlearning = run.setup, run.setup.settings.sequential, run.setup.settings.unlearning
problem, damping = setup.problem(), unlearning.dampings[unlearning.default].value
trivial = trivial_bound(problem.radius)
run.log_values({"trivial_bound": trivial.value, "sigma": unlearning.sigma})
run.log_values({"delta": unlearning.delta, "epsilon_wanted": unlearning.epsilon})

# %% [markdown]
# ## 1. What k releases certify together
#
# Each release is w̃_k + N(0, σ²I) at a distance of at most 2C from the model retrained after that request. Together k of
# them are one Gaussian release with μ = √k·2C/σ. Read step by step, every release has the ε of the first.

# %%
counts = {*range(1, plan.requests + 1), *range(plan.requests, plan.long_requests + 1, plan.requests)}
log_composition(run, trivial, sorted(counts))

# %% [markdown]
# ## 2. The retrained models
#
# Where a short and a long sequence have deleted as many samples they have deleted the same, and share these models.

# %%
retrained = {}
for request in asked(setup, plan.requests):
    if request.number in (*plan.retrained_at, plan.requests):
        label = f"after request {request.number}, retrained"
        retrained[len(request.gone)] = setup.trained(request.retain, seed, label)

# %% [markdown]
# ## 3. One chain of requests
#
# The step continues from the noiseless iterate w̃_k, or from the release w̃_k + N(0, σ²I), projected onto the ball. The
# original model with the same draws of noise is the yardstick. Distances are those that Δ is about: of the projected
# iterate before its noise.

# %%
step, used, certifying = NewtonStep(damping), unlearning.sigma, f" + noise for ε = {unlearning.epsilon:g}"


def enough(count):
    """The σ that certifies the wanted ε of so many releases in total."""
    return required_sigma(trivial, unlearning.epsilon, unlearning.delta, count)


def follow(chain):
    """Yardsticks, then the step from the noiseless iterate, and from the release with the noise used in practice."""
    noises = {"": 0.0, " + noise": used, certifying: enough(chain.count)}
    chain.log_yardsticks({f"original{noise}": sigma for noise, sigma in noises.items()})
    chain.log_answers("newton", step, 0.0, {f"newton{noise}": sigma for noise, sigma in noises.items()})
    name = "newton, from the release + noise"
    chain.log_answers(name, step, used, {name: used})


# %% [markdown]
# ## 4. Few requests
#
# Also from the release with the noise that certifies the wanted ε in total; and the other form of the step, which has
# the gradient over the request's own samples, n_u/n_r · ∇L(w, D_u), in place of −∇L(w, D_r).

# %%
chain = Chain(run, problem, plan.requests, "request", retrained)
follow(chain)
name, sigma = f"newton, from the release{certifying}", enough(plan.requests)
chain.log_answers(name, step, sigma, {name: sigma})
forget_step, name = NewtonStep(damping, gradient="forget"), "newton, forget gradient"
chain.log_answers(name, forget_step, 0.0, {name: 0.0})
chain.log_answers(f"{name}, from the release + noise", forget_step, used, {f"{name}, from the release + noise": used})

# %% [markdown]
# ## 5. Many requests
#
# The same forget set in smaller pieces. Results are taken only where as many samples are gone as after one of the few
# requests.

# %%
gone = {len(request.gone) for request in asked(setup, plan.requests)}
follow(Chain(run, problem, plan.long_requests, "long request", retrained, gone))

# %% [markdown]
# ## 6. The bound for training that has not converged
#
# Theorem 3.4 then has the retrained model's gradient norm G = ‖∇L(w̃\*, D_r)‖ in it. G, λ_min and M are measured on the
# data, M from below along the straight line between the two models, so that the bound is an *indication*; and a ReLU
# network has no finite M.


# %%
def log_bound(early, target, **where):
    """Log the measured constants and the bound that they give."""
    stream, objective, w = generator(seed, "epochs", where["point"]), early.objective, early.w_star
    hessian = Hessian(objective, w, setup.retain)
    smallest = extreme_eigenvalues(hessian.__matmul__, w, stream, 1e-2, 20)[0].value
    segment = segment_constants(objective, w, target.w, setup.retain, stream, 2)
    gradient = setup.objective(target).gradient(target.w, setup.retain).norm().item()
    curvature = {"lambda_min": smallest, "hessian_lipschitz": segment.hessian_lipschitz}
    run.log_values(curvature, method="original", **where)
    run.log("gradient_retrained", gradient, method="retrain", **where)
    run.log("gradient_original", objective.gradient(w, setup.train).norm(), method="original", **where)
    facts = (problem.radius, segment.hessian_lipschitz, damping, smallest, gradient)
    run.bound("bound", newton_bound, *facts, method="newton", **where)
    run.log("distance_to_retrained", segment.length, method="original", **where)


# %% [markdown]
# ## 7. The step on models that stopped early
#
# Original and retrained model are stopped after a few epochs. Both forms of the step start from that original and are
# measured against that retrained model.

# %%
for epochs in plan.epochs:
    recipe, where = setup.settings.training.model_copy(update={"epochs": epochs}), {"axis": "epochs", "point": epochs}
    original = problem.stopped(epochs)
    target = setup.trained(setup.retain, seed, f"{epochs} epochs, retrained", recipe)
    early = setup.problem(original, recipe)
    log_bound(early, target, **where)
    run.log_release("original", setup.as_trained(original), setup.sets, **where)
    run.log_release("retrain", setup.as_trained(target), setup.sets, **where)
    for name, method in {"newton": step, "newton, forget gradient": forget_step}.items():
        update = run.attempt(name, method, early, "distance_to_retrained", **where)
        if update is not None:
            released = publish(early, update, generator(seed))
            run.log("distance_to_retrained", (released.w - target.w).norm(), method=name, **where)
            run.log_release(name, released, setup.sets, **where)

# %%
chapters.show("07_sequential", run.frame())

# %%
run.finish()
