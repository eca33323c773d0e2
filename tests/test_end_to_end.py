"""The whole path, as a user walks it: papermill, the batch and its interruption, the book."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from cdu.config import BENCHMARKS, BY_HAND, OPTIONAL, SECTIONS, load_experiment, repository
from cdu.kinds import TIMES
from cdu.records import read_record
from cdu.training import project
from cdu.unlearning import CERTIFIED, TUNED

pytestmark = pytest.mark.slow

#: What a batch runs.
BATCHED = set(SECTIONS) - {*BENCHMARKS, *BY_HAND, *OPTIONAL}

TINY = {
    "seeds": [0],
    "training": {"epochs": 3, "radius": 8},
    "lissa": {"scale": 1000, "depth": 12, "repeats": 2, "batch_size": 10},
}


@pytest.fixture(scope="session")
def environment():
    """Programs of this environment first, one thread."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The experiment quick, shrunk to seconds, under a name of its own."""
    content = yaml.safe_load((repository() / "experiments" / "quick.yaml").read_text())
    settings = content["datasets"]["digits"]
    content.update(name="tiny", seeds=TINY["seeds"])
    settings["training"].update(TINY["training"])
    settings["unlearning"]["exact_limit"] = 100
    for damping in settings["unlearning"]["dampings"].values():
        damping["lissa"] = TINY["lissa"]
    content.pop("section_seeds")
    settings["theory"].update(
        dampings=[20, 200], draws=20_000, rows=200, forget_sets=2, forget_sizes=[4, 8], epochs=[1], requests=2,
        lissa_draws=3, batches=2, filters=2,
    )  # fmt: skip
    settings["methods"].update(validation=100, trials=1, epsilons=[1], epochs=[0, 1])
    spaces = settings["methods"]["spaces"]
    spaces["rewind"].update(steps=4, rewound=2)
    spaces["rewind, linear"].update(steps=4, rewound=2, filters=2)
    spaces["Langevin, linear"].update(training_steps=4, steps=2, filters=2)
    spaces["certified removal, linear"].update(l2=0.1, filters=2)
    # More epochs than there are: the method cannot run and must say so.
    spaces["rewind, Adam"] = {"epochs": 5}
    settings["relearn"]["max_epochs"] = 2
    settings["shadows"] = {"shadows": 8, "pool": 20}
    settings["audit"] = {"trials": 60, "estimated": 40, "runs": 40, "planted_runs": 40, "forget": ["mislabelled"]}
    settings["ablations"].update(
        dampings=[20, 200], sigmas=[0.001, 10], radii=[5, 8], shares=[0.2], forget=["hardest"], weight_decays=[0],
        widths=[4], depths=[5], repeats=[1], scales=[1], batches=[10], noise_draws=2,
    )  # fmt: skip
    settings["sequential"] = {"requests": 2, "long_requests": 4, "retrained_at": [1], "epochs": [1, 3]}
    settings["efficiency"].update(
        repetitions=3, dampings=[20, 0.001], peer_dampings=[20], lissa_depths=[5, 10], neumann_terms=[3],
        lissa_steps=10, sizes=[100, 200], widths=[4, 8], epochs=[1], probes=2, lanczos_steps=10, exact=False,
    )  # fmt: skip
    settings["official"] = {
        "epochs": 2, "requests": 2, "draws": 2, "depths": [5], "krylov": 5, "network_samples": 500, "network_epochs": 1,
        "network": {"name": "allcnn", "width": 0.02}, "lissa": TINY["lissa"],
    }  # fmt: skip
    path = tmp_path_factory.mktemp("experiment") / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="session")
