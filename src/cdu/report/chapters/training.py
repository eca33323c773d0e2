"""The chapter on training."""

from collections.abc import Collection

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cdu.report.chapters.page import Page
from cdu.report.drawing import draw_line, figure_of
from cdu.report.query import select
from cdu.report.tables import Column, accuracy_columns, plus_minus, table


def _training_tables(frame: pd.DataFrame, on_gpu: Collection[int]) -> dict[str, pd.DataFrame]:
    marked = frame.assign(split=frame["split"].where(frame["metric"] != "images_per_second", "cpu"))
    gpu = (marked["metric"] == "images_per_second") & marked["seed"].isin(list(on_gpu))
    marked.loc[gpu, "split"] = "gpu"
    columns = [
        *accuracy_columns("forget", "retain", "test"),
        Column("last epoch's steps projected (%)", "final_projected", factor=100),
        Column("time (s)", "seconds"),
        Column("images/s, CPU", "images_per_second", {"split": "cpu"}),
        Column("images/s, GPU", "images_per_second", {"split": "gpu"}),
    ]
    result = table(marked, "method", "model", columns)
    if not on_gpu:
        result["images/s, GPU"] = "not recorded"
    rate, operations = (select(frame, metric=metric)["value"] for metric in ("matrix_rate", "operations_per_image"))
    speed = {
        "operations an image, millions": plus_minus(operations, 1e-6),
        "matrix products, 10⁹ operations/s": plus_minus(rate, 1e-9),
        "training's share of that rate (%)": _cell_percent(frame, "matrix_share"),
    }
    measured = [] if rate.dropna().empty else [{"arithmetic": name, "": value} for name, value in speed.items()]
    return {
        "Models, accuracy (= micro-F1) and speed": result,
        "How much of the machine training uses": pd.DataFrame(measured),
    }


def _cell_percent(frame: pd.DataFrame, metric: str) -> str:
    """A share of the original model, in percent."""
    return plus_minus(select(frame, metric=metric, method="original")["value"], 100)


def training(frame: pd.DataFrame) -> Figure:
    """Training loss, norm and share of projected steps against epochs, for the original and the retrained model."""
    figure, axes = figure_of(3, 3.0)
    labels = {"loss": "mean training loss (nats)", "norm": "norm ‖w‖₂", "projected": "steps projected"}
    for panel, (metric, label) in zip(axes, labels.items(), strict=True):
        for number, method in enumerate(("original", "retrain")):
            rows = select(frame, metric=metric, method=method, axis="epoch")
            draw_line(panel, rows, method, number)
        panel.set(xlabel="epoch", ylabel=label)
    axes[0].set_yscale("log")
    axes[0].legend(fontsize=8)
    axes[2].yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


PAGES = (Page("02_training", "training", "Training", figure=training, tables=_training_tables, by_device=True),)
