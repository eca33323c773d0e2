import ast
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cdu import config, unlearned
from cdu.certification import gaussian_epsilon
from cdu.config import ModelSettings, code_hash, computing, load_experiment, source_hash
from cdu.convex import minimise
from cdu.errors import CduError
from cdu.references import reference
from cdu.relearning import trainable
from cdu.scenario import Scenario
from cdu.seeding import generator
from cdu.unlearned import FIXED, Unlearned
from cdu.unlearning import CERTIFIED, TUNED, build, publish
from cdu.unlearning.fixed_features import FixedFeatures, LinearTask
from cdu.unlearning.problem import Update

EPSILON, DELTA = 1.0, 1e-5


def scenario(folder, seed=0, **changes):
    """Digits with models of three epochs, every method with one trial of small constants."""
    experiment = load_experiment("quick")
    settings = experiment.settings("digits")
    spaces = {name: dict(space) for name, space in settings.methods.spaces.items()}
    spaces["rewind"] |= {"steps": 4, "rewound": 2}
    spaces["rewind, linear"] |= {"steps": 4, "rewound": 2, "filters": 2}
    spaces["Langevin, linear"] |= {"training_steps": 4, "steps": 2, "filters": 2}
    spaces["certified removal, linear"] |= {"l2": 0.1, "filters": 2}
    spaces["rewind, Adam"] = {"epochs": 1}
    settings = settings.model_copy(
        update={
            "training": settings.training.model_copy(update={"epochs": 3}),
            "methods": settings.methods.model_copy(update={"trials": 1, "spaces": spaces, **changes}),
        }
    )
    experiment = experiment.model_copy(update={"datasets": {"digits": settings}})
    return Scenario(experiment, "digits", seed, folder, torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def made(folder):
    """Every method's result as it was computed, before it was kept."""
    table, computed = Unlearned(scenario(folder)), {}
    write = unlearned._write
    unlearned._write = lambda update, path: (computed.update({path.name.split(".")[1]: update}), write(update, path))
    try:
        for name in table.names:
            table.update(name)
            computed[name] = list(computed.values())[-1]
    finally:
        unlearned._write = write
    return {name: update for name, update in computed.items() if name in table.names}


@pytest.mark.parametrize("name", [*FIXED, *TUNED])
def test_what_is_read_again_is_what_was_computed(folder, made, name):
    table = Unlearned(scenario(folder))
    found, computed = table.update(name), made[name]
    assert torch.equal(found.w, computed.w)
    plain = ("seconds", "hvp_samples", "residual", "converged", "radius", "bound", "certificate", "excuse", "note")
    for field in plain:
        assert getattr(found, field) == getattr(computed, field)
    assert (found.model is None) == (computed.model is None)
    ends = [publish(table.problem, update, generator(0, "unused")) for update in (found, computed)]
    outputs = [end.objective.outputs(end.w, table.scenario.test) for end in ends]
    assert torch.equal(*outputs)


def test_nothing_is_computed_twice(folder, made, monkeypatch):
    def refuse(*arguments, **keys):
        raise AssertionError("computed again")

    for name in ("tune", "_write"):
        monkeypatch.setattr(unlearned, name, refuse)
    table = Unlearned(scenario(folder))
    for name in table.names:
        table.update(name)
    with pytest.raises(AssertionError, match="computed again"):
        Unlearned(scenario(folder, validation=141)).trials("fine-tuning")


def test_another_seed_setting_or_code_is_another_result(folder, monkeypatch):
    paths = [Unlearned(scenario(folder))._path(".json", "trials")]
    paths.append(Unlearned(scenario(folder, seed=1))._path(".json", "trials"))
    changed = scenario(folder).with_model(ModelSettings(name="mlp", hidden=(5,)))
    paths.append(Unlearned(changed)._path(".json", "trials"))
    monkeypatch.setattr(unlearned, "source_hash", lambda path: "other code")
    paths.append(Unlearned(scenario(folder))._path(".json", "trials"))
    assert len(set(paths)) == 4


def test_a_method_that_no_trial_could_run_says_why(folder, tmp_path):
    table = Unlearned(scenario(folder))
    spaces = {**table.scenario.settings.methods.spaces, "rewind, Adam": {"epochs": 7}}
    with pytest.raises(CduError, match="7 of 3 epochs cannot be rewound"):
        Unlearned(scenario(folder, spaces=spaces)).update("rewind, Adam")


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, suffix):
    table = Unlearned(scenario(tmp_path))
    table.update("fine-tuning")
    (path,) = (tmp_path / "unlearned").glob(f"*{suffix}")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CduError, match=f"{path.name} cannot be read .* delete it to"):
        table.update("fine-tuning")


