"""The section on alternatives: what else deletes, with which guarantee, at which accuracy and at which cost."""

from collections.abc import Callable, Iterator
from functools import partial

from cdu.experiments.competitors import SINGLE, Competitors, Row, Rows
from cdu.experiments.run import Run
from cdu.experiments.scale import required
from cdu.experiments.settings import Competitor

Compared = dict[str, Callable[[], Rows]]


class Alternatives:
    """Compares what else deletes, and logs a row of the table for each.

    Args:
        run: The run; its block ``alternatives`` says what is done.

    Attributes:
        run: The same.
        settings: The block ``alternatives``.

    Raises:
        CduError: There is no such block.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.settings = required(run.setup, "alternatives", run.setup.settings.alternatives)
        self._all = Competitors(run, self.settings)

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
    def _known(self) -> dict[Competitor, Compared]:
        """What compares every competitor, by kind and name."""
        settings = self.settings
        shards: Compared = {
            f"SISA, {k} shards, {r} slices": partial(self._all.sharded, k, r) for k, r in settings.shards
        }
        heads: Compared = {f"head, public share {one.share:g}": partial(self._all.head, one) for one in settings.public}
        linear, network = "DP-SGD, linear on fixed features", "DP-SGD, network"
        plain, clipped = "noisy fine-tuning", "noisy fine-tuning, model clipping"
        after = f"training from scratch, {settings.after} epochs"
        return {
            "retraining": {"retraining": self._all.retraining},
            "SISA": shards,
            "head on public features": heads,
            "DP-SGD, linear on fixed features": {linear: partial(self._all.private_linear, linear)},
            "DP-SGD, network": {network: partial(self._all.private_network, network)},
            "noisy fine-tuning": {
                plain: partial(self._all.noisy, plain, self._all.noisy_fine_tuning),
                clipped: partial(self._all.noisy, clipped, self._all.model_clipping),
                after: partial(self._all.from_scratch, after),
            },
            "Hessian-free": {"Hessian-free": self._all.hessian_free},
            "newton": {"newton": self._all.newton},
            "certified linear": {"certified linear": self._all.certified_linear},
        }
