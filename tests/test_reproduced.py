"""Where records were reproduced, as it is noted and as it is read."""

from types import SimpleNamespace

import pandas as pd
import pytest

from cdu.errors import CduError
from cdu.experiments import reproduced
from cdu.experiments.records import record_path, write_record
from cdu.report import provenance_page
from cdu.verification import verify
from test_records import record


def verified(equal=10, **changes):
    """A comparison of two seeds of one section that went well."""
    rows = [
        {
            "experiment": "quick", "dataset": "digits", "seed": seed, "section": "02_training", "numbers": 10,
            "equal": equal, "largest_move": 0.5 if equal < 10 else 0.0, "excesses": 0,
        }
        for seed in (0, 1)
    ]  # fmt: skip
    return SimpleNamespace(**{"passed": True, "runs": pd.DataFrame(rows), "changed": []} | changes)


def run(folder, *, dirty=False, cpu="x", commit="d" * 40, seeds=(0, 1)):
    for seed in seeds:
        machine = record().machine.model_copy(update={"cpu": cpu})
        made = record().model_copy(update={"seed": seed, "dirty": dirty, "machine": machine, "commit": commit})
        write_record(made, record_path(folder, "quick", "digits", seed, "02_training"))


def test_a_batch_is_noted_in_place_of_an_earlier_one_of_its_platform(tmp_path):
    run(tmp_path / "runs")
    verify.note("quick", verified(), tmp_path / "runs", tmp_path)
    run(tmp_path / "runs", cpu="y")
    verify.note("quick", verified(equal=7), tmp_path / "runs", tmp_path)
    run(tmp_path / "runs", commit="e" * 40)
    changed = [SimpleNamespace(words="C6: other")]
    verify.note("quick", verified(equal=9, changed=changed), tmp_path / "runs", tmp_path)
    found = reproduced.read(tmp_path)
    assert {(one.processor, one.commit[0], one.runs[0].equal) for one in found} == {("x", "e", 9), ("y", "d", 7)}
    assert [one.changed for one in found if one.processor == "x"] == [["C6: other"]]
    assert [run.seed for run in found[0].runs] == [0, 1]


@pytest.mark.parametrize(
    ("made", "verification", "message"),
    [
        ({"dirty": True}, verified(), "from one clean commit"),
        ({}, verified(passed=False), "nothing was reproduced"),
    ],
)
def test_what_names_no_code_or_failed_is_not_noted(tmp_path, made, verification, message):
    run(tmp_path / "runs", **made)
    with pytest.raises(CduError, match=message):
        verify.note("quick", verification, tmp_path / "runs", tmp_path)
    assert reproduced.read(tmp_path) == []


def test_runs_of_two_commits_are_not_noted(tmp_path):
    run(tmp_path / "runs", seeds=(0,))
    run(tmp_path / "runs", seeds=(1,), commit="e" * 40)
    with pytest.raises(CduError, match="of 2 kinds"):
        verify.note("quick", verified(), tmp_path / "runs", tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / reproduced.FILE).write_text('[{"experiment": 1}]')
    with pytest.raises(CduError, match=r"(?s)reproduced.json cannot be read .*restore it from git"):
        reproduced.read(tmp_path)


def test_provenance_says_where_and_how_exactly(tmp_path):
    run(tmp_path / "runs")
    verify.note("quick", verified(equal=9), tmp_path / "runs", tmp_path)
    known = reproduced.read(tmp_path)
    records = [record().model_copy(update={"seed": seed}) for seed in (0, 1, 2)]
    assert provenance_page._reproduced(records, known) == "dddddddddd, x: 2 of 3 seeds, 18 of 20 numbers to the bit"
    assert provenance_page._reproduced(records[2:], known) == "—"
    table = provenance_page.platforms_table(known)
    assert "| quick | x | 02_training | 2 | 20 | 90.0 | 0.5 |" in " ".join(table.split())
    assert "no verdict changed its word" in table
    assert provenance_page.platforms_table([]).startswith("Nothing was computed again")
