import errno
import gzip
import hashlib
import io
import os
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import datasets as published

from cdu.data import datasets, download, splits
from cdu.data.samples import Samples
from cdu.data.settings import ForgetSettings
from cdu.errors import CduError
from cdu.evaluation.accuracy import accuracy
from cdu.experiments.experiment import load_experiment
from cdu.experiments.setup import Setup
from cdu.seeding import generator
from cdu.unlearning.methods.subsampled_newton import SubsampledNewton
from cdu.unlearning.release import publish

LABELS = np.random.default_rng(0).integers(0, 10, 400)


@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 300),
    validation=st.integers(0, 90),
    kind=st.sampled_from(["random", "class"]),
)
def test_a_split_is_disjoint_and_complete(seed, size, validation, kind):
    forget = ForgetSettings(kind=kind, size=size if kind == "random" else None, label=3)
    split = splits.make_split(LABELS, 50, forget, seed, validation)
    parts = [split.forget, split.retain, split.validation]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(400))
    assert len(split.validation) == validation
    assert np.array_equal(split.test, np.arange(50))
    assert np.array_equal(split.train, np.setdiff1d(np.arange(400), split.validation))
    if kind == "random":
        assert len(split.forget) == size
    else:
        assert set(LABELS[split.forget]) == {3}
        assert 3 not in LABELS[split.retain]


def test_the_same_seed_gives_the_same_split_and_another_seed_another():
    forget = ForgetSettings(size=20)
    hashes = [splits.make_split(LABELS, 50, forget, seed).hash for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_explicit_forget_set_is_taken_as_listed():
    split = splits.make_split(LABELS, 50, ForgetSettings(kind="indices", indices=(7, 3, 399)), 0)
    assert split.forget.tolist() == [3, 7, 399]


@pytest.mark.parametrize(
    ("forget", "message"),
    [
        (ForgetSettings(size=401), "401 rows was asked for, but only 400"),
        (ForgetSettings(size=400), "nothing is left to retain"),
        (ForgetSettings(kind="class", label=11), "no training row has class 11"),
        (ForgetSettings(kind="indices", indices=(400,)), "index 400 is out of range"),
        (ForgetSettings(kind="indices", indices=(1, 1)), "listed twice"),
    ],
)
def test_an_impossible_forget_set_is_refused(forget, message):
    with pytest.raises(CduError, match=message):
        splits.make_split(LABELS, 50, forget, 0)


@pytest.mark.parametrize(
    ("forget", "retain"),
    [(np.array([0, 1]), np.array([1, 2])), (np.array([0]), np.array([1])), (np.arange(4), np.arange(0))],
)
def test_parts_that_overlap_or_leave_rows_out_are_refused(forget, retain):
    with pytest.raises(CduError, match="not disjoint and complete"):
        splits.Split(forget, retain, np.arange(3), 3)


def test_digits_need_no_download():
    digits = datasets.load("digits")
    assert (len(digits.train), len(digits.test), digits.input_shape) == (1497, 300, (1, 8, 8))
    together = torch.cat([digits.train.inputs, digits.test.inputs]).flatten(1)
    assert int(together.max()) == 16
    pixels = digits.train.batch(slice(None))[0]
    assert abs(pixels.mean()) < 0.02
    assert abs(pixels.std() - 1) < 0.02


def test_images_are_normalised_channel_by_channel():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    samples = Samples(images, torch.zeros(1), (0.5, 0.1, 0.2), (0.5, 0.2, 0.4), dtype=torch.float64)
    assert torch.allclose(samples.batch(slice(None))[0].flatten(), torch.tensor([-1.0, 0.5, 2.0]).double())


def test_batches_cover_all_samples_in_order():
    samples = Samples(torch.arange(10.0).view(10, 1), torch.arange(10))
    assert torch.equal(torch.cat([y for _, y in samples.batches(3)]), samples.targets)


@pytest.mark.parametrize(
    ("inputs", "change", "words"),
    [
        (torch.zeros(3, 2), {}, "3 inputs and 4 targets"),
        (np.zeros((4, 2)), {}, "ndarray and Tensor; give two tensors"),
        (torch.zeros(4, 2, device="meta"), {}, "inputs are on meta, targets on cpu"),
        (torch.zeros(4, 2, dtype=torch.int64), {}, "torch.int64 would be cast to floats; .* after its embedding"),
        (torch.zeros(4, 2, dtype=torch.bool), {}, "torch.bool would be cast"),
        (torch.zeros(4, 2, dtype=torch.uint8), {}, r"images of shape .* found \(4, 2\)"),
        (torch.zeros(4, 2), {"dtype": torch.int64}, "batches of type torch.int64 have no gradient"),
    ],
)
def test_samples_that_would_be_cast_into_something_else_are_refused(inputs, change, words):
    with pytest.raises(CduError, match=words):
        Samples(inputs, torch.arange(4), **change)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_samples_are_told_apart_by_every_bit_and_by_their_targets(dtype):
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, 1, 5, 5), generator=rng).to(dtype).repeat(400, 1, 1, 1)
    width = 25 * images.element_size()
    for row in range(1, 1 + width):
        images[row].view(torch.uint8).view(-1)[row - 1] ^= 1
    samples = Samples(images[: 1 + width], torch.zeros(1 + width, dtype=torch.long), dtype=torch.float64)
    found = samples.identities()
    assert len(np.unique(found)) == len(samples)
    order = torch.randperm(len(samples), generator=rng)
    assert np.array_equal(samples.subset(order).identities(), found[order.numpy()])
    other = Samples(samples.inputs, samples.targets + 1, dtype=torch.float64)
    assert not np.isin(other.identities(), found).any()


