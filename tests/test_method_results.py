import json
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from cdu.certification import gaussian_epsilon
from cdu.curvature.minimise import minimise
from cdu.errors import CduError
from cdu.evaluation.relearning import trainable
from cdu.experiments import method_results, sections
from cdu.experiments.experiment import load_experiment
from cdu.experiments.method_results import MethodResults
from cdu.experiments.setup import Setup
from cdu.models.objective import Objective
from cdu.models.settings import ModelSettings
from cdu.models.training import project
from cdu.seeding import generator
from cdu.unlearning.methods.fixed_features import FixedFeatures, LinearTask, linear_model
from cdu.unlearning.names import FIXED
from cdu.unlearning.problem import UnlearningResult
from cdu.unlearning.references import distance, reference
from cdu.unlearning.registration import REGISTERED
from cdu.unlearning.registry import build, certified_among
from cdu.unlearning.release import distance_bound, publish
from conftest import random_samples

EPSILON, DELTA = 1.0, 1e-5


def setup(folder, seed=0, **changes):
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
    return Setup(experiment, "digits", seed, folder, torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def made(folder):
    """Every method's result as it was computed, before it was kept."""
    table, computed = MethodResults(setup(folder)), {}
    write = method_results._write
    method_results._write = lambda path, update: (computed.update({path.name: update}), write(path, update))
    try:
        for name in table.names:
            table.update(name)
            computed[name] = list(computed.values())[-1]
    finally:
        method_results._write = write
    return {name: update for name, update in computed.items() if name in table.names}


@pytest.mark.parametrize("name", [*FIXED, *REGISTERED])
def test_what_is_read_again_is_what_was_computed(folder, made, name):
    table = MethodResults(setup(folder))
    found, computed = table.update(name), made[name]
    assert torch.equal(found.w, computed.w)
    plain = ("seconds", "hvp_samples", "residual", "converged", "radius", "bound", "certificate", "note")
    for field in (*plain, "no_certificate_reason"):
        assert getattr(found, field) == getattr(computed, field)
    assert (found.model is None) == (computed.model is None)
    ends = [publish(table.problem, update, generator(0, "unused")) for update in (found, computed)]
    outputs = [end.objective.outputs(end.w, table.setup.test) for end in ends]
    assert torch.equal(*outputs)


def test_nothing_is_computed_twice(folder, made, monkeypatch):
    def refuse(*arguments, **keys):
        raise AssertionError("computed again")

    for name in ("tune", "_write"):
        monkeypatch.setattr(method_results, name, refuse)
    table = MethodResults(setup(folder))
    for name in table.names:
        table.update(name)
    with pytest.raises(AssertionError, match="computed again"):
        MethodResults(setup(folder, validation=141)).trials("fine-tuning")


def test_another_seed_setting_or_revision_is_another_result(folder, monkeypatch):
    paths = [MethodResults(setup(folder))._path(".json", "trials")]
    paths.append(MethodResults(setup(folder, seed=1))._path(".json", "trials"))
    changed = setup(folder).with_model(ModelSettings(name="mlp", hidden=(5,)))
    paths.append(MethodResults(changed)._path(".json", "trials"))
    monkeypatch.setitem(sections.REVISIONS, "03_methods", 99)
    paths.append(MethodResults(setup(folder))._path(".json", "trials"))
    assert len(set(paths)) == 4


def test_a_method_that_no_trial_could_run_says_why(folder, tmp_path):
    table = MethodResults(setup(folder))
    spaces = {**table.setup.settings.methods.spaces, "rewind, Adam": {"epochs": 7}}
    with pytest.raises(CduError, match="7 of 3 epochs cannot be rewound"):
        MethodResults(setup(folder, spaces=spaces)).update("rewind, Adam")


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, suffix):
    table = MethodResults(setup(tmp_path))
    table.update("fine-tuning")
    (path,) = (tmp_path / "unlearned").glob(f"*{suffix}")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CduError, match=f"{path.name} cannot be read .* delete it to"):
        table.update("fine-tuning")


def test_a_release_carries_the_noise_of_its_epsilon(folder, made):
    table = MethodResults(setup(folder))
    plain, noisy = table.release("newton"), table.release("newton", noisy=True)
    assert plain.certificate is None
    assert noisy.certificate.epsilon == pytest.approx(EPSILON)
    added = (noisy.w - plain.w).std().item()
    assert added == pytest.approx(noisy.certificate.sigma, rel=0.05)
    assert gaussian_epsilon(noisy.certificate.sigma, DELTA, 16.0) == pytest.approx(EPSILON, rel=1e-6)


# --- what certificates compare with --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problem(folder):
    return setup(folder).problem()


def certified(folder, name):
    table = MethodResults(setup(folder))
    return build(name, table.chosen(name), EPSILON, DELTA)


