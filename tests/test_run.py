import pytest
import torch

from cdu import storage
from cdu.errors import CduError, DamagedFileError
from cdu.evaluation.readings import Reading
from cdu.experiments.records import read_record
from cdu.experiments.run import begin
from cdu.unlearning.problem import UnlearningResult
from cdu.unlearning.release import Release
from conftest import network

GIVEN = {"dataset": "digits", "seed": 0, "experiment": "", "output": "runs", "device": "cpu"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "imagenet"}, "unknown dataset 'imagenet': known are digits, mnist"),
        ({"dataset": ["digits"]}, "unknown dataset"),
        ({"experiment": "slow"}, "no experiment 'slow'"),
        ({"experiment": "mnist"}, "experiment 'mnist' has no dataset 'digits'"),
        ({"seed": -1}, "seed = -1 is not a whole number"),
        ({"seed": "one"}, "seed = 'one' is not a whole number"),
        ({"seed": True}, "seed = True is not a whole number"),
        ({"device": "abacus"}, "unknown device 'abacus'"),
    ],
)
def test_wrong_parameters_are_errors(change, message):
    with pytest.raises(CduError, match=message):
        begin("02_training", {**GIVEN, **change})


def test_a_missing_parameter_is_an_error():
    with pytest.raises(CduError, match="'seed' is missing"):
        begin("02_training", {"dataset": "digits"})


def test_what_ipython_puts_into_the_namespace_is_no_parameter():
    extra = {"In": ["", "x"], "Out": {}, "_": 1, "begin": begin, "exit": lambda: None}
    run = begin("02_training", {**GIVEN, **extra})
    assert run.setup.experiment.name == "quick"


def test_models_trained_with_another_number_of_threads_are_not_shared():
    folders = set()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        folders.add(begin("02_training", GIVEN).setup.checkpoints)
    assert len(folders) == 2


def test_a_run_writes_a_record_that_says_how_it_was_made(tmp_path):
    run = begin("02_training", {**GIVEN, "output": str(tmp_path), "seed": 2})
    run.log("accuracy", 0.5, method="original", split="test")
    run.log("residual", None, note="it diverged")
    run.finish()
    record = read_record(tmp_path / "quick" / "digits" / "seed-2" / "02_training.json")
    assert (record.dataset, record.seed, record.section, record.machine.device) == ("digits", 2, "02_training", "cpu")
    assert record.split_hash == run.setup.split.hash
    assert record.settings["training"]["epochs"] == 50
    assert "relearn" not in record.settings
    assert record.packages["torch"].startswith("2.")
    assert [metric.value for metric in record.metrics] == [0.5, None]


def test_a_metric_that_is_not_registered_is_refused():
    run = begin("02_training", GIVEN)
    with pytest.raises(
        CduError, match=r"unknown metric 'acuracy' \(is 'accuracy' meant\?\); a new one needs a line in"
    ):
        run.log("acuracy", 0.5)
    with pytest.raises(CduError, match=r"unknown metric 'zzz'; a new one"):
        run.log("zzz", None, note="could not run")
    assert run.metrics == []


def test_a_point_is_logged_in_order_and_computed_once(tmp_path):
    calls = []

    def compute(run):
        calls.append(1)
        run.log("accuracy", 0.5, axis="radius", point=5)

    for attempt in range(2):
        run = begin("06_ablations", GIVEN)
        run.setup.checkpoints = tmp_path
        run.log("sigma", 1)
        run.point("radius = 5", lambda run=run: compute(run))
        run.point(f"radius = {6 + attempt}", lambda run=run: compute(run))
        run.log("epsilon", 2)
        assert [one.metric for one in run.metrics] == ["sigma", "accuracy", "accuracy", "epsilon"]
    assert len(calls) == 3


