"""What users bring instead of tensors, and the sentence that says how where it is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from cdu.data.samples import Samples, from_dataset
from cdu.errors import CduError


def frame(seed, rows=12):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"age": rng.normal(size=rows), "visits": rng.integers(0, 9, rows)})


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_frame_gives_the_numbers_that_it_holds(seed, dtype):
    given = frame(seed)
    samples = Samples(given, given["visits"] % 2, dtype=dtype)
    assert samples.inputs.dtype == torch.float64
    inputs, targets = samples.batch(slice(None))
    assert inputs.dtype == dtype
    assert torch.equal(inputs, torch.tensor(given.values.tolist(), dtype=torch.float64).to(dtype))
    assert targets.dtype == torch.int64
    assert targets.tolist() == [value % 2 for value in given["visits"].tolist()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_regression_targets_of_an_array_have_the_type_of_the_batches(dtype):
    values = np.random.default_rng(0).normal(size=5)
    found = Samples(values.reshape(5, 1), values, dtype=dtype).targets
    assert torch.equal(found, torch.tensor(values.tolist(), dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint16", ">i4"])
def test_integers_of_an_array_are_tokens(kind):
    tokens = np.arange(8, dtype=kind).reshape(4, 2)
    samples = Samples(tokens, tokens[:, 0])
    assert (samples.inputs.dtype, samples.targets.dtype) == (torch.int64, torch.int64)
    assert samples.inputs.tolist() == tokens.tolist()


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "longdouble", ">f8"])
def test_floats_of_an_array_keep_their_numbers(kind):
    values = (np.arange(8, dtype=kind) / 3).reshape(4, 2)[::-1]
    samples = Samples(values, np.arange(4), dtype=torch.float64)
    assert samples.inputs.tolist() == values.astype(np.float64).tolist()


def test_bytes_of_an_array_are_images():
    images = np.arange(18, dtype=np.uint8).reshape(2, 1, 3, 3)
    inputs, _ = Samples(images, np.arange(2), maximum=17.0, dtype=torch.float64).batch(slice(None))
    assert np.allclose(inputs.numpy(), images / 17)


def test_samples_and_the_array_that_they_came_from_change_apart():
    values, labels = np.ones((3, 2)), np.zeros(3, dtype=np.int64)
    samples = Samples(values, labels)
    samples.inputs.zero_()
    labels[:] = 7
    assert values.tolist() == [[1, 1]] * 3
    assert samples.targets.tolist() == [0, 0, 0]


def test_rows_that_pandas_would_match_by_their_index_are_not_matched_by_their_place():
    given = frame(0)
    with pytest.raises(CduError, match=r"different indices, .* targets.loc\[inputs.index\]"):
        Samples(given, given["visits"].sort_values())
    assert len(Samples(given, given["visits"].sort_values().loc[given.index])) == 12


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (frame(0).assign(city="Bern"), r"inputs are of type object because of the columns 'city' \(str\)"),
        (frame(0).assign(new=True), r"because of the columns 'new' \(bool\), and are to be numbers; encode them"),
        (frame(0)[["age"]].astype(object), r"because of the columns 'age' \(object\)"),
        (np.array([["a"]] * 12), "inputs are of type <U1, and are to be numbers"),
        (np.zeros((12, 1), dtype="datetime64[s]"), "inputs are of type datetime64"),
        (np.zeros((12, 1), dtype=complex), "inputs are of type complex128"),
        ({"ids": torch.zeros(12, 3)}, "inputs are a dict of several parts, .* concatenate the parts to one tensor"),
        ((torch.zeros(12, 3), torch.zeros(12, 3)), "inputs are a tuple of several parts"),
        (TensorDataset(torch.zeros(12, 3)), "inputs are a TensorDataset; .*from_dataset"),
        (DataLoader(TensorDataset(torch.zeros(12, 3))), "inputs are a DataLoader; .*from_dataset"),
    ],
)
def test_what_holds_no_numbers_is_refused_in_a_sentence(inputs, words):
    with pytest.raises(CduError, match=words):
        Samples(inputs, torch.arange(12))


def test_a_dataset_that_is_given_alone_meets_the_sentence_about_it():
    with pytest.raises(CduError, match=r"make them with cdu\.data\.samples\.from_dataset"):
        Samples(TensorDataset(torch.zeros(3, 2), torch.zeros(3)))
    with pytest.raises(CduError, match="targets are a NoneType; give a tensor"):
        Samples(torch.zeros(3, 2))


class Rows:
    """A map-style dataset of the pairs that it is given."""

    def __init__(self, *pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, row):
        return self.pairs[row]


@pytest.mark.parametrize("limit", [None, 4, 100])
def test_a_dataset_is_stacked(limit):
    inputs, labels = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(0)), torch.arange(9)
    samples = from_dataset(TensorDataset(inputs, labels), limit)
    count = min(9, limit or 9)
    assert torch.equal(samples.inputs, inputs[:count])
    assert torch.equal(samples.targets, labels[:count])


def test_numbers_and_arrays_of_a_dataset_become_tensors():
    labelled = from_dataset(Rows((np.ones(2), 1), (np.zeros(2), np.int32(0))), dtype=torch.float64)
    assert (labelled.inputs.dtype, labelled.targets.dtype, labelled.targets.tolist()) == (
        torch.float64,
        torch.int64,
        [1, 0],
    )
    assert from_dataset(Rows((torch.ones(2), 0.5)), dtype=torch.float64).targets.dtype == torch.float64


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("dataset", "limit", "words"),
    [
        (Endless(), None, "a Endless has no rows by number; give a map-style dataset"),
        (DataLoader(Rows((torch.ones(1), 0))), None, "such as the dataset of a DataLoader"),
        (Rows(), None, "the Rows has no rows"),
        (Rows((torch.ones(1), 0)), 0, "limit = 0 is below 1"),
        (Rows((torch.ones(1), 0), (torch.ones(2), 0)), None, r"row 1 .* an input of shape \(2,\), row 0 .* \(1,\)"),
        (Rows((torch.ones(1), 0, 0)), None, r"row 0 of the dataset is a tuple; a row is a pair"),
        (Rows(("a picture", 0)), None, "the input of row 0 is a str; let the dataset's transform make it a tensor"),
    ],
)
def test_a_dataset_that_cannot_be_stacked_is_refused(dataset, limit, words):
    with pytest.raises(CduError, match=words):
        from_dataset(dataset, limit)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Samples(torch.zeros(3, 4), torch.arange(3)), r"inputs of the shape \(2,\) and \(4,\)"),
        (Samples(torch.zeros(3, 2).long(), torch.arange(3)), "inputs of the type torch.float32 and torch.int64"),
        (Samples(torch.zeros(3, 2), torch.zeros(3, 1)), r"targets of the shape \(\) and \(1,\)"),
        (Samples(torch.zeros(3, 2), torch.arange(3), dtype=torch.float64), "batches of the type"),
        (Samples(torch.zeros(3, 2), torch.arange(3), mean=(0.5,)), "pixels of mean"),
    ],
)
def test_sets_of_different_kinds_are_not_joined(other, words):
    with pytest.raises(CduError, match=words):
        Samples(torch.zeros(3, 2), torch.arange(3)).joined(other)
