"""The canaries, and that they sing when they should."""

import json
import subprocess
from dataclasses import replace

import pandas as pd
import pytest

from cdu.experiments import changelog, run
from cdu.experiments.changelog import Entry
from cdu.experiments.records import Metric, read_record, write_record
from cdu.experiments.repository import repository
from cdu.experiments.sections import REVISIONS, SECTIONS
from cdu.models import precision
from cdu.report.chapters import tables
from cdu.seeding import generator
from cdu.unlearning.registration import REGISTERED
from cdu.unlearning.registry import certified_among, traits
from cdu.verification import canaries
from cdu.verification.canaries import all_canaries, judge, moves
from cdu.verification.comparison import numbers
from cdu.verification.kinds import Key
from test_records import record

CANARIES = all_canaries()
CERTIFIED = certified_among(REGISTERED)


def complaints(chosen, output):
    return [finding.complaint for finding in judge(chosen, output) if finding.complaint]


# Slow: a section with all its solvers and methods takes seconds, in a process of its own.
@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_no_number_moved(section, tmp_path):
    chosen = [one for one in CANARIES if one.section == section]
    canaries.run(chosen, tmp_path)
    assert complaints(chosen, tmp_path) == []


@pytest.mark.slow
def test_another_seed_of_a_method_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "generator", lambda seed, *purpose: generator(seed + 1, *purpose))
    chosen = [one for one in CANARIES if one.section == "03_unlearning"]
    canaries.run(chosen, tmp_path)
    (complaint,) = complaints(chosen, tmp_path)
    assert "numbers of 03_unlearning moved" in complaint


def test_the_committed_arithmetic_is_that_of_the_code():
    assert canaries.judge_arithmetic() == ""


