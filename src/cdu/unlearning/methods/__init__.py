"""The unlearning methods, and what several of them share. A method is found by its module being here."""

from importlib import import_module
from pkgutil import iter_modules


def import_all() -> None:
    """Import every module of this folder, so that its methods register themselves."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
