"""The chapter on radius, requests, early stopping and small noise on a large network."""

import pandas as pd
from matplotlib.figure import Figure

from cdu.report.chapters.ablations import JUDGED
from cdu.report.chapters.page import Page
from cdu.report.chapters.sequential import draw_stopped_early
from cdu.report.drawing import draw_dots, draw_line, style, ticks_at_points
from cdu.report.query import select
from cdu.report.tables import PROMISED, SPLITS, WITH_NOISE, Column, along, judged_on, quantities, table


def _with_and_without(names: dict[str, str], *splits: str) -> list[Column]:
    """Accuracy of several models, with BatchNorm's statistics as trained and taken anew."""
    kinds = {"accuracy": "", "recalibrated_accuracy": ", statistics of D_r"}
    return [
        Column(metric, f"{', '.join(filter(None, (label, SPLITS[split])))}{kind}",
               **({"method": name} if name else {}), split=split)
        for split in splits
        for metric, kind in kinds.items()
        for name, label in names.items()
    ]  # fmt: skip


def _sweeps_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    without = {
        str(split): str(split).partition(", ")[0]
        for split in frame["split"].unique()
        if str(split).endswith("no noise")
    }
    # Its rows are those of a σ of 0.
    quiet = frame[frame["split"].isin(without)]
    quiet = quiet.assign(axis="sigma", point=0.0, split=quiet["split"].map(without))
    noise = along(pd.concat([quiet, frame], ignore_index=True), "sigma")
    noised = {
        title: table(noise, "point", "σ", [Column("epsilon"), *_with_and_without(WITH_NOISE, split)])
        for title, split in {"Noise, test set": "test", "Noise, retained set": "retain"}.items()
    }
    radius = [
        Column("norm"),
        Column("projected"),
        Column("epsilon", "ε certified by σ in use"),
        *_with_and_without({"original": ""}, "test", "retain"),
    ]
    early = [
        Column("gradient_retrained"),
        Column("lambda_min", "λ_min, at most"),
        Column("hessian_lipschitz", "M, at least"),
        Column("bound"),
        Column("distance_to_retrained", "error of the step", method="newton"),
        Column("distance_to_retrained", "doing nothing", method="original"),
        *_with_and_without({"newton": "step", "original": "nothing", "retrain": "retrained"}, "test"),
    ]
    after = [*_with_and_without({"": ""}, "test", "retain"), Column("distance_to_retrained")]
    requests = along(frame, "request")
    steps = [
        *(Column(metric, f"{label}, {text}", method=name)
          for name, label in {"newton": "noiseless", "newton, from the release + noise": "from the release"}.items()
          for metric, text in {"step": "‖step‖", "residual": "residual"}.items()),
    ]  # fmt: skip
    facts = [
        *map(Column, ("parameters", "train_samples", "epochs_trained", "damping", "trivial_bound")),
        Column("sigma", "σ in use"),
        Column("hessian_samples", "samples of a step's Hessian"),
        Column("spectrum_samples", "samples behind λ_min and M"),
    ]
    setup = [quantities(frame, facts, {"": {"axis": "", "method": ""}}), judged_on(frame)]
    return {
        **noised,
        "Radius": table(along(frame, "radius"), "point", "C", radius),
        "After the last request": table(requests[requests["metric"] != "step"], "method", "model", after),
        "Every request": table(requests, "point", "request", steps),
        "What k releases certify at the σ in use": table(along(frame, "releases"), "point", "k", PROMISED),
        "Training stopped early": table(along(frame, "epochs"), "point", "epochs", early),
        "What is computed on what": pd.concat(setup, ignore_index=True),
    }


#: Models that are compared after the last request, and what the figure calls them.
_AFTER_REQUESTS = {
    "newton + noise": "step + noise",
    "newton, from the release + noise": "from the release",
    "original + noise": "original + noise",
    "retrain": "retrained",
}


def sweeps(frame: pd.DataFrame) -> Figure:
    """Test accuracy against the noise σ, against the radius C and after the last request; bound and error over 2C.

    "Taken anew" is with BatchNorm's statistics taken anew over the retained set. Bottom right: training that was
    stopped after so many epochs.
    """
    figure = Figure(figsize=(7.4, 7.0), layout="constrained")
    with style():
        noise, radius, requests, early = grid = [figure.add_subplot(2, 2, number + 1) for number in range(4)]
    tested, anew = (select(frame, metric=metric, split="test") for metric in ("accuracy", "recalibrated_accuracy"))
    renewed = [(anew, ", taken anew")] if anew["value"].notna().any() else []
    for number, (name, label) in enumerate(JUDGED.items()):
        draw_line(noise, select(tested, axis="sigma", method=f"{name} + noise"), label, number, 100)
    for rows, label in renewed:
        draw_line(noise, select(rows, axis="sigma", method="newton + noise"), f"after the step{label}", 3, 100)
    noise.set(xscale="log", xlabel="noise σ per coordinate", ylabel="test accuracy (%)")
    for number, (rows, label) in enumerate([(tested, "as trained"), *renewed]):
        draw_line(radius, select(rows, axis="radius", method="original"), label.removeprefix(", "), number, 100)
    radius.set(xscale="log", xlabel="radius C", ylabel="test accuracy (%)")
    for number, (rows, label) in enumerate([(tested, "as trained"), *renewed]):
        own = select(rows, axis="request")
        draw_dots(requests, own, list(_AFTER_REQUESTS), label.removeprefix(", "), number, 100)
    requests.set_yticklabels(list(_AFTER_REQUESTS.values()))
    requests.set(xlabel="test accuracy (%)")
    draw_stopped_early(early, frame)
    for panel in (radius, early):
        ticks_at_points(panel)
    for panel in grid:
        panel.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure


PAGES = (
    Page(
        "11_sweeps",
        "scale-sweeps",
        "Radius, requests, early stopping and small noise",
        figure=sweeps,
        tables=_sweeps_tables,
    ),
)
