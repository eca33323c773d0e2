"""Where the project lies."""

from pathlib import Path


def repository() -> Path:
    """The root of the project: the nearest folder above the working directory that holds ``experiments``.

    Falls back to the checkout that the package was installed from.
    """
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "experiments").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return Path(__file__).resolve().parents[3]
