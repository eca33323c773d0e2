"""The chapter on BatchNorm and large networks."""

import pandas as pd
from matplotlib.figure import Figure

from cdu.experiments.metrics import quantity
from cdu.experiments.records import UNREACHED
from cdu.report.chapters.page import Page
from cdu.report.drawing import draw_dots, figure_of
from cdu.report.query import select, without_other_steps, without_useless_noise
from cdu.report.tables import (
    COST,
    SPLITS,
    Column,
    accuracy_columns,
    cell_of,
    cost_table,
    judged_on,
    of_seeds,
    quantities,
    rounded,
    table,
    with_censored,
    with_reduction,
)
from cdu.unlearning.names import ANEW, title


def _newton_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """The Newton steps, one row per λ and kind of statistics: seeds with a step, its norm, accuracy and cost."""
    columns = [
        Column("distance_to_original", "‖step‖"),
        *accuracy_columns("forget", "test"),
        Column("epochs"),
        *(column for column in COST if column.metric != "gradient_samples"),
    ]
    rows = []
    for name in dict.fromkeys(select(frame, metric="accuracy")["method"]):
        if not name.startswith("newton") or " + noise" in name:
            continue
        tried = select(frame, metric="accuracy", method=name)
        tried = tried[~tried["note"].str.startswith(UNREACHED)]
        taken = tried[tried["value"].notna()]["seed"].unique()
        own = select(frame, method=name)
        cells = table(own[own["seed"].isin(taken)], "method", "", columns)
        damping = name.removesuffix(ANEW).partition("λ = ")[2]
        rows.append(
            {
                "λ": rounded(float(damping)) if damping else cell_of(frame, "damping", method=""),
                "BatchNorm's statistics": "of D_r" if name.endswith(ANEW) else "as trained",
                "seeds with a step": f"{len(taken)} of {tried['seed'].nunique()}",
                **{column.header: "—" if cells.empty else cells.iloc[0][column.header] for column in columns},
            }
        )
    return pd.DataFrame(rows)


def _scale_tables(shown: pd.DataFrame) -> dict[str, pd.DataFrame]:
    everything = with_reduction(shown)
    frame = without_other_steps(everything)
    anew = f"newton{ANEW}"
    spectrum = {"lambda_max": "λ_max, at least", "lambda_min": "λ_min, at most"}
    known = set(select(everything, method=anew)["metric"])
    facts = [
        *(Column(name, method="") for name in ("parameters", "train_samples", "epochs_trained", "hessian_samples")),
        Column("damping", method=""),
        *(Column(name, label, method="") for name, label in spectrum.items()),
        *(Column(name, f"{spectrum[name]}, with statistics of D_r", method=anew) for name in spectrum if name in known),
        Column("spectrum_samples", "samples behind these", method=""),
        Column("recalibration_samples", method=""),
    ]
    quality = [
        *accuracy_columns("forget", "retain", "test"),
        Column("recalibrated_accuracy", "forget set, statistics of D_r", split="forget"),
        Column("recalibrated_accuracy", "test set, statistics of D_r", split="test"),
        Column("distance_to_retrained"),
        Column("auc"),
        Column("epochs"),
    ]
    cost = [*COST, Column("reduction")]
    noise = [Column("sigma"), Column("epsilon", "ε certified at Δ = 2C")]
    costed = frame[frame["method"].isin(select(frame, metric="seconds")["method"])]
    return {
        "Models": with_censored(table(frame, "method", "model", quality), frame),
        "Cost": cost_table(costed, cost),
        "Noise": table(frame, "method", "model", noise),
        "The Newton step at every λ": _newton_steps(everything),
        "What is computed on what": pd.concat(
            [quantities(everything, facts, {"": {}}), judged_on(frame)], ignore_index=True
        ),
    }


def scale(frame: pd.DataFrame) -> Figure:
    """Left: accuracy on the three sets. Right: on the test set, also with BatchNorm's statistics taken anew on D_r."""
    frame = without_other_steps(without_useless_noise(frame))
    methods = list(dict.fromkeys(select(frame, metric="accuracy").dropna(subset=["value"])["method"]))
    anew = select(frame, metric="recalibrated_accuracy", split="test")
    figure, (sets, statistics) = figure_of(2, 1.2 + 0.34 * len(methods))
    for number, (split, label) in enumerate(SPLITS.items()):
        draw_dots(sets, select(frame, metric="accuracy", split=split), methods, label, number, 100)
    draw_dots(statistics, select(frame, metric="accuracy", split="test"), methods, "statistics of training", 0, 100)
    if not anew.empty:
        draw_dots(statistics, anew, methods, "taken anew", 1, 100)
    tested, seeds = select(frame, metric="accuracy", split="test"), frame["seed"].nunique()
    labels = [title(name) + of_seeds(select(tested, method=name)["value"], seeds) for name in methods]
    sets.set(xlabel=quantity("accuracy").title, yticklabels=labels)
    statistics.set(xlabel="test accuracy (%)")
    statistics.set_yticklabels([])
    for panel in (sets, statistics):
        panel.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


PAGES = (Page("11_scale", "scale", "BatchNorm and large networks", figure=scale, tables=_scale_tables),)