def test_a_release_carries_the_noise_of_its_epsilon(folder, made):
    table = Unlearned(scenario(folder))
    plain, noisy = table.release("newton"), table.release("newton", noisy=True)
    assert plain.certificate is None
    assert noisy.certificate.epsilon == pytest.approx(EPSILON)
    added = (noisy.w - plain.w).std().item()
    assert added == pytest.approx(noisy.certificate.sigma, rel=0.05)
    assert gaussian_epsilon(noisy.certificate.sigma, DELTA, 16.0) == pytest.approx(EPSILON, rel=1e-6)


# --- what certificates compare with --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problem(folder):
    return scenario(folder).problem()


def certified(folder, name):
    table = Unlearned(scenario(folder))
    return build(name, table.chosen(name), EPSILON, DELTA)


@pytest.mark.parametrize("name", CERTIFIED)
def test_a_reference_never_sees_the_forget_set(folder, made, problem, name):
    """Other weights, images and labels of D_u change the release, but never its reference."""
    method = certified(folder, name)
    forget = replace(problem.forget, inputs=255 - problem.forget.inputs, targets=(problem.forget.targets + 1) % 10)
    spoilt = replace(problem, w_star=-problem.w_star, forget=forget, stopped=None)
    references, releases = [], []
    for own in (problem, spoilt):
        update = method(own, generator(0, "release"))
        releases.append(update.w)
        references.append(reference(method, own, update, generator(0, "reference")).w)
    assert torch.equal(*references)
    assert not torch.equal(*releases)


def test_the_reference_of_projected_methods_is_retraining(folder, made, problem):
    retrained = scenario(folder).retrained.w
    for name in ("output perturbation", "Newton step"):
        update = Update(problem.w_star, 0.0)
        assert torch.equal(reference(certified(folder, name), problem, update, generator(0, "x")).w, retrained)


def test_the_reference_of_certified_removal_is_the_minimiser_within_its_budget(folder, made, problem):
    method = certified(folder, "certified removal, linear")
    update = method(problem, generator(0, "x"))
    own = reference(method, problem, update, generator(0, "x"))
    task = LinearTask(problem, method.filters, method.l2, torch.float64)
    exact = minimise(task.objective, task.retain, task.zeros(), 1e-12).w
    torch.testing.assert_close(own.w, exact, rtol=0, atol=1e-8)
    assert (update.w - own.w).norm() <= update.bound.value


def test_the_reference_of_rewinding_is_training_from_the_start(folder, made, problem):
    method = certified(folder, "rewind, linear")
    own = reference(method, problem, method(problem, generator(0, "x")), generator(0, "x"))
    task = LinearTask(problem, method.filters, method.l2, problem.w_star.dtype)
    w = task.zeros()
    for _ in range(method.steps):
        w = w - method.learning_rate * task.objective.gradient(w, task.retain)
    torch.testing.assert_close(own.w, w)


def test_a_method_without_a_certificate_has_no_reference(folder, problem):
    with pytest.raises(CduError, match="FineTune has no certificate"):
        reference(build("fine-tuning", {"epochs": 1, "learning_rate": 1e-4}, 1.0, 1e-5), problem, None, None)


# --- relearning ----------------------------------------------------------------------------------------------------


def test_only_a_linear_models_layer_is_relearned_and_its_outputs_stay(folder, made):
    table = Unlearned(scenario(folder))
    released = table.release("certified removal, linear")
    objective, rows = trainable(released.objective, table.problem.forget)
    assert isinstance(released.objective.model[0], FixedFeatures)
    torch.testing.assert_close(
        objective.outputs(released.w, rows), released.objective.outputs(released.w, table.problem.forget)
    )
    network = table.release("newton")
    assert trainable(network.objective, table.problem.forget) == (network.objective, table.problem.forget)


# --- whose code a section depends on -------------------------------------------------------------------------------