def convolutional(tiny, tmp_path_factory):
    """The same with a narrow network with BatchNorm, and what the section on large networks needs."""
    content = yaml.safe_load(tiny.read_text())
    content.update(name="narrow", sections=["02_training", "11_scale"])
    content["datasets"]["digits"].update(
        model={"name": "allcnn", "width": 0.05},
        scale={
            "hessian_samples": 50, "spectrum_samples": 40, "lanczos_steps": 4, "judged": 60, "recalibrated": 256,
            "methods": {"negative gradient": {"epochs": 1, "learning_rate": 0.001}},
        },
    )  # fmt: skip
    path = tmp_path_factory.mktemp("narrow") / "narrow.yaml"
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
    radius = TINY["training"]["radius"]
    kept = [project(load_file(path)["w"], radius) for path in tmp_path.glob("checkpoints/*/digits-*.safetensors")]
    hashes = {f"SHA-256 {hashlib.sha256(w.numpy().tobytes()).hexdigest()[:12]}" for w in kept}
    assert {metric.note for metric in record.metrics if metric.metric == "weights_norm"} == hashes
    assert len(hashes) == 3


def test_an_unknown_parameter_fails_the_notebook(environment, notebooks, tiny, tmp_path):
    done = papermill(environment, tmp_path, ("experiment", tiny), ("output", tmp_path), ("epochs", 7))
    assert done.returncode != 0
    assert "unknown parameter 'epochs'" in done.stderr
    assert not list(tmp_path.glob("tiny/**/*.json"))


