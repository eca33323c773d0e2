"""The section on alternatives: what else deletes, with which guarantee, at which accuracy and at which cost."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cdu.data.samples import Samples
from cdu.evaluation.accuracy import accuracy
from cdu.evaluation.audit import audit
from cdu.experiments.budgeted_release import BudgetedModel, budgeted_model
from cdu.experiments.certified_linear import ONE, LinearCertificates
from cdu.experiments.method_results import MethodResults
from cdu.experiments.run import Run
from cdu.experiments.scale import required
from cdu.experiments.settings import Competitor, PrivateSettings, PublicSettings
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


class Alternatives:
    """Trains, deletes and releases by every competitor, and logs a row for each.

    Args:
        run: The run; its block ``alternatives`` says what is done.

    Attributes:
        run: The same.
        settings: The block ``alternatives``.
        delta: δ.

    Raises:
        CduError: There is no such block.
    """

    def __init__(self, run: Run) -> None:
        setup = run.setup
        self.run, self.setup, self.seed = run, setup, setup.seed
        self.settings = required(setup, "alternatives", setup.settings.alternatives)
        self.delta = setup.settings.unlearning.delta

    def competitors(self, *names: Competitor) -> Iterator[tuple[str, Callable[[], None]]]:
        """What logs the rows of every competitor of some kinds, by its name; those that the settings leave out are not.

        A competitor that fails leaves the reason in place of its accuracy, and the others go on.
        """
        for kind in names:
            if kind in self.settings.run:
                for name, compare in self._known[kind].items():
                    yield name, partial(self._log, name, compare)

    def _log(self, name: str, compare: Callable[[], Rows]) -> None:
        rows = self.run.outcome(name, lambda: list(compare()), "accuracy", split="test")
        for method, row in rows or []:
            self._log_row(method, row)

    def _log_row(self, method: str, row: Row) -> None:
        log = partial(self.run.log, method=method)
        log("accuracy", row.accuracy, split="test", note=row.note)
        log("accuracy", row.forget_accuracy, split="forget")
        log("certified_epsilon", row.epsilon, note=row.uncertified)
        log("epsilon_single", row.epsilon_single, note=row.uncertified if row.epsilon_single is None else "")
        log("audit_epsilon", row.audited, note=row.unaudited)
        log("training_seconds", row.training_seconds)
        log("seconds", row.seconds)
        log("seconds", row.seconds_single, split=SINGLE)
        for metric, value in row.further.items():
            base, _, split = metric.partition(", ")
            log(base, value, split=split)
        certified = "none" if row.epsilon is None else f"{row.epsilon:.4g}"
        print(f"{method}: accuracy {row.accuracy:.2%}, ε = {certified}, {row.seconds:.3g} s a request")

    @property
    def _known(self) -> dict[Competitor, dict[str, Callable[[], Rows]]]:
        """What compares every competitor, by kind and name."""
        settings = self.settings
        shards = {f"SISA, {k} shards, {r} slices": partial(self._sharded, k, r) for k, r in settings.shards}
        heads = {f"head, public share {one.share:g}": partial(self._head, one) for one in settings.public}
        linear, network = "DP-SGD, linear on fixed features", "DP-SGD, network"
        plain, clipped = "noisy fine-tuning", "noisy fine-tuning, model clipping"
        after = f"training from scratch, {settings.after} epochs"
        return {
            "retraining": {"retraining": self._retraining},
            "SISA": shards,
            "head on public features": heads,
            "DP-SGD, linear on fixed features": {linear: partial(self._private_linear, linear)},
            "DP-SGD, network": {network: partial(self._private_network, network)},
            "noisy fine-tuning": {
                plain: partial(self._noisy, plain, self._noisy_fine_tuning),
                clipped: partial(self._noisy, clipped, self._model_clipping),
                after: partial(self._from_scratch, after),
            },
            "Hessian-free": {"Hessian-free": self._hessian_free},
            "newton": {"newton": self._newton},
            "certified linear": {"certified linear": self._certified_linear},
        }

    # --- exact -----------------------------------------------------------------------------------------------------

    def _retraining(self) -> Rows:
        """Doing nothing, and training anew on the rows left; one row less takes as long as all."""
        original, retrained = self.setup.original, self.setup.retrained
        nothing = "nothing is deleted"
        yield "original", self._network(original, original.seconds, 0.0, 0.0, None, nothing, unaudited=nothing)
        costs = (original.seconds, retrained.seconds, original.seconds)
        yield "retraining", self._network(retrained, *costs, 0.0, _EXACT, unaudited=_EXACT)

    def _from_scratch(self, name: str) -> Rows:
        """The experiment's training, stopped early, on the rows left."""
        setup, epochs = self.setup, self.settings.after
        short, whole = setup.stopped(setup.retain, epochs), setup.stopped(setup.train, epochs).seconds
        costs = (setup.original.seconds, short.seconds, whole)
        yield name, self._network(short, *costs, 0.0, _EXACT, unaudited=_EXACT)

    def _sharded(self, shards: int, slices: int) -> Rows:
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
    def _forget_rows(self) -> torch.Tensor:
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
        right = (accuracy(setup.objective(trained), trained.w, one) for one in (setup.test, setup.forget))
        return Row(*right, training_seconds, seconds, single, epsilon, epsilon, uncertified=uncertified, **more)

    # --- linear models within a budget -----------------------------------------------------------------------------

    def _certified_linear(self) -> Rows:
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

    def _head(self, public: PublicSettings) -> Rows:
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
        right = (
            found.accuracy(one, sigma, draws, generator(self.seed, "alternatives", name, split))
            for split, one in (("test", test), ("forget", model.samples.subset(rows)))
        )
        costs = (model.seconds, found.seconds, single.seconds)
        audited = self._audit(name, found.distance() / sigma)
        return Row(*right, *costs, ONE, ONE, audited, {"sigma": sigma}, uncertified="a budget fixed in advance")

    def _audit(self, name: str, shift: float) -> float:
        """Trials of N(shift, 1) against N(0, 1): the release and its reference along the line between them."""
        draws = generator(self.seed, "alternatives audit", name)
        noise = torch.randn(2, self.settings.trials, 1, dtype=torch.float64, generator=draws)
        return audit(noise[0] + shift, noise[1], self.delta).epsilon

    # --- differentially private training ---------------------------------------------------------------------------

    def _private_linear(self, name: str) -> Rows:
        linear = self._linear
        parts = (replace(one.to("cpu"), dtype=torch.float32) for one in (linear.data, linear.test))
        model = LogisticRegression(linear.data.inputs.shape[1], self.setup.data.classes)
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        yield name, self._private(model, *parts, self.settings.private_linear)

    def _private_network(self, name: str) -> Rows:
        setup = self.setup
        parts = (one.to("cpu") for one in (setup.train, setup.test))
        yield name, self._private(setup.initial.model.cpu(), *parts, self.settings.private_network)

    def _private(self, model: nn.Module, samples: Samples, test: Samples, settings: PrivateSettings) -> Row:
        """The row of a training by DP-SGD, with which a request changes nothing."""
        guarantee = privacy_guarantee(ONE, self.delta, settings.sampling_rate, settings.steps)
        size = len(self._forget_rows)
        group = guarantee.group_epsilon(size)
        steps = settings.model_dump(include={"learning_rate", "clip", "momentum"})
        trained = train_privately(model, samples, guarantee, **steps, unsafe_seed=self.seed)
        objective = Objective(trained.model)
        right = (accuracy(objective, trained.w, one) for one in (test, samples.subset(self._forget_rows)))
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

    def _noisy_fine_tuning(self) -> NoisyDescent:
        return NoisyFineTuning(ONE, self.delta, **self.settings.noisy.model_dump())

    def _model_clipping(self) -> NoisyDescent:
        return ModelClipping(ONE, self.delta, **self.settings.clipped.model_dump())

    def _noisy(self, name: str, make: Callable[[], NoisyDescent]) -> Rows:
        """Noisy steps from w*, and ordinary training on the rows left after them."""
        method, draws = make(), generator(self.seed, name)
        result = method(self._problem, draws)
        released = publish(self._problem, result, draws)
        epsilon = method.certificate.epsilon
        own = {"sigma": method.sigma}

        def row(one: Release, seconds: float) -> Row:
            right = (accuracy(one.objective, one.w, part) for part in (self.setup.test, self.setup.forget))
            costs = (self.setup.original.seconds, seconds, seconds)
            why = "by the steps' noise, for forget sets of any size"
            return Row(*right, *costs, epsilon, epsilon, None, own, uncertified=why, unaudited=_NO_RUNS)

        yield name, row(released, result.seconds)
        begin = time.perf_counter()
        for epochs, further in post_process(self._problem, released, draws, (self.settings.after,)):
            yield f"{name} + {epochs} epochs", row(further, result.seconds + time.perf_counter() - begin)

    def _newton(self) -> Rows:
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
            right = (
                mean(accuracy(release.objective, release.w, part) for release in releases)
                for part in (setup.test, setup.forget)
            )
            epsilon, noise = certificate.epsilon, certificate.sigma
            audited = self._audit(name, distance / noise)
            costs = (setup.original.seconds, result.seconds, single)
            why = f"{certificate.bound}, for forget sets of any size"
            yield name, Row(*right, *costs, epsilon, epsilon, audited, {"sigma": noise}, uncertified=why)

    @property
    def _draws(self) -> int:
        return self.settings.noise_draws

    def _hessian_free(self) -> Rows:
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
            right = (accuracy(trajectory.objective, w, one) for one in (setup.test, gone))
            apart = {"distance_to_retrained": (w - retrained).norm().item()}
            noise = "no noise: any difference tells release and reference apart"
            yield name, Row(*right, before, seconds, seconds, None, None, None, apart, said, why, noise)
