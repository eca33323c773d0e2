import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cdu.errors import CduError
from cdu.experiments import records
from cdu.experiments.records import Machine, Metric, Record, read_record, record_path, write_record

metrics = st.builds(
    Metric,
    metric=st.text(min_size=1),
    value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    method=st.text(),
    split=st.sampled_from(["", "forget", "retain", "test"]),
    point=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    note=st.text(),
)


def record(found=()):
    return Record(
        schema_version=records.SCHEMA_VERSION,
        experiment="quick",
        dataset="digits",
        section="02_training",
        seed=0,
        settings={"training": {"epochs": 3}},
        config_hash="a" * 12,
        revision=1,
        split_hash="b" * 12,
        lock_hash="c" * 12,
        commit="d" * 40,
        dirty=False,
        packages={"torch": "2"},
        machine=Machine(device="cpu", cpu="x", threads=1, platform="y", python="3"),
        started="2026-01-01T00:00:00+00:00",
        duration=1.0,
        metrics=list(found),
    )


@given(found=st.lists(metrics, max_size=5))
def test_a_record_survives_writing_and_reading(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("records") / "record.json"
    write_record(record(found), path)
    assert read_record(path) == record(found)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(ValidationError, match="not finite; record None and say why"):
        Metric(metric="loss", value=value)


def test_an_interrupted_write_leaves_the_old_record_and_no_rubbish(tmp_path, monkeypatch):
    path = record_path(tmp_path, "quick", "digits", 0, "02_training")
    write_record(record(), path)
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_record(record([Metric(metric="x", value=1.0)]), path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["02_training.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema_version=99), "schema version 99, expected 2"),
        (lambda c: c.pop("seed"), "seed: Field required"),
        (lambda c: c.update(extra=1), "extra: Extra inputs"),
        (lambda c: c.update(metrics=[{"metric": "x", "value": "high"}]), r"metrics.0.value"),
    ],
)
def test_a_record_that_does_not_fit_is_named(tmp_path, change, message):
    path = tmp_path / "record.json"
    content = record().model_dump(mode="json")
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(CduError, match=message):
        read_record(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_file_that_is_no_record_is_named(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(CduError, match=r"record.json"):
        read_record(path)
