"""The assumption ledger, on planted measurements."""

import pandas as pd
import pytest

from cdu.report.assumptions import ASSUMPTIONS, COLUMNS, Facts, convex_cells, large_cells, ledger, network_cells
from cdu.report.theory_claims import SECTION
from cdu.unlearning.names import NETWORK, SMOOTH

SEEDS = range(3)
FRAME = ["section", "seed", "metric", "value", "method", "split", "axis", "point", "note"]
NOTHING = pd.DataFrame(columns=FRAME)

CONVEX = {
    "known_lipschitz": 1.05,
    "known_hessian_lipschitz": 0.77,
    "lambda_min": 0.05,
    "norm": 3.0,
    "trivial_bound": 20.0,
    "gradient_retrained": 1e-13,
    "batch_lambda_max": 0.9,
}
NET = {
    "lambda_max": 8.0,
    "lambda_min": -0.5,
    "gradient_lipschitz": 8.0,
    "hessian_lipschitz": 4.0,
    "default_exceeds_norm": 1.0,
    "default_damping": 10.0,
    "trivial_bound": 40.0,
    "projected": 0.25,
    "gradient_retrained": 1e-4,
    "batch 10": 1.0,
    "batch 128": 1.0,
}
#: Metrics that carry a split, and the one that belongs to no method.
SPLITS = {"batch_lambda_max": "batch 10"}


def measured(method, values, last=None):
    """Three seeds of planted metrics; ``last`` are the third seed's where they differ."""
    rows = []
    for metric, value in values.items():
        batch = metric.startswith("batch ")
        base = {
            "section": SECTION,
            "metric": "batch_condition" if batch else metric,
            "method": "" if metric == "default_damping" else method,
            "split": metric if batch else SPLITS.get(metric, ""),
            "axis": "",
            "point": None,
            "note": "",
        }
        for seed in SEEDS:
            rows.append({**base, "seed": seed, "value": (last or {}).get(metric, value) if seed == 2 else value})
        # The same metric along an axis is something else.
        rows.append({**base, "axis": "epochs", "point": 1.0, "seed": 0, "value": 1e9})
    frame = pd.DataFrame(rows, columns=FRAME)
    return frame[(frame["metric"] != "default_damping") | (frame["axis"] == "")]


def states(cells):
    return [cell.state for cell in cells]


def convex_states(**last):
    return states(convex_cells(Facts(measured("softmax", CONVEX, last), "softmax")))


def network_states(relu, **last):
    return states(network_cells(Facts(measured(NETWORK, NET, last), NETWORK), relu))


def test_softmax_regression_obeys_every_assumption():
    cells = convex_cells(Facts(measured("softmax", CONVEX), "softmax"))
    assert states(cells) == ["holds"] * len(ASSUMPTIONS)
    text = " | ".join(cell.text for cell in cells)
    for piece in ("L = 1.05, M = 0.77", "λ_min = 0.05", "‖w‖ ≤ 3, C = 10", "1e-13", "λ_max(H_t) ≤ 0.9"):
        assert piece in text


@pytest.mark.parametrize(
    ("row", "metric", "good", "bad"),
    [
        (2, "norm", 10.0, 10.01),
        (3, "gradient_retrained", 0.9e-9, 1.1e-9),
        (4, "batch_lambda_max", 1.05, 1.06),
    ],
)
def test_one_seed_violates_an_assumption_of_a_convex_problem(row, metric, good, bad):
    assert convex_states(**{metric: good}) == ["holds"] * len(ASSUMPTIONS)
    expected = ["holds"] * len(ASSUMPTIONS)
    expected[row] = "violated"
    assert convex_states(**{metric: bad}) == expected


def test_a_smooth_network_obeys_all_but_constants_known_in_advance():
    assert network_states(relu=False) == ["holds"] * 5 + ["violated"]


def test_a_relu_network_has_no_lipschitz_constants_whatever_was_measured():
    cells = network_cells(Facts(measured(NETWORK, NET), NETWORK), relu=True)
    assert states(cells) == ["violated"] + ["holds"] * 4 + ["violated"]
    assert cells[0].text.startswith("ReLU")
    nothing = network_cells(Facts(NOTHING, NETWORK), relu=True)
    assert states(nothing) == ["violated"] + ["unknown"] * 4 + ["violated"]
    assert nothing[0] == cells[0]


@pytest.mark.parametrize(
    ("row", "metric", "good", "bad"),
    [
        (1, "lambda_min", -9.0, -10.5),
        (3, "gradient_retrained", 2e-3, 3e-3),
        (4, "batch 10", 1.0, 0.95),
        (4, "batch 128", 1.0, 0.95),
    ],
)
def test_a_network_violates_an_assumption(row, metric, good, bad):
    # The gradient's norm is judged by its mean, 1e-3, over the three seeds.
    expected = ["holds"] * 5 + ["violated"]
    assert network_states(relu=False, **{metric: good}) == expected
    expected[row] = "violated"
    assert network_states(relu=False, **{metric: bad}) == expected


def test_a_networks_cells_quote_what_was_measured():
    cells = network_cells(Facts(measured(NETWORK, NET, {"default_exceeds_norm": 0.0, "batch 10": 0.7}), NETWORK), False)
    text = [cell.text for cell in cells]
    assert text[0] == "L ≥ 8, M ≥ 4, measured from below"
    assert text[1] == "λ = 10, eigenvalues -0.5 to 8; λ > ‖H‖ in 2 of 3 seeds"
    assert text[2] == "by projection, C = 20; active in 25% of the last epoch's steps"
    assert text[3] == "G = 0.0001"
    # Sizes in the order of numbers, not of letters.
    assert text[4] == "obeyed by 90% of those drawn (batch 10), 100% of those drawn (batch 128)"