def test_a_section_depends_on_the_modules_that_it_imports_and_on_no_others(monkeypatch):
    before = {name: code_hash(name) for name in config.SECTIONS}
    monkeypatch.setattr(config, "COMPUTING", tuple(name for name in config.COMPUTING if name != "attacks"))
    without = {name for name in config.SECTIONS if code_hash(name) != before[name]}
    assert without == {"04_attacks", "06_ablations", "09_official_code", "11_scale"}
    monkeypatch.setattr(config, "COMPUTING", tuple(name for name in config.COMPUTING if name != "unlearning"))
    assert {name for name in config.SECTIONS if code_hash(name) != before[name]} == set(config.SECTIONS)


def test_a_hash_follows_imports_through_other_modules(tmp_path, monkeypatch):
    path = tmp_path / "notebook.py"
    path.write_text("from cdu.training import train\n")
    before = source_hash(path)
    for name, changes in (("attacks", False), ("seeding", True), ("data", True)):
        with monkeypatch.context() as patch:
            # training imports seeding and data, and attacks neither directly nor through others.
            patch.setattr(config, "COMPUTING", tuple(one for one in config.COMPUTING if one != name))
            assert (source_hash(path) != before) is changes
    path.write_text("import cdu.training\n")
    other = source_hash(path)
    monkeypatch.setattr(config, "COMPUTING", tuple(one for one in config.COMPUTING if one != "seeding"))
    assert source_hash(path) != other


MODULE = '''"""What it is for."""

from typing import Literal
from cdu.errors import CduError
from cdu.expectations import expect


class Step:
    """A step."""

    size: float  # of the step
    """Not zero."""

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        expect(
            self.size > 0,
            f"size = {self.size} is not above 0",  # whatever it is
        )

    @property
    def named(self) -> str:
        """Its name."""
        return "a # in a string"


def take(step: Step) -> float:
    """Take it."""
    expect(step.size < 1, "too far")
    if step.size == 0.5:
        raise CduError("a result")
    return 2 * step.size
'''

COMPUTES = """from cdu.errors import CduError
class Step:
    size: float
    @property
    def named(self) -> str:
        return "a # in a string"
def take(step: Step) -> float:
    if step.size == 0.5:
        raise CduError("a result")
    return 2 * step.size"""


def test_comments_docstrings_and_checks_of_arguments_are_not_what_computes():
    assert computing(MODULE) == COMPUTES
    assert computing(COMPUTES) == COMPUTES


@pytest.mark.parametrize(
    "text",
    [
        'def f(x):\n    """Doc."""; return 2 * x',
        'def f(x): """Doc."""',
        'expect(x > 0, "negative"); y = 3 * x',
        'y = 1; expect(x > 0, "negative")',
        "found = expect(x)",
    ],
)
def test_nothing_that_computes_is_cut_with_its_neighbours(text):
    assert computing(text) == text


def test_a_function_that_only_overrides_or_is_decorated_is_not_cut():
    override = 'class Net(Module):\n    def train(self, mode=True):\n        """Stay in evaluation mode."""'
    assert computing(override) == "class Net(Module):\n    def train(self, mode=True):"
    assert computing('@cache\ndef f(x):\n    expect(x > 0, "negative")') == "@cache\ndef f(x):"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2 * step", "3 * step"),
        ("# in", "% in"),
        ("size == 0.5", "size == 0.6"),
        ('raise CduError("a result")', "return 0.0"),
        ("@property", "@cached_property"),
        ("        expect(\n", "        self.size += 1\n        expect(\n"),
        ("    size: float", "    size: int"),
    ],
)
def test_what_changes_a_number_or_a_refusal_that_is_a_result_changes_the_hash(old, new):
    assert MODULE.count(old) == 1
    assert computing(MODULE.replace(old, new)) != COMPUTES


def test_checks_of_arguments_are_statements_of_their_own_that_bind_nothing():
    for path in sorted(Path(config.__file__).parent.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.name != "expectations.py":
            assert not re.search(r"\bexpect(_\w+)?\(", computing(text)), path
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        checks = [node for node in calls if getattr(node.func, "id", "").startswith("expect")]
        assert not any(isinstance(inner, ast.NamedExpr) for check in checks for inner in ast.walk(check)), path


def test_kept_trials_are_plain_json(folder, made):
    path = next((folder / "unlearned").glob("*.json"))
    assert {"values", "gap", "note"} == set(json.loads(path.read_text())[0])