@pytest.mark.parametrize("name", certified_among(REGISTERED))
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
    retrained = setup(folder).retrained.w
    for name in ("output perturbation", "Newton step"):
        update = UnlearningResult(problem.w_star, 0.0)
        assert torch.equal(reference(certified(folder, name), problem, update, generator(0, "x")).w, retrained)


def test_the_reference_of_certified_removal_is_the_minimiser_within_its_budget(folder, made, problem):
    method = certified(folder, "certified removal, linear")
    update = method(problem, generator(0, "x"))
    own = reference(method, problem, update, generator(0, "x"))
    task = LinearTask(problem, method.filters, method.l2)
    exact = minimise(task.objective, task.retain, task.zeros(), 1e-12).w
    torch.testing.assert_close(own.w, exact, rtol=0, atol=1e-8)
    assert (update.w - own.w).norm() <= update.bound.value


def test_the_reference_of_rewinding_is_training_from_the_start(folder, made, problem):
    method = certified(folder, "rewind, linear")
    own = reference(method, problem, method(problem, generator(0, "x")), generator(0, "x"))
    task = LinearTask(problem, method.filters, method.l2)
    w = task.zeros()
    for _ in range(method.steps):
        w = w - method.learning_rate * task.objective.gradient(w, task.retain)
    torch.testing.assert_close(own.w, w)


def test_a_method_without_a_certificate_has_no_reference(folder, problem):
    with pytest.raises(CduError, match="FineTune has no certificate"):
        reference(build("fine-tuning", {"epochs": 1, "learning_rate": 1e-4}, 1.0, 1e-5), problem, None, None)


@pytest.mark.parametrize("name", certified_among(REGISTERED))
def test_a_release_is_no_farther_from_its_reference_than_certified(folder, made, problem, name):
    """The distance is that of the ends before the last noise, and the bound the one that the certificate rests on."""
    method = certified(folder, name)
    update = method(problem, generator(0, name))
    own = reference(method, problem, update, generator(0, name))
    found = distance(problem, update, own)
    if update.certificate is None:
        radius = problem.radius if update.radius is None else update.radius
        ends = [project(one.w, radius).double() for one in (update, own)]
        assert found.bound == distance_bound(problem, update)
        assert found.certified == found.bound.sensitivity
    else:
        ends = [update.w.double(), own.w.double()]
        assert found.bound == update.bound
    assert found.measured == pytest.approx(torch.dist(*ends).item())
    assert 0 < found.measured <= found.certified


def test_a_certificate_without_its_bound_is_refused(folder, made, problem):
    update = certified(folder, "noisy fine-tuning")(problem, generator(0, "x"))
    with pytest.raises(CduError, match="a certificate and no bound"):
        distance(problem, replace(update, bound=None), update)


# --- relearning ----------------------------------------------------------------------------------------------------


def test_only_a_linear_models_layer_is_relearned_and_its_outputs_stay(folder, made):
    table = MethodResults(setup(folder))
    released = table.release("certified removal, linear")
    objective, rows = trainable(released.objective, table.problem.forget)
    assert isinstance(released.objective.model[0], FixedFeatures)
    torch.testing.assert_close(
        objective.outputs(released.w, rows), released.objective.outputs(released.w, table.problem.forget)
    )
    network = table.release("newton")
    assert trainable(network.objective, table.problem.forget) == (network.objective, table.problem.forget)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_features_take_the_images_place_in_loss_and_gradient(dtype):
    images = random_samples((1, 8, 8), 300, 0).to(dtype=dtype)
    model = linear_model(images, 2, 3, dtype)
    objective, rows = trainable(Objective(model, l2=0.1), images)
    w = torch.randn(objective.size, generator=generator(0), dtype=dtype)
    assert (rows.inputs.shape, rows.inputs.dtype) == ((300, 2 * model[0].cells ** 2), dtype)
    assert not rows.inputs.requires_grad
    assert torch.equal(rows.targets, images.targets)
    point = w.clone().requires_grad_()
    inputs, targets = images.batch(slice(None))
    matrix, bias = point[:-3].view(3, -1), point[-3:]
    loss = cross_entropy(model[0](inputs) @ matrix.T + bias, targets)
    (expected,) = torch.autograd.grad(loss + 0.05 * point.square().sum(), point)
    assert torch.allclose(objective.gradient(w, rows), expected, rtol=1e-5, atol=1e-7)


def test_a_network_in_layers_without_fixed_features_is_relearned_as_it_is():
    objective = Objective(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)))
    images = random_samples((1, 4, 4), 5, 0)
    assert trainable(objective, images) == (objective, images)


def test_kept_trials_are_plain_json(folder, made):
    path = next((folder / "unlearned").glob("*.json"))
    assert {"values", "gap", "note"} == set(json.loads(path.read_text())[0])
