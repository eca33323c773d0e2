# %% [markdown]
# # Unlearning
#
# One damped Newton step from the original model, projected onto the ball and released with noise: the paper's method,
# in all forms and with all solvers. Beside it stand the yardsticks: the original model (do nothing), the original with
# the same noise, and a second retraining. This notebook is for readers who know the definition of (ε, δ)-certified
# unlearning and want to see what it comes to on a network.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu.certification import classical_epsilon, gaussian_sigma, trivial_bound
from cdu.experiments.run import begin
from cdu.report import chapters
from cdu.seeding import generator
from cdu.unlearning.registry import methods
from cdu.unlearning.release import publish

run = begin("03_unlearning", globals())

# %%
setup, settings = run.setup, run.setup.settings.unlearning
problem = setup.problem()
distances = {"distance_to_original": setup.original.w, "distance_to_retrained": setup.retrained.w}
costs = ("seconds", "hvp_samples", "gradient_samples", "residual", "converged")

# %% [markdown]
# ## Every method, without noise
#
# The step solves one linear system: w̃ = w\* − (H + λI)⁻¹ ∇L(w\*, D_r), with the Hessian H taken on D_r. A method that
# cannot run says why, and its row stays.

# %%
updates = {}
for name, method in methods(settings, seed).items():
    update = run.attempt(name, method, problem)
    if update is not None:
        updates[name] = update
        run.log_release(name, publish(problem, update, generator(seed, "noise")), setup.sets, distances)
        run.log_costs(name, update, *costs)

# %% [markdown]
# ## How much noise
#
# Two models inside the ball are at most 2C apart. This is the only bound for a network whose constants are fixed before
# the data are seen, so σ has to be what (ε, δ) requires for the sensitivity 2C. The classical formula for ε is valid
# below 1 only, and stands beside the exact one.

# %%
needed = gaussian_sigma(settings.epsilon, settings.delta, trivial_bound(problem.radius).value)
classical = classical_epsilon(settings.sigma, settings.delta, 2 * problem.radius)
sigmas = {"noise": settings.sigma, f"noise for ε = {settings.epsilon:g}": needed}

# %% [markdown]
# ## Released with noise
#
# σ as it is used in practice, and σ as (ε, δ) requires it. All models receive the same draw of the noise, so that they
# differ in the model alone.

# %%
for name in (name for name in ("original", "newton", "retrain", "second retraining") if name in updates):
    for label, sigma in sigmas.items():
        released = publish(problem, updates[name], generator(seed, "noise"), sigma, settings.delta)
        run.log_release(f"{name} + {label}", released, setup.sets, distances)
        run.log_values({"epsilon": released.certificate.epsilon, "sigma": sigma}, method=f"{name} + {label}")
        if name == "newton":
            print(released.certificate, end="\n\n")
    wanted = {"sigma_needed": needed, "epsilon_wanted": settings.epsilon, "epsilon_classical": classical}
    run.log_values(wanted, method=f"{name} + noise")

# %%
chapters.show("03_unlearning", run.frame())

# %%
run.finish()
