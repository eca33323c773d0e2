# %% [markdown]
# # Ablations
#
# One quantity at a time: the damping λ, the noise σ, the radius C, and LiSSA's depth.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu import notebook

run = notebook.begin("06_ablations", globals())

# %%
from cdu import certification, figures
from cdu.curvature import Hessian
from cdu.evaluation import accuracy
from cdu.seeding import generator
from cdu.solvers import SolverError, lissa
from cdu.unlearning import NewtonStep, Original, publish, release

scenario, settings = run.scenario, run.scenario.settings
unlearning, grid = settings.unlearning, settings.ablations
problem = scenario.problem()
default = unlearning.dampings[unlearning.default]
run.log("sigma", unlearning.sigma)
run.log("delta", unlearning.delta)


def evaluate(released, reference, **keys):
    run.log("accuracy", accuracy(released.objective, released.w, scenario.test), split="test", **keys)
    run.log("distance_to_retrained", (released.w - reference.w).norm(), **keys)


# %% [markdown]
# ## Damping λ
#
# Where λ ≤ −λ_min the system is indefinite and the step undefined; the solver says so.

# %%
for damping in grid.dampings:
    keys = {"axis": "damping", "point": damping}
    evaluate(release(problem, Original(), generator(seed)), scenario.retrained, method="original", **keys)
    update = run.attempt("newton", NewtonStep(damping), problem, "distance_to_retrained", **keys)
    if update is not None:
        evaluate(publish(problem, update, generator(seed)), scenario.retrained, method="newton", **keys)

# %% [markdown]
# ## Noise σ
#
# Accuracy is the mean over several draws of the noise; ε is what σ certifies at the sensitivity 2C.

# %%
bases = {"newton + noise": NewtonStep(default.value), "original + noise": Original()}
updates = {name: run.attempt(name, method, problem, axis="sigma") for name, method in bases.items()}
for sigma in grid.sigmas:
    keys = {"axis": "sigma", "point": sigma}
    for name, update in updates.items():
        if update is None:
            continue
        draws = [
            publish(problem, update, generator(seed, "noise", draw), sigma, unlearning.delta)
            for draw in range(grid.noise_draws)
        ]
        mean = sum(accuracy(draw.objective, draw.w, scenario.test) for draw in draws) / len(draws)
        run.log("accuracy", mean, method=name, split="test", **keys)
    epsilon = certification.gaussian_epsilon(sigma, unlearning.delta, certification.trivial_bound(problem.radius).value)
    run.log("epsilon", epsilon, **keys)
    print(f"σ = {sigma:g} certifies ε = {epsilon:.4g}")

# %% [markdown]
# ## Radius C
#
# Original and retrained model are trained anew for every C. Where the ball is never reached, C changes the bound and
# not the model.

# %%
for radius in grid.radii:
    recipe = settings.training.model_copy(update={"radius": radius})
    original = scenario.trained(scenario.train, seed, f"C = {radius:g}, original", recipe)
    retrained = scenario.trained(scenario.retain, seed, f"C = {radius:g}, retrained", recipe)
    constrained = scenario.problem(original, recipe)
    keys = {"axis": "radius", "point": radius}
    for name, method in {"original": Original(), "newton": NewtonStep(default.value)}.items():
        update = run.attempt(name, method, constrained, "distance_to_retrained", **keys)
        if update is not None:
            evaluate(publish(constrained, update, generator(seed)), retrained, method=name, **keys)
    active = sum(row["projected"] for row in original.history) / len(original.history)
    run.log("projected", active, method="original", **keys)
    run.log("norm", original.w.norm(), method="original", **keys)
    print(f"C = {radius:g}: ‖w*‖ = {original.w.norm():.3f}, projection active in {active:.0%} of the steps")

# %% [markdown]
# ## LiSSA's depth

# %%
gradient = problem.objective.gradient(problem.w_star, problem.retain)
operator = Hessian(problem.objective, problem.w_star, problem.retain) + default.value
for batch_size in (10, 128):
    for depth in grid.depths:
        constants = default.lissa.model_copy(update={"depth": depth, "batch_size": batch_size})
        keys = {"method": f"batch {batch_size}", "axis": "depth", "point": depth}
        try:
            solution = lissa(operator, gradient, **constants.model_dump(), generator=generator(seed, "depth", depth))
        except SolverError as error:
            run.log("residual", None, note=str(error), **keys)
            print(error)
            continue
        run.log("residual", solution.residual, **keys)

# %%
notebook.show(figures.ablations(run.frame()))

# %%
run.finish()
