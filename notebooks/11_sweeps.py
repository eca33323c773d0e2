# %% [markdown]
# # Radius, requests, early stopping and small noise
#
# What the chapters on ablations and on requests ask of small networks, cut down to what decides the claims and to what
# a network of the paper's size can afford. Every point is kept as soon as it is computed: an interrupted run goes on
# from there.

# %% tags=["parameters"]
dataset = "cifar10"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from cdu import certification
from cdu.data.samples import part_of
from cdu.errors import CduError
from cdu.evaluation.accuracy import accuracy
from cdu.evaluation.theory_checks import hessian_lipschitz, spectrum_ends
from cdu.experiments import kept_requests
from cdu.experiments.forget_sets import varied
from cdu.experiments.run import begin
from cdu.models.batchnorm import has_statistics
from cdu.report import chapters
from cdu.seeding import generator
from cdu.unlearning import requests
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.methods.subsampled_newton import SubsampledNewton
from cdu.unlearning.problem import UnlearningResult
from cdu.unlearning.release import Release, publish, recalibrated

run = begin("11_sweeps", globals())

# %%
from functools import cache, partial

from tqdm import tqdm

setup, settings = run.setup, run.setup.settings
plan, unlearning, recipe = settings.sweeps, settings.unlearning, settings.training
if plan is None:
    raise CduError(
        f"the experiment '{setup.experiment.name}' has no block 'sweeps' for {dataset}; "
        "'batchnorm', 'paper' and 'paper-resnet18' have one"
    )
problem = setup.problem()
original, retrained = setup.original, setup.retrained

# %% [markdown]
# ## What is computed on what

# %%
judged = {
    "retain": part_of(setup.retain, plan.judged, generator(seed, "judged, retained")),
    "test": part_of(setup.test, plan.judged, generator(seed, "judged, test")),
}
for split, samples in judged.items():
    run.log("judged_samples", len(samples), split=split)
damping = unlearning.dampings[unlearning.default].value
trivial = certification.trivial_bound(problem.radius)
facts = {
    "parameters": problem.objective.size,
    "train_samples": len(setup.train),
    "hessian_samples": min(plan.hessian_samples or len(setup.retain), len(setup.retain)),
    "spectrum_samples": min(plan.spectrum_samples, len(setup.retain)),
    "epochs_trained": recipe.epochs,
    "requests": plan.requests,
    "damping": damping,
    "sigma": unlearning.sigma,
    "delta": unlearning.delta,
    "epsilon_wanted": unlearning.epsilon,
    "trivial_bound": trivial.value,
}
for metric, value in facts.items():
    run.log(metric, value)
    print(f"{metric}: {value:,}")
newton = SubsampledNewton(damping, plan.hessian_samples)


def judge(label, draws, split="", **keys):
    """Mean accuracy of releases, with BatchNorm's statistics as they are and as they would be on D_r."""
    kinds = {"accuracy": draws}
    if has_statistics(problem.objective.model):
        kinds["recalibrated_accuracy"] = [recalibrated(one, judged["retain"], recipe.batch_size) for one in draws]
    for metric, models in kinds.items():
        for name, samples in judged.items():
            mean = sum(accuracy(one.objective, one.w, samples) for one in models) / len(models)
            run.log(metric, mean, method=label, split=name + split, **keys)


def as_trained(trained):
    """A trained model as a release without noise."""
    return Release(trained.w, setup.objective(trained), None, UnlearningResult(trained.w, trained.seconds))


def sweep(axis, points, compute):
    for point in tqdm(points, desc=axis, unit="point"):
        run.point(f"{axis} = {point}", partial(compute, point))


# %% [markdown]
# ## Noise σ
#
# The Newton step, the original and the retrained model with the same draws of noise, down to the σ of the authors'
# code.

# %%
methods = {"newton + noise": newton, "original + noise": Original(), "retrain + noise": Retrain()}


@cache
def update_of(name):
    """A method's result, computed at the first point that needs it."""
    return methods[name](problem, generator(seed, name.removesuffix(" + noise")))


def noisy(sigma):
    keys = {"axis": "sigma", "point": sigma}
    for name in methods:
        update = run.outcome(name, partial(update_of, name), "accuracy", **keys)
        if update is not None:
            sources = (generator(seed, "noise", draw) for draw in range(plan.noise_draws))
            judge(name, [publish(problem, update, source, sigma, unlearning.delta) for source in sources], **keys)
    epsilon = certification.gaussian_epsilon(sigma, unlearning.delta, trivial.value)
    run.log("epsilon", epsilon, **keys)
    print(f"σ = {sigma:g} certifies ε = {epsilon:.4g}")


def without_noise():
    for name in methods:
        update = run.outcome(name, partial(update_of, name), "accuracy")
        if update is not None:
            judge(name, [publish(problem, update, generator(seed))], ", no noise")


sweep("sigma", plan.sigmas, noisy)
run.point("no noise", without_noise)

# %% [markdown]
# ## Radius C
#
# The original, trained anew for every C; the experiment's own is there already.


# %%
def within(radius):
    keys = {"axis": "radius", "point": radius}
    trained = varied(setup, training=recipe.model_copy(update={"radius": radius})).original
    judge("original", [as_trained(trained)], **keys)
    run.log("norm", trained.w.norm(), **keys)
    run.log("projected", sum(row["projected"] for row in trained.history) / len(trained.history), **keys)
    sensitivity = certification.trivial_bound(radius).value
    run.log("epsilon", certification.gaussian_epsilon(unlearning.sigma, unlearning.delta, sensitivity), **keys)


