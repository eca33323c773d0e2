"""Data with ids: every kind of source gives the same rows, and nothing that is not asked for is read or copied."""

import copy
import tracemalloc
from collections import UserDict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from cdu.data.samples import Samples, expect_disjoint
from cdu.data.source import Data, as_data
from cdu.errors import CduError

ROWS = 6
VALUES = np.random.default_rng(0).normal(size=(ROWS, 3))
LABELS = np.array([0, 2, 1, 1, 0, 2])
USERS = ["ann", "bob", "ann", "cy", "dee", "bob"]


class Counting(Dataset):
    """Rows that count how often they are read."""

    def __init__(self, values=VALUES, labels=LABELS):
        self.values, self.labels = torch.tensor(values), torch.tensor(labels)
        self.reads = []

    def __len__(self):
        return len(self.values)

    def __getitem__(self, row):
        self.reads.append(row)
        return self.values[row], self.labels[row]


class Named(Dataset):
    """Rows without targets: dictionaries."""

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        return {"x": VALUES[row], "labels": int(LABELS[row]), "weight": 0.5}


@pytest.fixture
def on_disk(tmp_path):
    array = np.memmap(tmp_path / "values", dtype=np.float64, mode="w+", shape=VALUES.shape)
    array[:] = VALUES
    array.flush()
    return np.memmap(tmp_path / "values", dtype=np.float64, mode="r", shape=VALUES.shape)


def frame():
    return pd.DataFrame(VALUES, columns=["a", "b", "c"]).assign(label=LABELS, user=USERS)


def sources(on_disk):
    tensors = torch.tensor(VALUES), torch.tensor(LABELS)
    return {
        "tensor": as_data(*tensors, ids=USERS),
        "array": as_data(VALUES, LABELS, ids=np.array(USERS)),
        "pair": as_data((VALUES, LABELS), ids=pd.Series(USERS)),
        "frame": as_data(frame(), "label", ids="user"),
        "frame's index": as_data(frame().set_index("user"), "label"),
        "series": as_data(frame()[["a", "b", "c"]], frame()["label"], ids=frame()["user"]),
        "map": as_data(on_disk, LABELS.tolist(), ids=USERS),
        "dataset": as_data(Counting(), ids=USERS),
        "loader": as_data(DataLoader(Counting(), batch_size=2, shuffle=True), ids=USERS),
        "tensors": as_data(TensorDataset(*tensors), ids=USERS),
    }


def test_numbers_in_a_list_are_no_names_of_columns_that_are_numbered():
    numbered = frame()[["a", "b"]].set_axis([0, 1], axis=1)
    data = as_data(numbered, [0, 1, 0, 1, 1, 0], ids=[0, 1, 1, 1, 0, 0])
    assert data.numbered_inputs(torch.arange(6)).shape == (6, 2)
    assert data.targets.tolist() == [0, 1, 0, 1, 1, 0]
    assert data.ids.tolist() == ["0", "1", "1", "1", "0", "0"]


def test_every_source_gives_the_same_rows(on_disk):
    for name, data in sources(on_disk).items():
        assert isinstance(data, Data)
        assert len(data) == ROWS
        assert data.ids.tolist() == USERS, name
        assert data.targets.tolist() == LABELS.tolist(), name
        assert data.dtype == torch.float64, name
        for part in (data, data.subset([4, 1, 3]), data.without(["ann"])):
            samples = part.samples()
            assert samples.ids.tolist() == part.rows.tolist()
            assert samples.targets.tolist() == LABELS[part.rows].tolist()
            found = part.numbered_inputs(torch.from_numpy(part.rows))
            assert np.array_equal(found.numpy(), VALUES[part.rows]), name
            if part.is_plain:
                assert torch.equal(samples.inputs, found)
            else:
                assert samples.inputs.tolist() == part.rows.tolist()
            inputs, targets = part.to(dtype=torch.float32).numbered_batch(torch.tensor([2, 2]))
            assert torch.equal(inputs, torch.tensor(VALUES[[2, 2]]).float())
            assert targets.tolist() == [1, 1]


