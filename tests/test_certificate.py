"""Certificates: what follows from a bound, what is refused, how they are printed and read back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from cdu import certification
from cdu.cli import app
from cdu.errors import CduError


def failing(failure, fixed_in_advance=True):
    """A bound of 2·1·(0·1 + 1)/2 = 1 that fails with probability ρ."""
    return certification.newton_bound(1, 0, 1, 1, fixed_in_advance=fixed_in_advance).model_copy(
        update={"failure": failure}
    )


def test_a_certificate_names_its_terms_and_survives_json():
    certificate = certification.certify_by_projection(0.01, 1e-5, 10)
    assert certificate.worth == "vacuous"
    assert certification.Certificate.model_validate_json(certificate.model_dump_json()) == certificate
    assert certification.certify_by_projection(
        certification.gaussian_sigma(1, 1e-5, 20), 1e-5, 10
    ).epsilon == pytest.approx(1)
    assert certification.certify_by_projection(1000, 1e-5, 10).worth == "meaningful"
    assert (
        certification.certify_by_projection(certification.gaussian_sigma(10, 1e-5, 20) * 1.001, 1e-5, 10).worth
        == "weak"
    )
    with pytest.raises(ValidationError):
        certificate.epsilon = 0.0
    with pytest.raises(ValidationError):
        certification.Certificate(**certificate.model_dump(), promise="more")


@pytest.mark.parametrize(
    ("epsilon", "worth"),
    [(0.0, "meaningful"), (1.0, "meaningful"), (1.001, "weak"), (10.0, "weak"), (10.01, "vacuous")],
)
def test_the_worth_of_an_epsilon_ends_at_one_and_at_ten(epsilon, worth):
    certificate = certification.certify_by_projection(1, 1e-5, 1).model_copy(update={"epsilon": epsilon})
    assert certificate.worth == worth
    assert f": {worth}" in str(certificate)


def test_a_delta_of_a_hundredth_is_the_largest_that_is_certified():
    assert certification.certify_by_projection(1, 0.01, 1).delta == 0.01
    with pytest.raises(CduError, match="too little to be called a guarantee"):
        certification.certify_by_projection(1, 0.0101, 1)


@pytest.mark.parametrize("releases", [1, 2])
def test_a_certificate_of_several_releases_says_so(releases):
    text = str(certification.certify(certification.budget_bound(0.5), 1.0, 1e-5, releases=releases))
    assert ("together, each with fresh noise" in text) == (releases > 1)


def test_the_printed_certificate_is_an_aligned_table():
    text = str(certification.certify_by_projection(0.01, 1e-5, 10))
    flat = " ".join(text.split())
    for part in (
        "reference retraining on the retained set", "2C by projection", "vacuous", "Δ = 20",
        "no better than releasing the original model with noise for 2C", "published before the request",
        "chosen after seeing a release", "a noise seed that the adversary knows", "BatchNorm's running statistics",
        "tuned on the forget set",
    ):  # fmt: skip
        assert part in flat
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    column = lines[0].index("(ε")
    for line in lines:
        assert line[column - 2 : column] == "  "
        assert line[column] != " "
    assert sum(line.startswith("does not cover") for line in lines) == 1


def test_epsilon_is_that_of_the_mechanism():
    certificate = certification.certify(certification.budget_bound(0.5), 0.7, 1e-5)
    assert certificate.epsilon == certification.gaussian_epsilon(0.7, 1e-5, 0.5)
    assert (certificate.sensitivity, certificate.releases, certificate.failure) == (0.5, 1, 0.0)
    assert certification.certify_by_projection(3, 1e-5, 10) == certification.certify(
        certification.trivial_bound(10), 3, 1e-5
    )


def test_each_bound_brings_its_own_reference():
    budget, projection = (
        certification.certify(certification.budget_bound(0.5), 1, 1e-5),
        certification.certify_by_projection(1, 1e-5, 1),
    )
    assert "exact minimiser" in budget.reference
    assert "retraining on the retained set by the same recipe, projected" in projection.reference
    assert all("N(0, σ²I)" in certificate.reference for certificate in (budget, projection))
    assert "original model" in projection.covers
    assert "fallback" in budget.covers
    assert any("Δ was fixed before the data were seen" in text for text in budget.assumptions)


@pytest.mark.parametrize("releases", [2, 10])
def test_several_releases_compose_in_gaussian_differential_privacy(releases):
    certificate = certification.certify(certification.trivial_bound(10), 30, 1e-5, releases)
    assert certificate.epsilon == certification.gaussian_epsilon(30, 1e-5, releases**0.5 * 20)
    assert certificate.releases == releases
    assert certificate.epsilon > certification.certify_by_projection(30, 1e-5, 10).epsilon
    assert f"{releases} together, each with fresh noise" in str(certificate)


def test_what_may_fail_is_paid_from_delta():
    certificate = certification.certify(failing(4e-6), 2.0, 1e-5)
    assert certificate.epsilon == pytest.approx(certification.gaussian_epsilon(2.0, 6e-6, 1.0), rel=1e-11)
    assert certificate.epsilon > certification.gaussian_epsilon(2.0, 6e-6, 1.0)
    assert (certificate.delta, certificate.failure) == (1e-5, 4e-6)
    assert "ρ = 4e-06" in str(certificate)
    assert "ρ" not in str(certification.certify(failing(0.0), 2.0, 1e-5))


def test_every_further_release_can_fail_anew_but_a_sequence_counts_all_its_requests():
    assert certification.certify(failing(1e-6), 2.0, 1e-5, releases=4).failure == 4e-6
    sequence = certification.sequential_bound([failing(1e-6)] * 4)
    assert certification.certify(sequence, 2.0, 1e-5, releases=4).failure == 4e-6
    assert certification.certify(sequence, 2.0, 1e-5, releases=1).failure == 4e-6
    assert certification.certify(sequence, 2.0, 1e-5, releases=5).failure == 8e-6


@given(
    st.floats(1e-9, 1e3),
    st.one_of(st.just(1.0), st.floats(1e-3, 1e4)),
    st.floats(1e-9, 1e-2),
    st.sampled_from([1, 3, 10]),
)
@settings(max_examples=200, deadline=None)
def test_noise_for_an_epsilon_certifies_no_more_than_it_not_even_in_the_last_digit(value, epsilon, delta, releases):
    """An ε of 1.0000000000000002 would be called weak where 1 is meaningful."""
    bound = certification.budget_bound(value)
    sigma = certification.required_sigma(bound, epsilon, delta, releases)
    assert certification.certify(bound, sigma, delta, releases).epsilon <= epsilon


def test_a_lissa_bound_known_in_advance_is_certified_with_its_failure():
    bound = certification.lissa_bound(
        1, 0.5, 0, 1, 0.1, 0.0, parameters=10, repeats=1000, depth=100, scale=1.5, failure=1e-6, form="derived",
        fixed_in_advance=True,
    )  # fmt: skip
    certificate = certification.certify(bound, 50.0, 1e-5)
    assert certificate.epsilon == pytest.approx(certification.gaussian_epsilon(50.0, 9e-6, bound.value), rel=1e-9)
    assert "LiSSA (derived)" in certificate.bound
    assert any("every mini-batch" in text for text in certificate.assumptions)


def test_no_distance_needs_no_noise():
    assert certification.certify(certification.newton_bound(1, 0, 0, 1, fixed_in_advance=True), 0.1, 1e-5).epsilon == 0


@pytest.mark.parametrize("releases", [1, 7])
@pytest.mark.parametrize("epsilon", [0, 1e-3, 1, 1e6])
def test_the_required_noise_is_what_certifies(epsilon, releases):
    bound = failing(1e-6)
    sigma = certification.required_sigma(bound, epsilon, 1e-5, releases)
    assert certification.certify(bound, sigma, 1e-5, releases).epsilon == pytest.approx(epsilon, rel=1e-9)
    assert certification.certify(bound, sigma * 0.999, 1e-5, releases).epsilon > epsilon


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: certification.certify(failing(0.0, fixed_in_advance=False), 1, 1e-5),
            r"'Theorem 3.4' is an indication: its constants were measured on the data.*2C by projection or a budget",
        ),
        (
            lambda: certification.certify(certification.residual_bound(1, 1), 1, 1e-5),
            "'residual over l2' is an indication",
        ),
        (lambda: certification.certify(certification.unprojected_bound(1, 1), 1, 1e-5), "is an indication"),
        (lambda: certification.required_sigma(certification.residual_bound(1, 1), 1, 1e-5), "is an indication"),
        (
            lambda: certification.certify(failing(1e-5), 1, 1e-5),
            "'Theorem 3.4' fails with probability 1e-05 in 1 releases, which is not below delta = 1e-05",
        ),
        (lambda: certification.certify(failing(2e-6), 1, 1e-5, 5), "fails with probability 1e-05 in 5 releases"),
        (
            lambda: certification.certify(certification.trivial_bound(1), 0, 1e-5),
            "sigma = 0 is not a positive finite number",
        ),
        (lambda: certification.certify(certification.trivial_bound(1), 1, 0), "delta = 0 is not between 0 and 1"),
        (
            lambda: certification.certify(certification.trivial_bound(1), 1, 0.99),
            "delta = 0.99 certifies too little to be called a guarantee",
        ),
        (
            lambda: certification.certify(certification.trivial_bound(1), 1, 1e-5, 0),
            "releases = 0 is not a whole number",
        ),
        (lambda: certification.certify_by_projection(1, 1e-5, -1), "radius = -1"),
        (lambda: certification.required_sigma(certification.trivial_bound(1), -1, 1e-5), "epsilon = -1"),
    ],
)
def test_what_cannot_be_certified_is_refused(call, message):
    with pytest.raises(CduError, match=message):
        call()


def command(*arguments):
    return CliRunner().invoke(app, ["certify", *arguments], catch_exceptions=False)


def test_the_command_line_prints_what_a_noise_certifies():
    printed = command("--sigma", "0.001", "--delta", "1e-5", "--radius", "20").output
    assert printed == str(certification.certify_by_projection(0.001, 1e-5, 20)) + "\n"


def test_the_command_line_prints_the_noise_that_an_epsilon_needs():
    first, rest = command("--epsilon", "1", "--radius", "20").output.split("\n", 1)
    assert first == "σ = 149.226 (classical formula, proved for ε ≤ 1 only: 193.792)"
    assert "(ε = 1, δ = 1e-05): meaningful" in rest
    ten = command("--epsilon", "1", "--radius", "20", "--releases", "10").output
    needed, printed = certification.gaussian_sigma(1, 1e-5, 40 * 10**0.5), float(ten.split()[2])
    assert needed <= printed < needed * (1 + 1e-5)
    assert "10 together" in ten


def test_the_command_line_knows_budgets_and_json():
    printed = command("--epsilon", "1", "--budget", "0.01", "--json").output
    certificate = certification.Certificate.model_validate_json(printed)
    assert certificate.sigma == pytest.approx(0.03731, rel=1e-3)
    assert certificate.epsilon == pytest.approx(1)
    assert certificate.bound == "budget with fallback"
    assert json.loads(command("--sigma", "1", "--radius", "3", "--json", "--releases", "4").output)["releases"] == 4
    assert command("--epsilon", "0", "--budget", "0.01").output.startswith("σ = 398.943 ")


@pytest.mark.parametrize("epsilon", ["0.1", "1", "10"])
@pytest.mark.parametrize("bound", [("--radius", "10"), ("--radius", "0.37"), ("--budget", "1e-3")])
def test_the_noise_that_is_printed_certifies_what_was_asked_for(epsilon, bound):
    printed = command("--epsilon", epsilon, *bound).output.split()[2]
    again = json.loads(command("--sigma", printed, *bound, "--json").output)["epsilon"]
    assert float(epsilon) * (1 - 1e-4) < again <= float(epsilon)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--radius", "10"], "give exactly one of --sigma and --epsilon"),
        (["--radius", "10", "--sigma", "1", "--epsilon", "1"], "give exactly one of --sigma and --epsilon"),
        (["--sigma", "1"], "give exactly one of --radius and --budget"),
        (["--sigma", "1", "--radius", "1", "--budget", "1"], "give exactly one of --radius and --budget"),
        (["--sigma", "0", "--radius", "1"], "sigma = 0.0 is not a positive"),
        (["--sigma", "1", "--radius", "nan"], "radius = nan"),
        (["--sigma", "1", "--budget", "-1"], "budget = -1.0"),
        (["--sigma", "1", "--radius", "1", "--delta", "1"], "delta = 1.0 is not between"),
        (["--sigma", "1", "--radius", "1", "--releases", "0"], "releases = 0"),
        (["--epsilon", "-1", "--radius", "1"], "epsilon = -1.0"),
    ],
)
def test_the_command_line_refuses_impossible_input_with_one_sentence(arguments, message):
    with pytest.raises(CduError, match=message) as caught:
        command(*arguments)
    assert "\n" not in str(caught.value)
