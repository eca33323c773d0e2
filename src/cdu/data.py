"""Data: digits, MNIST, CIFAR-10 and SVHN as tensors on a device, and their splits.

On the hot path there is no ``DataLoader``: images stay uint8 on the device and are normalised batch by batch.
"""

import errno
import gzip
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdu import storage
from cdu.config import ForgetSettings
from cdu.errors import CduError
from cdu.expectations import expect
from cdu.seeding import seed_for

DATASETS = ("digits", "mnist", "cifar10", "svhn")

#: MD5 of MNIST's uncompressed files; torchvision publishes those of the compressed ones only.
MNIST_RAW_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}

#: Number of training images of digits; the remaining 300 of its 1,797 images are its test set.
DIGITS_TRAIN = 1497


@dataclass(frozen=True)
class Samples:
    """A set S of samples on a device.

    Attributes:
        inputs: Tensor of shape (n, ...): floats, which are only cast to ``dtype`` when a batch is taken, or uint8
            images of shape (n, channels, height, width), which are normalised.
        targets: Tensor of shape (n,): class labels (int64), or regression targets.
        shift: Per-channel mean of the pixels in [0, 1].
        spread: Per-channel standard deviation of the pixels in [0, 1].
        maximum: The largest pixel value.
        dtype: Floating-point type of the batches.
        ids: A number for every sample by which it is known, shape (n,), int64. None where its own bits tell it from all
            others: two that are alike then count as one.

    Raises:
        CduError: Inputs and targets do not belong together, inputs are neither floats nor images of bytes, or there is
            another number of ids.
    """

    inputs: Tensor
    targets: Tensor
    shift: tuple[float, ...] = (0.0,)
    spread: tuple[float, ...] = (1.0,)
    maximum: float = 255.0
    dtype: torch.dtype = torch.float32
    ids: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        """Refuse what would be cast or broadcast into something else than was meant."""
        expect(
            isinstance(self.inputs, Tensor) and isinstance(self.targets, Tensor),
            f"inputs and targets are {type(self.inputs).__name__} and {type(self.targets).__name__}; give two tensors",
        )
        expect(
            len(self.inputs) == len(self.targets),
            f"there are {len(self.inputs)} inputs and {len(self.targets)} targets; every sample has one of each",
        )
        expect(
            self.inputs.device == self.targets.device,
            f"inputs are on {self.inputs.device}, targets on {self.targets.device}; move both to one device",
        )
        expect(
            self.inputs.is_floating_point() or self.inputs.dtype == torch.uint8,
            f"inputs of type {self.inputs.dtype} would be cast to floats; give floats, or images as torch.uint8, and "
            "let a network of tokens begin after its embedding",
        )
        expect(
            self.inputs.is_floating_point() or self.inputs.ndim == 4,
            f"inputs of bytes are images of shape (n, channels, height, width), found {tuple(self.inputs.shape)}; "
            "give anything else as floats",
        )
        expect(self.dtype.is_floating_point, f"batches of type {self.dtype} have no gradient; dtype is a float type")
        expect(
            self.ids is None
            or (isinstance(self.ids, np.ndarray) and self.ids.dtype == np.int64 and self.ids.shape == (len(self),)),
            f"the ids of {len(self)} samples are {_kind(self.ids)}; give an array of int64 with one id a sample",
        )

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.targets)

    @property
    def device(self) -> torch.device:
        """Where the samples lie."""
        return self.inputs.device

    @cached_property
    def _affine(self) -> tuple[Tensor, Tensor]:
        spread = torch.tensor(self.spread, dtype=torch.float64)
        shift = torch.tensor(self.shift, dtype=torch.float64)
        scale, offset = 1 / (self.maximum * spread), -shift / spread

        def shaped(values: Tensor) -> Tensor:
            return values.view(-1, 1, 1).to(self.device, self.dtype)

        return shaped(scale), shaped(offset)

    def normalised(self, inputs: Tensor) -> Tensor:
        """Raw ``inputs`` of shape (..., C, H, W) as the network sees them."""
        if inputs.dtype != torch.uint8:
            return inputs.to(self.dtype)
        scale, offset = self._affine
        return torch.addcmul(offset, inputs.to(self.dtype), scale)

    def identities(self) -> NDArray[np.int64]:
        """A number for every sample, by which it is told from others: its id, or a hash of input and target.

        The hash is a sum of the sample's bytes with fixed random odd weights, modulo 2⁶⁴. Samples that are alike to the
        bit have the same; two that differ have the same with a probability of about 2⁻⁵⁶.
        """
        if self.ids is not None:
            return self.ids
        if len(self) == 0:
            return np.empty(0, dtype=np.int64)
        found = np.zeros(len(self), dtype=np.int64)
        for part in (self.inputs, self.targets):
            # Bytes before NumPy sees them: it does not know every type of PyTorch.
            rows = part.detach().cpu().reshape(len(self), -1).contiguous().view(torch.uint8).numpy()
            weights = np.random.default_rng(rows.shape[1]).integers(-(2**62), 2**62, rows.shape[1]) * 2 + 1
            found = found * 1_000_003 + np.concatenate([block.astype(np.int64) @ weights for block in _blocks(rows)])
        return found

    def batch(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Normalised inputs and targets of some rows."""
        return self.normalised(self.inputs[rows]), self.targets[rows]

    def batches(self, size: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples from row ``start`` on, in order, ``size`` at a time."""
        for row in range(start, len(self), size):
            yield self.batch(slice(row, row + size))

    def subset(self, indices: NDArray[np.int64] | Tensor) -> "Samples":
        """The samples at ``indices``, in that order."""
        rows = torch.as_tensor(indices, device=self.device)
        ids = None if self.ids is None else self.ids[rows.cpu().numpy()]
        return replace(self, inputs=self.inputs[rows], targets=self.targets[rows], ids=ids)

    def joined(self, other: "Samples") -> "Samples":
        """These samples followed by others that are normalised alike."""
        return replace(
            self,
            inputs=torch.cat([self.inputs, other.inputs]),
            targets=torch.cat([self.targets, other.targets]),
            ids=None if self.ids is None or other.ids is None else np.concatenate([self.ids, other.ids]),
        )

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples once, in random order, ``size`` at a time."""
        for rows in torch.randperm(len(self), generator=generator).to(self.device).split(size):
            yield self.batch(rows)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Samples":
        """The same samples on another device, or giving batches of another floating-point type."""
        target = self.device if device is None else device
        return replace(
            self,
            inputs=self.inputs.to(target),
            targets=self.targets.to(target),
            dtype=self.dtype if dtype is None else dtype,
        )


def _kind(ids: object) -> str:
    """What was given as ids, in words."""
    if isinstance(ids, np.ndarray):
        return f"an array of {ids.dtype} of shape {ids.shape}"
    return f"a {type(ids).__name__}"


def _blocks(rows: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Rows in blocks of a few megabytes: each is widened to eight times its size."""
    size = max(1, 2**22 // max(1, rows.shape[1]))
    for start in range(0, max(1, len(rows)), size):
        yield rows[start : start + size]


@dataclass(frozen=True)
class Dataset:
    """A dataset's training and test samples."""

    name: str
    train: Samples
    test: Samples
    classes: int = 10

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image: (channels, height, width)."""
        return tuple(self.train.inputs.shape[1:])

    def first(self, size: int) -> "Dataset":
        """The first images of the training set and of the test set, ``size`` of each or as many as there are."""
        train, test = (part.subset(torch.arange(min(size, len(part)))) for part in (self.train, self.test))
        return replace(self, train=train, test=test)


@dataclass(frozen=True)
class Split:
    """Which training rows are forgotten, retained, held out; and which test rows are used.

    Attributes:
        forget: D_u, in ascending order like all parts.
        retain: D_r.
        test: Test rows.
        size: Number of training rows.
        validation: Training rows held out for tuning.

    Raises:
        CduError: The first, second and last part overlap, or do not cover the training set.
    """

    forget: NDArray[np.int64]
    retain: NDArray[np.int64]
    test: NDArray[np.int64]
    size: int
    validation: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        """Refuse parts that are not disjoint and complete."""
        parts = np.concatenate([self.forget, self.retain, self.validation])
        if not np.array_equal(np.sort(parts), np.arange(self.size)):
            raise CduError(
                f"the split is not disjoint and complete: its {len(parts)} rows hold {len(np.unique(parts))} distinct "
                f"ones of {self.size}; every training row must be in exactly one part"
            )

    @property
    def train(self) -> NDArray[np.int64]:
        """The rows the original model is trained on: retain and forget, in ascending order."""
        return np.sort(np.concatenate([self.retain, self.forget]))

    @property
    def hash(self) -> str:
        """The first 12 hexadecimal digits of SHA-256 over the four parts."""
        parts = (self.forget, self.retain, self.validation, self.test)
        content = b"|".join(np.ascontiguousarray(part, dtype="<i8").tobytes() for part in parts)
        return hashlib.sha256(content).hexdigest()[:12]


def make_split(
    labels: NDArray[np.int64], test_size: int, forget: ForgetSettings, seed: int, validation_size: int = 0
) -> Split:
    """Cut the training rows into forget, retain and validation.

    Args:
        labels: Class labels of the training rows, shape (n,).
        test_size: Number of test rows, all of which are used.
        forget: Which rows to forget.
        seed: Seed of the draw.
        validation_size: Rows held out for tuning; results are made with none.

    Raises:
        CduError: More rows wanted than there are, an index out of range or given twice, an absent class.
    """
    count = len(labels)
    rng = np.random.default_rng(seed_for(seed, "split"))
    shuffled = rng.permutation(count)
    validation, rest = shuffled[:validation_size], shuffled[validation_size:]
    if forget.kind == "indices":
        chosen = np.asarray(forget.indices, dtype=np.int64)
        wrong = chosen[(chosen < 0) | (chosen >= count)]
        if len(wrong):
            raise CduError(f"forget index {wrong[0]} is out of range: the training set has rows 0 to {count - 1}")
        if len(np.unique(chosen)) < len(chosen):
            raise CduError("a forget index is listed twice; list every index once")
        held_out = np.intersect1d(chosen, validation)
        if len(held_out):
            raise CduError(f"forget index {held_out[0]} is held out for validation; choose a training row")
    else:
        candidates = rest if forget.kind == "random" else rest[labels[rest] == forget.label]
        size = len(candidates) if forget.size is None else forget.size
        if len(candidates) == 0:
            raise CduError(f"no training row has class {forget.label}; classes are {sorted(set(labels.tolist()))}")
        if size > len(candidates):
            raise CduError(f"a forget set of {size} rows was asked for, but only {len(candidates)} qualify")
        chosen = candidates[:size]
    retain = np.setdiff1d(rest, chosen)
    if len(retain) == 0:
        raise CduError("the forget set is the whole training set: nothing is left to retain; forget fewer rows")
    return Split(np.sort(chosen), retain, np.arange(test_size), count, np.sort(validation))


def data_root() -> Path:
    """Folder of the downloaded datasets: ``CDU_DATA``, else ``~/.cache/cdu``."""
    return Path(os.environ.get("CDU_DATA") or Path.home() / ".cache" / "cdu").expanduser()


def load(name: str, device: torch.device | str = "cpu", root: Path | None = None) -> Dataset:
    """Load a dataset, its files checked against their published checksums.

    Args:
        name: One of :data:`DATASETS`.
        device: Where the uint8 images go.
        root: Folder of the files; :func:`data_root` when not given.

    Raises:
        CduError: Unknown name, or a file that is absent, truncated, altered or unreadable.
    """
    if name == "digits":
        return _digits(device)
    _require_known(name)
    folder = data_root() if root is None else root
    for file in _files(name, folder):
        file.require(name)
    parts = [_torchvision(name, folder, part) for part in ("train", "test")]
    shift, spread = ((0.1307,), (0.3081,)) if name == "mnist" else ((0.5,) * 3, (0.5,) * 3)
    train, test = (Samples(images, labels, shift, spread).to(device) for images, labels in map(_tensors, parts))
    return Dataset(name, train, test)


def _digits(device: torch.device | str) -> Dataset:
    """The 1,797 scanned 8×8 digits that scikit-learn carries, cut once and for all into 1,497 and 300."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    samples = Samples(images, labels, shift=(0.3053,), spread=(0.3760,), maximum=16.0).to(device)
    return Dataset("digits", samples.subset(order[:DIGITS_TRAIN]), samples.subset(order[DIGITS_TRAIN:]))


def _torchvision(name: str, root: Path, part: str) -> Any:
    # Here and below where it is needed: the import takes seconds, and digits does without.
    from torchvision import datasets

    if name == "svhn":
        return datasets.SVHN(str(root), split=part)
    kind = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
    return kind(str(root), train=part == "train")


def _tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    """Images as uint8 (n, C, H, W) and labels as int64 of one torchvision dataset."""
    images = torch.as_tensor(dataset.data)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    labels = dataset.labels if hasattr(dataset, "labels") else dataset.targets
    return images.contiguous(), torch.as_tensor(labels, dtype=torch.int64)


def _require_known(name: str) -> None:
    if name not in DATASETS:
        raise CduError(f"unknown dataset '{name}': known are {', '.join(DATASETS)}")


@dataclass(frozen=True)
class DataFile:
    """A file that a dataset needs, and the checksum it must have."""

    path: Path
    md5: str

    def found(self) -> str | None:
        """MD5 of the file, or None when it is absent.

        Raises:
            CduError: The file is there but may not be read.
        """
        try:
            with self.path.open("rb") as stream:
                return hashlib.file_digest(stream, "md5").hexdigest()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CduError(
                f"{self.path} cannot be read ({error.strerror}); make it readable, or set CDU_DATA to another folder"
            ) from error

    def state(self) -> str:
        """``present``, ``absent`` or ``damaged``, with the checksums when they differ."""
        found = self.found()
        if found is None:
            return "absent"
        return "present" if found == self.md5 else f"damaged: MD5 {found}, expected {self.md5}"

    def require(self, dataset: str) -> None:
        """Raise :class:`CduError` unless the file is there and whole."""
        found = self.found()
        if found is None:
            raise CduError(
                f"{self.path} is absent (expected MD5 {self.md5}): run 'cdu data fetch {dataset}', "
                "or set CDU_DATA to a folder that torchvision's dataset classes can read"
            )
        if found != self.md5:
            raise CduError(
                f"{self.path} is damaged: its MD5 is {found}, expected {self.md5}, at {self.path.stat().st_size:,} "
                f"bytes; run 'cdu data fetch {dataset}' to replace it"
            )


def _files(name: str, root: Path) -> list[DataFile]:
    """The files that torchvision's class reads, with their checksums."""
    from torchvision import datasets

    if name == "mnist":
        return [DataFile(root / "MNIST" / "raw" / file, md5) for file, md5 in MNIST_RAW_MD5.items()]
    if name == "cifar10":
        folder = root / datasets.CIFAR10.base_folder
        listed = [*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list]
        meta = datasets.CIFAR10.meta
        return [DataFile(folder / file, md5) for file, md5 in [*listed, (meta["filename"], meta["md5"])]]
    return [
        DataFile(root / datasets.SVHN.split_list[part][1], datasets.SVHN.split_list[part][2])
        for part in ("train", "test")
    ]


def _downloads(name: str, root: Path) -> list[DataFile]:
    """The files that torchvision downloads, with their checksums."""
    from torchvision import datasets

    if name == "mnist":
        return [DataFile(root / "MNIST" / "raw" / file, md5) for file, md5 in datasets.MNIST.resources]
    if name == "cifar10":
        return [DataFile(root / datasets.CIFAR10.filename, datasets.CIFAR10.tgz_md5)]
    return _files(name, root)


def at_hand(name: str, root: Path | None = None) -> bool:
    """Whether all files of a dataset are there; their contents are not looked at."""
    _require_known(name)
    folder = data_root() if root is None else root
    return name == "digits" or all(file.path.is_file() for file in _files(name, folder))


def status(root: Path | None = None) -> list[tuple[str, str, str]]:
    """State of every dataset's files: rows of (dataset, file, state)."""
    folder = data_root() if root is None else root
    rows = [("digits", "inside scikit-learn", "present")]
    for name in DATASETS[1:]:
        rows += [(name, str(file.path), file.state()) for file in _files(name, folder)]
    return rows


def fetch(name: str, root: Path | None = None) -> Path:
    """Download a dataset with torchvision, or complete what is there; whole files are not fetched again.

    Everything is downloaded into a temporary folder beside the target, checked, then moved into place, so that a
    download that breaks leaves nothing half-written.

    Returns:
        The folder that holds the dataset's files.

    Raises:
        CduError: No network, no space, no permission, or a file with the wrong checksum.
    """
    _require_known(name)
    folder = data_root() if root is None else root
    if name == "digits":
        return folder
    wanted = _files(name, folder)
    if all(file.found() == file.md5 for file in wanted):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if name == "mnist":
            _unpack_mnist(folder)
        if any(file.found() != file.md5 for file in wanted):
            _download(name, folder)
    except URLError as error:
        raise CduError(
            f"{name} could not be downloaded: no server was reached ({error.reason}); connect to the network, or "
            f"put the files under {folder} as torchvision lays them out; nothing was changed there"
        ) from error
    except OSError as error:
        reasons = {
            errno.ENOSPC: f"no space is left under {folder}; free some, or set CDU_DATA to another disk",
            errno.EACCES: f"{folder} may not be written; change its permissions, or set CDU_DATA to another folder",
            errno.EROFS: f"{folder} is read-only; set CDU_DATA to another folder",
        }
        reason = reasons.get(error.errno or 0, f"{error}; check the network and {folder}")
        raise CduError(f"{name} could not be downloaded: {reason}; nothing was left half-written") from error
    except RuntimeError as error:  # torchvision's word for a failed download or a wrong checksum
        said = " ".join(str(error).split())
        raise CduError(
            f"{name} could not be downloaded: {said}; connect to the network and try again, or put the files under "
            f"{folder} as torchvision lays them out; nothing was changed there"
        ) from error
    for file in wanted:
        file.require(name)
    return folder


def _download(name: str, folder: Path) -> None:
    """Let torchvision download into a temporary folder, then move the checked files into place."""
    from torchvision import datasets

    with tempfile.TemporaryDirectory(prefix=".cdu-fetch-", dir=folder) as temporary:
        partial = Path(temporary)
        try:
            if name == "svhn":
                for part in ("train", "test"):
                    datasets.SVHN(temporary, split=part, download=True)
            else:
                kind = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
                kind(temporary, download=True)
        except RuntimeError:
            for arrived in _downloads(name, partial):
                found = arrived.found()
                if found not in (None, arrived.md5):
                    raise CduError(
                        f"{arrived.path.name} arrived damaged: its MD5 is {found}, expected {arrived.md5}; try again "
                        "later; nothing was left half-written"
                    ) from None
            raise
        for source, target in zip(_files(name, partial), _files(name, folder), strict=True):
            source.require(name)
            target.path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source.path, target.path)


def _unpack_mnist(folder: Path) -> None:
    """Unpack MNIST's compressed files where they are present and whole, which needs no network."""
    from torchvision import datasets

    packed_md5 = dict(datasets.MNIST.resources)
    for file in _files("mnist", folder):
        packed = DataFile(file.path.with_name(file.path.name + ".gz"), packed_md5[file.path.name + ".gz"])
        if file.found() == file.md5 or packed.found() != packed.md5:
            continue
        with gzip.open(packed.path) as source:
            content = source.read()
        storage.write(file.path, partial(_write_bytes, content))


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)