@pytest.mark.parametrize("name", ["frame", "map", "dataset"])
def test_rows_of_ids_and_what_is_left(on_disk, name):
    data = sources(on_disk)[name]
    assert data.rows_of(["bob", "cy"]).tolist() == [1, 3, 5]
    left = data.without(["bob", "cy"])
    assert left.ids.tolist() == ["ann", "ann", "dee"]
    # Places are those of the part, numbers those of the whole.
    assert left.rows_of(["dee"]).tolist() == [2]
    assert left.subset(left.rows_of(["dee"])).rows.tolist() == [4]
    with pytest.raises(CduError, match=r"2 of 3 ids are in no row: 'bob', 'eve'; .* such as 'ann'"):
        left.rows_of(["dee", "bob", "eve"])
    expect_disjoint(left.samples(), data.subset(data.rows_of(["bob", "cy"])).samples())
    with pytest.raises(CduError, match="still in the retain set"):
        expect_disjoint(data.samples(), data.subset([0]).samples())


def test_whole_numbers_are_ids_and_their_text_is_the_same():
    for ids in ([3, 1, 3, 12, 5, 1], np.array([3, 1, 3, 12, 5, 1], dtype=np.int32), torch.tensor([3, 1, 3, 12, 5, 1])):
        data = as_data(VALUES, LABELS, ids=ids)
        assert data.ids.tolist() == ["3", "1", "3", "12", "5", "1"]
        for asked in ([1], ["1"], np.array([1])):
            assert data.rows_of(asked).tolist() == [1, 5]
    assert as_data(VALUES, LABELS).ids.tolist() == ["0", "1", "2", "3", "4", "5"]
    assert as_data(frame().drop(columns="user").iloc[::-1], "label").ids.tolist() == ["5", "4", "3", "2", "1", "0"]


