# %% [markdown]
# # Efficiency
#
# The inverse-Hessian-vector product is the method's cost. Solvers against each other, against the authors' code and
# against curvlinops: same machine, same data, same right-hand side, in turns. Every time is a median over repetitions,
# and beside every time stands the error. Run by `make bench`, never in a batch: timings want the machine to themselves.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"
official = ""  # the path of a clone of the authors' repository; empty: their rows are left out

# %%
from cdu.curvature.conjugate_gradient import conjugate_gradient, preconditioned_conjugate_gradient
from cdu.curvature.exact import exact
from cdu.curvature.hessian import Hessian
from cdu.curvature.lanczos import extreme_eigenvalues, spectral_density
from cdu.curvature.lissa import lissa
from cdu.curvature.solution import SolverError
from cdu.data import datasets
from cdu.errors import CduError
from cdu.evaluation import theory_checks
from cdu.evaluation.accuracy import accuracy
from cdu.experiments.repository import repository
from cdu.experiments.run import begin
from cdu.models import architectures
from cdu.models.objective import Linearised, Objective, parameter_vector
from cdu.models.settings import ModelSettings
from cdu.models.training import train
from cdu.report import chapters
from cdu.seeding import generator
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.release import publish

run = begin("08_efficiency", globals(), extra=("official",))

# %%
import sys
from functools import partial
from itertools import pairwise
from statistics import median

import torch

sys.path.append(str(repository()))
from benchmarks import clock, peers

setup, settings = run.setup, run.setup.settings
bench, recipe = settings.efficiency, settings.training
where = setup.device
objective, w = setup.objective(setup.original), setup.original.w
retain = setup.retain
hessian = Hessian(objective, w, retain)
gradient = objective.gradient(w, retain)
default = settings.unlearning.dampings[settings.unlearning.default]
run.log("parameters", len(w))
run.log("samples", len(retain))
run.log("repetitions", bench.repetitions)


def log(timing, **keys):
    """Median, shortest and longest time of one program."""
    for metric, value in {"seconds": timing.seconds, "seconds_low": timing.low, "seconds_high": timing.high}.items():
        run.log(metric, value, **keys)


def log_memory(peak, **keys):
    run.log("memory", peak, note="" if peak is not None else "the system does not tell peak memory", **keys)


def absent(metric, error, **keys):
    print(error)
    run.log(metric, None, note=str(error), **keys)


rate = clock.matrix_rate(where)
run.log("matrix_rate", rate)
print(f"{len(w):,} parameters, {len(retain):,} samples, {rate / 1e9:.0f} GFLOP/s in a matrix product of 2048 × 2048")

try:
    authors = peers.Authors(official) if official else None
except CduError as error:
    authors = None
    print(error)
no_authors = "not run: this needs a clone of the authors' repository, given as OFFICIAL= to 'make bench'"

# %% [markdown]
# ## Gradient and Hessian-vector product
#
# All retained samples. The first product at a point computes the gradient's graph, the next ones find it kept. Reverse
# over reverse is what the package uses; forward over reverse is the alternative. Operations are counted, not estimated,
# and set against the machine's own matrix rate.

# %%
vector = torch.randn(len(w), generator=generator(seed, "vector")).to(where)
several = torch.randn(16, len(w), generator=generator(seed, "several")).to(where)


def forward_over_reverse(direction):
    total = objective.l2 * direction
    with objective.evaluating():
        for inputs, targets in retain.batches(objective.rows(w, retain)):

            def slope(point, inputs=inputs, targets=targets):
                return torch.func.grad(objective.batch_loss)(point, inputs, targets)

            total = total + torch.func.jvp(slope, (w,), (direction,))[1] * (len(targets) / len(retain))
    return total


warm = Linearised(objective, w, retain)
warm.product(vector)
programs = {
    "gradient": lambda: objective.gradient(w, retain),
    "product, first": lambda: objective.hvp(w, retain, vector),
    "product, next": lambda: warm.product(vector),
    "16 products at once": lambda: warm.product(several),
    "forward over reverse": lambda: forward_over_reverse(vector),
}
counted = {name: clock.operations(program) for name, program in programs.items()}
try:
    operator = peers.Curvlinops(objective, w, retain)
    programs["curvlinops"] = lambda: operator @ vector
