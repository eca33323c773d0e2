"""The chapters on all methods: Table 1, the compute axis, and the choice of hyper-parameters."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cdu.report.chapters.page import Page
from cdu.report.drawing import COLOURS, draw_dots, draw_line, figure_of, panel_grid
from cdu.report.query import minus, over, select
from cdu.report.tables import RETRAINED, Column, accuracy_columns, cost_table, table
from cdu.unlearning.names import title


def _methods_table_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    paired = _from_retrained(frame)
    gaps = paired.assign(value=paired["value"].abs())
    gaps = gaps.groupby(["method", "seed"], sort=False)["value"].mean().reset_index()
    shares = _of_retraining(frame)
    whole = pd.concat(
        [frame, gaps.assign(metric="accuracy_gap"), shares.assign(metric="time_share")], ignore_index=True
    )
    columns = [
        *accuracy_columns("forget", "retain", "test"),
        Column("accuracy_gap"),
        Column("seconds"),
        Column("time_share"),
        Column("training_seconds"),
    ]
    found = table(whole, "method", "method", columns)
    notes = select(frame, metric="certified").groupby("method")["note"].first()
    notes = notes.where(~notes.index.isin(RETRAINED), "needs none: never saw D_u, so that ε = 0")
    found["certificate"] = [notes.get(name, "could not run") for name in found["method"]]
    searched = found["method"].str.startswith(tuple(f"{name}, ε" for name in _with_searched_l2(frame)))
    found.loc[searched, "certificate"] += "; l2 searched for this request"
    if "rounding" not in set(frame["metric"]):
        # Until revision 2 of the section these two computed in single precision, whose rounding exceeds their Δ.
        void = found["method"].str.contains("rewind, linear, ε|Langevin, linear, ε")
        found.loc[void, "certificate"] = "void: computed in single precision, whose rounding may exceed Δ"
    cost = [Column("gradient_samples"), Column("hvp_samples")]
    return {
        "Table 1: accuracy (= micro-F1), gap, time and certificate": found,
        "What a method computes": cost_table(frame, cost),
        "Distance to the reference, measured and certified": _distances(frame),
    }


def _with_searched_l2(frame: pd.DataFrame) -> set[str]:
    """The methods whose l2 is one of a few that were tried for the request."""
    chosen = select(frame, metric="chosen_gap", split="")
    return set(chosen[chosen["note"].str.contains("l2 = ", regex=False)]["method"])


def _distances(frame: pd.DataFrame) -> pd.DataFrame:
    """By method: the distance of the release to its reference before noise, beside the certified distance."""
    shown = frame[frame["metric"] == "distance_ratio"]
    columns = [Column("measured_distance"), Column("certified_distance"), Column("rounding")]
    found = table(frame[frame["method"].isin(shown["method"])], "method", "method", columns)
    if found.empty:
        return found
    worst = shown.groupby("method")["value"].max()
    found["largest ratio of a seed"] = [f"{worst.get(name, float('nan')):.2g}" for name in found["method"]]
    types = select(frame, metric="certified_distance").groupby("method")["note"].first()
    found["computed in"] = [types.get(name, "—") for name in found["method"]]
    return found


def _methods_compute_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    found = {}
    for epsilon in epsilons(frame):
        named = frame["split"].isin([f"test, ε = {epsilon:g}", "test, no noise"])
        rows = frame[(frame["metric"] == "later_accuracy") & named]
        rows = rows.assign(split=rows["point"].map("k = {:g}".format))
        columns = [Column("later_accuracy", split, split=split) for split in dict.fromkeys(rows["split"])]
        certified = ~rows["method"].isin(unnoised(frame))
        found[f"Test accuracy after k epochs on D_r, ε = {epsilon:g}"] = pd.concat(
            [table(rows[certified], "method", "start", columns), table(rows[~certified], "method", "start", columns)]
        ).fillna("—")
    return found


def _methods_tuning_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    lines = []
    named = frame["method"].where(frame["split"] == "", frame["method"].str.cat(frame["split"], sep=", "))
    frame = frame.assign(method=named)
    for method, rows in select(frame, metric="trial_gap").groupby("method", sort=False):
        own = select(frame, method=str(method))
        winners = select(own, metric="chosen_gap")
        counts = winners.dropna(subset=["value"])["note"].value_counts()
        lines.append(
            {
                "method": str(method),
                "trials": f"{rows['point'].nunique()}",
                "of them without result (%)": f"{100 * rows['value'].isna().mean():.0f}",
                **{one.header: one.cell(own) for one in map(Column, ("trial_gap", "chosen_gap"))},
                "chosen (seeds)": "; ".join(
                    f"{values or 'nothing to choose'} ({count})" for values, count in counts.items()
                ),
            }
        )
    return {"Trials and choice": pd.DataFrame(lines)}


def methods_table(frame: pd.DataFrame) -> Figure:
    """Left: accuracy minus the retrained model's of the same seed. Right: time as a share of retraining's.

    Rows that end in ε carry the noise that certifies it; a share of zero is not drawn.
    """
    paired = _from_retrained(frame)
    names = [name for name in dict.fromkeys(paired.dropna(subset=["value"])["method"]) if name != "retrain"]
    figure, (accuracy, share) = figure_of(2, 1.0 + 0.3 * len(names))
    for number, (split, label) in enumerate({"forget": "forget set", "test": "test set"}.items()):
        draw_dots(accuracy, select(paired, split=split), names, label, number, 100)
    accuracy.axvline(0.0, color=COLOURS[6], linestyle="--", linewidth=1)
    accuracy.set_xscale("symlog", linthresh=1.0)
    accuracy.set_xlim(-150, 12)
    accuracy.set_xticks([-100, -10, -1, 0, 1, 10], ["−100", "−10", "−1", "0", "1", "10"])
    accuracy.set(xlabel="accuracy − retrained (points, linear within ±1)")
    accuracy.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    rows = _of_retraining(frame)
    draw_dots(share, rows[rows["value"] > 0], names, "", 0, 100)
    share.axvline(100.0, color=COLOURS[6], linestyle="--", linewidth=1)
    share.set(xscale="log", xlabel="time (% of retraining)")
    share.set_yticklabels([])
    return figure


def _from_retrained(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracies less the retrained model's of the same seed and split."""
    rows = select(frame, metric="accuracy")
    return minus(rows, select(rows, method="retrain"), "seed", "split")


