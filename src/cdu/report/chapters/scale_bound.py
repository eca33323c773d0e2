"""The chapter on the bound on a large network."""

import pandas as pd
from matplotlib.figure import Figure

from cdu.report.chapters.page import Page
from cdu.report.drawing import COLOURS, draw_bound_or_error, figure_of
from cdu.report.query import over, select
from cdu.report.tables import Column, along, quantities, rounded, table
from cdu.unlearning.names import ANEW, AUTHORS, FORGET_FORM, NETWORK

#: What tables call BatchNorm's statistics, by the suffix of the network's name.
_STATISTICS = {"": "statistics as trained", ANEW: "statistics of D_r"}


def _statistics_of(frame: pd.DataFrame) -> dict[str, str]:
    """The kinds of BatchNorm's statistics in a set-up; a single one without a title where the network has none."""
    known = set(frame["method"])
    found = {label: title for label, title in _STATISTICS.items() if f"{NETWORK}{label}" in known}
    return found if len(found) > 1 else {"": ""}


def _with_removed(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the metric ``removed``: the share of ‖w* − w̃*‖ that a step removes, formed seed by seed."""
    errors = frame[frame["metric"].isin(["distance", "distance_to_retrained"])]
    left = over(errors, select(frame, metric="distance_original", method=NETWORK))
    return pd.concat([frame, left.assign(metric="removed", value=1 - left["value"])], ignore_index=True)


#: What the bound is computed from. The right-hand side of the step's other form stands after the first eight.
_CONSTANTS = (
    Column("lambda_max", "λ_max, at least"),
    Column("lambda_min", "λ_min, at most"),
    Column("gradient_lipschitz"),
    Column("hessian_lipschitz"),
    Column("gradient_retrained", "G = ‖∇L(w̃\\*, D_r)‖, in the function of H"),
    Column("gradient_retrained_own"),
    Column("gradient_original"),
    Column("right_hand_side"),
    Column("forms_cosine"),
    Column("spectrum_samples"),
    Column("hessian_samples", "samples behind L, M and the steps"),
    Column("trivial_bound"),
    Column("distance_original"),
    Column("damping", "λ by default"),
)
_OTHER_SIDE = Column("right_hand_side", "right-hand side, D_u form: n_u/n_r·‖∇L(w\\*, D_u)‖")


def _scale_bound_tables(shown: pd.DataFrame) -> dict[str, pd.DataFrame]:
    frame, statistics = _with_removed(shown), _statistics_of(shown)
    against_damping = {
        "bound": "bound",
        "distance": "error",
        "removed": "removed",
        "step_norm": "‖step‖",
        "residual": "residual",
    }
    found = {}
    for label, title in statistics.items():
        columns = [
            Column(metric, f"{form}: {text}", method=f"{NETWORK}{name}{label}")
            for form, name in (("D_r form", ""), ("D_u form", FORGET_FORM))
            for metric, text in against_damping.items()
        ]
        against = table(along(frame, "damping"), "point", "λ", columns)
        name = "Table 3: bound and error" + (f", {title}" if title else "")
        found[name] = against.assign(**{"λ": [rounded(float(str(damping))) for damping in against["λ"]]})
    sides, forget = (
        {title: {"method": f"{NETWORK}{form}{label}"} for label, title in statistics.items()}
        for form in ("", FORGET_FORM)
    )
    constants = [
        quantities(frame, _CONSTANTS[:8], sides),
        quantities(frame, [_OTHER_SIDE], forget),
        quantities(frame, _CONSTANTS[8:], sides),
    ]
    found["Constants (indications, not certificates)"] = pd.concat(constants, ignore_index=True)
    solvers = [
        Column("claim_seconds", "system"),
        Column("seconds", "with the gradient"),
        Column("claim_residual"),
        Column("residual", "relative residual, of H_S or at its own λ"),
        Column("hvp_samples"),
        Column("distance_to_retrained", "error"),
        Column("removed"),
    ]
    compared = frame[(frame["axis"] == "") & frame["method"].isin(select(frame, metric="timed_alone")["method"])]
    tried = frame[(frame["axis"] == "") & frame["metric"].isin(["claim_seconds", "seconds"])]
    failed = tried[tried["value"].isna() & ~tried["method"].isin(compared["method"])]
    named = pd.concat([compared, failed]).replace({"method": {AUTHORS: "lissa, λ and constants of the authors' code"}})
    cells = table(named, "method", "solver", solvers)
    title = "Solvers at the default λ, statistics as trained, not timed on an idle machine"
    # Only some set-ups have the step with H over a part, or the authors' constants.
    return {**found, title: cells.loc[:, (cells != "—").any()]}


def scale_bound(frame: pd.DataFrame) -> Figure:
    """Bound of Theorem 3.4 and measured error against λ, for both forms of the step and each kind of statistics.

    Horizontal lines: 2C, and the distance without any step. Vertical line: the largest λ_max seen. Where the forms lie
    on top of each other the second hides the first.
    """
    kinds = {"network": "BatchNorm's statistics as trained", "network, statistics of D_r first": "statistics of D_r"}
    known = [name for name in kinds if name in set(frame["method"])]
    figure, panels = figure_of(len(known), 4.0)
    for panel, name in zip(panels, known, strict=True):
        anew = name.removeprefix("network")
        for number, (method, form) in enumerate(
            {name: "D_r form", f"network, forget gradient{anew}": "D_u form"}.items()
        ):
            rows = select(frame, axis="damping", method=method)
            for metric, word in {"bound": "bound", "distance": "error"}.items():
                draw_bound_or_error(panel, select(rows, metric=metric), f"{form}: {word}", number, metric == "bound")
        lines = {"trivial_bound": ("--", "2C"), "distance_original": ("-.", "‖w* − w̃*‖")}
        for metric, (pattern, label) in lines.items():
            height = select(frame, metric=metric, method=name)["value"].mean()
            panel.axhline(height, color=COLOURS[6], linestyle=pattern, linewidth=1, label=label)
        largest = select(frame, metric="lambda_max", method=name)["value"].max()
        panel.axvline(largest, color=COLOURS[3], linestyle=":", linewidth=1.2, label="λ_max seen")
        title = kinds[name] if len(known) > 1 else ""
        panel.set(xscale="log", yscale="log", xlabel="damping λ", ylabel="distance", title=title)
    panels[0].legend(fontsize=8)
    return figure


PAGES = (
    Page("11_bound", "scale-bound", "The bound on a large network", figure=scale_bound, tables=_scale_bound_tables),
)