except CduError as error:
    absent("seconds", error, method="curvlinops", split="products")
timings = clock.in_turns(programs, bench.repetitions, where)
reference = timings["product, next"].result
for name, timing in timings.items():
    keys = {"method": name, "split": "products"}
    log(timing, **keys)
    run.log("gradients", timing.seconds / timings["gradient"].seconds, **keys)
    if name in counted:
        run.log("rate_share", counted[name] / timing.seconds / rate, **keys)
    if timing.result.shape == reference.shape and name != "gradient":
        run.log("difference", (timing.result - reference).norm() / reference.norm(), **keys)
    print(f"{name:22s} {timing.seconds:8.4f} s, {timing.seconds / timings['gradient'].seconds:5.2f} gradients")
_, peak = clock.single_run(lambda: objective.hvp(w, retain, vector), where)
log_memory(peak, method="product, first", split="products")
del warm, operator, timings, reference, programs

# %% [markdown]
# ## LiSSA's steps against the authors' code
#
# One step of all repeats: ours advances them together, theirs one after another. Their `newton_update` draws its
# batches through a data loader that decodes image by image; with ready tensors in memory less of that is left.

# %%
decoded, ready = peers.Images(retain), peers.in_memory(retain)
steps = bench.lissa_steps
for batch_size in bench.authors_batches:
    for repeats in bench.authors_repeats:
        shape = {"depth": steps, "repeats": repeats, "batch_size": batch_size}

        def ours(shape=shape):
            return lissa(hessian + default.value, gradient, 1e4, **shape, generator=generator(seed, "steps"))

        programs = {"cdu": ours}
        if authors is not None:
            for name, source in {"authors": decoded, "authors, data in memory": ready}.items():
                programs[name] = lambda source=source, shape=shape: authors.lissa(
                    objective, w, source, gradient, default.value, 1e4, **shape
                )
        timings = clock.in_turns(programs, bench.repetitions, where, warm=False)
        for name, timing in timings.items():
            keys = {"method": name, "split": f"LiSSA, {repeats} repeats", "axis": "batch size", "point": batch_size}
            log(timing, **keys)
            run.log("ratio", timing.seconds / timings["cdu"].seconds, **keys)
            print(f"batch {batch_size}, {repeats} repeats, {name}: {1e3 * timing.seconds / steps:.2f} ms a step")
        if authors is None:
            keys = {"split": f"LiSSA, {repeats} repeats", "axis": "batch size", "point": batch_size}
            run.log("seconds", None, method="authors", note=no_authors, **keys)

# %% [markdown]
# ## An epoch of training against the authors' code
#
# The same network on the same samples: batches of the same size, Adam, projection after every step.

# %%
one_epoch = recipe.model_copy(update={"epochs": 1})


def fresh():
    return architectures.build(settings.model, setup.data.input_shape, setup.data.classes, seed).to(where)


programs = {"cdu": lambda: train(fresh(), retain, one_epoch, seed, label="one epoch").w}
if authors is not None:
    options = (recipe.learning_rate, recipe.weight_decay, recipe.radius, recipe.batch_size)
    programs["authors"] = lambda: authors.epoch(fresh(), decoded, *options, workers=2)
    programs["authors, data in memory"] = lambda: authors.epoch(fresh(), ready, *options, workers=2)
else:
    run.log("seconds", None, method="authors", split="epoch", note=no_authors)
timings = clock.in_turns(programs, bench.repetitions, where, warm=False)
for name, timing in timings.items():
    log(timing, method=name, split="epoch")
    run.log("ratio", timing.seconds / timings["cdu"].seconds, method=name, split="epoch")
    print(f"{name}: {timing.seconds:.3f} s an epoch")
del decoded, ready

# %% [markdown]
# ## Time to an error
#
# (H + λI)x = ∇L(w\*, D_r) by every solver; the error is the true relative residual on all retained samples, computed
# afterwards and outside the clock. Each run starts cold: the graph of the gradient and the preconditioner are part of
# its time. LiSSA is run to several depths, the others to several tolerances.

