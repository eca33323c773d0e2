"""The chapters on the audit and on its power."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cdu.evaluation.settings import PLANTED
from cdu.report.chapters.page import Page
from cdu.report.drawing import COLOURS, LINES, MARKERS, figure_of
from cdu.report.query import select
from cdu.report.tables import Column, cell_of, rounded
from cdu.unlearning.names import title


def _end(frame: pd.DataFrame, metric: str) -> str:
    """The mean of an estimate or of an end of its interval; infinite or a dash where a seed has none."""
    values = select(frame, metric=metric)["value"]
    seeds = select(frame, metric="contradicted")["seed"].nunique()
    infinite = {"mu_low": "−∞", "mu_high": "∞"}.get(metric, "—")
    return rounded(float(values.mean())) if len(values) == seeds > 0 else infinite


def equal_pairs(frame: pd.DataFrame) -> set[tuple[str, str]]:
    """Methods and forget sets of an audit whose release is its reference in every seed, since both were retrained."""
    furthest = select(frame, metric="pair_distance").groupby(["method", "split"])["value"].max().reset_index()
    equal = furthest[furthest["value"] == 0]
    return set(zip(equal["method"].map(str), equal["split"].map(str), strict=True))


#: Columns: the ε that trials show, and the largest that so many trials can show.
SHOWN = tuple(map(Column, ("audit_epsilon", "detectable", "audit_gaussian", "gaussian_detectable")))

#: Columns: the distance of a release to its reference before noise, and what it is certified for.
PAIR = tuple(map(Column, ("pair_distance", "sensitivity", "pair_epsilon")))


def _audit_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    audited, equal = select(frame, metric="audit_epsilon"), equal_pairs(frame)
    lines = []
    for method, split in dict.fromkeys(zip(audited["method"], audited["split"], strict=True)):
        own = select(frame, method=str(method), split=str(split))
        kind, _, view = str(split).partition(", ")
        contradicted = select(own, metric="contradicted")["value"]
        certified = select(own, metric="certified_epsilon")["value"]
        word = f"contradicted ({contradicted.sum():.0f} of {len(contradicted)} seeds)"
        fine = "consistent" + (", the pair is equal" if (method, kind) in equal else "")
        lines.append(
            {
                "method": str(method),
                "forget set": kind,
                "adversary sees": view or "—",
                "ε certified": rounded(float(certified.mean())) if len(certified) else "—",
                **{one.header: one.cell(own) for one in SHOWN},
                "μ [its interval]": f"{_end(own, 'mu')} [{_end(own, 'mu_low')}, {_end(own, 'mu_high')}]",
                "trials": cell_of(own, "trials"),
                "verdict": "could not run" if contradicted.empty else word if contradicted.any() else fine,
            }
        )
    whole = pd.DataFrame(lines)
    planted = whole["method"].str.startswith(PLANTED)
    distances = [
        {"method": str(method), "forget set": str(kind)}
        | {one.header: one.cell(select(frame, method=str(method), split=str(kind))) for one in PAIR}
        for (method, kind), _ in select(frame, metric="pair_distance").groupby(["method", "split"], sort=False)
    ]
    noted = select(frame, metric="audit_epsilon")
    notes = noted[noted["note"].str.startswith("ε of")].drop_duplicates("method").set_index("method")["note"]
    wrong = whole[planted].assign(noise=[notes.get(name, "") for name in whole[planted]["method"]])
    return {
        "Certificates and what trials show": whole[~planted],
        "Planted errors": wrong,
        "How far a release is from its reference, before noise": pd.DataFrame(distances),
    }


def _share(frame: pd.DataFrame, metric: str, **keys: str | float) -> str:
    """A share of simulations in percent with its 95 % interval, means over seeds."""
    found = [select(frame, metric=f"{metric}{end}", **keys)["value"] for end in ("", "_low", "_high")]
    if found[0].empty:
        return "—"
    share, low, high = (100 * float(values.mean()) for values in found)
    return f"{share:.1f} [{low:.1f}, {high:.1f}]"


def _audit_power_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    own = select(frame, method=SIMULATED)
    cells = dict.fromkeys(
        (str(split), float(point)) for split, point in own.loc[own["metric"] == "detected", ["split", "point"]].values
    )
    curve = [
        {
            "pair at a distance of": distance,
            "noise so many times too small": f"{factor:g}",
            "ε of the pair, exactly": cell_of(own, "simulated_epsilon", split=distance, point=factor),
            "audits that contradict (%) [95 %]": _share(own, "detected", split=distance, point=factor),
            "trials": cell_of(own, "simulated_trials", split=distance, point=factor),
        }
        for distance, factor in cells
    ]
    others = frame[frame["method"].str.startswith(OTHER_STRATEGIES)]
    strategies = [
        {
            "thresholds": str(method).removeprefix(OTHER_STRATEGIES),
            "noise 1.5 times too small, found by either bound (%)": _share(rows, "detected", point=1.5),
            "noise 3 times too small, found by counts alone (%)": _share(rows, "counted", point=3.0),
        }
        for method, rows in others.groupby("method", sort=False)
    ]
    return {
        "What the audit would find, direction known": pd.DataFrame(curve),
        "Ways to choose thresholds, pairs at the distance Δ": pd.DataFrame(strategies),
    }


#: Suffix of the names of planted "errors" whose noise is right.
PLANTED_RIGHT = " right"


def audit(frame: pd.DataFrame) -> Figure:
    """What trials show of ε, by certified method and forget set, beside the certified ε (black bars).

    The largest over views and seeds of bounds at 95 %: circles by Clopper-Pearson, squares by Gaussian differential
    privacy; crosses are what so many trials could have given the former at most. A circle or square right of the bar
    contradicts the certificate.
    """
    rows = frame.assign(method=frame["method"].str.cat(frame["split"].str.split(", ").str[0], sep=", "))
    methods = list(dict.fromkeys(select(rows, metric="certified_epsilon")["method"]))
    figure, (panel,) = figure_of(1, 1.4 + 0.25 * len(methods))
    looks = {
        "audit_epsilon": ("Clopper-Pearson", "o", COLOURS[0]),
        "audit_gaussian": ("Gaussian", "s", COLOURS[1]),
        "detectable": ("detectable", "x", "0.5"),
        "certified_epsilon": ("certified", "|", COLOURS[6]),
    }
    height = np.arange(len(methods))[::-1]
    for metric, (label, marker, colour) in looks.items():
        largest = select(rows, metric=metric).groupby("method")["value"].max().reindex(methods)
        size = 12 if marker == "|" else 5
        panel.plot(largest, height, marker, color=colour, markersize=size, label=label, fillstyle="none")
    panel.set_yticks(height, [title(name) for name in methods])
    panel.set_xscale("symlog", linthresh=0.1)
    panel.set_xticks([0, 0.1, 1, 10], ["0", "0.1", "1", "10"])
    panel.set(xlabel="ε (linear below 0.1)", xlim=(-0.01, 20), ylim=(-0.8, len(methods) - 0.2))
    panel.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False)
    return figure


#: Simulated audits: the name of their method, and the prefix of other strategies' names.
SIMULATED, OTHER_STRATEGIES = "simulated", "simulated: "


def audit_power(frame: pd.DataFrame) -> Figure:
    """In how many simulated audits the certificate is contradicted when the noise is so many times too small.

    Bars are 95 % intervals of that share (Clopper-Pearson; of several seeds their mean). The direction is known and the
    pair is Δ, or half of it, apart; a pair at half of Δ has the certified ε when the noise is two times too small, so
    that there is nothing to find left of it. The dashed line is the share of wrong contradictions that is allowed for.
    """
    figure, (panel,) = figure_of(1)
    rows = select(frame, method=SIMULATED)
    for number, distance in enumerate(dict.fromkeys(select(rows, metric="detected")["split"])):
        own = select(rows, split=str(distance))
        share, low, high = (
            select(own, metric=metric).groupby("point")["value"].mean()
            for metric in ("detected", "detected_low", "detected_high")
        )
        panel.errorbar(
            np.asarray(share.index, dtype=float) * (1 + 0.02 * number), 100 * share,
            yerr=100 * np.stack([share - low, high - share]), color=COLOURS[number], marker=MARKERS[number],
            linestyle=LINES[number], markersize=5, capsize=2, linewidth=1.2, label=f"pair at a distance of {distance}",
        )  # fmt: skip
    panel.axhline(5, color=COLOURS[6], linestyle="--", linewidth=1)
    panel.set(xscale="log", xlabel="noise so many times too small", ylabel="audits that contradict (%)", ylim=(-3, 103))
    points = sorted(set(select(rows, metric="detected")["point"]))
    panel.set_xticks(points, [f"{point:g}" for point in points])
    panel.minorticks_off()
    panel.legend(fontsize=8)
    return figure


PAGES = (
    Page("10_audit", "audit", "Audit", figure=audit, tables=_audit_tables),
    Page(
        "10_audit-power",
        "audit-power",
        "The power of an audit",
        figure=audit_power,
        tables=_audit_power_tables,
        marker="detected",
    ),
)
