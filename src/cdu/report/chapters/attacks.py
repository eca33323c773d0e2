"""The chapter on membership inference."""

import pandas as pd
from matplotlib.figure import Figure

from cdu.report.chapters.page import Page
from cdu.report.claims import CLOSE_AUC
from cdu.report.drawing import COLOURS, draw_dots, figure_of
from cdu.report.intervals import interval
from cdu.report.query import minus, points, select
from cdu.report.tables import Column, plus_minus, table


def closeness(gaps: "pd.Series[float]", margin: float) -> str:
    """Whether a mean gap to the retrained model is within a margin, by its 95 % interval over seeds.

    An attack that does much worse than on the retrained model found the forget set too well hidden: over-unlearning.
    """
    gap = interval(gaps)
    if gap.seeds < 2:
        return "one seed"
    if gap.within(margin):
        return "as retrained"
    if gap.high < -margin:
        return "over-unlearned"
    return "gives more away" if gap.low > margin else "undecided"


def _attack_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    areas = select(frame, metric="auc")
    differences = minus(areas, select(areas, method="retrain")).assign(metric="auc_difference")
    whole = pd.concat([frame, differences], ignore_index=True)
    levels = points(frame, metric="tpr")[::-1]
    columns = [
        Column("auc_difference"),
        Column("auc"),
        Column("auc_half"),
        Column("attack_accuracy", unit=""),
        *(Column("tpr", f"TPR at {100 * level:g} % FPR", point=level) for level in levels),
    ]
    paper = table(whole, "method", "model", columns)
    for level in levels:
        at = select(frame, point=level)
        ends = [select(at, metric=end).groupby("method")["value"].mean() * 100 for end in ("tpr_low", "tpr_high")]
        paper[f"its 95 % interval in a run, {100 * level:g} %"] = [
            f"{ends[0][name]:.1f} to {ends[1][name]:.1f}" if name in ends[0] else "—" for name in paper["model"]
        ]
    words = [closeness(select(differences, method=name)["value"], CLOSE_AUC) for name in paper["model"]]
    paper.insert(1, "beside retraining", words)
    grid = select(frame, metric="attack_auc")
    parts = grid["split"].str.extract(r"(?P<set>\w+): (?P<features>.+), (?P<model>[^,]+)$")
    grid = grid.assign(set=parts["set"], features=parts["features"], model=parts["model"])
    return {
        "The paper's attack (logistic regression, sorted concatenation) on held-out rows": paper,
        "All attacks, AUC": _grid_table(select(grid, set="test")),
        "The strongest of them, chosen on the other seeds": _strongest(select(grid, set="test")),
        "The paper's comparison, D_u against D_r: AUC by construction (logistic regression)": table(
            select(grid, set="retain"),
            "method",
            "model",
            [Column("attack_auc", str(name), features=str(name)) for name in dict.fromkeys(grid["features"])],
        ),
    }


def _grid_table(grid: pd.DataFrame) -> pd.DataFrame:
    """The AUC of every construction and attack model, for a few released models."""
    wanted = ("original", "newton", "newton + noise", "retrain", "second retraining")
    shown = [name for name in wanted if name in set(grid["method"])]
    return pd.DataFrame(
        [
            {"features": str(features), "attack model": str(model)}
            | {name: plus_minus(select(rows, method=name)["value"]) for name in shown}
            for (features, model), rows in grid.groupby(["features", "model"], sort=False)
        ]
    )


def _strongest(grid: pd.DataFrame) -> pd.DataFrame:
    """The attack with the largest mean gap, by model; for every seed it is chosen on the others."""
    gaps = minus(grid, select(grid, method="retrain"), "seed", "split")
    lines = []
    for method in dict.fromkeys(gaps["method"]):
        wide = select(gaps, method=str(method)).pivot_table(index="seed", columns="split", values="value").dropna()
        if method == "retrain" or len(wide) < 2:
            continue
        chosen = {seed: str(wide.drop(index=seed).mean().idxmax()) for seed in wide.index}
        own = pd.Series([wide.loc[seed, attack] for seed, attack in chosen.items()])
        often = pd.Series(list(chosen.values())).value_counts()
        lines.append(
            {
                "model": str(method),
                "attack chosen most often": str(often.index[0]).removeprefix("test: ")
                + f" ({often.iloc[0]} of {len(wide)})",
                "AUC − retrained": plus_minus(own),
                "beside retraining": closeness(own, CLOSE_AUC),
            }
        )
    return pd.DataFrame(lines)


def attacks(frame: pd.DataFrame) -> Figure:
    """The paper's attack per model. Left: AUC and accuracy. Right: true-positive rate at false-positive rates.

    The dotted line is the retrained model's mean; chance is dashed at left and the false-positive rate itself at right.
    """
    auc = select(frame, metric="auc")
    methods = list(dict.fromkeys(auc.dropna(subset=["value"])["method"]))
    figure, (area, rate) = figure_of(2, 1.2 + 0.27 * len(methods))
    draw_dots(area, auc, methods, "AUC", 0)
    draw_dots(area, select(frame, metric="attack_accuracy"), methods, "accuracy", 1)
    area.axvline(0.5, color=COLOURS[6], linestyle="--", linewidth=1, label="chance")
    area.axvline(float(select(auc, method="retrain")["value"].mean()), color=COLOURS[0], linestyle=":", linewidth=1.4)
    area.set(xlabel="attack on held-out rows (share)")
    rates = select(frame, metric="tpr")
    for number, level in enumerate(sorted(rates["point"].dropna().unique(), reverse=True)):
        draw_dots(rate, select(rates, point=level), methods, f"at {100 * level:g} % false positives", number, 100)
        rate.axvline(100 * level, color=COLOURS[number], linestyle="--", linewidth=1)
    rate.set(xlabel="true-positive rate (%)")
    rate.set_yticklabels([])
    for panel in (area, rate):
        panel.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


PAGES = (
    Page("04_attacks", "attacks", "Membership inference", figure=attacks, tables=_attack_tables, marker="attack_auc"),
)
