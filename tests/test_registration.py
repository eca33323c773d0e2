"""A method is registered where it is defined, and every section on all methods runs it."""

from dataclasses import replace

import pandas as pd
import pytest
import yaml

from cdu.errors import CduError
from cdu.experiments.experiment import load_experiment
from cdu.experiments.records import read_record
from cdu.experiments.repository import repository
from cdu.report.chapters import relearn, tables
from cdu.unlearning import registry
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.problem import UnlearningResult
from cdu.unlearning.registration import REGISTERED, Traits, register
from cdu.unlearning.registry import build, certified_among, traits
from cdu.verification import canaries
from cdu.verification.canaries import Canary


class Shrink:
    """A reader's method, of no use: all weights times a factor."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, problem, generator):
        return UnlearningResult(self.factor * problem.w_star, 0.0)

    def reference(self, problem, result, generator):
        return replace(result, w=self.factor * Retrain()(problem, generator).w)


class OwnNoise(Shrink):
    def __init__(self, factor, epsilon, delta):
        super().__init__(factor)
        self.promise = (epsilon, delta)


class Uncertified:
    def __init__(self, steps=1):
        self.steps = steps

    def __call__(self, problem, generator):
        return UnlearningResult(problem.w_star, 0.0)


@pytest.fixture
def registered():
    """The register, which forgets what a test adds to it."""
    before = dict(REGISTERED)
    yield REGISTERED
    REGISTERED.clear()
    REGISTERED.update(before)


def test_what_a_class_has_tells_whether_it_is_certified_and_adds_its_noise(registered):
    for make in (Shrink, OwnNoise, Uncertified):
        assert register(make.__name__)(make) is make
    assert traits("Shrink") == Traits(certified=True)
    assert traits("OwnNoise") == Traits(certified=True, own_noise=True)
    assert traits("Uncertified") == traits("original") == traits("nobody's") == Traits()
    assert build("OwnNoise", {"factor": 0.5}, 2.0, 1e-6).promise == (2.0, 1e-6)
    assert build("Shrink", {"factor": 0.5}, 2.0, 1e-6).factor == 0.5


def test_certified_methods_keep_their_order_but_a_yardstick_with_noise_comes_first(registered):
    register("shrink")(Shrink)
    register("nothing", without_noise="original")(Original)
    register("uncertified")(Uncertified)
    mixed = ["uncertified", "rewind", "nothing", "shrink", "original"]
    assert certified_among(mixed) == ["nothing", "rewind", "shrink"]


def test_a_name_stands_for_one_class(registered):
    register("shrink")(Shrink)
    register("shrink", own_model=True)(Shrink)
    assert traits("shrink").own_model
    with pytest.raises(CduError, match=r"there is a method 'shrink' already; register .*Uncertified by another name"):
        register("shrink")(Uncertified)
    with pytest.raises(CduError, match="there is a method 'newton' already"):
        register("newton")(Shrink)
    for name in ("shrink, ε = 1", "shrink + noise"):
        with pytest.raises(CduError, match="mark a release with noise"):
            register(name)(Shrink)
    with pytest.raises(CduError, match="one of your own must be registered"):
        build("grow", {}, 1.0, 1e-5)


def test_the_methods_of_an_installed_package_are_found(registered, tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(
        "from cdu.unlearning.methods.original import Original\n"
        "from cdu.unlearning.registration import register\n"
        "register('theirs')(Original)\n"
    )
    folder = tmp_path / "theirs-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[cdu.methods]\ntheirs = theirs\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.import_all()
    assert isinstance(build("theirs", {}, 1.0, 1e-5), Original)


def test_the_traits_of_the_methods_here():
    found = {name: one.traits for name, one in REGISTERED.items()}
    assert {name for name, one in found.items() if one.certified} == {
        "output perturbation", "Newton step", "noisy fine-tuning", "rewind", "rewind, linear", "Langevin, linear",
        "certified removal, linear",
    }  # fmt: skip
    assert {name for name, one in found.items() if one.own_noise} == {"noisy fine-tuning", "Langevin, linear"}
    assert {name for name, one in found.items() if one.own_model} == {
        "rewind", "rewind, linear", "Langevin, linear", "certified removal, linear",
    }  # fmt: skip
    assert {name: one.l2_in_advance for name, one in found.items() if one.l2_in_advance} == {
        "rewind, linear": 0.01, "Langevin, linear": 0.01, "certified removal, linear": 1e-3,
    }  # fmt: skip
    assert {name for name, one in found.items() if one.without_noise} == {"output perturbation"}


@pytest.fixture
def tiny(tmp_path):
    """A canary's experiment with one method, a reader's own."""
    content = yaml.safe_load((repository() / canaries.FOLDER / "mlp.yaml").read_text())
    digits = content["datasets"]["digits"]
    digits["methods"]["spaces"] = {"a reader's": {"factor": [0.5, 0.9]}}
    digits["methods"]["trials"] = 2
    digits["training"]["epochs"] = 1
    digits["attack"]["classifiers"] = ["logistic regression"]
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**content, "name": "tiny"}))
    return path


# Slow: three sections one after another, each in a process of its own.
@pytest.mark.slow
def test_a_class_and_a_line_of_yaml_are_a_method_in_every_section(registered, tiny, tmp_path):
    register("a reader's")(Shrink)
    experiment = load_experiment(str(tiny))
    frames = {}
    for section in ("03_methods", "04_attacks", "05_relearn"):
        canary = Canary(tiny, experiment, "digits", 0, section)
        canaries.run([canary], tmp_path / "runs")
        metrics = read_record(canary.record(tmp_path / "runs")).metrics
        frames[section] = pd.DataFrame([metric.model_dump() for metric in metrics]).assign(seed=0, dataset="digits")
    made = tables("03_methods-table", frames["03_methods"])
    rows = made["Table 1: accuracy (= micro-F1), gap, time and certificate"].set_index("method")
    assert rows.loc["a reader's", "certificate"] == "none: no noise"
    assert rows.loc["a reader's, ε = 1", "certificate"].startswith("ε = 1, δ = 1e-05")
    distances = made["Distance to the reference, measured and certified"].set_index("method")
    assert float(distances.loc["a reader's", "largest ratio of a seed"]) <= 1
    (tuning,) = tables("03_methods-tuning", frames["03_methods"]).values()
    assert tuning.set_index("method").loc["a reader's", "trials"] == "2"
    (later,) = tables("03_methods-compute", frames["03_methods"]).values()
    assert "a reader's" in set(later["start"])
    attacked = next(iter(tables("04_attacks", frames["04_attacks"]).values()))
    relearned = tables("05_relearn", frames["05_relearn"])["Relearn time"]
    for found in (attacked, relearned):
        assert {"a reader's", "a reader's, ε = 1"} <= set(found["model"])
    labels = set(frames["05_relearn"]["method"])
    assert relearn.family("a reader's", labels) == "certified, and the same without noise"
    assert relearn.relearn(frames["05_relearn"]).axes
