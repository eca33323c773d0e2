"""Files of the datasets: where they lie, whether they are whole, and downloads by pooch."""

import errno
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from cdu.data.registry import DataFile, DatasetSpec, Download, dataset_named, known_datasets
from cdu.errors import CduError
from cdu.extras import needs_report

#: Failures of this machine and not of a server, and what to do about them.
LOCAL_FAILURES = {
    errno.ENOSPC: "no space is left under {folder}; free some, or set CDU_DATA to another disk",
    errno.EACCES: "{folder} may not be written; change its permissions, or set CDU_DATA to another folder",
    errno.EROFS: "{folder} is read-only; set CDU_DATA to another folder",
}


def data_root() -> Path:
    """Folder of the downloaded datasets: ``CDU_DATA``, else ``~/.cache/cdu``."""
    return Path(os.environ.get("CDU_DATA") or Path.home() / ".cache" / "cdu").expanduser()


# --- what is there -------------------------------------------------------------------------------------------------


def at_hand(name: str, root: Path | None = None) -> bool:
    """Whether all files of a dataset are there; their contents are not looked at."""
    folder = data_root() if root is None else root
    return all((folder / file.path).is_file() for file in dataset_named(name).files)


def status(root: Path | None = None) -> list[tuple[str, str, str]]:
    """State of every dataset's files: rows of (dataset, file, state).

    A file is ``present``, ``absent``, or ``damaged`` with the checksums that differ.
    """
    folder = data_root() if root is None else root
    rows = []
    for name, dataset in known_datasets().items():
        rows += [(name, str(folder / file.path), _state(file, folder)) for file in dataset.files]
        if not dataset.files:
            rows.append((name, "needs no download", "present"))
    return rows


def require_files(dataset: DatasetSpec, folder: Path) -> None:
    """Raise :class:`CduError` unless all files of a dataset are there and whole."""
    for file in dataset.files:
        path, found = folder / file.path, _md5(folder / file.path)
        if found is None:
            raise CduError(
                f"{path} is absent (expected MD5 {file.md5}): run 'cdu data fetch {dataset.name}', or set CDU_DATA to "
                "a folder that holds it"
            )
        if found != file.md5:
            raise CduError(
                f"{path} is damaged: its MD5 is {found}, expected {file.md5}, at {path.stat().st_size:,} bytes; run "
                f"'cdu data fetch {dataset.name}' to replace it"
            )


def _state(file: DataFile, folder: Path) -> str:
    found = _md5(folder / file.path)
    if found is None:
        return "absent"
    return "present" if found == file.md5 else f"damaged: MD5 {found}, expected {file.md5}"


def _is_whole(file: DataFile, folder: Path) -> bool:
    return _md5(folder / file.path) == file.md5


def _md5(path: Path) -> str | None:
    """MD5 of a file, or None when it is absent.

    Raises:
        CduError: The file is there but may not be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CduError(
            f"{path} cannot be read ({error.strerror}); make it readable, or set CDU_DATA to another folder"
        ) from error


# --- fetching ------------------------------------------------------------------------------------------------------


def fetch(name: str, root: Path | None = None) -> Path:
    """Download a dataset, or complete what is there; whole files are not fetched again.

    Everything arrives and is unpacked in a temporary folder beside the target, is checked, and then moved into place,
    so that a download that breaks leaves nothing half-written. A packed file that is there already is unpacked without
    the network.

    Returns:
        The folder that holds the dataset's files.

    Raises:
        CduError: No network, no space, no permission, or a file with the wrong checksum.
    """
    dataset = dataset_named(name)
    folder = data_root() if root is None else root
    wanted = [one for one in dataset.downloads if not all(_is_whole(file, folder) for file in one.files)]
    if not wanted:
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cdu-fetch-", dir=folder) as temporary:
            for download in wanted:
                _bring(download, folder, Path(temporary))
            for file in (file for download in wanted for file in download.files):
                (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(temporary) / file.path, folder / file.path)
    except CduError as error:
        raise CduError(f"{name} could not be downloaded: {error}; nothing was changed under {folder}") from error
    except OSError as error:
        reason = LOCAL_FAILURES.get(error.errno or 0, f"{error}; check {{folder}}").format(folder=folder)
        raise CduError(f"{name} could not be downloaded: {reason}; nothing was left half-written") from error
    return folder


def _bring(download: Download, folder: Path, temporary: Path) -> None:
    """Put a download and what is packed in it into a temporary folder, checked."""
    path = temporary / download.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if (folder / download.path).is_file():
        # pooch unpacks the file behind the link where it is whole; where it is not, a new one takes the link's place.
        path.symlink_to((folder / download.path).resolve())
    _retrieve(download, path)
    for file in download.packed:
        found = _md5(temporary / file.path)
        if found != file.md5:
            raise CduError(
                f"{path.name} holds a {file.path} of MD5 {found}, expected {file.md5}; correct what is registered"
            )


def _retrieve(download: Download, path: Path) -> None:
    """Download and unpack by pooch, from the first server that sends what is expected."""
    with needs_report("fetching a dataset"):
        import pooch

    # Print the progress alone, and one sentence where the download fails.
    pooch.get_logger().setLevel("WARNING")
    failures = []
    for url in download.urls:
        try:
            pooch.retrieve(url, f"md5:{download.md5}", path.name, path.parent, _unpacking(download), progressbar=True)
            return
        except (OSError, ValueError) as error:  # pooch's words for a server's failure and for a wrong checksum
            if getattr(error, "errno", None) in LOCAL_FAILURES:
                raise
            failures.append(f"{url}: {_in_short(error)}")
    raise CduError(
        f"no server sent {path.name} whole ({'; '.join(failures) or 'none is registered'}); connect to the network and "
        "try again, or put the files where 'cdu data status' names them"
    )


def _in_short(error: Exception) -> str:
    """An error's message on one line: its first sentence, or the reason why there was no connection."""
    cause = getattr(error.args[0], "reason", None) if error.args else None
    said = str(error) if cause is None else str(cause).split(": ")[-1]
    return " ".join(said.split()).split(". ")[0]


def _unpacking(download: Download) -> Any:
    """How pooch unpacks a downloaded file; None for a file that is read as it is."""
    import pooch

    folder = Path(download.path).parent
    members = [str(Path(file.path).relative_to(folder)) for file in download.packed]
    if not members:
        return None
    if download.path.endswith(".zip"):
        return pooch.Unzip(members, extract_dir=".")
    if ".tar" in Path(download.path).suffixes:
        return pooch.Untar(members, extract_dir=".")
    return pooch.Decompress(name=members[0])
