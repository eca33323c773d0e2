"""Features of samples that are computed once and kept in a file, which is read as it is needed.

A file of features is an array of NumPy's, float32, with one row a sample. Beside it lies the SHA-256 of its bytes.
"""

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from cdu.checks import expect
from cdu.data.samples import Samples, fingerprint
from cdu.errors import CduError, DamagedFileError
from cdu.progress import Progress
from cdu.settings import digest
from cdu.storage import write, write_text

#: Images whose features are computed at once on a CPU, whose cache they are to fit, and on anything else.
BATCH, LARGE_BATCH = 50, 1000
#: Seconds before a bar is shown.
BAR_DELAY = 2


def kept_features(
    samples: Samples, compute: Callable[[Tensor], Tensor], description: object, folder: Path, label: str = "features"
) -> Samples:
    """The samples with features in place of images, from a file or computed and kept there.

    The file is named by a digest of the samples and of the description, so that other samples or other features have
    another file.

    Args:
        samples: Images.
        compute: Takes some rows of ``samples.inputs`` and gives their features, shape (rows, d). The features of an
            image may depend on that image alone, so that batches do not matter.
        description: Plain values that tell these features from all others.
        folder: Where the file lies; it is made where it is absent.
        label: What the file and the bar are called.

    Returns:
        Inputs of shape (n, d), float32, mapped from the file into memory, on the CPU; batches in float64.

    Raises:
        CduError: There are no samples; features are not finite, or are no rows; or the file cannot be written.
        DamagedFileError: The file's bytes are not those that were written.
    """
    expect(len(samples) > 0, "there are no samples whose features could be computed; give at least one")
    path = folder / f"{label.replace(' ', '-')}-{digest([fingerprint(samples), description])}.npy"
    if not _complete(path):
        _compute(samples, compute, path, label)
    rows, targets = _mapped(path), samples.targets.cpu()
    return Samples(rows, targets, dtype=torch.float64, ids=samples.ids)


def _complete(path: Path) -> bool:
    """Whether a file and its checksum are there: the checksum comes last, and a file without one is written again."""
    return path.exists() and _checksum_of(path).exists()


def _compute(samples: Samples, compute: Callable[[Tensor], Tensor], path: Path, label: str) -> None:
    """Write all features, and the checksum of their bytes after them; of several processes one does it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not _complete(path):
                # What a killed process left may be large.
                for left in path.parent.glob(f".{path.name}.*.tmp"):
                    left.unlink()
                _checksum_of(path).unlink(missing_ok=True)
                write(path, lambda temporary: _fill(temporary, samples, compute, label))
                write_text(_checksum_of(path), _checksum(path))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "make room there, or choose another folder" if full else "choose a folder that can be written"
        raise CduError(f"{path} cannot be written ({error.strerror}); {remedy}") from error


def _fill(path: Path, samples: Samples, compute: Callable[[Tensor], Tensor], label: str) -> None:
    """Write the features batch by batch after the header of an array."""
    with (
        path.open("wb") as stream,
        torch.inference_mode(),
        Progress(total=len(samples), desc=label, unit="image", delay=BAR_DELAY, leave=False) as progress,
    ):
        shape: tuple[int, ...] = ()
        size = BATCH if samples.device.type == "cpu" else LARGE_BATCH
        for start, images in zip(range(0, len(samples), size), samples.inputs.split(size), strict=True):
            rows = compute(images).to("cpu", torch.float32).contiguous()
            shape = shape or (len(samples), *rows.shape[1:])
            expect(
                rows.shape == (len(images), *shape[1:]) and len(shape) == 2,
                f"features of {len(images)} images are of shape {tuple(rows.shape)}; they are to be rows of one length",
            )
            bad = (~rows.isfinite().all(dim=1)).nonzero()
            expect(len(bad) == 0, f"features of image {start + int(bad[0]) if len(bad) else 0} are not finite numbers")
            if start == 0:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
            stream.write(rows.numpy().astype("<f4", copy=False).data)
            progress.update(len(images))


def _mapped(path: Path) -> Tensor:
    """The rows of a file, mapped into memory, after its checksum is compared."""
    try:
        expected, found = _checksum_of(path).read_text(encoding="utf-8").strip(), _checksum(path)
        # Copy on write: a tensor can be written, and the file stays as it is.
        rows = np.load(path, mmap_mode="c") if found == expected else None
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"{path} cannot be read ({error}); delete it to compute the features again") from error
    if rows is None:
        raise DamagedFileError(
            f"{path} has the SHA-256 {found[:12]}…, and {expected[:12]}… when it was written: its bytes have changed; "
            "delete it to compute the features again"
        )
    return torch.from_numpy(rows)


def _checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checksum_of(path: Path) -> Path:
    """The file with a file's checksum."""
    return path.with_suffix(".sha256")
