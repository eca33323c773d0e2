"""The chapter on training."""

from collections.abc import Collection

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cdu.experiments.metrics import quantity
from cdu.report.chapters.page import Page
from cdu.report.drawing import draw_line, figure_of
from cdu.report.query import select
from cdu.report.tables import Column, accuracy_columns, quantities, table


def _training_tables(frame: pd.DataFrame, on_gpu: Collection[int]) -> dict[str, pd.DataFrame]:
    marked = frame.assign(split=frame["split"].where(frame["metric"] != "images_per_second", "cpu"))
    gpu = (marked["metric"] == "images_per_second") & marked["seed"].isin(list(on_gpu))
    marked.loc[gpu, "split"] = "gpu"
    columns = [
        *accuracy_columns("forget", "retain", "test"),
        Column("final_projected"),
        Column("seconds"),
        Column("images_per_second", "images/s, CPU", split="cpu"),
        Column("images_per_second", "images/s, GPU", split="gpu"),
    ]
    result = table(marked, "method", "model", columns)
    if not on_gpu:
        result["images/s, GPU"] = "not recorded"
    speed = [Column("operations_per_image"), Column("matrix_rate"), Column("matrix_share", method="original")]
    measured = select(frame, metric="matrix_rate")["value"].notna().any()
    return {
        "Models, accuracy (= micro-F1) and speed": result,
        "How much of the machine training uses": quantities(frame, speed if measured else [], {"": {}}, "arithmetic"),
    }


def training(frame: pd.DataFrame) -> Figure:
    """Training loss, norm and share of projected steps against epochs, for the original and the retrained model."""
    figure, axes = figure_of(3, 3.0)
    labels = {"loss": quantity("loss").title, "norm": "norm ‖w‖₂", "projected": quantity("projected").label}
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
