"""The chapter on BatchNorm and large networks."""

import pandas as pd
from matplotlib.figure import Figure

from cdu.experiments.records import UNREACHED
from cdu.report import query
from cdu.report.chapters.page import Page
from cdu.report.drawing import draw_dots, figure_of
from cdu.report.query import of_seeds, select, without_other_steps, without_useless_noise
from cdu.report.tables import (
    COST,
    Column,
    accuracy_columns,
    cell_of,
    cost_columns,
    plus_minus,
    rounded,
    table,
    with_censored,
    with_reduction,
)
from cdu.unlearning.names import ANEW, title


def _newton_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per λ and kind of statistics: in how many seeds there is a step, how long it is, and what it took."""
    columns = [
        Column("‖step‖", "distance_to_original"),
        *accuracy_columns("forget", "test"),
        Column("relearn (epochs)", "epochs"),
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
    frame = query.without_other_steps(everything)
    facts = {
        "parameters p": "parameters",
        "training samples n": "train_samples",
        "epochs trained": "epochs_trained",
        "samples of the Hessian": "hessian_samples",
        "λ": "damping",
        "λ_max, at least": "lambda_max",
        "λ_min, at most": "lambda_min",
        "λ_max, at least, with statistics of D_r": "lambda_max",
        "λ_min, at most, with statistics of D_r": "lambda_min",
        "samples behind these": "spectrum_samples",
        "samples of the recalibration": "recalibration_samples",
    }
    anew = f"newton{ANEW}"
    known = set(select(everything, method=anew)["metric"])
    setup = [
        {"quantity": text, "": cell_of(everything, metric, method=anew if "of D_r" in text else "")}
        for text, metric in facts.items()
        if "of D_r" not in text or metric in known
    ]
    judged = select(frame, metric="judged_samples")
    setup += [
        {"quantity": f"samples behind accuracy, {split}", "": plus_minus(rows["value"])}
        for split, rows in judged.groupby("split", sort=False)
    ]
    quality = [
        *accuracy_columns("forget", "retain", "test"),
        Column("forget set, statistics of D_r (%)", "recalibrated_accuracy", {"split": "forget"}, 100),
        Column("test set, statistics of D_r (%)", "recalibrated_accuracy", {"split": "test"}, 100),
        Column("distance to retrained", "distance_to_retrained"),
        Column("AUC", "auc"),
        Column("relearn (epochs)", "epochs"),
    ]
    cost = [*COST, Column("closer than doing nothing by (%)", "reduction", factor=100)]
    noise = [Column("σ", "sigma"), Column("ε certified at Δ = 2C", "epsilon")]
    costed = frame[frame["method"].isin(select(frame, metric="seconds")["method"])]
    return {
        "Models": with_censored(table(frame, "method", "model", quality), frame),
        "Cost": cost_columns(costed, cost),
        "Noise": table(frame, "method", "model", noise),
        "The Newton step at every λ": _newton_steps(everything),
        "What is computed on what": pd.DataFrame(setup),
    }


def scale(frame: pd.DataFrame) -> Figure:
    """Left: accuracy on the three sets. Right: on the test set, also with BatchNorm's statistics taken anew on D_r."""
    frame = without_other_steps(without_useless_noise(frame))
    methods = list(dict.fromkeys(select(frame, metric="accuracy").dropna(subset=["value"])["method"]))
    anew = select(frame, metric="recalibrated_accuracy", split="test")
    figure, (sets, statistics) = figure_of(2, 1.2 + 0.34 * len(methods))
    names = {"forget": "forget set", "retain": "retained set", "test": "test set"}
    for number, (split, label) in enumerate(names.items()):
        draw_dots(sets, select(frame, metric="accuracy", split=split), methods, label, number, 100)
    draw_dots(statistics, select(frame, metric="accuracy", split="test"), methods, "statistics of training", 0, 100)
    if not anew.empty:
        draw_dots(statistics, anew, methods, "taken anew", 1, 100)
    tested, seeds = select(frame, metric="accuracy", split="test"), frame["seed"].nunique()
    labels = [title(name) + of_seeds(select(tested, method=name)["value"], seeds) for name in methods]
    sets.set(xlabel="accuracy (%)", yticklabels=labels)
    statistics.set(xlabel="test accuracy (%)")
    statistics.set_yticklabels([])
    for panel in (sets, statistics):
        panel.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


PAGES = (Page("11_scale", "scale", "BatchNorm and large networks", figure=scale, tables=_scale_tables),)
