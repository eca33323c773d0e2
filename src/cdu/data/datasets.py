"""The datasets of this package, each with what reads it: digits, MNIST, CIFAR-10 and SVHN."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cdu.checks import expect
from cdu.data.download import data_root, require_files
from cdu.data.registry import DataFile, DatasetSpec, Download, Part, dataset_named, register
from cdu.extras import needs_report

# PyTorch, torchvision, scikit-learn and SciPy take seconds to import: each is imported where it is needed.
if TYPE_CHECKING:
    import torch

    from cdu.data.samples import Dataset, Samples


def load(name: str, device: "torch.device | str" = "cpu", root: Path | None = None) -> "Dataset":
    """Check a dataset's files against their published checksums, and load it.

    Args:
        name: One of :func:`~cdu.data.registry.known_datasets`.
        device: Where the uint8 images go.
        root: Folder of the files; :func:`~cdu.data.download.data_root` when not given.

    Raises:
        CduError: The name is unknown; a file is absent, truncated, altered or unreadable; or images or labels are not
            of the registered shape, type or range.
    """
    from cdu.data.samples import Dataset

    dataset = dataset_named(name)
    folder = data_root() if root is None else root
    require_files(dataset, folder)
    train, test = (_samples(dataset, part).to(device) for part in dataset.read(folder))
    return Dataset(name, train, test, dataset.classes)


def _samples(dataset: DatasetSpec, part: Part) -> "Samples":
    """One part of a dataset, as tensors; refuses images or labels that are not as registered."""
    import torch

    from cdu.data.samples import Samples

    images, labels = part
    expect(
        images.dtype == np.uint8 and images.shape[1:] == dataset.shape,
        f"dataset '{dataset.name}' holds images of type {images.dtype} and shape {images.shape[1:]}; registered are "
        f"uint8 of shape {dataset.shape}",
    )
    found = f"labels from {labels.min()} to {labels.max()}" if len(labels) else "no labels"
    expect(
        len(labels) > 0 and labels.min() >= 0 and labels.max() < dataset.classes,
        f"dataset '{dataset.name}' holds {found}; registered are the labels 0 to {dataset.classes - 1}",
    )
    # Copies: an array that was read in one piece may not be written.
    tensors = torch.from_numpy(np.array(images, order="C")), torch.from_numpy(labels.astype(np.int64))
    return Samples(*tensors, dataset.mean, dataset.std, dataset.maximum)


# --- digits --------------------------------------------------------------------------------------------------------

#: Number of training images of digits; the remaining 300 of its 1,797 images are its test set.
DIGITS_TRAIN = 1497


def _read_digits(_: Path) -> tuple[Part, Part]:
    """The 1,797 scanned digits that come with scikit-learn, in a fixed split of 1,497 and 300."""
    with needs_report("the dataset digits"):
        from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images, labels = bunch.images.astype(np.uint8)[order, None], bunch.target[order]
    return (images[:DIGITS_TRAIN], labels[:DIGITS_TRAIN]), (images[DIGITS_TRAIN:], labels[DIGITS_TRAIN:])


register(
    DatasetSpec(
        name="digits", title="digits", shape=(1, 8, 8), classes=10, mean=(0.3053,), std=(0.3760,), maximum=16.0,
        read=_read_digits, experiment="quick",
        holds="1,797 scanned digits of 8×8 pixels, inside scikit-learn; 1,497 for training, 300 for testing",
        source="UCI, test set of the optical recognition data {cite:p}`alpaydin1998`",
    )
)  # fmt: skip

# --- MNIST ---------------------------------------------------------------------------------------------------------


def _mnist(name: str, compressed: str, md5: str) -> Download:
    """One of MNIST's files and where it is fetched from.

    Args:
        name: Its name.
        compressed: MD5 of the compressed file, which torchvision publishes.
        md5: MD5 of the file itself.
    """
    mirrors = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
    path = f"MNIST/raw/{name}"
    return Download(f"{path}.gz", compressed, tuple(f"{url}{name}.gz" for url in mirrors), (DataFile(path, md5),))


def _read_mnist(folder: Path) -> tuple[Part, Part]:
    """Images after a header of 16 bytes, labels after one of 8."""

    def part(name: str) -> Part:
        images, labels = (
            np.frombuffer((folder / "MNIST" / "raw" / f"{name}-{kind}-ubyte").read_bytes(), np.uint8, offset=header)
            for kind, header in (("images-idx3", 16), ("labels-idx1", 8))
        )
        return images.reshape(-1, 1, 28, 28), labels

    return part("train"), part("t10k")


register(
    DatasetSpec(
        name="mnist", title="MNIST", shape=(1, 28, 28), classes=10, mean=(0.1307,), std=(0.3081,),
        read=_read_mnist, experiment="mnist", in_the_paper=True,
        holds="60,000 + 10,000 images of 28×28 pixels", source="{cite:t}`lecun1998`",
        downloads=(
            _mnist("train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
            _mnist("train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
            _mnist("t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
            _mnist("t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
        ),
    )
)  # fmt: skip

# --- CIFAR-10 ------------------------------------------------------------------------------------------------------

CIFAR10_BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}


def _read_cifar10(folder: Path) -> tuple[Part, Part]:
    """Read by torchvision: the files are pickles, and it checks their published checksums first."""
    with needs_report("reading CIFAR-10"):
        from torchvision.datasets import CIFAR10

    parts = [CIFAR10(str(folder), train=train) for train in (True, False)]
    train, test = ((part.data.transpose(0, 3, 1, 2), np.asarray(part.targets)) for part in parts)
    return train, test


register(
    DatasetSpec(
        name="cifar10", title="CIFAR-10", shape=(3, 32, 32), classes=10, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
        read=_read_cifar10, experiment="paper", in_the_paper=True,
        not_run="not run yet: a GPU is needed for the paper's 50 epochs",
        holds="50,000 + 10,000 colour images of 32×32 pixels", source="{cite:t}`krizhevsky2009`",
        downloads=(
            Download(
                "cifar-10-python.tar.gz",
                "c58f30108f718f92721af3b95e74349a",
                ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
                tuple(DataFile(f"cifar-10-batches-py/{name}", md5) for name, md5 in CIFAR10_BATCHES.items()),
            ),
        ),
    )
)  # fmt: skip

# --- SVHN ----------------------------------------------------------------------------------------------------------


def _svhn(name: str, md5: str) -> Download:
    return Download(name, md5, (f"http://ufldl.stanford.edu/housenumbers/{name}",))


def _read_svhn(folder: Path) -> tuple[Part, Part]:
    """Images are stored with their number as the last axis, and the label 10 is the digit 0."""
    from scipy.io import loadmat

    def part(name: str) -> Part:
        content = loadmat(folder / f"{name}_32x32.mat")
        return content["X"].transpose(3, 2, 0, 1), content["y"][:, 0] % 10

    return part("train"), part("test")


register(
    DatasetSpec(
        name="svhn", title="SVHN", shape=(3, 32, 32), classes=10, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
        read=_read_svhn, experiment="paper-resnet18", in_the_paper=True,
        holds="73,257 + 26,032 colour images of 32×32 pixels, non-commercial use", source="{cite:t}`netzer2011`",
        not_run="its files were not at hand where these results were made, and a GPU is needed",
        downloads=(
            _svhn("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
            _svhn("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
        ),
    )
)  # fmt: skip