# %%
low, high = extreme_eigenvalues(hessian.__matmul__, w, generator(seed, "lanczos"))
for name, value in {"lambda_min": low, "lambda_max": high}.items():
    run.log(name, value.value)
    run.log(f"{name}_error", value.error)
print(f"λ from {low.value:.4f} ± {low.error:.1e} to {high.value:.4f} ± {high.error:.1e}")


def residual(damping, x):
    return ((hessian + damping) @ x - gradient).norm().item() / gradient.norm().item()


def cold(damping):
    return Hessian(objective, w, retain) + damping


def solvers(damping):
    """Every program that solves the system, with the axis and point that it is run at."""
    found = {}
    for tolerance in bench.tolerances:
        at = ("tolerance", tolerance)
        found["conjugate gradient", *at] = lambda tolerance=tolerance: conjugate_gradient(
            cold(damping), gradient, tolerance
        )
        found["preconditioned", *at] = lambda tolerance=tolerance: preconditioned_conjugate_gradient(
            cold(damping), gradient, generator(seed, "preconditioner"), tolerance
        )
        if damping in bench.peer_dampings:
            found["curvlinops, conjugate gradient", *at] = lambda tolerance=tolerance: peers.Curvlinops(
                objective, w, retain, damping
            ).conjugate_gradient(gradient, tolerance)
    shape = {"repeats": default.lissa.repeats, "batch_size": default.lissa.batch_size}
    for depth in bench.lissa_depths:
        found["lissa", "depth", depth] = lambda depth=depth: lissa(
            cold(damping), gradient, "auto", depth, **shape, generator=generator(seed, "lissa", depth)
        )
    contraction = 1 - (damping + low.value) / (damping + high.value)
    for fewer, terms in pairwise((0, *bench.neumann_terms)) if damping in bench.peer_dampings else ():
        # Where fewer terms reach the smallest tolerance already, there is nothing to see.
        if contraction**fewer > min(bench.tolerances):
            found["curvlinops, Neumann", "terms", terms] = lambda terms=terms: peers.Curvlinops(
                objective, w, retain, damping
            ).neumann(gradient, terms, 1 / (damping + high.value))
    return found


for damping in bench.dampings:
    split = f"λ = {damping:g}"
    if damping + low.value <= 0:
        message = f"not run: H + λI is indefinite at λ = {damping:g}, since λ_min = {low.value:.3g}"
        absent("seconds", message, method="all solvers", split=split, axis="damping", point=damping)
        continue
    programs = {}
    for (name, axis, point), program in solvers(damping).items():
        try:
            # A solver that cannot solve this system says why and takes no part.
            program()
            programs[name, axis, point] = program
        except (CduError, SolverError) as error:
            absent("seconds", error, method=name, split=split, axis=axis, point=point)
    timings = clock.in_turns(programs, bench.repetitions, where, warm=False)
    for (name, axis, point), timing in timings.items():
        keys = {"method": name, "split": split, "axis": axis, "point": point}
        log(timing, **keys)
        error = residual(damping, getattr(timing.result, "x", timing.result))
        run.log("residual", error, **keys)
        print(
            f"λ = {damping:g}, {name}, {axis} {point:g}: {timing.seconds:.3f} s "
            f"({timing.low:.3f} to {timing.high:.3f}), residual {error:.1e}"
        )

# %% [markdown]
# ## The paper's claim: LiSSA against the exact inverse
#
# At the default λ and constants, on all retained samples or on as many as the experiment says: once with the exact
# inverse, whose Hessian is built row by row, once with LiSSA. Beside it what reaches LiSSA's residual, or a better one,
# without any inverse.

# %%
shape = default.lissa.model_dump()
compared = retain.subset(torch.arange(min(bench.exact_samples or len(retain), len(retain)), device=where))
run.log("claim_samples", len(compared))


def claimed():
    return Hessian(objective, w, compared) + default.value


stated = clock.in_turns(
    {"lissa": lambda: lissa(claimed(), gradient, **shape, generator=generator(seed, "claim"))},
    bench.repetitions,
    where,
)["lissa"]
reached = stated.result.residual
run.log("claim_seconds", stated.seconds, method="lissa")
run.log("claim_residual", reached, method="lissa")
rivals = clock.in_turns(
    {
        "conjugate gradient": lambda: conjugate_gradient(claimed(), gradient, reached),
        "preconditioned": lambda: preconditioned_conjugate_gradient(
            claimed(), gradient, generator(seed, "preconditioner"), reached
        ),
    },
    bench.repetitions,
    where,
)
for name, timing in rivals.items():
    run.log("claim_seconds", timing.seconds, method=f"{name}, same residual")
    run.log("claim_residual", timing.result.residual, method=f"{name}, same residual")
