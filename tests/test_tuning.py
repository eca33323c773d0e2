import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cdu.certification import budget_bound
from cdu.errors import CduError
from cdu.evaluation.accuracy import accuracy
from cdu.experiments.experiment import load_experiment
from cdu.experiments.setup import Setup
from cdu.experiments.tuning import Trial, best, candidates, last_of_grid, tune
from cdu.seeding import generator
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.problem import UnlearningResult
from cdu.unlearning.registration import REGISTERED
from cdu.unlearning.registry import build

#: ε and δ at which methods with a bound of their own are judged.
PROMISE = (1.0, 1e-5)


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    experiment = load_experiment("quick")
    settings = experiment.settings("digits")
    short = settings.training.model_copy(update={"epochs": 3})
    settings = settings.model_copy(update={"training": short})
    experiment = experiment.model_copy(update={"datasets": {"digits": settings}})
    return Setup(experiment, "digits", 1, tmp_path_factory.mktemp("checkpoints"), torch.device("cpu"))


def rows(samples):
    """Every sample as a tuple of its pixels, to compare sets of samples."""
    return [tuple(row) for row in samples.inputs.flatten(1).tolist()]


def test_a_rehearsal_divides_the_retained_samples_and_leaves_the_others_alone(setup):
    rehearsal = setup.rehearsal(140)
    parts = [rehearsal.validation, rehearsal.problem.forget, rehearsal.problem.retain]
    assert [len(part) for part in parts] == [140, len(setup.forget), len(setup.retain) - 140 - 100]
    together = sorted(row for part in parts for row in rows(part))
    assert together == sorted(rows(setup.retain))


def test_a_rehearsal_depends_on_the_seed_and_on_nothing_else(setup):
    again = Setup(setup.experiment, "digits", 1, setup.checkpoints, setup.device).rehearsal(140)
    other = Setup(setup.experiment, "digits", 2, setup.checkpoints, setup.device).rehearsal(140)
    first = setup.rehearsal(140)
    assert torch.equal(first.validation.inputs, again.validation.inputs)
    assert torch.equal(first.problem.w_star, again.problem.w_star)
    assert not torch.equal(first.validation.inputs, other.validation.inputs)


def test_a_rehearsal_that_does_not_fit_is_refused(setup):
    with pytest.raises(CduError, match=r"1300 validation and 100 forget samples .* lower methods.validation"):
        setup.rehearsal(1300)


def test_training_stopped_early_is_a_part_of_the_same_training(setup):
    problem = setup.problem()
    whole = problem.stopped(setup.settings.training.epochs)
    assert torch.equal(whole.w, problem.w_star)
    assert len(problem.stopped(1).history) == 1
    assert problem.stopped(1).history[0]["loss"] == whole.history[0]["loss"]


def test_going_on_from_an_earlier_state_gives_the_same_weights(setup, tmp_path):
    fresh = Setup(setup.experiment, "digits", 1, tmp_path, setup.device).problem()
    first, on = fresh.stopped(1), fresh.stopped(2)
    alone = Setup(setup.experiment, "digits", 1, tmp_path / "other", setup.device).problem().stopped(2)
    assert torch.equal(on.w, alone.w)
    assert [row["loss"] for row in on.history] == [row["loss"] for row in alone.history]
    assert not torch.equal(first.w, on.w)
    # The first epoch was not run again: its time is that of the first training.
    assert on.history[0] == first.history[0]


@pytest.mark.parametrize("epochs", [(1, 2, 3), (2, 3)])
def test_a_retrained_model_stopped_early_goes_on_to_the_same_weights(setup, tmp_path, epochs):
    """Bit for bit, and from the latest earlier state."""
    fresh = Setup(setup.experiment, "digits", 1, tmp_path, setup.device)
    states = [fresh.stopped(fresh.retain, number) for number in epochs]
    alone = Setup(setup.experiment, "digits", 1, tmp_path / "other", setup.device)
    recipe = alone.settings.training
    for number, state in zip(epochs, states, strict=True):
        scratch = alone.trained(alone.retain, 1, settings=recipe.model_copy(update={"epochs": number}))
        assert torch.equal(state.w, scratch.w)
        assert [row["loss"] for row in state.history] == [row["loss"] for row in scratch.history]
    for before, after in itertools.pairwise(states):
        # Those epochs were not run again: their times are those of the earlier training.
        assert after.history[: len(before.history)] == before.history
        assert not torch.equal(before.w, after.w)
    assert torch.equal(states[-1].w, alone.retrained.w)


def test_retraining_has_no_gap_and_wins(setup):
    rehearsal = setup.rehearsal(140)
    choices = {"original": Original(), "retrain": Retrain()}
    trials = tune(
        rehearsal, "test", lambda values: choices[values["method"]], {"method": tuple(choices)}, 8, 0, *PROMISE
    )
    assert [trial.values["method"] for trial in trials] == ["original", "retrain"]
    winner = best(trials)
    assert winner.values == {"method": "retrain"}
    assert winner.gap == 0.0
    expected = sum(
        abs(
            accuracy(rehearsal.problem.objective, rehearsal.problem.w_star, samples)
            - accuracy(rehearsal.objective, rehearsal.retrained.w, samples)
        )
        for samples in (rehearsal.validation, rehearsal.problem.forget)
    )
    assert trials[0].gap == pytest.approx(expected, abs=1e-12)
    assert expected > 0


