"""Writes all generated pages and figures of the book, from records alone. Imports no torch."""

import hashlib
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from cdu.errors import CduError
from cdu.experiments import reproduced
from cdu.experiments.repository import repository
from cdu.report import chapters
from cdu.report.advice import advice
from cdu.report.api_pages import api_pages
from cdu.report.claims_page import claims_detail, claims_table, family_in_words, shadowed_in_words
from cdu.report.collection import Results, collect
from cdu.report.front_page import audited_table, compute_table, starts_table, worth_table
from cdu.report.provenance_page import datasets_table, platforms_table, provenance_tables
from cdu.report.run_pages import run_pages
from cdu.report.section_results import section_fragment
from cdu.report.setups_page import absent_setups, setups_table
from cdu.report.theory_page import control_table, ledger_tables, theory_claims_table


def build(book: Path) -> None:
    """Write what the book includes: ``_generated/``, executed notebooks in ``runs/``, the reference in ``api/``.

    Files whose content did not change are left alone, so that the book is rebuilt incrementally. Where nothing that
    the files are made from changed since they were written, and neither did they, nothing is made again.

    Args:
        book: The book's folder.
    """
    inputs = _inputs()
    folders = [book / "_generated", book / "runs", book / "api"]
    if _up_to_date(book, inputs, folders):
        return
    setups = collect(repository())
    if not setups:
        raise CduError("there are no records under results/ or runs/; run 'make report', which makes some")
    files: dict[Path, bytes] = {}
    pages = {page: content for setup in setups for page, content in run_pages(setup).items()}
    files |= {book / "runs" / page: content for page, content in pages.items()}
    made = iter(_fragments(setups, book, pages))
    for name in chapters.drawn():
        fragments = []
        for _ in setups:
            fragment, drawn = next(made)
            fragments.append(fragment)
            files |= drawn
        files[book / "_generated" / f"{name}.md"] = "\n\n".join(filter(None, fragments)).encode()
    files[book / "_generated" / "statements.md"] = theory_claims_table(setups).encode()
    ledgers = ledger_tables(setups)
    files[book / "_generated" / "ledger.md"] = "\n".join(ledgers).encode()
    files[book / "_generated" / "ledger-first.md"] = "".join(ledgers[:1]).encode()
    files[book / "_generated" / "control.md"] = "\n".join(filter(None, map(control_table, setups))).encode()
    # A column of claims that one seed cannot decide tells nobody anything, unless there is no other.
    judged = [setup for setup in setups if setup.seeds > 1] or setups
    files[book / "_generated" / "claims-table.md"] = claims_table(judged).encode()
    files[book / "_generated" / "claims-detail.md"] = claims_detail(judged).encode()
    files[book / "_generated" / "claims-together.md"] = family_in_words(judged).encode()
    files[book / "_generated" / "shadowed.md"] = "\n".join(filter(None, map(shadowed_in_words, setups))).encode()
    files[book / "_generated" / "worth.md"] = "\n".join(filter(None, map(worth_table, judged))).encode()
    files[book / "_generated" / "compute.md"] = "\n".join(filter(None, map(compute_table, setups))).encode()
    files[book / "_generated" / "compute-beside.md"] = "\n".join(filter(None, map(starts_table, setups))).encode()
    files[book / "_generated" / "audited.md"] = "\n".join(filter(None, map(audited_table, setups))).encode()
    files |= {book / "_generated" / f"advice-{leaf}.md": text.encode() for leaf, text in advice(setups).items()}
    files[book / "_generated" / "setups.md"] = setups_table(setups).encode()
    files[book / "_generated" / "absent.md"] = absent_setups(setups).encode()
    known = reproduced.read(repository() / "results")
    files[book / "_generated" / "provenance.md"] = provenance_tables(setups, known).encode()
    files[book / "_generated" / "platforms.md"] = platforms_table(known).encode()
    files |= {book / "api" / f"{name}.md": content.encode() for name, content in api_pages().items()}
    files[book / "_generated" / "datasets.md"] = datasets_table().encode()
    outputs = {str(path.relative_to(book)): _digest(content) for path, content in files.items()}
    files[book / _MADE_FROM] = json.dumps({"inputs": inputs, "outputs": outputs}, indent=1).encode()
    _synchronise(files, folders)


