"""The whole path, as a user walks it: papermill, the batch and its interruption, the book."""

import hashlib
import json
import re
import signal
import subprocess
import time

import pytest
import yaml
from safetensors.torch import load_file

from cdu.experiments.experiment import load_experiment
from cdu.experiments.metrics import MetricKind, kind
from cdu.experiments.records import read_record
from cdu.experiments.repository import repository
from cdu.models.training import project
from cdu.verification.canaries import FOLDER, Canary, run
from conftest import batch_command

pytestmark = pytest.mark.slow

#: What the batch below runs.
BATCHED = {"02_training", "03_unlearning", "03_methods", "05_relearn", "07_sequential"}

#: What is run twice in this process instead.
REPEATED = ("04_attacks", "10_audit")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A canary's experiment under a name of its own."""
    content = yaml.safe_load((repository() / FOLDER / "mlp.yaml").read_text())
    content["name"] = "tiny"
    path = tmp_path_factory.mktemp("experiment") / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def papermill(environment, folder, *parameters):
    command = ["papermill", "notebooks/02_training.ipynb", str(folder / "out.ipynb"), "--log-level", "ERROR"]
    for name, value in parameters:
        command += ["-p", name, str(value)]
    return subprocess.run(command, cwd=repository(), env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def notebooks(environment):
    subprocess.run(["cdu", "notebooks"], cwd=repository(), env=environment, check=True, capture_output=True)


def test_a_notebook_runs_alone_under_papermill(environment, notebooks, tiny, tmp_path):
    done = papermill(environment, tmp_path, ("experiment", tiny), ("output", tmp_path), ("seed", 1))
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "tiny" / "digits" / "seed-1" / "02_training.json")
    assert record.seed == 1
    assert any(cell.get("outputs") for cell in json.loads((tmp_path / "out.ipynb").read_text())["cells"])
    radius = record.settings["training"]["radius"]
    kept = [project(load_file(path)["w"], radius) for path in tmp_path.glob("checkpoints/*/digits-*.safetensors")]
    hashes = {f"SHA-256 {hashlib.sha256(w.numpy().tobytes()).hexdigest()[:12]}" for w in kept}
    assert {metric.note for metric in record.metrics if metric.metric == "weights_norm"} == hashes
    assert len(hashes) == 3


def test_a_foreign_kernel_and_startup_files_do_not_matter_to_papermill(environment, notebooks, tiny, tmp_path):
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text('{"argv": ["false"], "display_name": "x", "language": "python"}')
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "00.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("histfile = 'x'; epochs = 7")
    foreign = {"JUPYTER_PATH": str(tmp_path / "jupyter"), "IPYTHONDIR": str(tmp_path / "ipython")}
    parameters = (("experiment", tiny), ("output", tmp_path))
    done = papermill({**environment, **foreign}, tmp_path, *parameters)
    assert done.returncode == 0, done.stderr
    assert read_record(tmp_path / "tiny" / "digits" / "seed-0" / "02_training.json").seed == 0


def test_an_unknown_parameter_fails_the_notebook(environment, notebooks, tiny, tmp_path):
    done = papermill(environment, tmp_path, ("experiment", tiny), ("output", tmp_path), ("epochs", 7))
    assert done.returncode != 0
    assert "unknown parameter 'epochs'" in done.stderr
    assert not list(tmp_path.glob("tiny/**/*.json"))


