"""What is computed of every competitor in the section on alternatives: accuracy, guarantee and cost."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cdu.data.samples import Samples
from cdu.evaluation.accuracy import accuracy
from cdu.evaluation.audit import audit
from cdu.evaluation.audit_trials import shifted
from cdu.experiments.budgeted_release import BudgetedModel, budgeted_model
from cdu.experiments.certified_linear import ONE, LinearCertificates
from cdu.experiments.method_results import MethodResults
from cdu.experiments.run import Run
from cdu.experiments.settings import AlternativesSettings, PrivateSettings, PublicSettings
from cdu.models import architectures
from cdu.models.architectures import LogisticRegression
from cdu.models.objective import Objective
from cdu.models.private_training import privacy_guarantee, train_privately
from cdu.models.training import Trained, train
from cdu.seeding import generator
from cdu.unlearning.methods.hessian_free import HessianFree
from cdu.unlearning.methods.model_clipping import ModelClipping
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.methods.noisy_fine_tuning import NoisyDescent, NoisyFineTuning
from cdu.unlearning.problem import Problem
from cdu.unlearning.public_features import head_features, public_split
from cdu.unlearning.release import Release, post_process, projected, publish, publish_at
from cdu.unlearning.sharded import ShardedRecipe, deal, expected_share, train_sharded

#: Split of the numbers of a request of one row; those of the whole forget set have none.
SINGLE = "one row"

_EXACT = "exact: what training on the rows left yields, to the bit"
_NO_RELEASES = "one training gives one release: an audit would train thousands of models"
_NO_RUNS = "every trial is a run from the start: the section on audits makes some of them"


@dataclass(frozen=True)
class Row:
    """What one competitor gives: a row of the table.

    Attributes:
        accuracy: Of what is handed out, on the test set.
        forget_accuracy: The same on the rows deleted.
        training_seconds: What has to be done before the first request.
        seconds: A request of the whole forget set.
        seconds_single: A request of one row.
        epsilon: ε that is certified for deleting the whole forget set at once; None without a certificate.
        epsilon_single: The same for one row.
        audited: The lower bound on ε that an audit shows; None where none was made.
        further: Further numbers by metric.
        note: What else a reader should know.
        uncertified: Why there is no certificate, or what it rests on.
        unaudited: Why there is no audit.
    """

    accuracy: float
    forget_accuracy: float
    training_seconds: float
    seconds: float
    seconds_single: float
    epsilon: float | None
    epsilon_single: float | None
    audited: float | None = None
    further: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    uncertified: str = ""
    unaudited: str = ""


Rows = Iterable[tuple[str, Row]]


class Competitors:
    """Trains, deletes and releases by every competitor; each yields its rows.

    Args:
        run: The run, whose seed all have.
        settings: What is done.
    """

    def __init__(self, run: Run, settings: AlternativesSettings) -> None:
        self.run, self.setup, self.seed, self.settings = run, run.setup, run.setup.seed, settings
        self.delta = run.setup.settings.unlearning.delta

    # --- exact -----------------------------------------------------------------------------------------------------

    def retraining(self) -> Rows:
        """Doing nothing, and training anew on the rows left. Without one row it takes as long as with all."""
        original, retrained = self.setup.original, self.setup.retrained
        nothing = "nothing is deleted"
        yield "original", self._network(original, original.seconds, 0.0, 0.0, None, nothing, unaudited=nothing)
        costs = (original.seconds, retrained.seconds, original.seconds)
        yield "retraining", self._network(retrained, *costs, 0.0, _EXACT, unaudited=_EXACT)

    def from_scratch(self, name: str) -> Rows:
        """The experiment's training, stopped early, on the rows left."""
        setup, epochs = self.setup, self.settings.after
        short, whole = setup.stopped(setup.retain, epochs), setup.stopped(setup.train, epochs).seconds
        costs = (setup.original.seconds, short.seconds, whole)
        yield name, self._network(short, *costs, 0.0, _EXACT, unaudited=_EXACT)

    def sharded(self, shards: int, slices: int) -> Rows:
        """SISA: what it takes to forget one row, and the whole forget set."""
        setup, rows = self.setup, self._forget_rows
        recipe = setup.settings.training
        if self.settings.shard_epochs is not None:
            recipe = recipe.model_copy(update={"epochs": self.settings.shard_epochs})

        def build(seed: int) -> nn.Module:
            data = setup.data
            return architectures.build(setup.settings.model, data.input_shape, data.classes, seed).to(setup.device)

        count, dealt = len(setup.train), deal(len(setup.train), shards, slices, self.seed)
        begin = time.perf_counter()
        ensemble = train_sharded(ShardedRecipe(build, recipe, self.seed), setup.train, dealt)
        trained = time.perf_counter() - begin
        forgotten, single = ensemble.forget(rows), ensemble.forget(rows[:1])

        def right(samples: Samples) -> float:
            predicted = forgotten.ensemble.probabilities(samples).argmax(dim=1)
            return (predicted == samples.targets).double().mean().item()

        share = partial(expected_share, count, shards, slices, epochs=recipe.epochs)
        yield (
            f"SISA, {shards} shards, {slices} slices",
            Row(
                right(setup.test), right(setup.forget), trained, forgotten.seconds, single.seconds, 0.0, 0.0,
                further={"retrained_share": share(len(rows)), f"retrained_share, {SINGLE}": share(1)},
                note=f"{recipe.epochs} epochs", uncertified=_EXACT, unaudited=_EXACT,
            ),
        )  # fmt: skip

    @cached_property
    def _forget_rows(self) -> Tensor:
        """Rows of the forget set in D."""
        return torch.from_numpy(np.searchsorted(self.setup.split.train, self.setup.split.forget))

    def _network(
        self,
        trained: Trained,
        training_seconds: float,
        seconds: float,
        single: float,
        epsilon: float | None,
        uncertified: str,
        **more: Any,
    ) -> Row:
        """The row of a network that is handed out as it is."""
        setup = self.setup
        right = self._right(setup.objective(trained), trained.w)
        return Row(*right, training_seconds, seconds, single, epsilon, epsilon, uncertified=uncertified, **more)

    def _right(
        self, objective: Objective, w: Tensor, test: Samples | None = None, forget: Samples | None = None
    ) -> tuple[float, float]:
        """Accuracy on the test set and on the rows deleted; the setup's when None."""
        parts = (self.setup.test if test is None else test, self.setup.forget if forget is None else forget)
        return accuracy(objective, w, parts[0]), accuracy(objective, w, parts[1])

    # --- linear models within a budget -----------------------------------------------------------------------------

    def certified_linear(self) -> Rows:
        """The linear model on fixed features that section 12 trains."""
        linear = self._linear
        settings = linear.settings
        known = linear.model(settings.l2[0])
        shape = (linear.data, known.w, known.inverse, settings.budgets[0], settings.steps, known.seconds)
        model = BudgetedModel(known.objective, *shape)
        yield "certified linear", self._budgeted("certified linear", model, self._forget_rows.numpy(), linear.test)

    @cached_property
    def _linear(self) -> LinearCertificates:
        """The data as fixed features, and the linear models that section 12 trains on them."""
        return LinearCertificates(self.run)

    def head(self, public: PublicSettings) -> Rows:
        """A network that public rows trained, and a linear model on its features of the private rows."""
        setup, settings, name = self.setup, self.settings, f"head, public share {public.share:g}"
        split = public_split(len(setup.train), public.share, self.seed)
        data, count = setup.data, len(setup.forget)
        network = architectures.build(settings.network, data.input_shape, data.classes, self.seed).to(setup.device)
        recipe = setup.settings.training.model_copy(update={"epochs": public.epochs, "radius": settings.radius})
        begin = time.perf_counter()
        trained = train(network, setup.train.subset(split.public), recipe, self.seed, label=name)
        private, test = (
            replace(head_features(trained, one), dtype=torch.float64, ids=np.arange(len(one)))
            for one in (setup.train.subset(split.private), setup.test)
        )
        before = time.perf_counter() - begin
        model = budgeted_model(private, data.classes, settings.l2, settings.budget, self._linear_steps)
        model = replace(model, seconds=before + model.seconds)
        drawn = torch.randperm(len(private), generator=generator(self.seed, "forget set of the head"))[:count].numpy()
        note = f"{public.epochs} epochs on {len(split.public):,} public rows, which stay"
        yield name, replace(self._budgeted(name, model, np.sort(drawn), test), note=note)

    @property
    def _linear_steps(self) -> int:
        linear = self.setup.settings.linear
        return 4 if linear is None else linear.steps

    def _budgeted(self, name: str, model: BudgetedModel, rows: NDArray[np.int64], test: Samples) -> Row:
        """The row of a linear model that deletes within its budget."""
        found, single = model.delete(rows), model.delete(rows[:1])
        sigma, draws = model.sigma(ONE, self.delta), self.settings.noise_draws
        sets = {"test": test, "forget": model.samples.subset(rows)}
        right = {
            split: found.accuracy(one, sigma, draws, generator(self.seed, "alternatives", name, split))
            for split, one in sets.items()
        }
        costs = (model.seconds, found.seconds, single.seconds)
        audited = self._audit(name, found.distance() / sigma)
        return Row(
            right["test"],
            right["forget"],
            *costs,
            ONE,
            ONE,
            audited,
            {"sigma": sigma},
            uncertified="a budget fixed in advance",
        )

    def _audit(self, name: str, shift: float) -> float:
        """Trials of N(shift, 1) against N(0, 1): the release and its reference along the line between them."""
        draws = generator(self.seed, "alternatives audit", name)
        return audit(*shifted(shift, self.settings.trials, draws), self.delta).epsilon

    # --- differentially private training ---------------------------------------------------------------------------

    def private_linear(self, name: str) -> Rows:
        """DP-SGD of a linear model on the fixed features."""
        linear = self._linear
        data, test = (one.to("cpu", torch.float32) for one in (linear.data, linear.test))
        model = LogisticRegression(linear.data.inputs.shape[1], self.setup.data.classes)
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        yield name, self._private(model, data, test, self.settings.private_linear)

    def private_network(self, name: str) -> Rows:
        """DP-SGD of the experiment's network."""
        setup = self.setup
        model, data, test = setup.initial.model.cpu(), setup.train.to("cpu"), setup.test.to("cpu")
        yield name, self._private(model, data, test, self.settings.private_network)

    def _private(self, model: nn.Module, samples: Samples, test: Samples, settings: PrivateSettings) -> Row:
        """The row of a training by DP-SGD, with which a request changes nothing."""
        guarantee = privacy_guarantee(ONE, self.delta, settings.sampling_rate, settings.steps)
        size = len(self._forget_rows)
        group = guarantee.group_epsilon(size)
        steps = settings.model_dump(include={"learning_rate", "clip", "momentum"})
        trained = train_privately(model, samples, guarantee, **steps, unsafe_seed=self.seed)
        objective = Objective(trained.model)
        right = self._right(objective, trained.w, test, samples.subset(self._forget_rows))
        return Row(
            *right, trained.seconds, 0.0, 0.0, group, guarantee.epsilon,
            further={"sigma": guarantee.noise_multiplier * settings.clip}, note="a request changes nothing",
            uncertified=f"for the group of {size:,} rows, from ε = {guarantee.epsilon:.4g} for one",
            unaudited=_NO_RELEASES,
        )  # fmt: skip

    # --- from the trained network ----------------------------------------------------------------------------------

    @cached_property
    def _problem(self) -> Problem:
        return self.setup.problem()

    def noisy_fine_tuning(self) -> NoisyDescent:
        """Noisy fine-tuning with clipped gradients, for ε = 1."""
        return NoisyFineTuning(ONE, self.delta, **self.settings.noisy.model_dump())

    def model_clipping(self) -> NoisyDescent:
        """Noisy fine-tuning with a clipped model, for ε = 1."""
        return ModelClipping(ONE, self.delta, **self.settings.clipped.model_dump())

    def noisy(self, name: str, make: Callable[[], NoisyDescent]) -> Rows:
        """Noisy steps from w*, and ordinary training on the rows left after them."""
        method, draws = make(), generator(self.seed, name)
        result = method(self._problem, draws)
        released = publish(self._problem, result, draws)
        epsilon = method.certificate.epsilon
        own = {"sigma": method.sigma}

        def row(one: Release, seconds: float) -> Row:
            right = self._right(one.objective, one.w)
            costs = (self.setup.original.seconds, seconds, seconds)
            why = "by the steps' noise, for forget sets of any size"
            return Row(*right, *costs, epsilon, epsilon, None, own, uncertified=why, unaudited=_NO_RUNS)

        yield name, row(released, result.seconds)
        begin = time.perf_counter()
        for epochs, further in post_process(self._problem, released, draws, (self.settings.after,)):
            yield f"{name} + {epochs} epochs", row(further, result.seconds + time.perf_counter() - begin)

    def newton(self) -> Rows:
        """The paper's step, with noise that certifies ε = 1 by the ball's diameter, and with the noise in use."""
        setup, unlearning = self.setup, self.setup.settings.unlearning
        problem, result = self._problem, MethodResults(setup).update("newton")
        step = NewtonStep(unlearning.dampings[unlearning.default].value)
        rest = setup.retain.joined(setup.forget.subset(torch.arange(1, len(setup.forget))))
        one = replace(problem, retain=rest, forget=setup.forget.subset(torch.arange(1)))
        single = step(one, generator(self.seed, "newton, one row")).seconds
        distance = (projected(problem, result) - setup.retrained.w).double().norm().item()
        for name, sigma in (("newton", None), ("newton + noise", unlearning.sigma)):
            draws = generator(self.seed, "alternatives", name)
            if sigma is None:
                releases = [publish_at(problem, result, draws, ONE, self.delta) for _ in range(self._draws)]
            else:
                releases = [publish(problem, result, draws, sigma, self.delta) for _ in range(self._draws)]
            certificate = releases[0].certificate
            assert certificate is not None
            right = [self._right(release.objective, release.w) for release in releases]
            test, forget = (mean(part) for part in zip(*right, strict=True))
            epsilon, noise = certificate.epsilon, certificate.sigma
            audited = self._audit(name, distance / noise)
            costs = (setup.original.seconds, result.seconds, single)
            why = f"{certificate.bound}, for forget sets of any size"
            yield name, Row(test, forget, *costs, epsilon, epsilon, audited, {"sigma": noise}, uncertified=why)

    @property
    def _draws(self) -> int:
        return self.settings.noise_draws

    def hessian_free(self) -> Rows:
        """Training by plain descent, and the vectors of deleted samples, added."""
        setup, settings = self.setup, self.settings.hessian_free
        whole = len(setup.forget)
        size = whole if settings.size is None else min(settings.size, whole)
        gone, rest = (setup.forget.subset(part) for part in torch.arange(whole).split([size, whole - size]))
        problem = replace(self._problem, retain=setup.retain.joined(rest), forget=gone)
        method = HessianFree(**settings.model_dump(exclude={"size"}))
        trajectory = method.trajectory(problem)
        begin = time.perf_counter()
        original = trajectory.end()
        plain = time.perf_counter() - begin
        result = method(problem, generator(self.seed, "Hessian-free"))
        rows = torch.arange(len(problem.retain), len(problem.everything))
        retrained = trajectory.without(rows).end()
        each = max(0.0, result.training_seconds - plain) / size
        every = each * len(problem.everything)
        note = f"{size:,} of {whole:,} rows deleted, {each:.2g} s a vector; vectors of all rows: {every:.3g} s"
        found = (
            ("Hessian-free, original", original, plain, 0.0, "", "nothing is deleted"),
            ("Hessian-free", result.w, result.training_seconds, result.seconds, note, result.no_certificate_reason),
        )
        for name, w, before, seconds, said, why in found:
            right = self._right(trajectory.objective, w, forget=gone)
            apart = {"distance_to_retrained": (w - retrained).norm().item()}
            noise = "no noise: any difference tells release and reference apart"
            yield name, Row(*right, before, seconds, seconds, None, None, None, apart, said, why, noise)