def test_a_trial_that_cannot_run_is_kept_with_its_reason(setup):
    def fails(problem, generator):
        raise CduError("the system is indefinite")

    makers = {"good": Original(), "bad": fails}
    trials = tune(
        setup.rehearsal(140), "test", lambda values: makers[values["m"]], {"m": ("bad", "good")}, 8, 0, *PROMISE
    )
    assert (trials[0].gap, trials[0].note) == (None, "the system is indefinite")
    assert best(trials).values == {"m": "good"}
    assert best(trials[:1]) is None


def test_every_trial_sees_the_same_random_numbers_and_the_rehearsal_alone(setup):
    rehearsal = setup.rehearsal(140)
    drawn, given_to = [], []

    def method(problem, generator):
        drawn.append(torch.rand(3, generator=generator))
        given_to.append(problem)
        return UnlearningResult(problem.w_star, 0.0)

    tune(rehearsal, "test", lambda values: method, {"x": (1, 2, 3)}, 8, 5, *PROMISE)
    assert len(drawn) == 3
    assert torch.equal(drawn[0], drawn[2])
    assert all(problem is rehearsal.problem for problem in given_to)


def test_a_method_with_a_bound_of_its_own_is_judged_with_its_noise(setup):
    rehearsal = setup.rehearsal(140)
    bounds = {"none": None, "small": budget_bound(1e-9), "large": budget_bound(10.0)}

    def make(values):
        return lambda problem, generator: UnlearningResult(
            problem.w_star, 0.0, bound=bounds[values["bound"]], rounding=0.0
        )

    none, small, large = tune(rehearsal, "test", make, {"bound": tuple(bounds)}, 8, 0, *PROMISE)
    assert none.gap == pytest.approx(small.gap, abs=0.01)
    assert large.gap > none.gap + 0.5


def test_a_trial_whose_noise_cannot_be_certified_says_why(setup):
    def make(values):
        return lambda problem, generator: UnlearningResult(problem.w_star, 0.0, bound=budget_bound(1.0))

    (trial,) = tune(setup.rehearsal(140), "test", make, {"bound": "of exact arithmetic"}, 1, 0, *PROMISE)
    assert trial.gap is None
    assert "nothing is known of the rounding" in trial.note


@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True)),
    st.integers(1, 20),
    st.integers(0, 10),
)
def test_candidates_are_distinct_points_of_the_grid(space, trials, seed):
    points = candidates(space, trials, generator(seed))
    size = 1
    for axis in space.values():
        size *= len(axis)
    assert len(points) == min(trials, size)
    assert len({tuple(point.items()) for point in points}) == len(points)
    assert all(point.keys() == space.keys() for point in points)
    assert all(value in space[key] for point in points for key, value in point.items())


def test_candidates_depend_on_the_seed_and_a_single_value_stays():
    space = {"epochs": (1, 2, 3, 4), "rate": (0.1, 0.2, 0.3), "solver": "lissa"}
    drawn = [candidates(space, 4, generator(seed)) for seed in range(8)]
    assert len({str(points) for points in drawn}) > 4
    assert all(point["solver"] == "lissa" for points in drawn for point in points)
    assert drawn[0] == candidates(space, 4, generator(0))


def test_the_first_of_several_best_trials_is_chosen():
    trials = [Trial({"x": 1}, 0.2), Trial({"x": 2}, 0.1), Trial({"x": 3}, 0.1), Trial({"x": 4}, None, "no")]
    assert best(trials).values == {"x": 2}


def test_unknown_methods_and_hyper_parameters_are_refused_by_name():
    with pytest.raises(CduError, match=r"there is no method 'fine-tunning'; known are Fisher forgetting, "):
        build("fine-tunning", {}, 1.0, 1e-5)
    with pytest.raises(CduError, match=r"the method 'fine-tuning' cannot be made from \{'epoch': 1\}: .*epoch"):
        build("fine-tuning", {"epoch": 1}, 1.0, 1e-5)


@pytest.mark.parametrize("name", ["quick", "mnist"])
def test_every_method_has_a_search_space_that_builds_it_and_as_many_points_as_trials(name):
    experiment = load_experiment(name)
    for settings in experiment.datasets.values():
        spaces = settings.methods.spaces
        assert set(spaces) == set(REGISTERED)
        for method, space in spaces.items():
            for values in candidates(space, 10**6, generator(0)):
                assert callable(build(method, values, 1.0, 1e-5)), method


def test_the_last_of_a_grid_is_its_last_candidate_and_words_name_every_constant():
    space = {"epochs": (1, 2, 5), "solver": "exact", "learning_rate": [0.1, 0.01]}
    values = last_of_grid(space)
    assert values == {"epochs": 5, "solver": "exact", "learning_rate": 0.01}
    assert Trial(values, None).words == "epochs = 5, solver = exact, learning_rate = 0.01"