def start_batch(environment, tiny, output, cores=2):
    command = [*batch_command(tiny, output, cores), "--keep-going", "--quiet", "rules", "host"]
    return subprocess.Popen(
        command, cwd=repository(), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def records_under(output):
    return {path.stem: path for path in output.glob("tiny/digits/seed-0/*.json")}


@pytest.fixture(scope="session")
def killed_batch(environment, tiny, tmp_path_factory):
    """A batch whose Snakemake is killed with SIGKILL while its jobs live on, then started again."""
    output = tmp_path_factory.mktemp("runs")
    content = yaml.safe_load(tiny.read_text())
    content["sections"] = sorted(BATCHED)
    tiny = tmp_path_factory.mktemp("part") / "tiny.yaml"
    tiny.write_text(yaml.safe_dump(content))
    batch = start_batch(environment, tiny, output)
    deadline = time.monotonic() + 600
    while len(records_under(output)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    batch.send_signal(signal.SIGKILL)
    batch.wait()
    early = {name: path.stat().st_mtime_ns for name, path in records_under(output).items()}
    again = start_batch(environment, tiny, output)
    log, _ = again.communicate(timeout=900)
    return output, early, again.returncode, log, tiny


def test_a_killed_batch_completes_and_repeats_nothing(killed_batch):
    output, early, code, log, _ = killed_batch
    assert code == 0, log
    assert 2 <= len(early) < len(BATCHED)
    assert set(records_under(output)) == BATCHED
    assert {name: records_under(output)[name].stat().st_mtime_ns for name in early} == early


def test_a_complete_batch_has_nothing_to_do(environment, killed_batch):
    output, *_, tiny = killed_batch
    before = {name: path.stat().st_mtime_ns for name, path in records_under(output).items()}
    again = start_batch(environment, tiny, output)
    log, _ = again.communicate(timeout=300)
    assert again.returncode == 0, log
    assert {name: path.stat().st_mtime_ns for name, path in records_under(output).items()} == before


def test_a_failing_section_does_not_stop_the_others(environment, tiny, tmp_path):
    content = yaml.safe_load(tiny.read_text())
    content["datasets"]["digits"]["sequential"] = {"requests": 200, "long_requests": 200, "retrained_at": [1]}
    # One at a time, in the order of the list: the failing one before the last.
    content["sections"] = ["02_training", "07_sequential", "03_unlearning"]
    content["name"] = "partly"
    path = tmp_path / "partly.yaml"
    path.write_text(yaml.safe_dump(content))
    batch = start_batch(environment, path, tmp_path, cores=1)
    log, _ = batch.communicate(timeout=900)
    assert batch.returncode != 0
    assert "cannot be cut into 200 requests" in log
    found = {record.stem: record for record in tmp_path.glob("partly/digits/seed-0/*.json")}
    assert set(found) == {"02_training", "03_unlearning"}
    executed = tmp_path / "partly" / "digits" / "seed-0" / "07_sequential.ipynb"
    # It was not too late to stop the other.
    assert executed.stat().st_mtime_ns < found["03_unlearning"].with_suffix(".ipynb").stat().st_mtime_ns
    assert "CduError" in executed.read_text()


def same_numbers(one, other):
    """Whether two records have the same numbers to the bit, but for times and what ARPACK computes."""
    loose = {MetricKind.TIME, MetricKind.ITERATED}
    kept = [[m for m in read_record(path).metrics if kind(m.metric) not in loose] for path in (one, other)]
    assert len(kept[0]) > 5
    assert kept[0] == kept[1]


def test_the_same_seed_gives_the_same_record_with_papermill_and_without(killed_batch, tmp_path):
    output, *_, tiny = killed_batch
    experiment = load_experiment(str(tiny))
    chosen = [Canary(tiny, experiment, *job) for job in experiment.jobs()]
    run(chosen, tmp_path)
    for canary in chosen:
        same_numbers(canary.record(output), canary.record(tmp_path))


@pytest.mark.parametrize("section", REPEATED)
def test_the_same_seed_gives_the_same_record_twice(tiny, tmp_path, section):
    canary = Canary(tiny, load_experiment(str(tiny)), "digits", 0, section)
    for turn in ("first", "second"):
        run([canary], tmp_path / turn)
    same_numbers(canary.record(tmp_path / "first"), canary.record(tmp_path / "second"))


def test_shadow_models_are_trained_attacked_and_kept(environment, tiny, tmp_path):
    content = yaml.safe_load(tiny.read_text())
    wanted = ["newton", "fine-tuning", "rewind, Adam", "output perturbation"]
    content["datasets"]["digits"]["shadows"]["methods"] = wanted
    content["name"] = "few"
    path = tmp_path / "few.yaml"
    path.write_text(yaml.safe_dump(content))
    command = ["cdu", "section", "04_shadows", "--experiment", str(path), "--output", str(tmp_path)]
    subprocess.run(command, cwd=repository(), env=environment, check=True, capture_output=True)
    target = tmp_path / "few" / "digits" / "seed-0" / "04_shadows.json"
    first = read_record(target)
    areas = {(m.method, m.split): m for m in first.metrics if m.metric == "lira_auc"}
    assert {"original", "retrain", "newton", "fine-tuning", "output perturbation, ε = 1"} <= {name for name, _ in areas}
    assert ("newton", "retrained") in areas
    assert ("retrain", "retrained") not in areas
    assert "5 of 3 epochs cannot be rewound" in areas["rewind, Adam", ""].note
    difference = next(m.value for m in first.metrics if m.metric == "single_difference")
    assert difference < 1e-5
    target.unlink()
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("checkpoints/*/shadows/*.safetensors")}
    assert len(kept) >= 5
    subprocess.run(command, cwd=repository(), env=environment, check=True, capture_output=True)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("checkpoints/*/shadows/*.safetensors")} == kept
    assert [m for m in read_record(target).metrics if "seconds" not in m.metric] == [
        m for m in first.metrics if "seconds" not in m.metric
    ]


