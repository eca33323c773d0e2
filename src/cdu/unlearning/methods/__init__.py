"""The unlearning methods, one for each module. A method here is found by being here."""

from importlib import import_module
from pkgutil import iter_modules


def import_all() -> None:
    """Import every module of this folder, so that its methods register themselves."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
