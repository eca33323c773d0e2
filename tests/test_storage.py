import os
from functools import partial

import pytest
import torch

from cdu import storage
from cdu.errors import CduError

AGAIN = "to make it again"


def writers():
    """Every way to write a file, with its way to read and a content."""
    tensors = {"w": torch.arange(6.0).reshape(2, 3).T, "step": torch.tensor(3)}
    return {
        "json": (storage.write_json, partial(storage.read_json, remedy=AGAIN), {"a": [1, None, "ü"]}),
        "tensors": (
            lambda path, content: storage.write_tensors(path, *content),
            partial(storage.read_tensors, remedy=AGAIN),
            (tensors, {"epochs": 3}),
        ),
    }


def same(one, other):
    if isinstance(one, tuple):
        return one[1] == other[1] and all(torch.equal(one[0][name], other[0][name]) for name in one[0] | other[0])
    return one == other


@pytest.mark.parametrize("kind", writers())
def test_what_is_written_is_read(tmp_path, kind):
    save, load, content = writers()[kind]
    path = tmp_path / "mit Platz" / "ä.file"
    save(path, content)
    assert same(load(path), content)
    assert [one.name for one in path.parent.iterdir()] == ["ä.file"]


@pytest.mark.parametrize("kind", writers())
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch, kind, step):
    save, _, content = writers()[kind]
    path = tmp_path / "file"
    save(path, content)
    before = path.read_bytes()

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        save(path, content)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", writers())
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, kind, content):
    _, load, _ = writers()[kind]
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CduError, match=r"file cannot be read \(.*\); delete it to make it again"):
        load(path)


def test_what_is_kept_is_computed_once_and_read_from_the_file(tmp_path):
    path, calls = tmp_path / "kept.json", []

    def compute():
        calls.append(1)
        return [1, 2]

    load = partial(storage.read_json, remedy=AGAIN)
    assert storage.kept(path, compute, storage.write_json, load) == [1, 2]
    storage.write_json(path, [3])
    assert storage.kept(path, compute, storage.write_json, load) == [3]
    assert len(calls) == 1


def test_what_fails_to_compute_leaves_nothing(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.kept(tmp_path / "kept.json", interrupted, storage.write_json, storage.read_json)
    assert not list(tmp_path.iterdir())