def unnoised(frame: pd.DataFrame) -> list[str]:
    """The starts of the compute axis that no noise was added to: untrained weights, noise alone, and the original."""
    return list(dict.fromkeys(select(frame, metric="later_accuracy", split="test, no noise")["method"]))


def _of_retraining(frame: pd.DataFrame) -> pd.DataFrame:
    """Times as shares of retraining's of the same seed."""
    rows = select(frame, metric="seconds")
    return over(rows, select(rows, method="retrain"))


def epsilons(frame: pd.DataFrame) -> list[float]:
    """The ε at which certified methods went on training, ascending."""
    splits = select(frame, metric="later_accuracy")["split"].astype(str)
    return sorted({float(split.split("ε = ")[1]) for split in splits if "ε = " in split})


def methods_compute(frame: pd.DataFrame) -> Figure:
    """Test accuracy of certified releases that go on training on the retained set, which is free in privacy.

    Top left: against the epochs k, at the smallest ε. Others: against ε, before any epoch, after the first look and
    after the last. Grey: the same program from untrained weights (solid), from noise of norm C that no model was added
    to (dotted), and from the original without noise and certificate (dashed).
    """
    figure, grid = panel_grid(7.6)
    rows = frame[(frame["metric"] == "later_accuracy") & frame["split"].str.startswith("test")]
    wanted, points = epsilons(rows), sorted(rows["point"].dropna().unique())
    looks = dict(zip((points[0], points[min(1, len(points) - 1)], points[-1]), grid[1:], strict=False))
    starts = unnoised(rows)
    names = [name for name in dict.fromkeys(rows["method"]) if name not in starts]
    by_epsilon = rows.assign(point=pd.to_numeric(rows["split"].str.split("ε = ").str[1]), epochs=rows["point"])
    for number, name in enumerate(names):
        if wanted:
            draw_line(grid[0], select(rows, method=name, split=f"test, ε = {wanted[0]:g}"), title(name), number, 100)
        for epochs, panel in looks.items():
            draw_line(panel, select(by_epsilon, method=name, epochs=float(epochs)), title(name), number, 100)
    for name, line in zip(starts, ("-", ":", "--"), strict=False):
        means = select(rows, method=name).groupby("point")["value"].mean() * 100
        grid[0].plot(means.index, means, color="0.5", linestyle=line, linewidth=1.6, label=name)
        for epochs, panel in looks.items():
            if epochs in means.index:
                panel.axhline(means[epochs], color="0.5", linestyle=line, linewidth=1.6)
    noise = f"ε = {wanted[0]:g}" if wanted else ""
    grid[0].set(xlabel="k, epochs on the retained set", ylabel="test accuracy (%)", title=noise)
    grid[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    for epochs, panel in looks.items():
        panel.set(xscale="log", xlabel="certified ε", ylabel="test accuracy (%)", title=f"k = {epochs:g}")
    figure.legend(*grid[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    return figure


def methods_tuning(frame: pd.DataFrame) -> Figure:
    """Gap to the retrained model of every trial (hollow) and of the one that was chosen (filled), all seeds.

    The gap is the sum of the absolute differences in accuracy on the validation and on the forget samples.
    """
    trials, winners = (select(frame, metric=metric, split="") for metric in ("trial_gap", "chosen_gap"))
    names = list(dict.fromkeys(trials["method"]))
    heights = {name: float(len(names) - 1 - row) for row, name in enumerate(names)}
    figure, (panel,) = figure_of(1, 1.2 + 0.27 * len(names))
    looks = ((trials, "none", 0.0, 14, "trial"), (winners, COLOURS[0], 0.0, 26, "chosen"))
    for rows, face, shift, size, label in looks:
        height = [heights[str(name)] + shift for name in rows["method"]]
        panel.scatter(100 * rows["value"], height, s=size, facecolors=face, edgecolors=COLOURS[0], label=label)
    panel.set_yticks(list(heights.values()), [title(name) for name in heights])
    panel.set_xscale("symlog", linthresh=1.0)
    panel.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    panel.set(xlabel="gap to the retrained model (points, linear below 1)", xlim=(-0.05, 250))
    panel.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


PAGES = (
    Page("03_methods", "methods", "All methods"),
    Page("03_methods-table", "methods-table", "Table 1", figure=methods_table, tables=_methods_table_tables),
    Page(
        "03_methods-compute",
        "methods-compute",
        "The compute axis",
        figure=methods_compute,
        tables=_methods_compute_tables,
    ),
    Page(
        "03_methods-tuning",
        "methods-tuning",
        "Choice of hyper-parameters",
        figure=methods_tuning,
        tables=_methods_tuning_tables,
    ),
)
