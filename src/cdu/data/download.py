"""Files of the datasets: where they lie, their checksums, and downloads."""

import errno
import gzip
import hashlib
import os
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.error import URLError

from cdu import storage
from cdu.errors import CduError

DATASETS = ("digits", "mnist", "cifar10", "svhn")

#: MD5 of MNIST's uncompressed files; torchvision publishes those of the compressed ones only.
MNIST_RAW_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def expect_known(name: str) -> None:
    """Refuse a name that is no dataset's."""
    if name not in DATASETS:
        raise CduError(f"unknown dataset '{name}': known are {', '.join(DATASETS)}")


def data_root() -> Path:
    """Folder of the downloaded datasets: ``CDU_DATA``, else ``~/.cache/cdu``."""
    return Path(os.environ.get("CDU_DATA") or Path.home() / ".cache" / "cdu").expanduser()


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


def needed_files(name: str, root: Path) -> list[DataFile]:
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
    return needed_files(name, root)


def at_hand(name: str, root: Path | None = None) -> bool:
    """Whether all files of a dataset are there; their contents are not looked at."""
    expect_known(name)
    folder = data_root() if root is None else root
    return name == "digits" or all(file.path.is_file() for file in needed_files(name, folder))


def status(root: Path | None = None) -> list[tuple[str, str, str]]:
    """State of every dataset's files: rows of (dataset, file, state)."""
    folder = data_root() if root is None else root
    rows = [("digits", "inside scikit-learn", "present")]
    for name in DATASETS[1:]:
        rows += [(name, str(file.path), file.state()) for file in needed_files(name, folder)]
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
    expect_known(name)
    folder = data_root() if root is None else root
    if name == "digits":
        return folder
    wanted = needed_files(name, folder)
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
        for source, target in zip(needed_files(name, partial), needed_files(name, folder), strict=True):
            source.require(name)
            target.path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source.path, target.path)


def _unpack_mnist(folder: Path) -> None:
    """Unpack MNIST's compressed files where they are present and whole, which needs no network."""
    from torchvision import datasets

    packed_md5 = dict(datasets.MNIST.resources)
    for file in needed_files("mnist", folder):
        packed = DataFile(file.path.with_name(file.path.name + ".gz"), packed_md5[file.path.name + ".gz"])
        if file.found() == file.md5 or packed.found() != packed.md5:
            continue
        with gzip.open(packed.path) as source:
            content = source.read()
        storage.write(file.path, partial(_write_bytes, content))


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)