def test_an_interrupted_point_leaves_nothing_behind(tmp_path):
    run = begin("06_ablations", GIVEN)
    run.setup.checkpoints = tmp_path

    def interrupted():
        run.log("accuracy", 0.5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.point("radius = 5", interrupted)
    assert not list(tmp_path.rglob("*.*"))


def test_a_damaged_file_is_no_method_s_result(tmp_path):
    run = begin("02_training", GIVEN)
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes(b"x")
    with pytest.raises(DamagedFileError, match=r"cannot be read .* delete it to train again"):
        run.outcome("newton", lambda: storage.read_tensors(damaged, "to train again"), "accuracy")
    assert run.metrics == []

    def refused():
        raise CduError("no step")

    assert run.outcome("newton", refused, "accuracy") is None
    assert [metric.note for metric in run.metrics] == ["no step"]


def logged(run):
    return [(one.metric, one.method, one.split, one.axis, one.point, one.value, one.note) for one in run.metrics]


@pytest.mark.parametrize("seed", range(3))
def test_a_release_is_logged_with_its_accuracy_and_its_distances(seed):
    run = begin("03_unlearning", GIVEN)
    objective, w, samples = network("mlp", seed)
    parts = {"forget": samples.subset(torch.arange(5)), "test": samples}
    release = Release(w, objective, None, UnlearningResult(w, 0.0))
    distances = {"distance": w + 2, "distance to another network": w[1:]}
    run.log_release("newton", release, parts, distances, axis="radius", point=5)
    shares = [float((objective.outputs(w, one).argmax(1) == one.targets).double().mean()) for one in parts.values()]
    length = pytest.approx(2 * len(w) ** 0.5)
    assert logged(run) == [
        ("accuracy", "newton", "forget", "radius", 5.0, shares[0], ""),
        ("accuracy", "newton", "test", "radius", 5.0, shares[1], ""),
        ("distance", "newton", "", "radius", 5.0, length, ""),
    ]


def test_accuracy_of_several_draws_is_their_mean():
    run = begin("03_unlearning", GIVEN)
    objective, w, samples = network("mlp", count=40)
    draws = [Release(scale * w, objective, None, UnlearningResult(w, 0.0)) for scale in (1.0, -1.0, 0.0)]
    for draw in draws:
        run.log_release("each", draw, {"test": samples})
    each = [one.value for one in run.metrics]
    run.log_accuracy("all", draws, {"test": samples}, "later_accuracy")
    assert len(set(each)) > 1
    assert run.metrics[-1].value == pytest.approx(sum(each) / 3)
    assert run.metrics[-1].metric == "later_accuracy"


def test_costs_that_a_method_does_not_have_are_passed_over():
    run = begin("03_unlearning", GIVEN)
    update = UnlearningResult(torch.zeros(2), 3.0, hvp_samples=7, converged=False)
    run.log_costs("newton", update, "seconds", "hvp_samples", "residual", "converged", note="stopped")
    keys = [(one.metric, one.value, one.note) for one in run.metrics]
    assert keys == [("seconds", 3.0, "stopped"), ("hvp_samples", 7.0, ""), ("converged", 0.0, "")]


def test_every_point_of_a_sweep_is_kept(tmp_path):
    seen = []

    def compute(run, radius):
        seen.append(radius)
        run.log("norm", radius / 2, axis="radius", point=radius)

    for radii in ((5, 6), (5, 6, 7)):
        run = begin("06_ablations", GIVEN)
        run.setup.checkpoints = tmp_path
        run.sweep("radius", radii, lambda radius, run=run: compute(run, radius))
        assert [one.point for one in run.metrics] == list(radii)
    assert seen == [5, 6, 7]


def test_a_trained_model_as_a_release_is_the_model_itself(tmp_path):
    setup = begin("02_training", GIVEN).setup
    setup.checkpoints = tmp_path
    released = setup.as_trained(setup.initial)
    assert released.certificate is None
    assert torch.equal(released.w, setup.initial.w)
    direct = setup.initial.model(setup.test.batch(slice(None))[0])
    torch.testing.assert_close(released.objective.outputs(released.w, setup.test), direct)


def test_what_a_check_yields_is_logged_in_order_and_printed_in_a_line(capsys):
    run = begin("01_theory", GIVEN)
    keys = {"axis": "damping", "point": 0.5}
    run.log_values({"bound": 2.0, "distance": 1.0}, method="ridge", **keys, told=True)
    run.log_each([Reading({"bound": None}, {"note": "λ is too small", "split": "batch 10"})], method="softmax")
    run.log_each([Reading({"sigma_ratio": 1.5}, {"axis": "epsilon", "point": 1})], quiet=True)
    run.log_values({"delta": 1e-5}, told=True)
    assert [(one.metric, one.value, one.method, one.split, one.axis, one.point, one.note) for one in run.metrics] == [
        ("bound", 2.0, "ridge", "", "damping", 0.5, ""),
        ("distance", 1.0, "ridge", "", "damping", 0.5, ""),
        ("bound", None, "softmax", "batch 10", "", None, "λ is too small"),
        ("sigma_ratio", 1.5, "", "", "epsilon", 1.0, ""),
        ("delta", 1e-5, "", "", "", None, ""),
    ]
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "ridge, damping 0.5: bound = 2, distance = 1",
        "softmax, batch 10: bound = none: λ is too small",
        "delta = 1e-05",
    ]
