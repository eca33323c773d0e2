"""The assumption ledger: which assumptions of the theory hold in which set-up, with the value that was measured.

Rows are the theorem's assumptions, columns are set-ups; every cell says *holds*, *violated* or *unknown*, and why.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from cdu.report.query import select
from cdu.report.theory_claims import SECTION
from cdu.unlearning.names import NETWORK, SMOOTH

State = Literal["holds", "violated", "unknown"]


@dataclass(frozen=True)
class Cell:
    """Whether an assumption holds in a set-up, with the measured value or the reason."""

    state: State
    text: str


@dataclass(frozen=True)
class Facts:
    """The numbers that the theory section measured of one set-up, over its seeds.

    Attributes:
        frame: The section's metrics in long form.
        method: The set-up: ``ridge``, ``softmax``, the network or its smooth twin.
    """

    frame: pd.DataFrame
    method: str

    def values(self, metric: str, **keys: str) -> "pd.Series[float]":
        """All seeds' values of one metric of the set-up, empty where it was not measured."""
        where: dict[str, str | float] = {"method": self.method, "axis": "", **keys}
        return select(self.frame, metric=metric, **where)["value"].dropna().astype(float)

    def mean(self, metric: str, **keys: str) -> float:
        """The mean over seeds."""
        return float(self.values(metric, **keys).mean())


#: The assumptions, in the order of the rows.
ASSUMPTIONS = (
    "L and M are finite",
    "H + λI ≻ 0 (the paper asks for λ > ‖H‖)",
    "‖w‖ ≤ C for both models",
    "∇L(w̃*, D_r) = 0",
    "LiSSA: 0 ≺ H_t + λI ≼ hI for every mini-batch",
    "constants fixed before the data are seen",
)

_UNKNOWN = Cell("unknown", "not run where these results were made")
_KINKS = "ReLU: the gradient is not Lipschitz and the Hessian jumps"


def convex_cells(facts: Facts) -> list[Cell]:
    """Cells of ridge or softmax regression on clipped inputs."""
    if facts.values("known_lipschitz").empty or facts.values("batch_lambda_max", split="batch 10").empty:
        return [_UNKNOWN] * len(ASSUMPTIONS)
    known, bend = facts.mean("known_lipschitz"), facts.mean("known_hessian_lipschitz")
    smallest, largest = facts.values("lambda_min").min(), facts.values("batch_lambda_max", split="batch 10").max()
    norm, radius = facts.values("norm").max(), facts.mean("trivial_bound") / 2
    residual = facts.values("gradient_retrained").max()
    return [
        Cell("holds", f"L = {known:.3g}, M = {bend:.3g}"),
        Cell("holds", f"λ = 0 is enough: λ_min = {smallest:.2g} ≥ l2"),
        Cell("holds" if norm <= radius else "violated", f"‖w‖ ≤ {norm:.3g}, C = {radius:.3g} by l2"),
        Cell("holds" if residual < 1e-9 else "violated", f"‖∇L(w̃*)‖ = {residual:.0e}"),
        Cell("holds" if largest <= known else "violated", f"for h ≥ λ + L; λ_max(H_t) ≤ {largest:.2g}, batches of 10"),
        Cell("holds", "C, L, M, l2"),
    ]


def network_cells(facts: Facts, relu: bool) -> list[Cell]:
    """Cells of a network.

    Args:
        facts: What was measured of it.
        relu: Whether it has ReLU activations.
    """
    kinks = Cell("violated", _KINKS)
    if facts.values("lambda_max").empty:
        unknown = [_UNKNOWN] * len(ASSUMPTIONS)
        return [kinks, *unknown[1:-1], Cell("violated", "all but C")] if relu else unknown
    steep, bend = facts.mean("gradient_lipschitz"), facts.mean("hessian_lipschitz")
    share = facts.mean("default_exceeds_norm")
    damping = select(facts.frame, metric="default_damping")["value"].mean()
    seeds = len(facts.values("lambda_max"))
    largest, smallest = facts.values("lambda_max").max(), facts.values("lambda_min").min()
    radius = facts.mean("trivial_bound") / 2
    return [
        kinks if relu else Cell("holds", f"L ≥ {steep:.2g}, M ≥ {bend:.2g}, measured from below"),
        Cell(
            "holds" if damping + smallest > 0 else "violated",
            f"λ = {damping:g}, eigenvalues {smallest:.2g} to {largest:.3g}; λ > ‖H‖ in {share * seeds:.0f} of {seeds} "
            "seeds",
        ),
        Cell(
            "holds", f"by projection, C = {radius:g}; active in {facts.mean('projected'):.0%} of the last epoch's steps"
        ),
        _stationary(facts),
        _per_batch(facts),
        Cell("violated", "all but C"),
    ]


