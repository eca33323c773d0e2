"""The datasets by name. One registration makes a dataset known everywhere: no list elsewhere names it.

A package beside this one registers more: it calls :func:`register` in a module that an entry point of the group
``cdu.datasets`` names. Nothing here imports PyTorch: the book needs a dataset's title and not its images.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdu.checks import expect
from cdu.errors import CduError

#: The group of entry points that name the modules of other packages.
ENTRY_POINTS = "cdu.datasets"

#: Images as uint8 of shape (n, channels, height, width), and their labels as integers of shape (n,).
Part = tuple[NDArray[np.uint8], NDArray[np.integer]]


@dataclass(frozen=True)
class DataFile:
    """A file that a dataset is read from.

    Attributes:
        path: Where it lies below the folder of the datasets (:func:`cdu.data.download.data_root`).
        md5: The MD5 that its content must have.
    """

    path: str
    md5: str


@dataclass(frozen=True)
class Download(DataFile):
    """A file that is downloaded: one that is read itself, or one that the files to be read are packed in.

    Attributes:
        urls: Where it is fetched from; the second is tried where the first fails, and so on.
        packed: The files in it, which lie in its folder or below once they are unpacked: those of a ``.tar.gz`` or
            ``.zip``, or the one of a ``.gz``. Empty where it is read itself.
    """

    urls: tuple[str, ...]
    packed: tuple[DataFile, ...] = ()

    @property
    def files(self) -> tuple[DataFile, ...]:
        """The files to be read."""
        return self.packed or (self,)


@dataclass(frozen=True)
class DatasetSpec:
    """Everything about a dataset except its images.

    Attributes:
        name: What experiments and the command line call it: letters, digits, ``-`` and ``_``.
        title: What the book calls it.
        shape: Shape of an image: (channels, height, width).
        classes: Number of classes; labels are 0 to ``classes`` - 1.
        mean: Mean of the pixels in [0, 1] that images are normalised with, channel by channel.
        std: Their standard deviation, likewise.
        read: Reads the training and the test set from the folder of the datasets.
        downloads: The files that are fetched; none where the images come with a package.
        maximum: The largest pixel value.
        experiment: Name or file of the experiment that a notebook belongs to when none is given; may be empty.
        in_the_paper: Whether the paper has results on it.
        not_run: For a dataset of the paper, why the book may have no results on it.
        holds: What it holds, in words.
        source: Where it comes from, in words; the book's citations may be used.

    Raises:
        CduError: The name has other characters, or ``mean`` or ``std`` does not have one value per channel.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    read: Callable[[Path], tuple[Part, Part]]
    downloads: tuple[Download, ...] = ()
    maximum: float = 255.0
    experiment: str = ""
    in_the_paper: bool = False
    not_run: str = "not run yet"
    holds: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse what would fail only when the dataset is loaded."""
        expect(
            re.fullmatch(r"[A-Za-z0-9_-]+", self.name) is not None,
            f"'{self.name}' is no name of a dataset; use letters, digits, - and _, since folders are named after it",
        )
        expect(
            len(self.mean) == len(self.std) == self.shape[0],
            f"dataset '{self.name}' has {self.shape[0]} channels, mean = {self.mean} and std = {self.std}; give one "
            "value for each channel",
        )

    @property
    def files(self) -> tuple[DataFile, ...]:
        """The files that the dataset is read from."""
        return tuple(file for download in self.downloads for file in download.files)


#: What is registered so far; :func:`known_datasets` also asks the other packages.
_registered: dict[str, DatasetSpec] = {}


def register(dataset: DatasetSpec) -> DatasetSpec:
    """Register a dataset under its name.

    Args:
        dataset: The dataset.

    Returns:
        The dataset, unchanged.

    Raises:
        CduError: A dataset of that name is registered already.
    """
    expect(
        dataset.name not in _registered,
        f"a dataset '{dataset.name}' is registered already; give the new one another name",
    )
    _registered[dataset.name] = dataset
    return dataset


def known_datasets() -> dict[str, DatasetSpec]:
    """All datasets by name: those of this package, then those of other packages.

    Raises:
        CduError: Another package's module cannot be imported.
    """
    _import_other_packages()
    return dict(_registered)


def dataset_named(name: object) -> DatasetSpec:
    """The dataset of that name.

    Raises:
        CduError: There is none; the known ones are listed.
    """
    known = known_datasets()
    if not isinstance(name, str) or name not in known:
        raise CduError(f"unknown dataset {name!r}: known are {', '.join(known)}")
    return known[name]


@cache
def _import_other_packages() -> None:
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            raise CduError(
                f"the datasets of '{point.value}' cannot be registered ({type(error).__name__}: {error}); mend or "
                "uninstall that package"
            ) from error
