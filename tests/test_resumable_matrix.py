import json

import numpy as np
import pytest
import torch

from cdu.curvature.resumable_matrix import ResumableMatrix, _symmetric
from cdu.errors import CduError


def unsymmetric(size=7, seed=0, dtype=torch.float64):
    return torch.randn(size, size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def fill(rows, matrix, until=None, block=3, seconds=1.0):
    """Append rows of ``matrix`` up to ``until``; how many were."""
    until, before = len(matrix) if until is None else until, rows.done
    while rows.done < until:
        rows.append(matrix[rows.done : min(rows.done + block, until)], seconds)
    return rows.done - before


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_matrix_is_the_symmetric_part_of_the_rows(tmp_path, kept, dtype, seed):
    matrix = unsymmetric(7, seed, dtype)
    rows = ResumableMatrix(7, dtype, tmp_path / "h.npy" if kept else None)
    fill(rows, matrix)
    found = rows.matrix()
    assert found.dtype == dtype
    assert torch.equal(found, (matrix + matrix.T) / 2)
    assert torch.equal(found, found.T)
    assert torch.equal(rows.matrix(), found)


@pytest.mark.parametrize("block", [1, 3, 4, 7, 100])
def test_symmetry_does_not_depend_on_the_blocks(block):
    matrix = unsymmetric()
    assert torch.equal(_symmetric(matrix.clone(), block), (matrix + matrix.T) / 2)


@pytest.mark.parametrize("stops", [[0], [3], [2, 5], [1, 2, 3, 6], [7]])
def test_rows_go_on_where_they_were_left(tmp_path, stops):
    matrix, path = unsymmetric(), tmp_path / "h.npy"
    written, done = 0, 0
    for stop in [*stops, 7]:
        rows = ResumableMatrix(7, matrix.dtype, path, "this one")
        assert rows.done == done
        assert rows.seconds == written
        written += fill(rows, matrix, stop, block=1)
        done = stop
    assert written == 7
    assert rows.seconds == 7
    assert torch.equal(rows.matrix(), (matrix + matrix.T) / 2)
    again = ResumableMatrix(7, matrix.dtype, path, "this one")
    assert (again.done, again.seconds) == (7, 7)
    assert torch.equal(again.matrix(), rows.matrix())


def test_rows_that_were_not_noted_are_computed_again(tmp_path):
    # The process ended between the rows and their note.
    matrix, path = unsymmetric(), tmp_path / "h.npy"
    fill(ResumableMatrix(7, matrix.dtype, path), matrix, 3)
    noted = path.with_suffix(".json").read_text()
    fill(ResumableMatrix(7, matrix.dtype, path), 2 * matrix, 6)
    path.with_suffix(".json").write_text(noted)
    rows = ResumableMatrix(7, matrix.dtype, path)
    assert rows.done == 3
    fill(rows, matrix)
    assert torch.equal(rows.matrix(), (matrix + matrix.T) / 2)


def test_neither_the_matrix_nor_what_is_done_to_it_changes_the_file(tmp_path):
    matrix, path = unsymmetric(), tmp_path / "h.npy"
    rows = ResumableMatrix(7, matrix.dtype, path)
    fill(rows, matrix)
    before = path.read_bytes()
    rows.matrix().diagonal().add_(5.0)
    ResumableMatrix(7, matrix.dtype, path).matrix().zero_()
    assert path.read_bytes() == before
    assert np.array_equal(np.load(path), matrix.numpy())


def test_the_note_says_what_the_file_holds_and_nothing_else_is_left(tmp_path):
    matrix, path = unsymmetric(), tmp_path / "new" / "folder" / "h.npy"
    fill(ResumableMatrix(7, matrix.dtype, path, "this one"), matrix, 6, seconds=0.5)
    size = path.stat().st_size
    note = {"mark": "this one", "rows": 6, "seconds": 1.0, "bytes": size}
    assert json.loads(path.with_suffix(".json").read_text()) == note
    assert {file.name for file in path.parent.iterdir()} == {"h.npy", "h.json"}


def test_a_file_without_a_note_is_begun_anew(tmp_path):
    matrix, path = unsymmetric(), tmp_path / "h.npy"
    fill(ResumableMatrix(7, matrix.dtype, path), 2 * matrix)
    path.with_suffix(".json").unlink()
    rows = ResumableMatrix(7, matrix.dtype, path)
    assert (rows.done, rows.seconds) == (0, 0)
    fill(rows, matrix)
    assert torch.equal(rows.matrix(), (matrix + matrix.T) / 2)


def test_another_matrixs_rows_are_refused_and_left_alone(tmp_path):
    matrix, path = unsymmetric(), tmp_path / "h.npy"
    fill(ResumableMatrix(7, matrix.dtype, path, "this one"), matrix, 3)
    before = [path.read_bytes(), path.with_suffix(".json").read_bytes()]
    with pytest.raises(CduError, match=r"h\.json belongs to another matrix than the one wanted; delete it or give"):
        ResumableMatrix(7, matrix.dtype, path, "another")
    assert [path.read_bytes(), path.with_suffix(".json").read_bytes()] == before


DAMAGED = {
    "empty": b"",
    "cut off": b'{"mark": "a", "ro',
    "no object": b"[1, 2]",
    "nothing": b"null",
    "no mark": b'{"rows": 3, "seconds": 1.0, "bytes": 520}',
    "no rows": b'{"mark": "a", "seconds": 1.0, "bytes": 520}',
    "no seconds": b'{"mark": "a", "rows": 3, "bytes": 520}',
    "no bytes": b'{"mark": "a", "rows": 3, "seconds": 1.0}',
    "rows in words": b'{"mark": "a", "rows": "three", "seconds": 1.0, "bytes": 520}',
    "no rows at all": b'{"mark": "a", "rows": null, "seconds": 1.0, "bytes": 520}',
    "no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_note_is_refused_in_a_sentence(tmp_path, content):
    matrix, path = unsymmetric(), tmp_path / "h.npy"
    fill(ResumableMatrix(7, matrix.dtype, path, "a"), matrix, 3)
    path.with_suffix(".json").write_bytes(content)
    with pytest.raises(CduError, match=r"h\.json cannot be read \(.*\); delete it to compute the matrix again"):
        ResumableMatrix(7, matrix.dtype, path, "a")
    path.with_suffix(".json").unlink()
    assert ResumableMatrix(7, matrix.dtype, path, "a").done == 0


@pytest.mark.parametrize("content", [b"", b"junk", None], ids=["empty", "junk", "cut off"])
def test_a_damaged_file_is_refused_and_not_filled_with_zeros(tmp_path, content):
    matrix, path = unsymmetric(), tmp_path / "h.npy"
    fill(ResumableMatrix(7, matrix.dtype, path, "a"), matrix)
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    before = path.read_bytes()
    with pytest.raises(CduError, match=r"h\.npy and h\.json do not fit together; delete both"):
        ResumableMatrix(7, matrix.dtype, path, "a")
    assert path.read_bytes() == before


def test_more_rows_than_there_are_is_refused(tmp_path):
    matrix, path = unsymmetric(), tmp_path / "h.npy"
    fill(ResumableMatrix(7, matrix.dtype, path, "a"), matrix)
    note = path.with_suffix(".json")
    note.write_text(json.dumps({**json.loads(note.read_text()), "rows": 8}))
    with pytest.raises(CduError, match="do not fit together"):
        ResumableMatrix(7, matrix.dtype, path, "a")
