"""The examples in docstrings run, and every public name has one."""

import doctest
import importlib

import pytest

import cdu
from cdu.experiments.repository import repository
from cdu.unlearning import registration

SOURCE = repository() / "src"


def dotted(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


#: The modules whose text holds an example.
MODULES = [dotted(path) for path in sorted((SOURCE / "cdu").rglob("*.py")) if ">>> " in path.read_text("utf-8")]


@pytest.fixture
def kept_registrations(monkeypatch):
    """What an example registers is forgotten after it."""
    monkeypatch.setattr(registration, "REGISTERED", dict(registration.REGISTERED))


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name, kept_registrations, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert failed == 0, capsys.readouterr().out
    assert tried > 0


def test_every_public_name_has_an_example():
    assert [name for name in cdu.__all__ if ">>> " not in (getattr(cdu, name).__doc__ or "")] == []
