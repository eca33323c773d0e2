import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from cdu.errors import CduError
from cdu.evaluation.posterior_attacks import (
    CLASSIFIERS,
    FEATURES,
    OriginalAndRelease,
    balanced_rows,
    delong_variance,
    membership_attack,
    sorted_concatenation,
    true_positive_rates,
)

BEFORE, AFTER = np.array([[0.2, 0.5, 0.3]]), np.array([[0.1, 0.2, 0.7]])
COMBINATIONS = [(features, classifier) for features in FEATURES for classifier in CLASSIFIERS]


def posteriors(rng, count):
    return rng.dirichlet(np.ones(10), count)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("direct difference", [[0.1, 0.3, -0.4]]),
        ("sorted difference", [[0.3, -0.4, 0.1]]),
        ("L2 distance", [[0.26**0.5]]),
        ("direct concatenation", [[0.2, 0.5, 0.3, 0.1, 0.2, 0.7]]),
        ("sorted concatenation", [[0.5, 0.3, 0.2, 0.2, 0.7, 0.1]]),
    ],
)
def test_features_are_what_their_formulas_say(features, expected):
    np.testing.assert_allclose(FEATURES[features](BEFORE, AFTER), expected, atol=1e-15)


@given(st.integers(0, 2**31), st.permutations(range(10)))
@settings(max_examples=25, deadline=None)
def test_sorted_features_and_the_distance_do_not_know_which_class_is_which(seed, order):
    rng = np.random.default_rng(seed)
    before, after = posteriors(rng, 5), posteriors(rng, 5)
    for name in ("sorted difference", "L2 distance", "sorted concatenation"):
        np.testing.assert_allclose(
            FEATURES[name](before, after), FEATURES[name](before[:, order], after[:, order]), atol=1e-14
        )


