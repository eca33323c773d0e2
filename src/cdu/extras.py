"""The core, and the extra ``report``: the packages that only sections, the report, batches and data sets need."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from cdu.errors import CduError

#: How the extra is installed.
INSTALL = "pip install 'cdu[report]'"


class MissingExtraError(CduError, ImportError):
    """Something needs a package of the extra ``report``, and only the core is installed.

    Args:
        what: What needs it, as the subject of a sentence.
        module: The module that was not found.
    """

    def __init__(self, what: str, module: str | None) -> None:
        super().__init__(f"{what} needs the packages of the extra 'report': {INSTALL} (there is no module '{module}')")


@contextmanager
def needs_report(what: str) -> Iterator[None]:
    """Turn a failing import of a package of the extra ``report`` into one sentence.

    Only ``import`` statements of this package are meant. An import that fails in somebody else's code, or an import of
    a module of this package, is an error of another kind and is not changed.

    Args:
        what: What needs the extra, as the subject of a sentence.

    Raises:
        MissingExtraError: The package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or _package(error.name) == "cdu" or not _imported_here(error):
            raise
        raise MissingExtraError(what, error.name) from error


def require_report(what: str, module: str) -> None:
    """Refuse to go on where a module of the extra ``report`` that another process would import is absent.

    Raises:
        MissingExtraError: The package is not installed.
    """
    if find_spec(module) is None:
        raise MissingExtraError(what, module)


def _imported_here(error: ModuleNotFoundError) -> bool:
    """Whether the ``import`` statement that failed is in this package; Python leaves its own frames out."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return _package(str(frame.f_globals.get("__name__"))) == "cdu"


def _package(module: str) -> str:
    return module.split(".")[0]
