"""The shape of the package: small modules, short notebooks, and a report that needs no PyTorch."""

import subprocess
import sys

import pytest

import cdu
from cdu.experiments.repository import repository

MODULES = sorted((repository() / "src" / "cdu").rglob("*.py"))
NOTEBOOKS = sorted((repository() / "notebooks").glob("*.py"))


def test_no_module_is_longer_than_a_reader_holds_in_mind():
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_notebooks_are_text_with_at_most_a_hundred_lines_of_code():
    lengths = {}
    for path in NOTEBOOKS:
        lines = path.read_text(encoding="utf-8").splitlines()
        lengths[path.stem] = sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in lines)
    assert {name: length for name, length in lengths.items() if length > 100} == {}


@pytest.mark.parametrize("module", ["cdu", "cdu.cli", "cdu.report.build", "cdu.verification.verify"])
def test_what_needs_no_pytorch_does_not_import_it(module):
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_public_names_are_imported_when_they_are_used():
    names = {name: getattr(cdu, name).__name__.removeprefix("cdu.") for name in cdu.__all__}
    assert names == {name: name for name in cdu.__all__}
    assert set(cdu.__all__) <= set(dir(cdu))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        cdu.nothing  # noqa: B018  # the look-up itself is tested