def start_batch(environment, tiny, output, cores=2):
    command = [
        "snakemake", "--snakefile", "workflow/Snakefile", "--config", f"experiment={tiny}", f"output={output}",
        "device=cpu", "--cores", str(cores), "--keep-going", "--nolock", "--ignore-incomplete", "--rerun-triggers",
        "input", "--quiet", "rules", "host",
    ]  # fmt: skip
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
    batch = start_batch(environment, tiny, output)
    deadline = time.monotonic() + 600
    while len(records_under(output)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    batch.send_signal(signal.SIGKILL)
    batch.wait()
    early = {name: path.stat().st_mtime_ns for name, path in records_under(output).items()}
    again = start_batch(environment, tiny, output)
    log, _ = again.communicate(timeout=900)
    return output, early, again.returncode, log


def test_a_killed_batch_completes_and_repeats_nothing(killed_batch):
    output, early, code, log = killed_batch
    assert code == 0, log
    assert 2 <= len(early) < len(BATCHED)
    assert set(records_under(output)) == BATCHED
    assert {name: records_under(output)[name].stat().st_mtime_ns for name in early} == early


def test_a_complete_batch_has_nothing_to_do(environment, tiny, killed_batch):
    output, *_ = killed_batch
    before = {name: path.stat().st_mtime_ns for name, path in records_under(output).items()}
    again = start_batch(environment, tiny, output)
    log, _ = again.communicate(timeout=300)
    assert again.returncode == 0, log
    assert {name: path.stat().st_mtime_ns for name, path in records_under(output).items()} == before


def test_a_failing_section_does_not_stop_the_others(environment, tiny, tmp_path):
    content = yaml.safe_load(tiny.read_text())
    content["datasets"]["digits"]["sequential"] = {"requests": 200, "long_requests": 200, "retrained_at": [1]}
    # One at a time, in the order of their priorities: the failing one before the last.
    content["sections"] = ["02_training", "03_unlearning", "07_sequential"]
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


def test_the_same_seed_gives_the_same_record(environment, tiny, killed_batch, tmp_path):
    output, *_ = killed_batch
    for section in (
        "02_training",
        "03_unlearning",
        "03_methods",
        "04_attacks",
        "05_relearn",
        "07_sequential",
        "10_audit",
    ):
        command = ["cdu", "section", section, "--experiment", str(tiny), "--output", str(tmp_path), "--device", "cpu"]
        subprocess.run(command, cwd=repository(), env=environment, check=True, capture_output=True)
        first, second = (
            read_record(folder / "tiny" / "digits" / "seed-0" / f"{section}.json") for folder in (output, tmp_path)
        )
        kept = [[m for m in record.metrics if m.metric not in TIMES] for record in (first, second)]
        assert kept[0] == kept[1]
        assert len(kept[0]) > 5


def test_every_method_has_its_rows_and_one_that_cannot_run_its_reason(killed_batch):
    output, *_ = killed_batch
    record = read_record(output / "tiny" / "digits" / "seed-0" / "03_methods.json")
    accuracy = {m.method: m for m in record.metrics if m.metric == "accuracy"}
    assert accuracy["rewind, Adam"].value is None
    assert "5 of 3 epochs cannot be rewound" in accuracy["rewind, Adam"].note
    tried = {m.method: m for m in record.metrics if m.metric == "trial_gap"}
    assert set(tried) == set(TUNED)
    assert [name for name, trial in tried.items() if trial.value is None] == ["rewind, Adam"]
    assert "5 of 3 epochs cannot be rewound" in tried["rewind, Adam"].note
    for name in set(CERTIFIED):
        epsilon = next(m.value for m in record.metrics if (m.metric, m.method) == ("epsilon", f"{name}, ε = 1"))
        assert 0 < epsilon <= 1
    later = {(m.method, m.split, m.point) for m in record.metrics if m.metric == "later_accuracy"}
    assert {("from scratch", "test, no noise", 1.0), ("output perturbation", "test, ε = 1", 1.0)} <= later
    assert record.settings["methods"]["spaces"]["fine-tuning"]["epochs"] == [1, 2, 5]


def test_every_method_is_attacked_and_relearned(killed_batch):
    output, *_ = killed_batch
    for section, metric in (("04_attacks", "auc"), ("05_relearn", "epochs")):
        record = read_record(output / "tiny" / "digits" / "seed-0" / f"{section}.json")
        found = {m.method: m for m in record.metrics if m.metric == metric}
        own_noise = {"noisy fine-tuning", "Langevin, linear", "output perturbation"}
        assert set(TUNED) - own_noise <= set(found)
        assert {f"{name}, ε = 1" for name in CERTIFIED} <= set(found)
        assert {"original + noise", "newton + noise", "retrain", "second retraining"} <= set(found)
        assert "5 of 3 epochs cannot be rewound" in found["rewind, Adam"].note


def test_every_certified_method_is_audited(killed_batch):
    output, *_ = killed_batch
    record = read_record(output / "tiny" / "digits" / "seed-0" / "10_audit.json")
    audited = {(m.method, m.split) for m in record.metrics if m.metric == "audit_epsilon"}
    assert {(name, f"random, {view}") for name in CERTIFIED for view in ("weights", "outputs")} <= audited
    assert ("Newton step", "mislabelled, weights, direction known") in audited
    distances = {(m.method, m.split): m.value for m in record.metrics if m.metric == "pair_distance"}
    bounds = {(m.method, m.split): m.value for m in record.metrics if m.metric == "sensitivity"}
    assert all(distances[pair] <= bounds[pair] for pair in distances)
    assert len(distances) == 2 * (len(CERTIFIED) - 2)


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


def test_a_network_with_batchnorm_has_everything_in_one_record(environment, convolutional, tmp_path):
    command = ["cdu", "section", "11_scale", "--experiment", str(convolutional), "--output", str(tmp_path)]
    subprocess.run(command, cwd=repository(), env=environment, check=True, capture_output=True)
    record = read_record(tmp_path / "narrow" / "digits" / "seed-0" / "11_scale.json")
    assert record.machine.arithmetic == "float32, channels last"
    found = {(m.metric, m.method, m.split): m.value for m in record.metrics}
    released = [
        f"{name}{noise}"
        for name in ("original", "newton", "retrain")
        for noise in ("", " + noise", " + noise for ε = 1")
    ]
    for label in (*released, "second retraining", "negative gradient"):
        for metric in ("accuracy", "recalibrated_accuracy"):
            assert {split for kind, method, split in found if (kind, method) == (metric, label)} == {
                "forget", "retain", "test",
            }  # fmt: skip
        assert "ε" in label or found["auc", label, ""] is not None
        assert 0 <= found["epochs", label, ""] <= 3
    assert found["hessian_samples", "", ""] == 50
    assert found["judged_samples", "", "retain"] == 60
    assert found["lambda_min", "", ""] < found["lambda_max", "", ""]
    assert found["distance_to_retrained", "retrain", ""] == 0
    assert found["epsilon", "newton + noise for ε = 1", ""] == pytest.approx(1)
    assert found["hvp_samples", "newton", ""] % 50 == 0
    # The step at the λ that other work used, and after the statistics were taken anew.
    anew = ", statistics of D_r first"
    for step in ("newton, λ = 200", f"newton{anew}", f"newton, λ = 200{anew}"):
        assert found["residual", step, ""] <= 1e-3
        assert 0 < found["distance_to_original", step, ""] < 1
    assert found["distance_to_original", "newton, λ = 200", ""] < found["distance_to_original", "newton", ""]
    for ends in ("lambda_min", "lambda_max"):
        assert found[ends, f"newton{anew}", ""] != found[ends, "", ""]
    for split in ("forget", "retain", "test"):
        fresh = found["accuracy", f"newton, λ = 200{anew}", split]
        assert fresh == pytest.approx(found["recalibrated_accuracy", "newton, λ = 200", split], abs=0.02)


def test_the_section_on_large_networks_says_where_it_is_set_up(environment, tiny, tmp_path):
    command = ["cdu", "section", "11_scale", "--experiment", str(tiny), "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=repository(), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the experiment 'tiny' has no block 'scale' for digits; 'batchnorm', 'paper'" in done.stderr


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


@pytest.fixture(scope="session")
def built_book(environment, tmp_path_factory):
    """The book, built with warnings as errors from a copy of the tracked files: what a fresh clone holds."""
    copy = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=repository(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (repository() / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repository() / name, copy / name)
    command = ["jupyter-book", "build", "book/", "-W", "--keep-going"]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return copy / "_build" / "html"


PAGES = [
    "index",
    "claims",
    "theory",
    "theory-noise",
    "theory-newton",
    "theory-bound",
    "theory-lissa",
    "theory-requests",
    "theory-control",
    "training",
    "unlearning",
    "attacks",
    "attacks-shadows",
    "relearn",
    "audit",
    "ablations",
    "ablations-noise",
    "ablations-setup",
    "ablations-lissa",
    "efficiency",
    "efficiency-solvers",
    "efficiency-peers",
    "efficiency-scaling",
    "efficiency-retraining",
    "scale",
    "runs",
    "setups",
    "provenance",
    "api",
]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_built_and_needs_no_network(built_book, page):
    content = (built_book / f"{page}.html").read_text()
    loaded = re.findall(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=\"(https?:)?//[^\"]*\"", content)
    assert loaded == []
    assert "Traceback" not in content


def test_the_book_shows_the_references_of_both_experiments_and_their_runs(built_book):
    unlearning = (built_book / "unlearning.html").read_text()
    for title in ("Results: MNIST", "Results: digits"):
        assert title in unlearning
    for dataset, experiment in (("digits", "quick"), ("mnist", "mnist")):
        for section in SECTIONS:
            first = load_experiment(experiment).seeds_of(section)[0]
            record = repository() / "results" / experiment / dataset / f"seed-{first}" / f"{section}.json"
            alone = section in BENCHMARKS or section in BY_HAND or section in OPTIONAL
            if alone and not record.exists():
                # No batch makes these, so that an experiment may have references without them.
                continue
            assert (built_book / "runs" / f"{dataset}-{experiment}-seed-{first}-{section}.html").exists()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium is installed")
def test_formulas_are_set_in_a_browser_without_the_network(built_book, tmp_path):
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path}", "--virtual-time-budget=8000", "--dump-dom", f"file://{built_book}/theory-bound.html",
    ]  # fmt: skip
    page = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert page.count("<mjx-container") >= 10
