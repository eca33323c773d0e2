"""What a type checker sees of the package: the public names have their types, although they are imported when used."""

import re

import pytest
from mypy import api

import cdu
from cdu.experiments.repository import repository

pytestmark = pytest.mark.slow  # mypy reads PyTorch's types: a minute where it has not read them before

PROGRAM = """
from torch import Tensor, nn

import cdu
from cdu import Certificate, Ledger, NewtonStep, Objective, Problem, Samples, parameter_vector, release
from cdu.models.training import Trained


def recipe(samples: Samples, seed: int) -> Trained:
    raise NotImplementedError


def answer(model: nn.Module, retain: Samples, forget: Samples) -> tuple[Tensor, float]:
    objective = Objective(model, nn.functional.cross_entropy, l2=5e-4)
    problem = Problem(objective, parameter_vector(model), retain, forget, radius=10, retrain=recipe, seed=0)
    released = release(problem, NewtonStep(damping=10), sigma=0.01, ledger=Ledger("ledger"), ids=["user 17"])
    certificate: Certificate | None = released.certificate
    if certificate is None:
        raise cdu.CduError(f"cdu {cdu.__version__} certifies nothing")
    return released.w, certificate.epsilon
"""


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """What ``mypy --strict`` says of a program, with the project's settings and what mypy keeps of earlier runs."""
    monkeypatch.chdir(repository())

    def check(program):
        path = tmp_path / "program.py"
        path.write_text(program)
        said, failed, code = api.run(["--config-file", "pyproject.toml", "--no-error-summary", str(path)])
        assert not failed
        return said.replace(f"{path}:", ""), code

    return check


def test_a_users_program_passes_a_strict_type_checker(checked):
    assert checked(PROGRAM) == ("", 0)


def test_no_public_name_is_any_and_no_other_name_is_there(checked):
    names = "\n".join(f"reveal_type(cdu.{name})" for name in [*cdu.__all__, "__version__"])
    said, _ = checked(f"import cdu\n{names}\ncdu.nothing\n")
    types = re.findall(r'note: Revealed type is "(.*)"', said)
    assert len(types) == len(cdu.__all__) + 1
    assert "Any" not in types
    assert re.findall("error: (.*)", said) == ['Module has no attribute "nothing"  [attr-defined]']