sweep("radius", plan.radii, within)

# %% [markdown]
# ## Requests one after another
#
# The forget set in k requests, each answered from where the last answer ended: from the noiseless iterate, and then
# from the release with the noise in use. Accuracy is that after the last request, when all of the forget set is gone.

# %%
for count in range(1, plan.requests + 1):
    keys = {"axis": "releases", "point": count}
    together = certification.certify(trivial, unlearning.sigma, unlearning.delta, count).epsilon
    alone = certification.certify(trivial, unlearning.sigma, unlearning.delta).epsilon
    run.log("epsilon", together, method="together", **keys)
    run.log("epsilon", alone, method="each alone", **keys)
    needed = certification.required_sigma(trivial, unlearning.epsilon, unlearning.delta, count)
    run.log("sigma_needed", needed, **keys)
print(f"{plan.requests} releases: ε = {together:.4g} together, {alone:.4g} each")

last = {"axis": "request", "point": plan.requests}


def after_the_last(name, answer, sigmas):
    """Judge what comes out after the last request, with each noise."""
    for label, sigma in sigmas.items():
        judge(label, [answer.release(sigma, unlearning.delta)], **last)
    run.log("distance_to_retrained", (answer.iterate - retrained.w).norm(), method=name, **last)


def follow(name, carried, sigmas):
    """Answer all requests, each from where the last answer ended."""
    asked = requests.requests(setup.data.train, setup.split.train, setup.split.forget, plan.requests, seed)
    kept = kept_requests.keeper(setup, newton, plan.requests, carried)
    chain = requests.answers(problem, asked, newton, carried, kept, unsafe_seed=seed)
    answered, spent = 0, []
    try:
        for answer in tqdm(chain, desc=name, total=plan.requests, unit="request"):
            answered = answer.request.number
            where = {"axis": "request", "point": answered}
            run.log("step", (answer.iterate - answer.problem.w_star).norm(), method=name, **where)
            run.log("residual", answer.update.residual, method=name, **where)
            spent.append(answer.update)
    except CduError as error:
        print(f"{name}, request {answered + 1}: {error}")
        run.log("accuracy", None, method=name, axis="request", point=answered + 1, note=str(error))
        return
    split = f"{plan.requests} requests"
    run.log("seconds", sum(update.seconds for update in spent), method=name, split=split)
    run.log("hvp_samples", sum(update.hvp_samples for update in spent), method=name, split=split)
    after_the_last(name, answer, sigmas)


def yardsticks():
    """The original with the same noise, and the model retrained without all of the forget set."""
    everything = requests.Request(plan.requests, setup.forget, setup.forget, setup.retain)
    nothing = requests.Answer(everything, problem, UnlearningResult(problem.w_star, 0.0), seed)
    after_the_last("original", nothing, {"original": 0.0, "original + noise": unlearning.sigma})
    judge("retrain", [as_trained(retrained)], **last)


run.point("yardsticks", yardsticks)
run.point("requests", partial(follow, "newton", 0.0, {"newton": 0.0, "newton + noise": unlearning.sigma}))
name = "newton, from the release + noise"
run.point("requests, from the release", partial(follow, name, unlearning.sigma, {name: unlearning.sigma}))

# %% [markdown]
# ## Training that has not converged
#
# Original and retrained model are stopped after a few epochs. G = ‖∇L(w̃\*, D_r)‖ is measured; λ_min and M are seen
# from inside, by Ritz values, so that the bound is an *indication*, and too small rather than too large. The step has
# the gradient over D_u, Theorem 3.4 is about the one over D_r: the two agree where ∇L(w\*, D) = 0.


# %%
def stopped(epochs):
    where = {"axis": "epochs", "point": epochs}
    start, target = problem.stopped(epochs), setup.stopped(setup.retain, epochs, "retrained")
    early = setup.problem(start, recipe.model_copy(update={"epochs": epochs}))
    sizes, stream = (plan.spectrum_samples, plan.lanczos_steps), partial(generator, seed, "epochs", epochs)
    smallest, _ = spectrum_ends(early, *sizes, stream())
    bend = hessian_lipschitz(early, target.w, *sizes, stream())
    gradient = setup.objective(target).gradient(target.w, setup.retain).norm().item()
    run.log("lambda_min", smallest, method="original", **where)
    run.log("hessian_lipschitz", bend, method="original", **where)
    run.log("gradient_retrained", gradient, method="retrain", **where)
    constants = (problem.radius, bend, damping, smallest, gradient)
    run.bound("bound", certification.newton_bound, *constants, method="newton", **where)
    for name, model in {"original": start, "retrain": target}.items():
        judge(name, [as_trained(model)], **where)
    run.log("distance_to_retrained", (start.w - target.w).norm(), method="original", **where)
    update = run.attempt("newton", newton, early, "distance_to_retrained", **where)
    if update is not None:
        released = publish(early, update, generator(seed))
        judge("newton", [released], **where)
        run.log("distance_to_retrained", (released.w - target.w).norm(), method="newton", **where)


sweep("epochs", plan.epochs, stopped)

# %%
chapters.show("11_sweeps", run.frame())

# %%
run.finish()