@pytest.mark.parametrize("change", ["training", "fastest_convolutions", "flush_denormals"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_another_arithmetic_of_a_device_is_seen_without_one(monkeypatch, device, change):
    known = precision.ARITHMETIC[device]
    other = "tf32" if change == "training" else not getattr(known, change)
    monkeypatch.setitem(precision.ARITHMETIC, device, replace(known, **{change: other}))
    assert f"the arithmetic of a device changed ({device}: " in canaries.judge_arithmetic()


def test_every_section_has_a_canary_and_both_kinds_of_network_are_among_them():
    assert {one.section for one in CANARIES} == set(SECTIONS)
    models = {one.experiment.settings(one.dataset).model.name for one in CANARIES}
    assert models == {"mlp", "allcnn"}


def test_every_method_and_every_solver_has_a_number():
    folder = repository() / canaries.FOLDER
    methods = next(one for one in CANARIES if one.section == "03_methods")
    named = {metric.method for metric in read_record(methods.record(folder)).metrics}
    assert set(REGISTERED) <= named
    solvers = next(one for one in CANARIES if one.section == "03_unlearning")
    kept = [metric for metric in read_record(solvers.record(folder)).metrics if metric.metric == "residual"]
    assert {"newton", "newton, lissa", "newton, exact"} <= {one.method for one in kept if one.value is not None}


# --- what a section's record holds ----------------------------------------------------------------------------------


def held(section, experiment="mlp"):
    """The numbers that a committed canary holds."""
    canary = next(one for one in CANARIES if (one.section, one.experiment.name) == (section, experiment))
    return read_record(canary.record(repository() / canaries.FOLDER))


def test_every_method_has_its_rows_and_one_that_cannot_run_its_reason():
    record = held("03_methods")
    accuracy = {m.method: m for m in record.metrics if m.metric == "accuracy"}
    assert accuracy["rewind, Adam"].value is None
    assert "5 of 3 epochs cannot be rewound" in accuracy["rewind, Adam"].note
    tried = {m.method: m for m in record.metrics if m.metric == "trial_gap"}
    assert set(tried) == set(REGISTERED)
    assert [name for name, trial in tried.items() if trial.value is None] == ["rewind, Adam"]
    assert "5 of 3 epochs cannot be rewound" in tried["rewind, Adam"].note
    for name in CERTIFIED:
        epsilon = next(m.value for m in record.metrics if (m.metric, m.method) == ("epsilon", f"{name}, ε = 1"))
        assert 0 < epsilon <= 1 + 1e-12
    later = {(m.method, m.split, m.point) for m in record.metrics if m.metric == "later_accuracy"}
    assert {("from scratch", "test, no noise", 1.0), ("output perturbation", "test, ε = 1", 1.0)} <= later
    assert record.settings["methods"]["spaces"]["fine-tuning"]["epochs"] == [1, 2, 5]


def test_every_method_is_attacked_and_relearned():
    for section, metric in (("04_attacks", "auc"), ("05_relearn", "epochs")):
        found = {m.method: m for m in held(section).metrics if m.metric == metric}
        only_noisy = {name for name in CERTIFIED if traits(name).own_noise or traits(name).without_noise}
        assert set(REGISTERED) - only_noisy <= set(found)
        assert {f"{name}, ε = 1" for name in CERTIFIED} <= set(found)
        assert {"original + noise", "newton + noise", "retrain", "second retraining"} <= set(found)
        assert "5 of 3 epochs cannot be rewound" in found["rewind, Adam"].note


def test_every_certified_method_is_audited():
    record = held("10_audit")
    audited = {(m.method, m.split) for m in record.metrics if m.metric == "audit_epsilon"}
    assert {(name, f"random, {view}") for name in CERTIFIED for view in ("weights", "outputs")} <= audited
    assert ("Newton step", "mislabelled, weights, direction known") in audited
    distances = {(m.method, m.split): m.value for m in record.metrics if m.metric == "pair_distance"}
    bounds = {(m.method, m.split): m.value for m in record.metrics if m.metric == "sensitivity"}
    assert all(distances[pair] <= bounds[pair] for pair in distances)
    assert len(distances) == 2 * len([name for name in CERTIFIED if not traits(name).own_noise])


def test_a_network_with_batchnorm_has_everything_in_one_record():
    record = held("11_scale", "batchnorm")
    assert record.machine.arithmetic == "float32, denormals flushed, channels last"
    found = {(m.metric, m.method, m.split): m.value for m in record.metrics}
    released = [
        f"{name}{noise}"
        for name in ("original", "newton", "retrain")
        for noise in ("", " + noise", " + noise for ε = 1e+06")
    ]
    for label in (*released, "second retraining", "negative gradient"):
        for metric in ("accuracy", "recalibrated_accuracy"):
            assert {split for kind, method, split in found if (kind, method) == (metric, label)} == {
                "forget", "retain", "test",
            }  # fmt: skip
        assert "ε" in label or found["auc", label, ""] is not None
        assert 0 <= found["epochs", label, ""] <= 3
    assert found["hessian_samples", "", ""] == 200
    assert found["lambda_min", "", ""] < found["lambda_max", "", ""]
    assert found["distance_to_retrained", "retrain", ""] == 0
    assert found["epsilon", "newton + noise for ε = 1e+06", ""] == pytest.approx(1e6)
    assert found["hvp_samples", "newton", ""] % 200 == 0
    # The step at the λ that other work used, and after the statistics were taken anew.
    anew = ", statistics of D_r first"
    for step in ("newton, λ = 200", f"newton{anew}", f"newton, λ = 200{anew}"):
        assert found["residual", step, ""] <= 1e-3
        assert 0 < found["distance_to_original", step, ""] < 1
    assert found["distance_to_original", "newton, λ = 200", ""] < found["distance_to_original", "newton", ""]
    for ends in ("lambda_min", "lambda_max"):
        assert found[ends, f"newton{anew}", ""] != found[ends, "", ""]
    for split in ("forget", "retain", "test"):
        fresh = found["accuracy", f"newton, λ = 200{anew}", split]
        assert fresh == pytest.approx(found["recalibrated_accuracy", "newton, λ = 200", split], abs=0.02)


def test_shadows_with_batchnorm_are_trained_in_turn_and_only_those_that_are_used():
    found = {(m.metric, m.method, m.split): m.value for m in held("04_shadows", "batchnorm").metrics}
    assert {method for metric, method, _ in found if metric == "lira_auc"} == {
        "original", "original + noise", "retrain", "retrain + noise", "newton", "newton + noise", "negative gradient",
    }  # fmt: skip
    assert ("lira_auc", "newton + noise", "retrained") in found
    assert found["single_seconds", "", ""] > 0
    assert found["seconds", "retrain", ""] > 0
    assert not {"shadow_seconds", "single_difference"} & {metric for metric, _, _ in found}


@pytest.mark.parametrize(
    ("experiment", "rows"),
    [
        (
            "mlp",
            {"training all together (s)", "training one after another (s), from two of them",
             "largest relative difference of the weights"},
        ),
        ("batchnorm", {"training one after another (s)"}),
    ],
)  # fmt: skip
def test_the_cost_of_shadows_says_how_they_were_trained(experiment, rows):
    metrics = [metric.model_dump() for metric in held("04_shadows", experiment).metrics]
    frame = pd.DataFrame(metrics).assign(section="04_shadows", seed=0, dataset="digits")
    cost = tables("04_shadows", frame)["Shadow models and their cost"]
    assert set(cost["quantity"]) == {"shadow models", "targets in the pool", *rows}


# --- judging --------------------------------------------------------------------------------------------------------


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """One canary with a committed record, and the folder where it is run again."""
    canary = next(one for one in CANARIES if one.section == "05_relearn")
    kept, output = tmp_path / "kept", tmp_path / "run"
    write(canary, kept, 0.5)
    monkeypatch.setattr(canaries, "FOLDER", kept)

    def found(value, revision=1):
        monkeypatch.setitem(REVISIONS, "05_relearn", revision)
        write(canary, output, value, revision)
        (finding,) = judge([canary], output)
        return finding

    return canary, found, output


def write(canary, folder, value, revision=1):
    metrics = [Metric(metric="distance", value=value, method="newton"), Metric(metric="seconds", value=1.0)]
    update = {"section": canary.section, "revision": revision, "experiment": canary.experiment.name}
    made = record(metrics).model_copy(update=update)
    write_record(made, canary.record(folder))


def test_numbers_that_stay_need_nothing(committed):
    _, found, _ = committed
    assert found(0.5).complaint == ""
    assert found(0.5 * (1 + 1e-6)).complaint == ""


def test_moved_numbers_need_a_revision_and_the_sentence_says_which_and_by_how_much(committed):
    _, found, _ = committed
    finding = found(0.6)
    assert not finding.acceptable
    assert finding.complaint.startswith(
        "1 of 1 numbers of 05_relearn moved: mlp, distance, newton: 0.5 → 0.6. Undo that; or, if they are meant to "
        "move, set REVISIONS['05_relearn'] to 2"
    )


@pytest.mark.parametrize(("tolerance", "moved"), [(canaries.TOLERANCE, 1), (canaries.BATCHNORM_TOLERANCE, 0)])
def test_one_pair_of_shadows_may_change_places_with_batchnorm_only(tolerance, moved):
    rate, area = (Key(metric, "newton", "never trained", "", None) for metric in ("lira_roc", "lira_auc"))
    before = {rate: 0.075, area: 0.56}
    assert len(moves("04_shadows", {**before, rate: 0.075 + 1 / 80}, before, tolerance)) == moved
    assert len(moves("04_shadows", {**before, area: 0.585}, before, tolerance)) == 1


def test_a_raised_revision_needs_moved_numbers(committed):
    _, found, _ = committed
    finding = found(0.5, revision=2)
    assert not finding.acceptable
    assert "raised from 1 to 2, but none of its 1 numbers moved" in finding.complaint


def test_what_no_canary_sees_may_be_accepted_where_the_changelog_says_so(committed, monkeypatch):
    canary, found, output = committed
    monkeypatch.setattr(canaries.changelog, "entries", lambda: {("05_relearn", 2): Entry("moved", True)})
    assert canaries.accept([found(0.5, revision=2)], [canary], output) == ["05_relearn"]
    assert found(0.5, revision=2).complaint == ""


def test_a_new_canary_does_not_let_moved_numbers_of_another_pass(tmp_path, monkeypatch):
    own = [one for one in CANARIES if one.section == "02_training"]
    assert len(own) == 2
    monkeypatch.setattr(canaries, "FOLDER", tmp_path / "kept")
    write(own[0], tmp_path / "kept", 0.5)
    for canary in own:
        write(canary, tmp_path / "run", 0.6)
    (finding,) = judge(own, tmp_path / "run")
    assert "1 of 2 numbers of 02_training moved" in finding.complaint
    assert canaries.accept([finding], own, tmp_path / "run") == []


def test_a_revision_only_rises(committed):
    _, found, _ = committed
    assert "it only rises" in found(0.6, revision=0).complaint


def test_a_raised_revision_needs_a_line_in_the_changelog_before_it_is_accepted(committed, monkeypatch):
    canary, found, output = committed
    monkeypatch.setattr(canaries.changelog, "entries", dict)
    finding = found(0.6, revision=2)
    assert "CHANGELOG.md has no line on 05_relearn, revision 2" in finding.complaint
    assert canaries.accept([finding], [canary], output) == []
    monkeypatch.setattr(canaries.changelog, "entries", lambda: {("05_relearn", 2): Entry("moved", False)})
    finding = found(0.6, revision=2)
    assert "is of revision 2 now, and its numbers moved" in finding.complaint
    assert canaries.accept([finding], [canary], output) == ["05_relearn"]
    assert found(0.6, revision=2).complaint == ""


def test_the_changelog_s_lines_are_read(tmp_path, monkeypatch):
    lines = (
        "- `03_methods`, revision 2: what moved",
        "- `05_relearn`, revision 3:",
        "- `11_scale`, revision 2: (unseen) x",
    )
    (tmp_path / "CHANGELOG.md").write_text("\n".join(lines))
    monkeypatch.setattr(changelog, "repository", lambda: tmp_path)
    assert changelog.entries() == {("03_methods", 2): Entry("what moved", False), ("11_scale", 2): Entry("x", True)}


def test_a_number_on_one_side_alone_has_moved_and_times_have_not():
    known = numbers(record([Metric(metric="accuracy", value=0.9), Metric(metric="seconds", value=1.0)]))
    fewer = numbers(record([Metric(metric="seconds", value=7.0)]))
    none = numbers(record([Metric(metric="accuracy", value=None), Metric(metric="seconds", value=7.0)]))
    for found in (fewer, none):
        assert moves("02_training", found, known) == ["accuracy: 0.9 → none"]
    assert moves("02_training", known, known) == []


# --- migration ------------------------------------------------------------------------------------------------------

#: The last commit with records of schema 1.
BEFORE = "87789d0"


def test_the_migrated_records_have_the_numbers_that_they_had():
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=repository(), capture_output=True, text=True, check=False)

    listed = git("ls-tree", "-r", "--name-only", BEFORE, "results")
    if listed.returncode != 0:
        pytest.skip(f"git does not know commit {BEFORE} here: the clone is shallow, or no clone")
    paths = [path for path in listed.stdout.split() if path.endswith(".json")]
    assert len(paths) == 117
    request = "".join(f"{BEFORE}:{path}\n" for path in paths)
    command = ["git", "cat-file", "--batch"]
    stream = subprocess.run(command, cwd=repository(), input=request.encode(), capture_output=True, check=True).stdout
    compared = 0
    for path in paths:
        head, _, stream = stream.partition(b"\n")
        size = int(head.split()[-1])
        old, stream = json.loads(stream[:size]), stream[size + 1 :]
        new = repository() / path
        if not new.exists() or read_record(new).revision != 1:
            continue
        content = json.loads(new.read_text())
        if content["started"] == old["started"]:
            unchanged = set(old) - {"schema_version", "code_hash", "verdicts_hash", "machine"}
            assert {name: content[name] for name in unchanged} == {name: old[name] for name in unchanged}
            compared += 1
    assert compared > 0