def test_ids_follow_their_samples():
    samples = Samples(torch.zeros(4, 2), torch.arange(4), ids=np.array([7, 5, 3, 1]))
    assert samples.subset(torch.tensor([2, 0])).identities().tolist() == [3, 7]
    assert samples.joined(samples).identities().tolist() == [7, 5, 3, 1] * 2
    assert samples.to(dtype=torch.float64).identities().tolist() == [7, 5, 3, 1]
    with pytest.raises(CduError, match=r"are an array of int64 of shape \(3,\); give an array of int64"):
        Samples(torch.zeros(4, 2), torch.arange(4), ids=np.arange(3))


def write_svhn(path, count, monkeypatch=None):
    rng = np.random.default_rng(0)
    content = {
        "X": rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8),
        "y": (np.arange(count) % 10 + 1).astype(np.uint8)[:, None],
    }
    scipy.io.savemat(path, content)
    return content


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """A small SVHN in the original format, whose checksums torchvision is told."""
    listed, contents = {}, {}
    for part, count in (("train", 30), ("test", 12)):
        url, name, _ = published.SVHN.split_list[part]
        contents[part] = write_svhn(tmp_path / name, count)
        listed[part] = [url, name, hashlib.md5((tmp_path / name).read_bytes()).hexdigest()]
    monkeypatch.setattr(published.SVHN, "split_list", listed)
    return tmp_path, contents


def test_svhn_loads_through_torchvision(svhn):
    root, contents = svhn
    loaded = datasets.load("svhn", root=root)
    assert loaded.train.inputs.shape == (30, 3, 32, 32)
    assert len(loaded.test) == 12
    # Label 10 means the digit 0, and the image's axes are moved to the front.
    assert loaded.train.targets.tolist() == (contents["train"]["y"][:, 0] % 10).tolist()
    assert np.array_equal(loaded.train.inputs[4].numpy(), contents["train"]["X"][..., 4].transpose(2, 0, 1))


