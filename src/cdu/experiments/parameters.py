"""The parameters of a notebook, as papermill and its first cell set them."""

import ast
from collections.abc import Mapping
from typing import Any

from cdu.errors import CduError

PARAMETERS = ("dataset", "seed", "experiment", "output", "device")


def parameters(namespace: Mapping[str, Any], extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """The parameters of a notebook by name.

    Args:
        namespace: The notebook's ``globals()``.
        extra: Parameters that only this notebook takes.

    Raises:
        CduError: A parameter that the notebook does not take, or none for the dataset or the seed.
    """
    known = (*PARAMETERS, *extra)
    given = _given(namespace, known)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise CduError(f"unknown parameter '{unknown[0]}': this notebook takes {', '.join(known)}")
    missing = sorted({"dataset", "seed"} - set(given))
    if missing:
        raise CduError(f"the parameter '{missing[0]}' is missing; restore the notebook's parameters cell")
    return given


def _given(namespace: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """The parameters and their values: what the cells before this call set, papermill's injected one among them.

    Names that are there for another reason, such as a startup file of IPython's, are none. A plain script keeps no list
    of its cells; there only ``known`` names are looked at.
    """
    names = set(known)
    for cell in namespace.get("In", []):
        names |= _assigned(cell)
        if "begin(" in cell:
            break
    return {name: namespace[name] for name in names if name in namespace}


def _assigned(cell: str) -> set[str]:
    """Names that a cell sets by plain assignments; none where it is no plain Python."""
    try:
        statements = ast.parse(cell).body
    except SyntaxError:
        return set()
    targets = [target for one in statements if isinstance(one, ast.Assign) for target in one.targets]
    targets += [one.target for one in statements if isinstance(one, ast.AnnAssign)]
    return {target.id for target in targets if isinstance(target, ast.Name) and target.id != "run"}