@pytest.mark.parametrize(
    ("features", "classifier"),
    [pytest.param(*pair, marks=[pytest.mark.slow] if pair[1] == "random forest" else []) for pair in COMBINATIONS],
)
def test_no_attack_finds_anything_in_exchangeable_data(features, classifier):
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        view = OriginalAndRelease(posteriors(rng, 200), posteriors(rng, 200), np.arange(200) < 100)
        found.append(membership_attack(view, 5, seed, features, classifier, levels=(0.05,)))
    assert np.mean([one.auc for one in found]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([one.accuracy for one in found]) == pytest.approx(0.5, abs=0.06)
    assert np.mean([one.rates[0.05].value for one in found]) == pytest.approx(0.05, abs=0.04)


#: A linear model cannot see that two posteriors agree, nor that their difference is small.
SEEING = [
    (features, classifier)
    for features, classifier in COMBINATIONS
    if classifier != "logistic regression" or features == "L2 distance"
]


@pytest.mark.parametrize(("features", "classifier"), SEEING)
def test_every_attack_finds_a_planted_leak_that_it_can_see(features, classifier):
    rng = np.random.default_rng(0)
    original, released = posteriors(rng, 400), posteriors(rng, 400)
    members = np.arange(400) < 200
    released[members] = 0.95 * original[members] + 0.05 * released[members]
    result = membership_attack(OriginalAndRelease(original, released, members), 5, 0, features, classifier)
    assert result.auc > 0.8
    assert result.accuracy > 0.7


@pytest.mark.parametrize("features", [name for name in FEATURES if name != "L2 distance"])
def test_logistic_regression_finds_a_leak_that_is_linear(features):
    rng = np.random.default_rng(0)
    original, released = posteriors(rng, 400), posteriors(rng, 400)
    members = np.arange(400) < 200
    # The release is surer of one class for members, in the original's order as in that of the classes.
    target = original.argmax(1) if "sorted" in features else np.zeros(400, int)
    released[members] = 0.6 * released[members] + 0.4 * np.eye(10)[target[members]]
    assert membership_attack(OriginalAndRelease(original, released, members), 5, 0, features).auc > 0.85


def test_the_papers_attack_finds_a_leak_that_it_can_see():
    rng = np.random.default_rng(0)
    original, released = posteriors(rng, 400), posteriors(rng, 400)
    members = np.arange(400) < 200
    released[members] = 0.5 * released[members] + 0.5 * np.eye(10)[original[members].argmax(1)]
    result = membership_attack(OriginalAndRelease(original, released, members), 5, 0)
    assert result.auc > 0.95
    assert result.rates[0.01].value > 0.5


def test_one_false_positive_in_a_hundred_is_allowed_whatever_the_fold():
    """Members far above all others in every fold but for one non-member above everything."""
    rng = np.random.default_rng(0)
    original = posteriors(rng, 200)
    members = np.arange(200) < 100
    released = np.where(members[:, None], 0.1, 0.9) * np.eye(10)[0] + 0.01
    released[150] = released[0]
    view = OriginalAndRelease(original, released, members)
    assert membership_attack(view, 5, 0, "direct concatenation").rates[0.01].value > 0.9


def test_the_attack_is_the_same_for_the_same_seed_and_differs_for_another():
    rng = np.random.default_rng(3)
    view = OriginalAndRelease(posteriors(rng, 100), posteriors(rng, 100), np.arange(100) < 50)
    first, again, other = (membership_attack(view, 5, seed, classifier="random forest") for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("seed", range(5))
def test_delongs_variance_is_that_of_the_double_loop(seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(23) < 9
    scores = rng.integers(0, 6, 23).astype(float)  # with ties
    members, others = scores[labels], scores[~labels]
    wins = (members[:, None] > others).astype(float) + 0.5 * (members[:, None] == others)
    expected = wins.mean(1).var(ddof=1) / len(members) + wins.mean(0).var(ddof=1) / len(others)
    assert delong_variance(labels.astype(int), scores) == pytest.approx(expected, rel=1e-12)


def test_delongs_variance_is_the_spread_of_the_area_over_repetitions():
    areas, variances = [], []
    labels = np.arange(120) < 60
    for seed in range(300):
        scores = np.random.default_rng(seed).normal(0.8 * labels)
        areas.append(roc_auc_score(labels, scores))
        variances.append(delong_variance(labels.astype(int), scores))
    assert np.mean(variances) == pytest.approx(np.var(areas), rel=0.2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("level", [0.01, 0.1, 0.3])
def test_the_true_positive_rate_is_that_of_the_best_test_of_its_level(seed, level):
    """Two neighbouring thresholds, the one or the other taken with the probability that exhausts the level."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(200) < 80).astype(int)
    scores = np.round(rng.normal(labels), 1)
    members, others = scores[labels == 1], scores[labels == 0]
    thresholds = np.append(np.unique(scores), np.inf)
    points = [((others >= t).mean(), (members >= t).mean()) for t in thresholds]
    below = max(point for point in points if point[0] <= level)
    above = min((point for point in points if point[0] > level), key=lambda point: point[0])
    expected = below[1] + (above[1] - below[1]) * (level - below[0]) / (above[0] - below[0])
    rate = true_positive_rates(labels, scores, (level,))[level]
    assert rate.value == pytest.approx(expected, abs=0.02)
    hits = round(rate.value * 80)
    assert rate.low == pytest.approx(beta.ppf(0.025, hits, 81 - hits) if hits else 0.0)
    assert rate.high == pytest.approx(beta.ppf(0.975, hits + 1, 80 - hits))


def test_a_score_that_all_share_finds_as_many_as_chance():
    assert true_positive_rates(np.arange(100) % 2, np.zeros(100), (0.1,))[0.1].value == pytest.approx(0.1)


@given(st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_members_and_others_have_the_same_classes_in_the_same_numbers(seed):
    rng = np.random.default_rng(seed)
    members, others = rng.integers(0, 5, 40), rng.integers(0, 5, 90)
    first, second = balanced_rows(members, others, seed)
    counts = [np.bincount(labels[rows], minlength=5) for labels, rows in ((members, first), (others, second))]
    np.testing.assert_array_equal(*counts)
    np.testing.assert_array_equal(
        counts[0], np.minimum(np.bincount(members, minlength=5), np.bincount(others, minlength=5))
    )
    assert len(set(first)) == len(first)
    assert len(set(second)) == len(second)
    np.testing.assert_array_equal(balanced_rows(members, others, seed)[1], second)


def test_an_imbalance_of_classes_is_not_taken_for_membership():
    """Members of one class only: without balancing, the posteriors alone would tell them."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.zeros(60, int), rng.integers(0, 3, 180)])
    outputs = 0.9 * np.eye(3)[labels] + 0.1 * rng.dirichlet(np.ones(3), 240)
    rows = np.concatenate(
        [part + shift for part, shift in zip(balanced_rows(labels[:60], labels[60:], 0), (0, 60), strict=True)]
    )
    view = OriginalAndRelease(outputs[rows], outputs[rows], np.arange(len(rows)) < len(rows) // 2)
    assert membership_attack(view, 5, 0, "direct concatenation").auc == pytest.approx(0.5, abs=0.15)


def test_folds_are_balanced_where_classes_are():
    """Else the attack learns the contrary: what a fold has too many of, its fit has too few of."""
    areas = {name: [] for name in ("plain", "stratified")}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        classes = np.tile(np.repeat(np.arange(10), 5), 2)
        outputs = np.eye(10)[classes] * 0.9 + 0.01
        view = OriginalAndRelease(outputs, outputs, np.arange(100) < 50)
        order = rng.permutation(100)
        view = OriginalAndRelease(outputs[order], outputs[order], view.members[order])
        for name, strata in (("plain", None), ("stratified", classes[order])):
            result = membership_attack(view, 5, seed, "direct concatenation", strata=strata)
            areas[name].append(result.auc)
    assert np.mean(areas["plain"]) < 0.4
    assert np.mean(areas["stratified"]) == pytest.approx(0.5, abs=0.03)


def test_both_posteriors_are_sorted_by_the_originals_order():
    assert sorted_concatenation(BEFORE, AFTER).tolist() == [[0.5, 0.3, 0.2, 0.2, 0.7, 0.1]]


@pytest.mark.parametrize(
    ("members", "change", "message"),
    [
        (3, {}, "as many non-members"),
        (5, {}, "20 folds need at least 40 members"),
        (5, {"folds": 2, "features": "telepathy"}, "unknown choice 'telepathy': known are direct difference"),
        (5, {"folds": 2, "classifier": "oracle"}, "unknown choice 'oracle': known are logistic regression"),
    ],
)
def test_an_unusable_attack_is_refused(members, change, message):
    rng = np.random.default_rng(0)
    view = OriginalAndRelease(posteriors(rng, 10), posteriors(rng, 10), np.arange(10) < members)
    with pytest.raises(CduError, match=message):
        membership_attack(view, **{"folds": 20, "seed": 0, **change})


def test_posteriors_that_are_not_finite_or_not_of_these_samples_are_refused():
    rng = np.random.default_rng(0)
    before, after, members = posteriors(rng, 20), posteriors(rng, 20), np.arange(20) < 10
    with pytest.raises(CduError, match="are not of the same samples"):
        membership_attack(OriginalAndRelease(before, after[1:], members), 2, 0)
    after[3, 1] = np.nan
    with pytest.raises(CduError, match="posteriors hold NaN"):
        membership_attack(OriginalAndRelease(before, after, members), 2, 0)
