"""The API reference: one page for each room of the package, found by walking it. No module is imported for it."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

#: The page of the modules that lie in no room.
GROUND = "ground"


def api_pages() -> dict[str, str]:
    """Pages in Markdown by name: those of the rooms, and the one of the modules beside them.

    Every module stands under its dotted name, with its docstring and all public members.
    """
    rooms = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
    beside = [path for path in sorted(PACKAGE.glob("*.py")) if not path.name.startswith("__")]
    pages = {GROUND: _page("The ground: what every room stands on, and linear models", beside)}
    for room in rooms:
        first = _docstring(room / "__init__.py").splitlines()[0].rstrip(".")
        pages[room.name] = _page(first, _modules(room))
    return pages


def _modules(folder: Path) -> Iterator[Path]:
    """The modules of a folder, then those of its folders."""
    yield from (path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py")
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield from _modules(inner)


def _page(title: str, modules: Iterator[Path] | list[Path]) -> str:
    parts = [f"# {title}"]
    for path in modules:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        parts.append(f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```")
    return "\n\n".join(parts) + "\n"


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.parent.name