print(f"LiSSA: {stated.seconds:.3f} s to a residual of {reached:.2e}")
if bench.exact:
    # Kept on disk, so that an interrupted computation of the Hessian goes on; its time is that of all sittings.
    name = f"{setup.name}-seed-{seed}-n-{len(compared)}-threads-{torch.get_num_threads()}.npy"
    solution = exact(claimed(), gradient, path=run.output / "hessians" / name)
    run.log("claim_seconds", solution.seconds, method="exact inverse")
    run.log("claim_residual", solution.residual, method="exact inverse")
    apart = (stated.result.x - solution.x).norm() / solution.x.norm()
    run.log("claim_error", apart, method="lissa")
    run.log(
        "claim_error",
        (rivals["preconditioned"].result.x - solution.x).norm() / solution.x.norm(),
        method="preconditioned, same residual",
    )
    print(f"exact inverse: {solution.seconds:.1f} s, {solution.seconds / stated.seconds:.0f} times LiSSA's time")
else:
    absent("claim_seconds", "not run: 'exact' is off in the experiment", method="exact inverse")

# %% [markdown]
# ## Scaling
#
# Time and peak memory against the number of samples, of parameters, LiSSA's depth and its repeats. Slopes are fitted on
# log-log axes.

# %%
programs, peaks, operator = {}, {}, hessian + default.value


def scaled(name, axis, point, program):
    programs[name, axis, point] = program
    _, peaks[name, axis, point] = clock.single_run(program, where)


for size in bench.sizes:
    part = retain.subset(torch.arange(min(size, len(retain)), device=where))
    scaled("product", "samples", len(part), lambda part=part: objective.hvp(w, part, vector))
    scaled(
        "conjugate gradient", "samples", len(part),
        lambda part=part: conjugate_gradient(Hessian(objective, w, part) + default.value, gradient, 1e-3),
    )  # fmt: skip
    scaled(
        "lissa", "samples", len(part),
        lambda part=part: lissa(
            Hessian(objective, w, part) + default.value, gradient, **shape, generator=generator(seed, "scaling")
        ),
    )  # fmt: skip
for width in bench.widths:
    wide = ModelSettings(name="mlp", hidden=(width, width))
    network = Objective(architectures.build(wide, setup.data.input_shape, setup.data.classes, seed).to(where))
    point = parameter_vector(network.model)
    direction = torch.randn(len(point), generator=generator(seed, "direction")).to(where)
    scaled(
        "product", "parameters", len(point),
        lambda network=network, point=point, direction=direction: network.hvp(point, retain, direction),
    )  # fmt: skip
for axis, points in {"depth": (20, 60, 180), "repeats": (1, 3, 10, 30)}.items():
    for value in points:
        chosen = {**shape, axis: value}
        scaled(
            "lissa", f"LiSSA {axis}", value,
            lambda chosen=chosen: lissa(operator, gradient, **chosen, generator=generator(seed, "scaling")),
        )  # fmt: skip
timings = clock.in_turns(programs, bench.repetitions, where, warm=False)
for (name, axis, point), timing in timings.items():
    keys = {"method": name, "split": "scaling", "axis": axis, "point": point}
    log(timing, **keys)
    log_memory(peaks[name, axis, point], **keys)
for name, axis in dict.fromkeys((name, axis) for name, axis, _ in timings):
    chosen = [
        (point, timing.seconds) for (other, along, point), timing in timings.items() if (other, along) == (name, axis)
    ]
    if len(chosen) > 1:
        run.log("slope", theory_checks.slope(*zip(*chosen, strict=True)), method=name, split=axis)
        print(f"{name} against {axis}: time ∝ {axis}^{theory_checks.slope(*zip(*chosen, strict=True)):.2f}")