def _stationary(facts: Facts) -> Cell:
    gradient = facts.mean("gradient_retrained")
    return Cell("holds" if gradient < 1e-3 else "violated", f"G = {gradient:.2g}")


def _per_batch(facts: Facts) -> Cell:
    rows = select(facts.frame, metric="batch_condition", method=facts.method)
    sizes = sorted({str(split) for split in rows["split"]}, key=lambda name: int(name.split()[-1]))
    shares = {size: facts.mean("batch_condition", split=size) for size in sizes}
    if not shares:
        return _UNKNOWN
    text = "obeyed by " + ", ".join(f"{share:.0%} of those drawn ({size})" for size, share in shares.items())
    return Cell("holds" if min(shares.values()) == 1 else "violated", text)


#: The columns that one dataset's theory section fills.
COLUMNS: dict[str, tuple[str, Callable[[Facts], list[Cell]]]] = {
    "ridge": ("ridge", convex_cells),
    "softmax": ("softmax", convex_cells),
    "smooth MLP": (SMOOTH, lambda facts: network_cells(facts, relu=False)),
    "ReLU MLP": (NETWORK, lambda facts: network_cells(facts, relu=True)),
}


def ledger(mlp: pd.DataFrame, others: dict[str, pd.DataFrame]) -> dict[str, list[Cell]]:
    """The ledger's columns, each a list of cells in the order of :data:`ASSUMPTIONS`.

    Args:
        mlp: Metrics of a dataset whose network is an MLP.
        others: Metrics of datasets with other networks, by the network's name; empty frames where none were run.
    """
    columns = {name: cells(Facts(_theory(mlp), method)) for name, (method, cells) in COLUMNS.items()}
    return columns | {name: large_cells(frame) for name, frame in others.items()}


def large_cells(frame: pd.DataFrame) -> list[Cell]:
    """Cells of a network that is too large for the theory section, from training and the sections on large networks.

    Ritz values bound the ends of a sub-sample's spectrum from inside: they can show that H + λI is indefinite there,
    never that it is not.
    """
    cells = network_cells(Facts(_theory(frame), NETWORK), relu=True)
    measured = [
        Facts(select(frame, section=section), method) for section, method in (("11_scale", ""), ("11_bound", NETWORK))
    ]
    spectrum = next((facts for facts in measured if len(facts.values("lambda_min"))), None)
    if spectrum is not None:
        smallest, largest = spectrum.values("lambda_min"), spectrum.values("lambda_max")
        damping, samples = spectrum.mean("damping"), spectrum.mean("spectrum_samples")
        epochs, seeds = spectrum.mean("epochs_trained"), len(smallest)
        cells[1] = Cell(
            "violated" if damping + smallest.min() <= 0 else "unknown",
            f"λ = {damping:,.6g}, eigenvalues {smallest.min():.3g} to {largest.max():,.0f} or beyond "
            f"(H on {samples:,.0f} samples, after {epochs:.0f} epochs); seen to be indefinite in "
            f"{(damping + smallest <= 0).sum()} of {seeds} seeds, λ < ‖H‖ in {(damping < largest).sum()}",
        )
    projected = Facts(select(frame, section="02_training"), "original").values("final_projected")
    if not projected.empty:
        cells[2] = Cell("holds", f"by projection, active in {projected.mean():.0%} of the last epoch's steps")
    return cells


def _theory(frame: pd.DataFrame) -> pd.DataFrame:
    return select(frame, section=SECTION)
