"""The section on efficiency: what is timed, in turns, and how it is recorded."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import torch
from torch import nn

from cdu.curvature.exact import exact
from cdu.curvature.lanczos import extreme_eigenvalues, spectral_density
from cdu.data import datasets
from cdu.errors import CduError
from cdu.evaluation import efficiency, timing
from cdu.evaluation.accuracy import accuracy
from cdu.evaluation.efficiency import System
from cdu.evaluation.peers import Authors, sources
from cdu.evaluation.timing import Program, Timing
from cdu.experiments.run import Run
from cdu.models import architectures
from cdu.models.settings import ModelSettings
from cdu.models.training import Trained, train
from cdu.seeding import generator
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.problem import Method, Problem, UnlearningResult
from cdu.unlearning.release import publish

NO_AUTHORS = "not run: this needs a clone of the authors' repository, given as OFFICIAL= to 'make bench'"
NO_MEMORY = "the system does not tell peak memory"


class Benchmark:
    """Times the programs of one set-up, and logs median, shortest and longest time with the run.

    Args:
        run: The run; its original model gives the system, its block ``efficiency`` says what is timed.
        clone: The folder of a clone of the authors' repository; without it their rows say that they are left out.

    Attributes:
        run: The same.
        settings: The block ``efficiency``.
        system: (H + λI)x = ∇L(w*, D_r).
        default: The λ of the experiment, with LiSSA's constants.
        authors: The authors' functions; None where there is no clone.
        rate: Floating-point operations a second in a product of two large matrices.
    """

    def __init__(self, run: Run, clone: str) -> None:
        setup = run.setup
        objective, w = setup.objective(setup.original), setup.original.w
        self.run = run
        self.settings = setup.settings.efficiency
        self.system = System(objective, w, setup.retain, objective.gradient(w, setup.retain), setup.seed)
        unlearning = setup.settings.unlearning
        self.default = unlearning.dampings[unlearning.default]
        self.authors = _authors(clone)
        self.rate = timing.matrix_rate(setup.device)

    def log_sizes(self) -> None:
        """Parameters, samples, repetitions, and the rate of the machine."""
        sizes = {"parameters": len(self.system.w), "samples": len(self.system.samples)}
        self.run.log_values({**sizes, "repetitions": self.settings.repetitions, "matrix_rate": self.rate})
        print(", ".join(f"{size:,} {name}" for name, size in sizes.items()), f"{self.rate / 1e9:.0f} GFLOP/s")

    # --- programs against each other -------------------------------------------------------------------------------

    def products(self) -> None:
        """The gradient, and every way to a product."""
        programs = efficiency.product_programs(self.system)
        operations = {name: timing.operations(program) for name, program in programs.items()}
        peer = self.run.outcome(
            "curvlinops", partial(efficiency.curvlinops_product, self.system), "seconds", split="products"
        )
        if peer is not None:
            programs["curvlinops"] = peer
        timings = self._in_turns(programs, warm=True)
        for name, found in timings.items():
            metrics = efficiency.product_metrics(name, timings, operations, self.rate)
            self._log(found, metrics, method=name, split="products")
        _, peak = timing.single_run(programs["product, first"], self.run.setup.device)
        self._log_memory(peak, method="product, first", split="products")

    def lissa_steps(self) -> None:
        """LiSSA's steps against those of the authors' code, for every batch size and number of repeats."""
        depth, decoded = self.settings.lissa_steps, sources(self.system.samples)
        for batch_size, repeats in product(self.settings.authors_batches, self.settings.authors_repeats):
            keys: dict[str, Any] = {"split": f"LiSSA, {repeats} repeats", "axis": "batch size", "point": batch_size}
            shape = (repeats, batch_size, depth)
            programs = efficiency.lissa_programs(self.system, self.default.value, *shape, self.authors, decoded)
            self._against_ours(programs, **keys)
            if self.authors is None:
                self.run.log("seconds", None, method="authors", note=NO_AUTHORS, **keys)

    def epoch(self) -> None:
        """An epoch of training against one of the authors' code."""
        setup, samples = self.run.setup, self.system.samples
        recipe, given = setup.settings.training, sources(samples)
        programs = efficiency.epoch_programs(self._fresh, samples, recipe, setup.seed, self.authors, given)
        if self.authors is None:
            self.run.log("seconds", None, method="authors", split="epoch", note=NO_AUTHORS)
        self._against_ours(programs, split="epoch")

    def _against_ours(self, programs: Mapping[str, Program], **keys: Any) -> None:
        timings = self._in_turns(programs)
        for name, found in timings.items():
            self._log(found, {"ratio": found.seconds / timings["cdu"].seconds}, method=name, **keys)

    # --- solvers ---------------------------------------------------------------------------------------------------

    def spectrum_ends(self) -> tuple[float, float]:
        """λ_min and λ_max of H, with the norms of their residuals."""
        draws = generator(self.system.seed, "lanczos")
        low, high = extreme_eigenvalues(self.system.hessian.__matmul__, self.system.w, draws)
        for name, found in {"lambda_min": low, "lambda_max": high}.items():
            self.run.log_values({name: found.value, f"{name}_error": found.error})
            print(f"{name} = {found.value:.4f} ± {found.error:.1e}")
        return low.value, high.value

    def solvers(self, damping: float, ends: tuple[float, float]) -> None:
        """Time and true residual of every solver at λ; those that cannot solve the system say why.

        Args:
            damping: λ.
            ends: λ_min and λ_max.
        """
        split, low = f"λ = {damping:g}", ends[0]
        if damping + low <= 0:
            note = f"not run: H + λI is indefinite at λ = {damping:g}, since λ_min = {low:.3g}"
            keys: dict[str, Any] = {"split": split, "axis": "damping", "point": damping}
            self.run.log("seconds", None, method="all solvers", note=note, **keys)
            return
        able = {}
        programs = efficiency.solver_programs(self.system, damping, ends, self.settings, self.default.lissa)
        for point, program in programs.items():
            keys = {"split": split, "axis": point.axis, "point": point.point}
            if self.run.outcome(point.method, program, "seconds", **keys) is not None:
                able[point] = program
        for point, found in self._in_turns(able).items():
            residual = self.system.residual(damping, getattr(found.result, "x", found.result))
            self._log(found, {"residual": residual}, split=split, **point._asdict())

    def lissa_or_without(self) -> None:
        """LiSSA at the experiment's λ and constants, what reaches its residual without it, and the exact inverse."""
        system, damping = self.system.first(self.settings.exact_samples or len(self.system.samples)), self.default.value
        self.run.log("claim_samples", len(system.samples))
        stated = self._in_turns({"lissa": partial(system.lissa, damping, self.default.lissa, "claim")}, warm=True)
        reached = stated["lissa"].result.residual
        rivals: dict[str, Program] = {
            "conjugate gradient, same residual": partial(system.conjugate_gradient, damping, reached),
            "preconditioned, same residual": partial(system.preconditioned, damping, reached),
        }
        solved = stated | self._in_turns(rivals, warm=True)
        for name, found in solved.items():
            self._log_claim(name, found.seconds, found.result.residual)
        if not self.settings.exact:
            note = "not run: 'exact' is off in the experiment"
            self.run.log("claim_seconds", None, method="exact inverse", note=note)
            return
        # Kept on disk, so that an interrupted computation of the Hessian goes on; its time is that of all sittings.
        setup = self.run.setup
        file = f"{setup.name}-seed-{setup.seed}-n-{len(system.samples)}-threads-{torch.get_num_threads()}.npy"
        path = self.run.output / "hessians" / file
        solution = exact(system.cold(damping), system.right_hand_side, path=path)
        self._log_claim("exact inverse", solution.seconds, solution.residual)
        for name in ("lissa", "preconditioned, same residual"):
            error = (solved[name].result.x - solution.x).norm() / solution.x.norm()
            self.run.log("claim_error", float(error), method=name)

    def _log_claim(self, name: str, seconds: float, residual: float) -> None:
        self.run.log_values({"claim_seconds": seconds, "claim_residual": residual}, method=name)
        print(f"{name}: {seconds:.3f} s to a relative residual of {residual:.2e}")

    # --- scaling ---------------------------------------------------------------------------------------------------

    def scaling(self) -> None:
        """Time and peak memory against the size of the problem and LiSSA's constants, and the slopes."""
        classes, device = self.run.setup.data.classes, self.run.setup.device
        programs = efficiency.scaling_programs(
            self.system, self.default.value, self.settings, self.default.lissa, classes
        )
        peaks = {point: timing.single_run(program, device)[1] for point, program in programs.items()}
        timings = self._in_turns(programs)
        for point, found in timings.items():
            self._log(found, {}, split="scaling", **point._asdict())
            self._log_memory(peaks[point], split="scaling", **point._asdict())
        for (method, axis), exponent in efficiency.slopes(timings).items():
            self.run.log("slope", exponent, method=method, split=axis)
            print(f"{method} against {axis}: time ∝ {axis}^{exponent:.2f}")

    def convolutional(self) -> None:
        """One gradient and one product of the AllCNN with fresh weights at several widths, once."""
        device, method = self.run.setup.device, "product, AllCNN"
        if not self.settings.filters:
            return
        keys: dict[str, Any] = {"split": "scaling", "axis": "parameters"}
        pictures = self.run.outcome(method, partial(datasets.load, "cifar10", device), "seconds", **keys)
        if pictures is None:
            return
        images = pictures.train.subset(torch.arange(self.settings.filter_samples, device=device))
        for width in self.settings.filters:
            wide = ModelSettings(name="allcnn", width=width)
            system = efficiency.untrained_system(wide, images, pictures.classes, self.system.seed)
            gradient, _ = timing.single_run(system.gradient, device)
            seconds, peak = timing.single_run(partial(system.product, system.right_hand_side), device)
            at = {"method": method, **keys, "point": len(system.w)}
            self.run.log_values({"seconds": seconds, "gradients": seconds / gradient}, **at)
            self._log_memory(peak, **at)
            print(f"AllCNN × {width:g}: {seconds:.1f} s, {seconds / gradient:.2f} gradients")

    def density(self) -> None:
        """The density of H's eigenvalues, and their mean."""
        draws = generator(self.system.seed, "density")
        nodes, weights = spectral_density(
            self.system.hessian.__matmul__, self.system.w, draws, self.settings.probes, self.settings.lanczos_steps
        )
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            self.run.log("density", weight, method="spectrum", axis="eigenvalue", point=node)
        mean = float((nodes * weights).sum())
        self.run.log("mean_eigenvalue", mean)
        print(f"mean eigenvalue {mean:.4g}; {float(weights[nodes < 0].sum()):.0%} of the weight lies below zero")

    # --- unlearning against retraining -----------------------------------------------------------------------------

    def unlearning(self) -> None:
        """Time and accuracy of the Newton step by every solver, and of retraining after several numbers of epochs.

        Models are trained here and now, not loaded.
        """
        setup, seed = self.run.setup, self.system.seed
        self._log_accuracy(setup.original, method="original")
        self.run.log("seconds", 0.0, method="original", split="unlearning")
        for epochs, trained in self._retrained():
            keys: dict[str, Any] = {"method": "retraining", "axis": "epochs", "point": epochs}
            self.run.log("seconds", trained.seconds, split="unlearning", **keys)
            self._log_accuracy(trained, **keys)
        full = median(row["seconds"] for row in trained.history) * setup.settings.training.epochs
        self.run.log("seconds", full, method="retraining in full", split="unlearning")
        problem, damping = setup.problem(), self.default.value
        methods: dict[str, Method] = {
            "newton, conjugate gradient": NewtonStep(damping),
            "newton, forget gradient": NewtonStep(damping, gradient="forget"),
            "newton, preconditioned": NewtonStep(damping, "preconditioned"),
            "newton, lissa": NewtonStep(damping, "lissa", lissa_settings=self.default.lissa),
        }
        programs: dict[str, Program] = {
            name: partial(_unlearn, method, problem, seed) for name, method in methods.items()
        }
        for name, found in self._in_turns(programs, warm=True).items():
            metrics = {"speedup": full / found.seconds, "residual": found.result.residual}
            self._log(found, metrics, method=name, split="unlearning")
            released = publish(problem, found.result, generator(seed))
            self._log_accuracy(Trained(setup.original.model, released.w, []), method=name)

    def _retrained(self) -> Iterator[tuple[int, Trained]]:
        """Models trained on D_r: after few epochs, and after all."""
        recipe, samples, seed = self.run.setup.settings.training, self.system.samples, self.system.seed
        for epochs in (*self.settings.epochs, recipe.epochs):
            stopped = recipe.model_copy(update={"epochs": epochs})
            yield epochs, train(self._fresh(), samples, stopped, seed, label=f"{epochs} epochs")

    def _log_accuracy(self, trained: Trained, **keys: Any) -> None:
        setup = self.run.setup
        for split, samples in {"test": setup.test, "forget": setup.forget}.items():
            value = accuracy(setup.objective(trained), trained.w, samples)
            self.run.log("accuracy", value, split=split, **keys)

    # --- what all share --------------------------------------------------------------------------------------------

    def _fresh(self) -> nn.Module:
        """The experiment's network with the weights that its training starts from."""
        setup = self.run.setup
        data = setup.data
        return architectures.build(setup.settings.model, data.input_shape, data.classes, setup.seed).to(setup.device)

    def _in_turns(self, programs: Mapping[timing.Name, Program], warm: bool = False) -> dict[timing.Name, Timing]:
        return timing.in_turns(programs, self.settings.repetitions, self.run.setup.device, warm)

    def _log(self, found: Timing, metrics: Mapping[str, float], **keys: Any) -> None:
        """A program's times, and what else is said of it."""
        self.run.log_values({**found.metrics, **metrics}, **keys)
        said = ", ".join(f"{metric} {value:.3g}" for metric, value in metrics.items())
        print(f"{_words(keys)}: {found.seconds:.4f} s ({found.low:.4f} to {found.high:.4f}) {said}")

    def _log_memory(self, peak: int | None, **keys: Any) -> None:
        self.run.log("memory", peak, note="" if peak is not None else NO_MEMORY, **keys)


def _unlearn(method: Method, problem: Problem, seed: int) -> UnlearningResult:
    return method(problem, generator(seed, "unlearning"))


def _words(keys: Mapping[str, Any]) -> str:
    return ", ".join(str(keys[key]) for key in ("split", "method", "axis", "point") if key in keys)


def _authors(clone: str) -> Authors | None:
    try:
        return Authors(clone) if clone else None
    except CduError as error:
        print(error)
        return None