@pytest.fixture
def original_svhn(tmp_path, monkeypatch):
    """A piece of the original SVHN as training and as test set, under CDU_DATA."""
    if "CDU_SVHN_SAMPLE" not in os.environ:
        pytest.skip("CDU_SVHN_SAMPLE names no original SVHN file")
    content = Path(os.environ["CDU_SVHN_SAMPLE"]).read_bytes()
    listed = {}
    for part in ("train", "test"):
        url, name, _ = published.SVHN.split_list[part]
        (tmp_path / name).write_bytes(content)
        listed[part] = [url, name, hashlib.md5(content).hexdigest()]
    monkeypatch.setattr(published.SVHN, "split_list", listed)
    monkeypatch.setenv("CDU_DATA", str(tmp_path))
    return scipy.io.loadmat(tmp_path / listed["train"][1])


def test_a_piece_of_the_original_svhn_loads(original_svhn):
    loaded = datasets.load("svhn")
    assert loaded.train.inputs.shape == (original_svhn["X"].shape[3], 3, 32, 32)
    assert set(loaded.train.targets.tolist()) == set(range(10))
    assert loaded.train.targets.tolist() == (original_svhn["y"][:, 0] % 10).tolist()
    inputs, _ = loaded.train.batch(slice(7, 8))
    pixels = original_svhn["X"][..., 7].transpose(2, 0, 1).astype(float) / 255
    np.testing.assert_allclose(inputs[0].numpy(), (pixels - 0.5) / 0.5, atol=1e-6)


@pytest.mark.slow  # The network is at full width.
def test_the_papers_resnet_learns_and_unlearns_svhn(original_svhn, tmp_path):
    settings = load_experiment("paper-resnet18").settings("svhn")
    changes = {
        "samples": 48,
        "forget": settings.forget.model_copy(update={"size": 8}),
        "training": settings.training.model_copy(update={"epochs": 1, "batch_size": 16}),
    }
    experiment = load_experiment("paper-resnet18").model_copy(
        update={"datasets": {"svhn": settings.model_copy(update=changes)}}
    )
    setup = Setup(experiment, "svhn", 0, tmp_path / "checkpoints", torch.device("cpu"))
    assert setup.original.w.numel() == 11_171_274
    assert setup.original.history[-1]["loss"] < 5
    problem = setup.problem()
    update = SubsampledNewton(1e6, 8)(problem, generator(0, "step"))
    released = publish(problem, update, generator(0, "noise"), sigma=0.01, delta=1e-5)
    assert 0 < (update.w - problem.w_star).norm() < problem.radius
    assert released.w.norm() > problem.radius
    assert 0 <= accuracy(released.objective, released.w, setup.test) <= 1


def available(name):
    return all(file.state() == "present" for file in download.needed_files(name, download.data_root()))


@pytest.mark.skipif(not available("mnist"), reason="MNIST is not under CDU_DATA")
def test_mnist_is_the_published_set():
    mnist = datasets.load("mnist")
    assert (len(mnist.train), len(mnist.test), mnist.input_shape) == (60_000, 10_000, (1, 28, 28))
    assert torch.bincount(mnist.train.targets).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.mark.slow
@pytest.mark.skipif(not available("cifar10"), reason="CIFAR-10 is not under CDU_DATA")
def test_cifar10_is_the_published_set():
    cifar10 = datasets.load("cifar10")
    assert (len(cifar10.train), len(cifar10.test), cifar10.input_shape) == (50_000, 10_000, (3, 32, 32))
    assert torch.bincount(cifar10.train.targets).tolist() == [5000] * 10
    direct = published.CIFAR10(str(download.data_root()), train=False)
    assert np.array_equal(cifar10.test.inputs[17].permute(1, 2, 0).numpy(), direct.data[17])


def test_absent_files_are_named_with_the_command_that_fetches_them(tmp_path):
    with pytest.raises(CduError, match=r"train-images-idx3-ubyte is absent .*'cdu data fetch mnist'"):
        datasets.load("mnist", root=tmp_path)


