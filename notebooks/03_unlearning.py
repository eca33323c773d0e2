# %% [markdown]
# # Unlearning
#
# One damped Newton step from the original model, projected onto the ball and released with noise, beside retraining and
# the yardsticks: the original model (do nothing), the original with the same noise, and a second retraining.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu import certification
from cdu.evaluation.accuracy import accuracy
from cdu.experiments.run import begin
from cdu.report import chapters
from cdu.seeding import generator
from cdu.unlearning.registry import methods
from cdu.unlearning.release import publish

run = begin("03_unlearning", globals())

# %%

setup, settings = run.setup, run.setup.settings.unlearning
problem = setup.problem()
original, retrained = setup.original.w, setup.retrained.w
sets = {"forget": setup.forget, "retain": setup.retain, "test": setup.test}


def evaluate(name, released):
    for split, samples in sets.items():
        run.log("accuracy", accuracy(released.objective, released.w, samples), method=name, split=split)
    run.log("distance_to_original", (released.w - original).norm(), method=name)
    run.log("distance_to_retrained", (released.w - retrained).norm(), method=name)


# %% [markdown]
# ## Every method, without noise
#
# A method that cannot run says why, and its row stays.

# %%
updates = {}
for name, method in methods(settings, seed).items():
    update = run.attempt(name, method, problem)
    if update is None:
        continue
    updates[name] = update
    evaluate(name, publish(problem, update, generator(seed, "noise")))
    run.log("seconds", update.seconds, method=name)
    run.log("hvp_samples", update.hvp_samples, method=name)
    run.log("gradient_samples", update.gradient_samples, method=name)
    if update.residual is not None:
        run.log("residual", update.residual, method=name)
        run.log("converged", update.converged, method=name)

# %% [markdown]
# ## Released with noise
#
# σ as it is used in practice, and σ as (ε, δ) requires it for the sensitivity 2C: the only bound for a network whose
# constants are fixed before the data are seen. All models receive the same draw of the noise.

# %%
distance = certification.trivial_bound(problem.radius).value
needed = certification.gaussian_sigma(settings.epsilon, settings.delta, distance)
for name in (name for name in ("original", "newton", "retrain", "second retraining") if name in updates):
    for label, sigma in {"noise": settings.sigma, f"noise for ε = {settings.epsilon:g}": needed}.items():
        noisy = f"{name} + {label}"
        released = publish(problem, updates[name], generator(seed, "noise"), sigma, settings.delta)
        evaluate(noisy, released)
        run.log("epsilon", released.certificate.epsilon, method=noisy)
        run.log("sigma", sigma, method=noisy)
        if name == "newton":
            print(released.certificate, end="\n\n")
    run.log("sigma_needed", needed, method=f"{name} + noise")
    run.log("epsilon_wanted", settings.epsilon, method=f"{name} + noise")
    classical = certification.classical_epsilon(settings.sigma, settings.delta, 2 * problem.radius)
    run.log("epsilon_classical", classical, method=f"{name} + noise")

# %%
chapters.show("03_unlearning", run.frame())

# %%
run.finish()