def test_mini_batches_that_were_not_drawn_are_unknown():
    without = {metric: value for metric, value in NET.items() if not metric.startswith("batch")}
    assert network_cells(Facts(measured(NETWORK, without), NETWORK), relu=True)[4].state == "unknown"


def test_batch_sizes_are_ordered_by_number():
    sizes = {**{m: v for m, v in NET.items() if not m.startswith("batch")}, "batch 128": 1.0, "batch 9": 1.0}
    text = network_cells(Facts(measured(NETWORK, sizes), NETWORK), relu=True)[4].text
    assert text.index("batch 9)") < text.index("batch 128)")


@pytest.mark.parametrize("frame", [NOTHING, measured("another", CONVEX)], ids=["empty", "another method"])
def test_without_records_convex_and_smooth_columns_are_unknown(frame):
    for method in ("ridge", "softmax"):
        assert states(convex_cells(Facts(frame, method))) == ["unknown"] * len(ASSUMPTIONS)
    assert states(network_cells(Facts(frame, SMOOTH), relu=False)) == ["unknown"] * len(ASSUMPTIONS)


def test_the_ledger_has_a_column_for_every_set_up_and_a_cell_for_every_assumption():
    mlp = pd.concat(
        [measured("ridge", CONVEX), measured("softmax", CONVEX), measured(SMOOTH, NET), measured(NETWORK, NET)]
    )
    found = ledger(mlp, {"AllCNN": NOTHING, "ResNet-18": measured(NETWORK, NET)})
    assert list(found) == [*COLUMNS, "AllCNN", "ResNet-18"]
    assert {len(cells) for cells in found.values()} == {len(ASSUMPTIONS)}
    assert states(found["ridge"]) == states(found["softmax"]) == ["holds"] * 6
    assert states(found["smooth MLP"]) == ["holds"] * 5 + ["violated"]
    assert states(found["ReLU MLP"]) == states(found["ResNet-18"]) == ["violated"] + ["holds"] * 4 + ["violated"]
    assert states(found["AllCNN"]) == ["violated"] + ["unknown"] * 4 + ["violated"]


def test_the_ledger_reads_the_theory_section_alone():
    elsewhere = measured("softmax", CONVEX).assign(section="03_unlearning")
    assert states(ledger(elsewhere, {})["softmax"]) == ["unknown"] * len(ASSUMPTIONS)


def test_metrics_that_could_not_be_had_count_as_not_run():
    frame = measured("softmax", CONVEX).assign(value=None)
    assert states(convex_cells(Facts(frame, "softmax"))) == ["unknown"] * len(ASSUMPTIONS)


def scale(low, high, damping):
    rows = [
        {"section": section, "seed": seed, "metric": metric, "value": value, "method": method, "split": "", "axis": ""}
        for seed in SEEDS
        for section, metric, value, method in (
            ("11_scale", "lambda_min", low - seed, ""),
            ("11_scale", "lambda_max", high + seed, ""),
            ("11_scale", "damping", damping, ""),
            ("11_scale", "spectrum_samples", 5000.0, ""),
            ("11_scale", "epochs_trained", 7.0, ""),
            ("02_training", "final_projected", 0.5, "original"),
        )
    ]
    return pd.DataFrame(rows)


def test_the_bound_on_a_large_network_fills_its_column_where_nothing_else_measured_the_spectrum():
    values = {
        "lambda_min": -20.0, "lambda_max": 5000.0, "damping": 10.0, "spectrum_samples": 5000.0, "epochs_trained": 7.0,
        "gradient_lipschitz": 5000.0, "hessian_lipschitz": 9.0, "gradient_retrained": 3.0, "trivial_bound": 40.0,
        "projected": 0.5, "default_damping": 10.0,
    }  # fmt: skip
    rows = [
        {"section": section, "seed": seed, "metric": metric, "value": value, "method": NETWORK, "split": "", "axis": ""}
        for section in ("11_bound", SECTION)
        for seed in SEEDS
        for metric, value in values.items()
    ]
    cells = large_cells(pd.DataFrame(rows))
    assert states(cells) == ["violated", "violated", "holds", "violated", "unknown", "violated"]
    assert cells[1].text.endswith("seen to be indefinite in 3 of 3 seeds, λ < ‖H‖ in 3")
    assert "nan" not in " ".join(cell.text for cell in cells)
    above = pd.DataFrame(rows).replace({"value": {10.0: 6000.0}})
    assert large_cells(above)[1].state == "unknown"


@pytest.mark.parametrize(
    ("damping", "state", "found", "below"),
    [(10.0, "violated", 3, 3), (21.5, "violated", 1, 3), (22.5, "unknown", 0, 3), (5000.5, "unknown", 0, 2)],
)
def test_ritz_values_show_that_a_large_networks_system_is_indefinite_and_never_that_it_is_not(
    damping, state, found, below
):
    cells = large_cells(scale(-20.0, 5000.0, damping))
    assert cells[1].state == state
    assert f"λ = {damping:,g}, eigenvalues -22 to 5,002 or beyond (H on 5,000 samples, after 7 epochs)" in cells[1].text
    assert cells[1].text.endswith(f"seen to be indefinite in {found} of 3 seeds, λ < ‖H‖ in {below}")
    assert (cells[2].state, "50%" in cells[2].text) == ("holds", True)
    assert cells[3].state == "unknown"
    assert large_cells(NOTHING)[1].state == "unknown"
