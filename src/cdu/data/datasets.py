"""The datasets: digits, MNIST, CIFAR-10 and SVHN."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cdu.data.download import data_root, expect_known, needed_files
from cdu.data.samples import Dataset, Samples

#: Number of training images of digits; the remaining 300 of its 1,797 images are its test set.
DIGITS_TRAIN = 1497


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
    expect_known(name)
    folder = data_root() if root is None else root
    for file in needed_files(name, folder):
        file.require(name)
    parts = [_torchvision(name, folder, part) for part in ("train", "test")]
    mean, std = ((0.1307,), (0.3081,)) if name == "mnist" else ((0.5,) * 3, (0.5,) * 3)
    train, test = (Samples(images, labels, mean, std).to(device) for images, labels in map(_tensors, parts))
    return Dataset(name, train, test)


def _digits(device: torch.device | str) -> Dataset:
    """The 1,797 scanned 8×8 digits that scikit-learn carries, cut once and for all into 1,497 and 300."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    samples = Samples(images, labels, mean=(0.3053,), std=(0.3760,), maximum=16.0).to(device)
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
