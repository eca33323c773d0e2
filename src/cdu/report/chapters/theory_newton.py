"""The chapter on the Newton step."""

import pandas as pd
from matplotlib.figure import Figure

from cdu.experiments.metrics import quantity
from cdu.report.chapters.page import Page
from cdu.report.drawing import ROUNDING, draw_guide, draw_line, draw_methods, figure_of, ticks_at_points
from cdu.report.query import select
from cdu.report.tables import Column, along, quantities, table


def _theory_newton_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    slopes = table(
        select(frame, metric="slope"), "method", "forget set", [Column("slope", "fitted slope of the error")]
    )
    exact = [Column("ridge_distance"), Column("ridge_error")]
    forms = [Column("forms_difference"), Column("forms_unexplained")]
    return {
        "Exact on a quadratic": quantities(frame, exact, {"relative distance": {}}, "ridge regression"),
        "Order of the error": slopes,
        "The two forms": table(along(frame, "gradient norm"), "point", "‖∇L(w\\*, D)‖ at most", forms),
    }


def theory_newton(frame: pd.DataFrame) -> Figure:
    """The undamped Newton step on softmax regression.

    Its error against the share and against the number that is forgotten; the difference of its two forms against the
    gradient that training left.
    """
    figure, (share, size, forms) = figure_of(3, 3.2)
    rows = select(frame, metric="step_error")
    draw_line(share, select(rows, axis="share"), "one fixed set", 0)
    share.set(xlabel="share t that is forgotten", ylabel="‖w̃ − w̃*‖ after the step")
    draw_methods(size, select(rows, axis="forget size"))
    size.set(xlabel="samples forgotten n_u", ylabel="‖w̃ − w̃*‖ after the step")
    rows = frame[(frame["axis"] == "gradient norm") & (frame["point"] > ROUNDING / 10)]
    draw_line(forms, select(rows, metric="forms_difference"), "measured", 0)
    forms.set(xlabel="‖∇L(w*, D)‖ where training stopped", ylabel=quantity("forms_difference").title)
    for panel in (share, size, forms):
        panel.set(xscale="log", yscale="log")
    for panel in (share, size):
        ticks_at_points(panel)
    draw_guide(share, 2)
    draw_guide(size, 1)
    draw_guide(size, 2, line=1)
    draw_guide(forms, 1, end=0)
    for panel in (share, size, forms):
        panel.legend(fontsize=8)
    return figure


PAGES = (
    Page(
        "01_theory-newton",
        "theory-newton",
        "The Newton step",
        figure=theory_newton,
        tables=_theory_newton_tables,
        marker="step_error",
    ),
)
