import errno
import gzip
import hashlib
import io
import os
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import requests
import scipy.io
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import datasets as published
from typer.testing import CliRunner

from cdu.cli import app
from cdu.data import datasets, download, registry, splits
from cdu.data.registry import DataFile, DatasetSpec, Download
from cdu.data.samples import Samples, rows_not_finite
from cdu.data.settings import ForgetSettings
from cdu.errors import CduError
from cdu.evaluation.accuracy import accuracy
from cdu.experiments.experiment import default_experiment, load_experiment
from cdu.experiments.run import begin
from cdu.experiments.setup import Setup
from cdu.report.collection import Results
from cdu.seeding import generator
from cdu.unlearning.methods.subsampled_newton import SubsampledNewton
from cdu.unlearning.release import publish

LABELS = np.random.default_rng(0).integers(0, 10, 400)
GET = requests.get


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(url, **kwargs):
        raise AssertionError(f"a test reached for {url}")

    monkeypatch.setattr(requests, "get", refuse)


@pytest.fixture
def registered(monkeypatch):
    """Registers a dataset, in place of another of its name, for one test."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))

    def register(dataset):
        registry._registered.pop(dataset.name, None)
        return registry.register(dataset)

    return register


def md5(content):
    return hashlib.md5(content).hexdigest()


def state_of(name, root=None):
    """The states of the files of one dataset."""
    return [state for dataset, _, state in download.status(root) if dataset == name]


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
        ([[0.0, 0.0]] * 4, {}, "inputs are a list; give a tensor, a NumPy array or a pandas frame"),
        (torch.zeros(4, 2, device="meta"), {}, "inputs are on meta, targets on cpu"),
        (
            torch.zeros(4, 2, dtype=torch.int16),
            {},
            "inputs are of type torch.int16; give floats, tokens as torch.int64",
        ),
        (torch.zeros(4, 2, dtype=torch.bool), {}, "inputs are of type torch.bool; give floats"),
        (torch.zeros(4, 2, dtype=torch.uint8), {}, r"images of shape .* found \(4, 2\); give tokens as torch.int64"),
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


def svhn_of(contents):
    """SVHN with the checksums of other files of its names."""
    return replace(
        registry.dataset_named("svhn"),
        downloads=tuple(Download(name, md5(content), ("http://svhn/",)) for name, content in contents.items()),
    )


SVHN_FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}


@pytest.fixture
def svhn(tmp_path, registered):
    """A small SVHN in the original format."""
    contents = {part: write_svhn(tmp_path / SVHN_FILES[part], count) for part, count in (("train", 30), ("test", 12))}
    registered(svhn_of({name: (tmp_path / name).read_bytes() for name in SVHN_FILES.values()}))
    return tmp_path, contents


def test_svhn_is_read_as_torchvision_reads_it(svhn, monkeypatch):
    root, contents = svhn
    loaded = datasets.load("svhn", root=root)
    assert loaded.train.inputs.shape == (30, 3, 32, 32)
    assert len(loaded.test) == 12
    # Label 10 means the digit 0, and the image's axes are moved to the front.
    assert loaded.train.targets.tolist() == (contents["train"]["y"][:, 0] % 10).tolist()
    assert np.array_equal(loaded.train.inputs[4].numpy(), contents["train"]["X"][..., 4].transpose(2, 0, 1))
    listed = {part: ["", name, md5((root / name).read_bytes())] for part, name in SVHN_FILES.items()}
    monkeypatch.setattr(published.SVHN, "split_list", listed)
    for part, samples in (("train", loaded.train), ("test", loaded.test)):
        theirs = published.SVHN(str(root), split=part)
        assert np.array_equal(samples.inputs.numpy(), theirs.data)
        assert np.array_equal(samples.targets.numpy(), theirs.labels)


@pytest.fixture
def original_svhn(tmp_path, monkeypatch, registered):
    """A piece of the original SVHN as training and as test set, under CDU_DATA."""
    if "CDU_SVHN_SAMPLE" not in os.environ:
        pytest.skip("CDU_SVHN_SAMPLE names no original SVHN file")
    content = Path(os.environ["CDU_SVHN_SAMPLE"]).read_bytes()
    for name in SVHN_FILES.values():
        (tmp_path / name).write_bytes(content)
    registered(svhn_of(dict.fromkeys(SVHN_FILES.values(), content)))
    monkeypatch.setenv("CDU_DATA", str(tmp_path))
    return scipy.io.loadmat(tmp_path / SVHN_FILES["train"])


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


@pytest.mark.skipif(not download.at_hand("mnist"), reason="MNIST is not under CDU_DATA")
def test_mnist_is_the_published_set():
    mnist = datasets.load("mnist")
    assert (len(mnist.train), len(mnist.test), mnist.input_shape) == (60_000, 10_000, (1, 28, 28))
    assert torch.bincount(mnist.train.targets).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    for train, samples in ((True, mnist.train), (False, mnist.test)):
        theirs = published.MNIST(str(download.data_root()), train=train)
        assert torch.equal(samples.inputs[:, 0], theirs.data)
        assert torch.equal(samples.targets, theirs.targets)


@pytest.mark.slow
@pytest.mark.skipif(not download.at_hand("cifar10"), reason="CIFAR-10 is not under CDU_DATA")
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
    name = SVHN_FILES["train"]
    expected = md5((root / name).read_bytes())
    (root / name).write_bytes((root / name).read_bytes()[:-100])
    found = md5((root / name).read_bytes())
    with pytest.raises(CduError, match=f"{name} is damaged: its MD5 is {found}, expected {expected}"):
        datasets.load("svhn", root=root)
    assert state_of("svhn", root) == [f"damaged: MD5 {found}, expected {expected}", "present"]


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


def answer(content, failure=None):
    """What a server sends: ``content``, then the failure if there is one."""
    response = requests.Response()
    response.status_code = 200
    response.raw = io.BytesIO(content)
    if failure is not None:
        whole = response.iter_content

        def iter_content(chunk_size):
            yield from whole(chunk_size)
            raise failure

        response.iter_content = iter_content
    return response


DOWNLOADED = ["mnist", "cifar10", "svhn"]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (requests.ConnectionError("no route"), r"no server sent .* whole \(http[^ ]*: no route[;)]"),
        (requests.HTTPError("503 Server Error"), "503 Server Error"),
        (TimeoutError("timed out"), "timed out"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left"),
        (PermissionError(errno.EACCES, "Permission denied"), "may not be written"),
        (OSError(errno.EROFS, "Read-only file system"), "is read-only"),
    ],
)
@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_download_that_breaks_leaves_nothing(tmp_path, monkeypatch, failure, message, name):
    monkeypatch.setattr(requests, "get", lambda url, **_: answer(b"x" * 5000, failure))
    with pytest.raises(CduError, match=f"^{name} could not be downloaded: .*{message}") as caught:
        download.fetch(name, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_made_is_named(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CduError, match=r"new may not be written; change its permissions"):
        download.fetch("svhn", tmp_path / "new")


@pytest.mark.parametrize("name", DOWNLOADED)
def test_an_unreachable_server_is_one_sentence(tmp_path, monkeypatch, name):
    tried = []

    def unreachable(url, **kwargs):
        tried.append(url)
        raise requests.ConnectionError("no route to host.\n Then more")

    monkeypatch.setattr(requests, "get", unreachable)
    with pytest.raises(CduError, match=f"{name} could not .*no route to host.*nothing was changed under") as caught:
        download.fetch(name, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    # Every server of the first file, and none of another: without it the dataset is not complete.
    assert tried == list(registry.dataset_named(name).downloads[0].urls)


@pytest.mark.parametrize(
    ("name", "file"),
    [("mnist", "train-images-idx3-ubyte.gz"), ("cifar10", "cifar-10-python.tar.gz"), ("svhn", "train_32x32.mat")],
)
def test_a_server_that_sends_something_else_is_named_with_both_checksums(tmp_path, monkeypatch, name, file):
    monkeypatch.setattr(requests, "get", lambda url, **_: answer(b"sorry"))
    both = f"expected md5:{registry.dataset_named(name).downloads[0].md5} but got {md5(b'sorry')}"
    with pytest.raises(CduError, match=f"no server sent {file} whole .*{both}"):
        download.fetch(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_is_not_made_is_said_in_short(tmp_path, registered, monkeypatch):
    # The port of a server that is gone.
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as gone:
        address = f"http://127.0.0.1:{gone.server_port}/x.mat"
    registered(replace(registry.dataset_named("svhn"), downloads=(Download("x.mat", "0", (address,)),)))
    monkeypatch.setattr(requests, "get", GET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(CduError, match=rf"whole \({address}: \[Errno \d+\] Connection refused\); connect to"):
        download.fetch("svhn", tmp_path)


def test_the_checksums_are_those_that_torchvision_publishes():
    packed = {Path(one.path).name: one.md5 for one in registry.dataset_named("mnist").downloads}
    assert packed == dict(published.MNIST.resources)
    (archive,) = registry.dataset_named("cifar10").downloads
    theirs = published.CIFAR10
    assert (archive.path, archive.md5, archive.urls) == (theirs.filename, theirs.tgz_md5, (theirs.url,))
    listed = [*theirs.train_list, *theirs.test_list, (theirs.meta["filename"], theirs.meta["md5"])]
    assert [(file.path, file.md5) for file in archive.files] == [
        (f"{theirs.base_folder}/{name}", md5) for name, md5 in listed
    ]
    assert [[one.urls[0], one.path, one.md5] for one in registry.dataset_named("svhn").downloads] == [
        published.SVHN.split_list[part] for part in ("train", "test")
    ]


@pytest.fixture
def small_mnist(registered):
    """MNIST's files with other contents: those by name, and the dataset with their checksums."""
    known = registry.dataset_named("mnist")
    contents = {Path(file.path).name: file.path.encode() * 10 for file in known.files}
    downloads = []
    for one in known.downloads:
        content = contents[Path(one.path).stem]
        packed = DataFile(one.files[0].path, md5(content))
        downloads.append(Download(one.path, md5(gzip.compress(content, mtime=0)), one.urls, (packed,)))
    registered(replace(known, downloads=tuple(downloads)))
    return contents