def test_a_memory_map_is_neither_copied_nor_read_whole(tmp_path):
    shape = (20_000, 1000)
    array = np.memmap(tmp_path / "large", dtype=np.float32, mode="w+", shape=shape)
    array[12_345] = 7
    tracemalloc.start()
    data = as_data(array, np.zeros(shape[0], dtype=np.int64))
    part = data.without(["5"]).subset(np.arange(0, 19_999, 2)).to(dtype=torch.float64)
    row = part.numbered_inputs(torch.tensor([12_345]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert row.dtype == torch.float64
    assert row.unique().tolist() == [7]
    # Ids and row numbers are all that is held; the array has 80 MB.
    assert peak < array.nbytes / 10
    assert data.lookup.tree is array
    assert part.lookup.tree is array
    view = as_data(np.asarray(array)[1:], np.zeros(shape[0] - 1, dtype=np.int64))
    assert np.shares_memory(view.lookup.tree, array)


def test_a_dataset_is_read_where_it_is_asked_for():
    dataset = Counting()
    data = as_data(dataset, LABELS, ids=USERS)
    # One row says what rows are, one of which type.
    assert dataset.reads == [0, 0]
    dataset.reads.clear()
    part = data.without(["ann"])
    samples = part.samples().to(dtype=torch.float32).subset(torch.tensor([2, 0]))
    assert dataset.reads == []
    part.numbered_inputs(samples.inputs)
    assert dataset.reads == [4, 1]
    dataset.reads.clear()
    as_data(dataset)
    # Once for the targets.
    assert sorted(dataset.reads) == [0, 0, *range(ROWS)]


def test_a_module_that_holds_data_is_copied_without_them():
    data = as_data(torch.tensor(VALUES), LABELS)
    module = nn.Linear(3, 1)
    module.data = data
    assert copy.deepcopy(module).data is data


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_a_pytree_gives_its_rows_part_by_part(on_disk, kind):
    mask = LABELS > 0
    tree = kind({"x": on_disk, "more": [torch.tensor(VALUES).float(), (LABELS, mask)]})
    data = as_data(tree, LABELS, dtype=torch.float64)
    found = data.numbered_inputs(torch.tensor([4, 0]))
    assert np.array_equal(found["x"].numpy(), VALUES[[4, 0]])
    assert found["more"][0].dtype == torch.float64
    assert found["more"][1][0].tolist() == [0, 0]
    assert found["more"][1][1].tolist() == [False, False]
    # Floats of two types: float32.
    assert as_data(tree, LABELS).dtype == torch.float32
    with pytest.raises(CduError, match="the parts of the inputs have 5 and 6 rows"):
        as_data({"x": VALUES, "y": VALUES[1:]}, LABELS)
    with pytest.raises(CduError, match="the parts of the inputs have no rows"):
        as_data({}, LABELS)


def test_rows_that_are_dictionaries_have_no_targets():
    data = as_data(Named())
    assert data.targets is None
    batch = data.to(dtype=torch.float64).numbered_batch(torch.tensor([1, 0]))
    assert np.array_equal(batch["x"].numpy(), VALUES[[1, 0]])
    assert batch["labels"].tolist() == [2, 0]
    assert data.samples().targets.tolist() == [0] * ROWS
    assert data.to(dtype=torch.float32).numbered_inputs(torch.tensor([1]))["weight"].dtype == torch.float32


def test_bytes_are_given_to_the_module_as_they_are():
    images = torch.arange(ROWS * 4, dtype=torch.uint8).reshape(ROWS, 1, 2, 2)
    data = as_data(images, LABELS)
    assert not data.is_plain
    assert torch.equal(data.numbered_inputs(torch.tensor([3])), images[3:4])


@pytest.mark.parametrize("tree", [torch.tensor(VALUES), {"x": torch.tensor(VALUES), "y": torch.tensor(LABELS)}])
def test_tensors_are_looked_up_in_a_batch(tree):
    data = as_data(tree, LABELS)
    rows = torch.tensor([[4], [0], [4]])
    found = torch.func.vmap(data.numbered_batch)(rows)
    for part, wanted in zip(_flat(found), _flat(data.numbered_batch(rows.squeeze(1))), strict=True):
        assert torch.equal(part.squeeze(1), wanted)
    with pytest.raises(RuntimeError, match=r"cannot be looked up in a batch of torch\.func\.vmap"):
        torch.func.vmap(as_data(Counting()).numbered_inputs)(rows)


def _flat(batch):
    inputs, targets = batch
    return [*(inputs.values() if isinstance(inputs, dict) else [inputs]), targets]


@pytest.mark.parametrize("chunk", [1, 60, 2**26])
def test_numbers_that_are_not_finite_are_found_chunk_by_chunk(monkeypatch, chunk, tmp_path):
    monkeypatch.setattr("cdu.data.source.CHUNK_BYTES", chunk)
    values = VALUES.copy()
    values[4, 1], values[5, 0] = np.nan, np.inf
    array = np.memmap(tmp_path / "v", dtype=np.float64, mode="w+", shape=values.shape)
    array[:] = values
    for source in (array, Counting(values), {"x": values}):
        data = as_data(source, LABELS, ids=USERS)
        data.subset([0, 1, 2, 3]).expect_finite()
        with pytest.raises(CduError, match=r"2 rows of the data hold NaN .* the first is row 4 \(id 'dee'\)"):
            data.expect_finite()
    with pytest.raises(CduError, match="1 rows of the retain set hold NaN"):
        as_data(VALUES, np.array([0, 1, np.nan, 3, 4, 5])).expect_finite("retain set")
    # Finite in the file, and not as batches have it.
    large = as_data({"x": np.full((2, 1), 1e300)}, LABELS[:2])
    large.expect_finite()
    with pytest.raises(CduError, match=r"as torch\.float32"):
        large.to(dtype=torch.float32).expect_finite()
    large.subset([]).expect_finite()


@pytest.mark.parametrize("chunk", [1, 60, 2**26])
def test_rows_that_are_alike_have_one_identity(monkeypatch, chunk):
    monkeypatch.setattr("cdu.data.source.CHUNK_BYTES", chunk)
    values, labels = VALUES.copy(), LABELS.copy()
    values[4], labels[4] = values[0], labels[0]
    values[5] = values[0]
    labels[5] = labels[0] + 1
    found = as_data({"x": values}, labels).identities()
    assert found[4] == found[0]
    assert len(set(found.tolist())) == ROWS - 1
    assert np.array_equal(found, Samples(values, labels, dtype=torch.float64).identities())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_targets_keep_their_digits_and_are_cast_in_batches(dtype):
    data = as_data(VALUES, VALUES[:, :1], dtype=dtype)
    assert data.samples().targets.dtype == dtype
    assert torch.equal(data.to(dtype=torch.float64).samples().targets, torch.tensor(VALUES[:, :1]))


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


def series(*values):
    return pd.Series(list(values), index=range(ROWS))


@pytest.mark.parametrize(
    ("source", "targets", "options", "words"),
    [
        (Endless(), None, {}, "a Endless has no rows by number; give a map-style dataset"),
        (DataLoader(Endless()), None, {}, "a Endless has no rows by number"),
        (DataLoader(Counting(), collate_fn=list), None, {}, "has a collate_fn of its own"),
        (VALUES, USERS, {}, r"targets are of type .*text labels by numpy\.unique\(labels, return_inverse=True\)\[1\]"),
        (frame(), "user", {}, r"targets are of type .*, and are to be numbers; .*numpy\.unique"),
        (frame(), "label", {}, r"inputs are of type object because of the columns 'user'"),
        (frame(), "lable", {"ids": "user"}, r"the data have no column 'lable'; their columns are \['a', 'b'"),
        (VALUES, LABELS, {"ids": "user"}, "'user' names a column, and a ndarray has none by name"),
        (VALUES, LABELS[1:], {}, "there are 6 inputs and 5 targets"),
        (VALUES, LABELS, {"ids": USERS[1:]}, "there are 6 rows and 5 ids; give one id a row"),
        (VALUES, LABELS, {"ids": ["a", None, "b", "c", "d", "e"]}, r"the id of row 1 is missing \(None\)"),
        (VALUES, LABELS, {"ids": ["a", "b", "", "c", "d", "e"]}, r"the id of row 2 is missing \(''\)"),
        (
            frame()[["a", "label"]],
            "label",
            {"ids": series(1, np.nan, 3, 4, 5, 6)},
            "row 0 is 1.0, a float; .*whole num",
        ),
        (frame()[["a", "label"]], "label", {"ids": series(np.nan, 2, 3, 4, 5, 6)}, r"id of row 0 is missing \(nan\)"),
        (VALUES, LABELS, {"ids": [pd.NA, *USERS[1:]]}, "the id of row 0 is missing"),
        (VALUES, LABELS, {"ids": set(range(6))}, "ids are a set; give a list or an array"),
        (VALUES, LABELS, {"ids": [True] * 6}, "the id of row 0 is True, a bool"),
        (VALUES, LABELS, {"dtype": torch.int64}, "batches of type torch.int64 have no gradient"),
        (frame()[["a"]], frame()["label"].iloc[::-1], {}, r"inputs and targets have different indices"),
        (frame()[["a"]], frame()["label"], {"ids": frame()["user"].iloc[::-1]}, "inputs and ids have different"),
        (VALUES[:0], LABELS[:0], {}, "the parts of the inputs have 0 rows"),
        ({"x": [1, 2, 3]}, None, {}, "inputs are a int; give a tensor"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(source, targets, options, words):
    with pytest.raises(CduError, match=words):
        as_data(source, targets, **options)


def test_rows_of_a_dataset_that_do_not_fit_together_are_refused():
    class Ragged(Counting):
        def __getitem__(self, row):
            return torch.ones(row + 1), 0

    with pytest.raises(CduError, match=r"row 1 of the dataset has an input of shape \(2,\), row 0 one of shape \(1,\)"):
        as_data(Ragged()).expect_finite()

    class Uneven(Named):
        def __getitem__(self, row):
            return {"x": 1.0} if row else {"x": 1.0, "y": 2.0}

    with pytest.raises(
        CduError, match=r"the input of row 1 is a dict of \['x'\], that of row 0 a dict of \['x', 'y'\]"
    ):
        as_data(Uneven()).expect_finite()


def test_a_part_gives_batches_of_its_own_rows():
    inputs = torch.arange(20.0)[:, None]
    part = as_data(inputs, inputs[:, 0], ids=[f"user {row // 2}" for row in range(20)]).without(["user 0", "user 3"])
    left = [row for row in range(20) if row // 2 not in (0, 3)]
    found = list(part.batches(7))
    assert [len(targets) for _, targets in found] == [7, 7, 2]
    assert torch.cat([targets for _, targets in found]).tolist() == left
    drawn = list(part.batches(5, torch.Generator().manual_seed(3)))
    assert sorted(torch.cat([targets for _, targets in drawn]).tolist()) == left
    assert torch.cat([targets for _, targets in drawn]).tolist() != left
    assert part.batch(torch.tensor([0, 15]))[1].tolist() == [2.0, 19.0]
    for places in ([16], [-1]):
        with pytest.raises(CduError, match="and the data have 0 to 15"):
            part.batch(torch.tensor(places))