def test_a_truncated_file_is_named_with_both_checksums(svhn):
    root, _ = svhn
    _, name, md5 = published.SVHN.split_list["train"]
    (root / name).write_bytes((root / name).read_bytes()[:-100])
    found = hashlib.md5((root / name).read_bytes()).hexdigest()
    with pytest.raises(CduError, match=f"{name} is damaged: its MD5 is {found}, expected {md5}"):
        datasets.load("svhn", root=root)


def test_an_unreadable_file_is_named(svhn, monkeypatch):
    root, _ = svhn

    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CduError, match=r"cannot be read \(Permission denied\)"):
        datasets.load("svhn", root=root)


def test_an_unknown_dataset_is_refused():
    with pytest.raises(CduError, match="unknown dataset 'imagenet': known are digits"):
        datasets.load("imagenet")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (URLError("no route"), r"no server was reached \(no route\)"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left"),
        (PermissionError(errno.EACCES, "Permission denied"), "may not be written"),
        (RuntimeError("File not found or corrupted."), "File not found or corrupted"),
    ],
)
@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
def test_a_download_that_breaks_leaves_nothing(tmp_path, monkeypatch, failure, message, name):
    def broken(root, *args, download=False, **kwargs):
        (Path(root) / "half-written").write_bytes(b"x" * 1000)
        raise failure

    monkeypatch.setattr(
        published, {"mnist": "MNIST", "cifar10": "CIFAR10", "svhn": "SVHN"}[name], patched(name, broken)
    )
    with pytest.raises(CduError, match=message):
        download.fetch(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def patched(name, init):
    """torchvision's class with a constructor that fails."""
    base = {"mnist": published.MNIST, "cifar10": published.CIFAR10, "svhn": published.SVHN}[name]
    return type(base.__name__, (base,), {"__init__": lambda self, *a, **k: init(*a, **k)})


def test_a_download_of_the_wrong_content_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    def wrong(root, split, download):
        (Path(root) / published.SVHN.split_list[split][1]).write_bytes(b"something else")

    monkeypatch.setattr(published, "SVHN", patched("svhn", wrong))
    with pytest.raises(CduError, match="damaged"):
        download.fetch("svhn", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
def test_torchvisions_own_words_for_an_unreachable_server_become_one_sentence(tmp_path, monkeypatch, name):
    def unreachable(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(CduError, match=f"{name} could not be downloaded: .*nothing was changed there") as caught:
        download.fetch(name, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "file"),
    [("mnist", "train-images-idx3-ubyte.gz"), ("cifar10", "cifar-10-python.tar.gz"), ("svhn", "train_32x32.mat")],
)
def test_a_server_that_sends_something_else_is_named_with_both_checksums(tmp_path, monkeypatch, name, file):
    class Response(io.BytesIO):
        url = None
        length = 5

    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: Response(b"sorry"))
    found = hashlib.md5(b"sorry").hexdigest()
    with pytest.raises(CduError, match=f"{file} arrived damaged: its MD5 is {found}, expected [0-9a-f]{{32}};"):
        download.fetch(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_compressed_mnist_is_unpacked_without_the_network(tmp_path, monkeypatch):
    raw, packed = {}, []
    for name in download.MNIST_RAW_MD5:
        content = name.encode() * 10
        path = tmp_path / "MNIST" / "raw" / f"{name}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content))
        raw[name] = hashlib.md5(content).hexdigest()
        packed.append((path.name, hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setattr(download, "MNIST_RAW_MD5", raw)
    monkeypatch.setattr(published.MNIST, "resources", packed)
    download.fetch("mnist", tmp_path)
    assert all(state == "present" for name, _, state in download.status(tmp_path) if name == "mnist")


def test_a_complete_dataset_is_not_fetched_again(svhn, monkeypatch):
    root, _ = svhn
    monkeypatch.setattr(download, "_download", lambda *_: pytest.fail("downloaded again"))
    assert download.fetch("svhn", root) == root


def test_torch_and_torchvision_are_a_matching_pair():
    from torchvision.ops import nms

    kept = nms(torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]]), torch.tensor([0.9, 0.8]), 0.5)
    assert kept.tolist() == [0]