def test_compressed_mnist_is_unpacked_without_the_network(tmp_path, small_mnist):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in small_mnist.items():
        (raw / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    (raw / "train-images-idx3-ubyte").write_bytes(b"damaged")
    download.fetch("mnist", tmp_path)
    assert state_of("mnist", tmp_path) == ["present"] * 4
    assert sorted(path.name for path in raw.iterdir()) == sorted([*small_mnist, *(f"{n}.gz" for n in small_mnist)])


def test_only_what_is_absent_or_damaged_is_fetched(tmp_path, small_mnist, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    first, second, *others = small_mnist
    for name in (first, *others):
        (raw / name).write_bytes(small_mnist[name])
    (raw / first).write_bytes(b"damaged")
    # A damaged packed file is not unpacked.
    (raw / f"{second}.gz").write_bytes(b"damaged")
    whole = {name: (raw / name).stat().st_mtime_ns for name in others}
    fetched = []

    def get(url, **kwargs):
        fetched.append(Path(url).stem)
        return answer(gzip.compress(small_mnist[Path(url).stem], mtime=0))

    monkeypatch.setattr(requests, "get", get)
    download.fetch("mnist", tmp_path)
    assert fetched == [first, second]
    assert (raw / f"{second}.gz").read_bytes() == b"damaged"
    assert {name: (raw / name).read_bytes() for name in small_mnist} == small_mnist
    assert {name: (raw / name).stat().st_mtime_ns for name in others} == whole
    assert not [path for path in tmp_path.iterdir() if path.name != "MNIST"]


def test_a_complete_dataset_is_not_fetched_again(svhn):
    root, _ = svhn
    assert download.fetch("svhn", root) == root
    assert download.fetch("digits", root) == root


# --- a dataset of another package ----------------------------------------------------------------------------------

BLOBS = """
name: blobs
description: Three classes of 4×4 pixels.
seeds: [0]
datasets:
  blobs:
    model: {name: mlp, hidden: [4], activation: relu}
    forget: {kind: random, size: 6}
    training: {epochs: 1, batch_size: 16, learning_rate: 1.0e-3, weight_decay: 5.0e-4, radius: 8}
    unlearning:
      default: high
      dampings: {high: {value: 100, lissa: {scale: 200, depth: 3, repeats: 2, batch_size: 10}}}
      sigma: 0.01
      delta: 1.0e-5
      epsilon: 1
    theory: {dampings: [100]}
    relearn: {max_epochs: 1, batch_size: 16, learning_rate: 1.0e-3}
    ablations: {dampings: [100], sigmas: [0.01], radii: [8], depths: [3]}
"""


def packed(archive, members, path):
    """Files in an archive of some kind."""
    if archive.endswith(".zip"):
        with zipfile.ZipFile(path / archive, "w") as target:
            for name, content in members.items():
                target.writestr(name, content)
    elif archive.endswith(".tar.gz"):
        with tarfile.open(path / archive, "w:gz") as target:
            for name, content in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                target.addfile(entry, io.BytesIO(content))
    else:
        (content,) = members.values()
        (path / archive).write_bytes(gzip.compress(content) if archive.endswith(".gz") else content)
    return (path / archive).read_bytes()


def read_blobs(folder):
    found = np.load(folder / "blobs" / "images.npy")
    return [(images[:, :-1].reshape(-1, 1, 4, 4), images[:, -1]) for images in (found[:40], found[40:])]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder, its address on a server of this machine, and the paths that were asked for."""
    folder, asked = tmp_path / "server", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *args):
            asked.append(self.path)

        def log_message(self, *args):
            pass

    monkeypatch.setattr(requests, "get", GET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def blobs(server, archive="images.tar.gz", **changes):
    """A dataset whose file is in an archive on the server, or is there itself."""
    folder, address, _ = server
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.integers(0, 256, (60, 16)), np.arange(60)[:, None] % 3], axis=1).astype(np.uint8)
    content = io.BytesIO()
    np.save(content, rows)
    sent = packed(archive, {"images.npy": content.getvalue()}, folder)
    file = DataFile("blobs/images.npy", md5(content.getvalue()))
    urls = (f"{address}/absent/{archive}", f"{address}/{archive}")
    return DatasetSpec(
        **{
            **{"name": "blobs", "title": "Blobs", "shape": (1, 4, 4), "classes": 3, "mean": (0.5,), "std": (0.25,)},
            "read": read_blobs,
            "downloads": (Download(f"blobs/{archive}", md5(sent), urls, () if archive == "images.npy" else (file,)),),
            **changes,
        }
    )


@pytest.mark.parametrize("archive", ["images.tar.gz", "images.zip", "images.npy.gz", "images.npy"])
def test_a_dataset_of_another_package_is_fetched_and_loaded(server, registered, tmp_path, archive):
    _, _, asked = server
    dataset, root = registered(blobs(server, archive)), tmp_path / "data"
    assert not download.at_hand("blobs", root)
    assert state_of("blobs", root) == ["absent"]
    download.fetch("blobs", root)
    # The first server has no such file, the second has.
    assert asked == [f"/absent/{archive}", f"/{archive}"]
    assert download.at_hand("blobs", root)
    assert state_of("blobs", root) == ["present"]
    assert [path for path in root.rglob("*") if path.is_file()] == [root / "blobs" / "images.npy"]
    loaded = datasets.load("blobs", root=root)
    (images, labels), test = dataset.read(root)
    assert (loaded.classes, len(loaded.train), len(loaded.test)) == (3, 40, len(test[1]))
    assert np.array_equal(loaded.train.inputs.numpy(), images)
    assert np.array_equal(loaded.train.targets.numpy(), labels)
    assert torch.allclose(loaded.train.batch(slice(1))[0][0], (torch.tensor(images[0]) / 255 - 0.5) / 0.25)


def test_a_damaged_file_is_replaced_when_a_whole_one_has_arrived(server, registered, tmp_path):
    dataset, file = registered(blobs(server, "images.npy")), tmp_path / "blobs" / "images.npy"
    file.parent.mkdir()
    file.write_bytes(b"damaged")
    (one,) = dataset.downloads
    registered(replace(dataset, downloads=(replace(one, urls=one.urls[:1]),)))
    with pytest.raises(CduError, match="404 Client Error"):
        download.fetch("blobs", tmp_path)
    assert file.read_bytes() == b"damaged"
    registered(dataset)
    download.fetch("blobs", tmp_path)
    assert file.is_file()
    assert not file.is_symlink()
    assert state_of("blobs", tmp_path) == ["present"]


def test_an_archive_that_holds_something_else_is_refused(server, registered, tmp_path):
    dataset = blobs(server)
    (one,) = dataset.downloads
    registered(replace(dataset, downloads=(replace(one, packed=(DataFile("blobs/images.npy", md5(b"other")),)),)))
    with pytest.raises(CduError, match=f"images.tar.gz holds a blobs/images.npy of MD5 .*, expected {md5(b'other')}"):
        download.fetch("blobs", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_dataset_of_another_package_runs_through_its_own_experiment(server, registered, tmp_path, monkeypatch):
    (tmp_path / "blobs.yaml").write_text(BLOBS, encoding="utf-8")
    with pytest.raises(CduError, match="unknown dataset 'blobs': known are digits, mnist, cifar10, svhn"):
        load_experiment(str(tmp_path / "blobs.yaml"))
    registered(blobs(server, experiment=str(tmp_path / "blobs.yaml")))
    monkeypatch.setenv("CDU_DATA", str(tmp_path / "data"))
    download.fetch("blobs")
    run = begin("02_training", {"dataset": "blobs", "seed": 0, "output": str(tmp_path), "device": "cpu"})
    assert run.setup.experiment.name == "blobs"
    problem = run.setup.problem()
    update = SubsampledNewton(100.0, 8)(problem, generator(0, "step"))
    assert torch.isfinite(update.w).all()
    assert run.setup.original.model(run.setup.test.batch(slice(2))[0]).shape == (2, 3)
    assert Results("blobs", "blobs").title == "Blobs"
    assert Results("other", "blobs").title == "Blobs (other)"


def test_a_dataset_without_an_experiment_needs_one(server, registered):
    registered(blobs(server))
    with pytest.raises(CduError, match="dataset 'blobs' has no experiment of its own"):
        default_experiment("blobs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"shape": (1, 2, 8)},
            r"images of type uint8 and shape \(1, 4, 4\); .* of shape \(1, 2, 8\)",
        ),
        ({"classes": 2}, "labels from 0 to 2; registered are the labels 0 to 1"),
    ],
)
def test_images_that_are_not_as_registered_are_refused(server, registered, tmp_path, change, message):
    registered(blobs(server, **change))
    download.fetch("blobs", tmp_path / "data")
    with pytest.raises(CduError, match=message):
        datasets.load("blobs", root=tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../blobs"}, "'../blobs' is no name of a dataset"),
        ({"std": (1.0, 1.0)}, "has 1 channels, .* give one value for each channel"),
    ],
)
def test_a_registration_that_cannot_be_right_is_refused(server, change, message):
    with pytest.raises(CduError, match=message):
        blobs(server, **change)


def test_a_name_is_registered_once(server, registered):
    registered(blobs(server))
    with pytest.raises(CduError, match="a dataset 'blobs' is registered already"):
        registry.register(blobs(server))


@pytest.fixture
def installed(tmp_path, monkeypatch, registered):
    """Puts a package with an entry point on the path."""
    registry._import_other_packages.cache_clear()

    def install(code):
        (tmp_path / "other_package.py").write_text(code)
        metadata = tmp_path / "other-0.1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Name: other\nVersion: 0.1\n")
        (metadata / "entry_points.txt").write_text(f"[{registry.ENTRY_POINTS}]\nx = other_package\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    registry._import_other_packages.cache_clear()
    sys.modules.pop("other_package", None)


def test_an_installed_package_registers_its_dataset_by_an_entry_point(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("CDU_DATA", str(tmp_path))
    installed(
        "from cdu.data.registry import DatasetSpec, register\n"
        "register(DatasetSpec('noise', 'Noise', (1, 2, 2), 2, (0.5,), (0.5,), read=lambda folder: None))\n"
    )
    result = CliRunner().invoke(app, ["data", "status"])
    assert result.output.splitlines()[-1].split() == ["noise", "present", "needs", "no", "download"]
    assert list(registry.known_datasets()) == ["digits", "mnist", "cifar10", "svhn", "noise"]


def test_a_package_that_cannot_be_imported_is_named(installed):
    installed("import nothing_of_this_name\n")
    with pytest.raises(CduError, match=r"the datasets of 'other_package' cannot be registered .*nothing_of_this_name"):
        registry.known_datasets()


def test_torch_and_torchvision_are_a_matching_pair():
    from torchvision.ops import nms

    kept = nms(torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]]), torch.tensor([0.9, 0.8]), 0.5)
    assert kept.tolist() == [0]


def test_rows_with_numbers_that_are_not_finite_are_found_by_their_sums():
    rows = torch.randn(7, 3, 2)
    rows[1, 0, 0] = float("nan")
    rows[2, 1, 1] = float("inf")
    rows[3, 0, 0], rows[3, 0, 1] = float("inf"), -float("inf")
    rows[4] = 3e38  # whose sum overflows
    assert rows_not_finite(rows).tolist() == [False, True, True, True, False, False, False]
    assert rows_not_finite(rows[:, 0, 0]).tolist() == [False, True, False, True, False, False, False]
    assert rows_not_finite(torch.zeros(0, 3)).tolist() == []
    assert not rows_not_finite(torch.tensor([1, 2])).any()