#: What the generated files were made from, and what they were when they were written.
_MADE_FROM = Path("_generated") / "made-from.json"

#: Packages whose versions can change a generated file.
_DRAWING = ("matplotlib", "nbformat", "numpy", "pandas", "scipy", "tabulate")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _inputs() -> str:
    """Hash of everything that the generated files depend on: records, executed notebooks, settings, package, versions.

    Contents count and not times, which a checkout sets anew.
    """
    root, package = repository(), Path(__file__).parents[1]
    found = [root / "results" / name for name in ("paper.csv", reproduced.FILE)]
    for folder in ("results", "runs"):
        for ending in ("json", "ipynb"):
            found += (root / folder).glob(f"*/*/seed-*/*.{ending}")
    for folder, pattern in (("experiments", "*.yaml"), ("notebooks", "*.py")):
        found += (root / folder).glob(pattern)
    parts = [f"{path.relative_to(root)} {_digest(path.read_bytes())}" for path in sorted(found) if path.is_file()]
    parts += [f"{path.relative_to(package)} {_digest(path.read_bytes())}" for path in sorted(package.rglob("*.py"))]
    parts += [platform.python_version(), *(f"{name} {version(name)}" for name in _DRAWING)]
    return _digest("\n".join(parts).encode())


def _up_to_date(book: Path, inputs: str, folders: Iterable[Path]) -> bool:
    """Whether the generated files were made from these inputs. If so, all other files in the folders are deleted."""
    try:
        known = json.loads((book / _MADE_FROM).read_bytes())
        if known["inputs"] != inputs:
            return False
        contents = {book / name: (book / name).read_bytes() for name in known["outputs"]}
    except (OSError, ValueError, KeyError, TypeError):
        # Never written, or not whole: making all again is always right.
        return False
    if any(_digest(content) != known["outputs"][str(path.relative_to(book))] for path, content in contents.items()):
        return False
    _synchronise(contents | {book / _MADE_FROM: (book / _MADE_FROM).read_bytes()}, folders)
    return True


#: The work of the forked processes that draw. They inherit it: pickling it would cost more than it saves.
_SHARED: list[tuple[Results, str, Path, dict[str, bytes]]] = []


def _fragments(
    setups: list[Results], book: Path, pages: dict[str, bytes]
) -> list[tuple[str | None, dict[Path, bytes]]]:
    """The text and the files of every page and set-up, drawn on all cores where processes can be forked."""
    for setup in setups:
        # Once, before the processes divide.
        _ = setup.decided
    _SHARED[:] = [(setup, name, book, pages) for name in chapters.drawn() for setup in setups]
    try:
        # Elsewhere a process that has used the system's libraries cannot be forked safely.
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
        if cores == 1:
            return [_fragment(number) for number in range(len(_SHARED))]
        with multiprocessing.get_context("fork").Pool(cores) as pool:
            return pool.map(_fragment, range(len(_SHARED)), chunksize=1)
    finally:
        _SHARED.clear()


def _fragment(number: int) -> tuple[str | None, dict[Path, bytes]]:
    """One piece of the work: the text of a section of a set-up, and the files beside it."""
    setup, name, book, pages = _SHARED[number]
    files: dict[Path, bytes] = {}
    return section_fragment(setup, name, files, book, pages), files


def _synchronise(files: dict[Path, bytes], folders: Iterable[Path]) -> None:
    """Make ``folders`` hold exactly ``files``, touching only what differs."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in {path for path in folder.rglob("*") if path.is_file()} - set(files):
            stale.unlink()
    for path, content in files.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
