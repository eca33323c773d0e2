"""What an adversary sees of a release and of its reference."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from cdu.evaluation.audit_trials import KNOWN, Trials, difference, seen
from cdu.evaluation.lira import scaled_logit
from cdu.evaluation.settings import AuditSettings
from cdu.models.training import project
from cdu.seeding import generator
from cdu.unlearning.problem import Problem, UnlearningResult
from conftest import network

SETTINGS = AuditSettings(trials=4000, estimated=400, runs=40)
FEW = AuditSettings(trials=40, estimated=40)
SIGMA = 0.3


def deletion(name="mlp", seed=0, radius=100.0):
    """A problem, an update and a reference."""
    objective, w, samples = network(name, seed)
    problem = Problem(objective, w, samples, samples.subset(torch.arange(4)), radius, lambda *_: None, seed=0)
    stream = torch.Generator().manual_seed(seed + 5)
    pair = (UnlearningResult(w + 0.1 * torch.randn(len(w), generator=stream).to(w), 0.0) for _ in range(2))
    return problem, *pair


@pytest.mark.parametrize("radius", [0.5, 100.0])
def test_the_difference_is_that_of_the_projected_models(radius):
    problem, update, own = deletion(radius=radius)
    expected = project(update.w, radius) - project(own.w, radius)
    assert torch.equal(difference(problem, update, own), expected)
    assert (update.w.norm() > radius) == (radius == 0.5)


def test_an_adversary_sees_the_weights_and_the_outputs_on_the_forget_set():
    problem, update, own = deletion()
    rows = [torch.stack([update.w, own.w]), update.w[None]]
    views = seen(problem, problem.objective, rows)
    assert torch.equal(views["weights"], torch.cat(rows).float())
    for number, w in enumerate(torch.cat(rows)):
        phi = scaled_logit(problem.objective.outputs(w, problem.forget), problem.forget.targets)
        torch.testing.assert_close(views["outputs"][number], phi.float())


def test_outputs_that_show_running_statistics_are_not_seen():
    problem, update, _ = deletion("allcnn")
    assert seen(problem, problem.objective, [update.w[None]]).keys() == {"weights"}


@pytest.mark.parametrize("seed", range(3))
def test_trials_are_the_fixed_models_and_fresh_noise(seed):
    problem, update, own = deletion(seed=seed)
    views = Trials(SETTINGS, seed).last_noise(problem, update, own, SIGMA)
    for number, one in enumerate((update, own)):
        noise = (views["weights"][number] - one.w.float()) / SIGMA
        assert noise.shape == (SETTINGS.estimated, len(one.w))
        # Five standard errors of a mean and of a standard deviation.
        count = noise.numel()
        assert abs(noise.mean()) < 5 / count**0.5
        assert abs(noise.std() - 1) < 5 / (2 * count) ** 0.5
    together = np.corrcoef(*((view - view.mean(0)).flatten().numpy() for view in views["weights"]))
    assert abs(together[0, 1]) < 5 / count**0.5


@pytest.mark.parametrize("seed", range(3))
def test_along_the_known_direction_two_gaussians_are_as_far_apart_as_the_models(seed):
    problem, update, own = deletion(seed=seed)
    trials = Trials(SETTINGS, seed)
    between = update.w - own.w
    for view, one in zip(trials.along_difference(problem, update, own, SIGMA)[KNOWN], (update, own), strict=True):
        noise = (view[:, 0] - one.w @ between) / (SIGMA * between.norm())
        assert noise.shape == (SETTINGS.trials,)
        assert kstest(noise.numpy(), "norm").pvalue > 1e-3


def test_every_set_of_trials_has_noise_of_its_own_that_the_seed_tells():
    problem, update, own = deletion()
    first, again = Trials(FEW, 3), Trials(FEW, 3)
    views = [first.last_noise(problem, update, own, SIGMA) for _ in range(2)]
    assert not torch.equal(views[0]["weights"][0], views[1]["weights"][0])
    repeated = again.last_noise(problem, update, own, SIGMA)
    assert all(torch.equal(a, b) for name in repeated for a, b in zip(repeated[name], views[0][name], strict=True))
    other = Trials(FEW, 4).last_noise(problem, update, own, SIGMA)
    assert not torch.equal(other["weights"][0], repeated["weights"][0])


def test_equal_models_have_no_direction_and_draw_nothing():
    problem, update, own = deletion()
    trials = Trials(SETTINGS, 0)
    known = trials.along_difference(problem, update, update, SIGMA)[KNOWN]
    assert all(torch.equal(view, torch.zeros(SETTINGS.trials, 1)) for view in known)
    after = trials.along_difference(problem, update, own, SIGMA)[KNOWN]
    fresh = Trials(SETTINGS, 0).along_difference(problem, update, own, SIGMA)[KNOWN]
    assert torch.equal(after[0], fresh[0])


def test_a_method_with_noise_on_the_way_is_run_anew_for_every_trial():
    problem, update, own = deletion()
    between = update.w - own.w

    def noisy(start, stream):
        return UnlearningResult(start + torch.randn(len(start), generator=stream).to(start), 0.0)

    views = Trials(SETTINGS, 7).noise_on_the_way(
        problem, lambda stream: noisy(update.w, stream), lambda stream: noisy(own.w, stream), between, 6
    )
    for view, start, purpose in zip(views["weights"], (update.w, own.w), ("audit run", "audit reference"), strict=True):
        assert view.shape == (6, len(start))
        for number, row in enumerate(view):
            assert torch.equal(row, noisy(start, generator(7, purpose, number)).w.float())
    for known, weights in zip(views[KNOWN], views["weights"], strict=True):
        torch.testing.assert_close(known[:, 0], weights @ between.float())
