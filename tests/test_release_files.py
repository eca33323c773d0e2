import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import jsonschema
import pytest
from scipy import integrate, stats

from cdu.certification import budget_bound, certify
from cdu.certification import certificate as certificates
from cdu.errors import CduError
from cdu.own_model.release_certificate import SCHEMA, Facts, ReleaseCertificate, chance, schema
from cdu.own_model.release_page import PLAIN, number, odds, page, percent
from cdu.own_model.state_files import CERTIFICATE, PAGE, RELEASES
from cdu.unlearning.sealed import read_sealed
from states import answer, answer_without, ask, begin, certificate, tensors


def released(state, number):
    return read_sealed(ReleaseCertificate, state.folder / RELEASES / f"{number:04d}" / CERTIFICATE)


def text_of(state, number):
    return (state.folder / RELEASES / f"{number:04d}" / PAGE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Releases with a certificate, retrained, with a vacuous certificate, and with none."""
    state = begin(tmp_path_factory.mktemp("states") / "state")
    answer(state, ask(state, "user 1", 2))
    answer_without(state, ask(state, "b", method="<i>Retraining</i>"), retrained=True)
    answer(state, ask(state, "c"), value=3, sigma=0.1)
    answer_without(state, ask(state, "d"))
    return state


def test_the_schema_beside_the_module_is_todays():
    assert SCHEMA.read_text(encoding="utf-8") == schema()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_certificate_is_what_its_schema_says(state, number):
    content = json.loads((state.folder / RELEASES / f"{number:04d}" / CERTIFICATE).read_bytes())
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    validator.validate(content)
    for name in content:
        less = {key: value for key, value in content.items() if key != name}
        assert list(validator.iter_errors(less)), name
    assert list(validator.iter_errors(content | {"more": 1}))
    assert list(validator.iter_errors(content | {"format": 2}))


def test_a_certificate_says_what_the_entry_and_the_request_say(state):
    (entry, *_), found = state.ledger.entries(), released(state, 1)
    given = certificate()
    assert found.guarantee.model_dump(include={"epsilon", "delta", "sigma", "sensitivity", "bound", "reference"}) == (
        given.model_dump(include={"epsilon", "delta", "sigma", "sensitivity", "bound", "reference"})
    )
    assert (found.guarantee.worth, found.guarantee.mu) == (given.worth, 0.1)
    assert (found.entry.hash, found.weights.tensors, found.ids) == (entry.hash, entry.after, entry.ids)
    assert (found.ids_count, found.facts.rows_deleted, found.options["damping"]) == (2, 3, 10.0)
    assert set(given.not_covered) < set(found.not_covered)
    assert (found.together.epsilon, found.budget) == (pytest.approx(given.epsilon, rel=1e-9), None)
    exact, vacuous, none = (released(state, number) for number in (2, 3, 4))
    assert (exact.retrained, exact.guarantee, exact.together.epsilon) == (True, None, found.together.epsilon)
    assert vacuous.guarantee.worth == "vacuous"
    assert (none.guarantee, none.reason, none.not_covered) == (None, "training <assumption> violated", ())
    assert (none.together.epsilon, none.together.mu, none.together.chance) == (None, None, 1.0)
    assert "1 of 4 releases" in none.together.reason


@pytest.mark.parametrize("mu", [0.0, 0.1, 1.0, 3.0])
def test_the_chance_to_guess_right_is_that_of_the_likelihood_ratio(mu):
    # Both models are equally likely: the best test is right with half the integral of the larger density.
    larger = integrate.quad(lambda x: max(stats.norm.pdf(x), stats.norm.pdf(x - mu)) / 2, -12, 12 + mu, limit=200)[0]
    assert chance(mu) == pytest.approx(larger, abs=1e-7)
    assert chance(mu, 0.01) == pytest.approx(larger + 0.01, abs=1e-7)
    assert chance(math.inf) == chance(3.0, 0.5) == 1.0


def test_what_is_left_of_a_budget_is_what_one_more_release_may_spend(tmp_path):
    state = begin(tmp_path / "state", cap=(1.0, 1e-5))
    answer(state, ask(state, "a"), sigma=5.0)
    budget = released(state, 1).budget
    assert (budget.epsilon, budget.delta) == (1.0, 1e-5)
    assert 1 - certificate(5.0).epsilon < budget.room < 1

    def sigma_for(epsilon):
        low, high = 1e-3, 1e3
        while high / low > 1 + 1e-12:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if certify(budget_bound(1.0), middle, 1e-5).epsilon <= epsilon else (middle, high)
        return high

    with pytest.raises(CduError, match="nothing was recorded"):
        state.ledger.expect_room(1 / sigma_for(budget.room * (1 + 1e-6)))
    state.ledger.expect_room(1 / sigma_for(budget.room * (1 - 1e-6)))
    answer(state, ask(state, "b"), sigma=sigma_for(budget.room * (1 - 1e-6)))
    assert released(state, 2).budget.room < 2e-3
    assert "budget is ε = 1 at δ = 1e-05" in text_of(state, 2)


class Reader(HTMLParser):
    """Reads a page, and objects where elements are not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.words = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader, " ".join(" ".join(reader.words).split())


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_page_stands_alone_and_names_what_can_be_checked(state, number):
    text, found = text_of(state, number), released(state, number)
    reader, words = read(text)
    assert not {tag for tag, _ in reader.seen} & {"script", "link", "img", "iframe", "object", "form"}
    assert not re.search(r"https?:|url\(|@import|\son\w+=|src=|href=", text)
    for value in (found.weights.file, found.weights.tensors, found.entry.hash, found.date[:10]):
        assert value in words
    assert "cdu check FOLDER" in words
    for entry in state.ledger.entries():
        assert not any(one in text for one in entry.ids)


def test_pages_say_in_plain_words_what_is_promised(state):
    one, exact, vacuous, none = (read(text_of(state, number))[1] for number in (1, 2, 3, 4))
    assert f"This one release has spent ε = {number(certificate().epsilon)} at δ = 1e-05" in one
    assert "he guesses right in at most 52 % of all cases" in one
    assert "The probability of a right guess rises from 50 % to at most 52 %" in one
    assert "Deleted 3 rows of 100 rows; 97 rows are left" in one
    assert "Asked for 2 ids" in one
    for text in released(state, 1).not_covered:
        assert PLAIN[text] in one
    assert "Exact: this model was trained anew" in exact
    assert "<i>Retraining</i>" in exact
    assert "This promise says next to nothing" in vacuous
    assert "in at most 100 % of all cases" in vacuous
    verdict = none[none.index("what is promised", 80) :]
    assert verdict.startswith(
        "what is promised No certificate. Nothing is promised about the deleted rows. The reason: "
    )
    assert "training <assumption> violated" in none
    assert "The 4 releases so far promise nothing together at δ = 1e-05: 1 of 4 releases" in none
    assert '<div class="verdict none" role="alert">' in text_of(state, 4)


def test_every_sentence_on_what_is_not_covered_has_plain_words():
    assert set(certificates._NOT_COVERED) < set(PLAIN)


def test_what_a_page_shows_is_rounded_to_the_safe_side():
    assert [percent(share) for share in (0.5, 0.5199, 0.52, 0.52001, 0.9999, 1.0)] == [
        f"{text}\N{NO-BREAK SPACE}%" for text in ("50", "52", "52", "52.1", "100", "100")
    ]
    assert [number(value) for value in (0.0, 1.0, 0.12341, 12.345, 1234.5, 1e-9)] == [
        "0", "1", "0.1235", "12.35", "1235", "1e-09",
    ]  # fmt: skip
    assert [odds(epsilon) for epsilon in (0.0, 1.0, 50.0, 1000.0)] == ["1", "2.719", "5.2e+21", "more than 10^300"]


def test_a_page_is_made_of_its_certificate_alone(state):
    found = released(state, 1)
    assert page(found) == text_of(state, 1) == page(found.model_copy(update={"hash": "", "page": ""}))


def test_a_note_and_a_missing_time_are_shown_as_they_are(tmp_path):
    state = begin(tmp_path / "state")
    facts = Facts(rows_deleted=1, rows_retained=1, note="stopped & looked")
    state.commit(ask(state), tensors(1), None, "no noise", 0.5, False, facts)
    _, words = read(text_of(state, 1))
    assert "stopped & looked" in words
    assert "Took" not in words
    assert "Deleted 1 row of 2 rows; 1 row is left" in words


@pytest.mark.slow  # An interpreter imports the package.
def test_the_schema_is_made_by_running_its_module(environment, tmp_path):
    before = SCHEMA.read_bytes()
    subprocess.run([sys.executable, "-m", "cdu.own_model.release_certificate"], check=True, env=environment)
    assert SCHEMA.read_bytes() == before