def test_the_benchmark_times_every_program_and_runs_anew(environment, tiny, tmp_path, clone):
    command = ["cdu", "bench", str(tiny), "--output", str(tmp_path), "--device", "cpu", "--official", str(clone)]
    subprocess.run(command, cwd=repository(), env=environment, check=True, capture_output=True)
    path = tmp_path / "tiny" / "digits" / "seed-0" / "08_efficiency.json"
    record = read_record(path)
    seconds = {(m.method, m.split): m.value for m in record.metrics if m.metric == "seconds" and m.value is not None}
    for program in ("gradient", "product, first", "product, next", "forward over reverse", "curvlinops"):
        assert seconds[program, "products"] > 0
    for program in ("cdu", "authors", "authors, data in memory"):
        assert seconds[program, "LiSSA, 10 repeats"] > 0
        assert seconds[program, "epoch"] > 0
    difference = {m.method: m.value for m in record.metrics if m.metric == "difference"}
    assert all(value < 1e-4 for value in difference.values())
    assert {"product, first", "forward over reverse", "curvlinops"} <= set(difference)
    residuals = [m for m in record.metrics if m.metric == "residual" and m.axis == "tolerance"]
    assert len(residuals) >= 9
    assert all(m.value <= 1.1 * m.point for m in residuals)
    refused = [m for m in record.metrics if m.value is None and m.split == "λ = 0.001"]
    assert refused
    assert all("indefinite" in m.note or "H + λI" in m.note for m in refused)
    before = path.stat().st_mtime_ns
    subprocess.run(command[:-2], cwd=repository(), env=environment, check=True, capture_output=True)
    assert path.stat().st_mtime_ns > before
    assert any("clone of the authors' repository" in m.note for m in read_record(path).metrics)


@pytest.mark.parametrize(("section", "block"), [("11_scale", "scale"), ("11_bound", "bound")])
def test_the_sections_on_large_networks_say_where_they_are_set_up(section, block, environment, tiny, tmp_path):
    command = ["cdu", "section", section, "--experiment", str(tiny), "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=repository(), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"the experiment 'tiny' has no block '{block}' for digits; 'batchnorm', 'paper'" in done.stderr


def test_a_failing_notebook_leaves_its_executed_copy(environment, tiny, tmp_path):
    content = yaml.safe_load(tiny.read_text())
    content["datasets"]["digits"]["training"]["learning_rate"] = 1e30
    content["name"] = "broken"
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(content))
    command = ["cdu", "section", "02_training", "--experiment", str(path), "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=repository(), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "training diverged" in done.stderr
    assert "Traceback" not in done.stderr
    executed = tmp_path / "broken" / "digits" / "seed-0" / "02_training.ipynb"
    assert "CduError" in executed.read_text()
    assert not executed.with_suffix(".json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["section", "99_magic"], "unknown section '99_magic'"),
        (["section", "02_training", "--dataset", "imagenet"], "unknown dataset 'imagenet'"),
        (["certify", "--radius", "10"], "give exactly one of --sigma and --epsilon"),
        (["reference", "paper"], "records are missing"),
        (["bench", "quick", "--official", "nowhere"], "nowhere holds no unlearn.py"),
        (["section", "09_official_code", "--official", "nowhere"], "nowhere holds no unlearn.py"),
        (["data", "fetch", "imagenet"], "unknown dataset 'imagenet'"),
        (["verify", "--runs", "nowhere"], "there are no runs of 'quick' under"),
    ],
)
def test_the_command_line_answers_bad_input_with_one_sentence(environment, arguments, message):
    done = subprocess.run(
        ["cdu", *arguments], cwd=repository(), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_certify_prints_both_directions(environment):
    def certify(*arguments):
        command = ["cdu", "certify", "--radius", "20", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert "ε = 8.002e+08" in certify("--sigma", "0.001")
    assert re.search(r"^σ = 149\.\d+ ", certify("--epsilon", "1"))