# %% [markdown]
# The convolutional network at several widths, freshly initialised: one gradient and one product, once, since a product
# at full width takes minutes on a CPU.

# %%
if bench.filters:
    try:
        pictures = datasets.load("cifar10", where)
        images = pictures.train.subset(torch.arange(bench.filter_samples, device=where))
    except CduError as error:
        images = None
        absent("seconds", error, method="product, AllCNN", split="scaling", axis="parameters")
    for width in bench.filters if images is not None else ():
        wide = ModelSettings(name="allcnn", width=width)
        network = Objective(architectures.build(wide, pictures.input_shape, pictures.classes, seed).to(where))
        point = parameter_vector(network.model)
        direction = torch.randn(len(point), generator=generator(seed, "direction")).to(where)
        first, _ = clock.single_run(partial(network.gradient, point, images), where)
        seconds, peak = clock.single_run(partial(network.hvp, point, images, direction), where)
        keys = {"method": "product, AllCNN", "split": "scaling", "axis": "parameters", "point": len(point)}
        run.log("seconds", seconds, **keys)
        run.log("gradients", seconds / first, **keys)
        log_memory(peak, **keys)
        print(
            f"AllCNN × {width:g}, {len(point):,} parameters, {len(images):,} images: {seconds:.1f} s, "
            f"{seconds / first:.2f} gradients, peak {(peak or 0) / 2**30:.2f} GiB"
        )

# %% [markdown]
# ## Unlearning against retraining
#
# Each method at its own cost, and beside it the accuracy that it reaches; retraining is stopped after fewer epochs too,
# so that both can be read off at the same accuracy. Models are trained here and now, not loaded.

# %%
problem = setup.problem()
sets = {"test": setup.test, "forget": setup.forget}


def log_accuracy(objective, weights, **keys):
    for split, samples in sets.items():
        run.log("accuracy", accuracy(objective, weights, samples), split=split, **keys)


log_accuracy(objective, w, method="original")
run.log("seconds", 0.0, method="original", split="unlearning")
for epochs in (*bench.epochs, recipe.epochs):
    trained = train(fresh(), retain, recipe.model_copy(update={"epochs": epochs}), seed, label=f"{epochs} epochs")
    keys = {"method": "retraining", "axis": "epochs", "point": epochs}
    run.log("seconds", trained.seconds, split="unlearning", **keys)
    log_accuracy(setup.objective(trained), trained.w, **keys)
    print(f"retraining, {epochs} epochs: {trained.seconds:.2f} s")
methods = {
    "newton, conjugate gradient": NewtonStep(default.value),
    "newton, forget gradient": NewtonStep(default.value, gradient="forget"),
    "newton, preconditioned": NewtonStep(default.value, "preconditioned"),
    "newton, lissa": NewtonStep(default.value, "lissa", lissa_settings=default.lissa),
}
full = median(row["seconds"] for row in trained.history) * recipe.epochs
run.log("seconds", full, method="retraining in full", split="unlearning")
timings = clock.in_turns(
    {name: lambda method=method: method(problem, generator(seed, "unlearning")) for name, method in methods.items()},
    bench.repetitions,
    where,
)
for name, timing in timings.items():
    log(timing, method=name, split="unlearning")
    run.log("speedup", full / timing.seconds, method=name, split="unlearning")
    run.log("residual", timing.result.residual, method=name, split="unlearning")
    log_accuracy(objective, publish(problem, timing.result, generator(seed)).w, method=name)
    print(f"{name}: {timing.seconds:.3f} s, {full / timing.seconds:.0f} times faster than retraining in full")

# %% [markdown]
# ## The spectrum
#
# The density of H's eigenvalues by stochastic Lanczos quadrature: what makes the systems easy or hard.

# %%
nodes, weights = spectral_density(hessian.__matmul__, w, generator(seed, "density"), bench.probes, bench.lanczos_steps)
for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
    run.log("density", weight, method="spectrum", axis="eigenvalue", point=node)
trace = float((nodes * weights).sum())
run.log("mean_eigenvalue", trace)
print(f"mean eigenvalue {trace:.4g}; {float(weights[nodes < 0].sum()):.0%} of the weight lies below zero")

# %%
chapters.show("08_efficiency-solvers", run.frame())

# %%
run.finish()
