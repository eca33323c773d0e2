import hashlib
import json
import math
import os
import random
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import cdu.unlearning.ledger as module
from cdu.certification import budget_bound, certify, trivial_bound
from cdu.cli import app
from cdu.cli import main as command
from cdu.errors import CduError
from cdu.unlearning.ledger import ENTRIES, HEAD, LOCK, SALT, SETTINGS, Ledger
from cdu.unlearning.ledger_entries import composed, weights_hash
from cdu.unlearning.methods.newton import NewtonStep
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.release import release
from test_release import logistic_problem

FILES = (ENTRIES, HEAD, SETTINGS, SALT)
W = np.arange(3.0)


def add(ledger, sigma=1.0, failure=0.0, ids=("a",), delta=1e-5, distance=0.1):
    bound = budget_bound(distance).model_copy(update={"failure": failure})
    return ledger.record(ids, "method", W, W + 1, certify(bound, sigma, delta))


def add_without(ledger, ids=("a",), **keys):
    return ledger.record(ids, "method", W, W + 1, None, "no noise", **keys)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger")


@pytest.mark.parametrize("releases", [1, 2, 7, 30])
@pytest.mark.parametrize(("sigma", "failure"), [(0.3, 0.0), (2.0, 1e-8)])
def test_equal_releases_promise_what_one_certificate_for_all_does(ledger, releases, sigma, failure):
    for _ in range(releases):
        add(ledger, sigma, failure)
    bound = budget_bound(0.1).model_copy(update={"failure": failure})
    together = certify(bound, sigma, 1e-5, releases)
    spent = ledger.spent(1e-5)
    assert spent.epsilon == pytest.approx(together.epsilon, rel=1e-12)
    assert spent.failure == pytest.approx(together.failure, rel=1e-12)
    assert spent.releases == releases


@pytest.mark.parametrize("seed", range(3))
def test_unequal_releases_compose_as_dp_accounting_says(ledger, seed):
    sigmas = np.random.default_rng(seed).uniform(0.5, 3, size=5)
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for sigma in sigmas:
        add(ledger, float(sigma), distance=1.0)
        accountant.compose(GaussianDpEvent(float(sigma)))
    theirs = accountant.get_epsilon(1e-5)
    assert theirs * (1 - 5e-4) <= ledger.spent(1e-5).epsilon <= theirs * (1 + 1e-6)
    assert ledger.spent(1e-5).mu == pytest.approx(math.sqrt(np.sum(sigmas**-2.0)), rel=1e-14)


def test_nothing_is_spent_by_an_empty_ledger_a_distance_of_zero_or_retraining(ledger):
    assert ledger.spent(1e-5).epsilon == 0
    add_without(ledger, retrained=True)
    certificate = certify(trivial_bound(1.0), 0.1, 1e-5)
    ledger.record(["b"], "Retrain", W, W, certificate, retrained=True)
    add(ledger, distance=1.0)
    assert ledger.spent(1e-5).epsilon == pytest.approx(certify(budget_bound(1.0), 1.0, 1e-5).epsilon, rel=1e-12)


def test_a_release_without_a_certificate_makes_epsilon_unbounded_and_says_why(ledger):
    add(ledger)
    add_without(ledger)
    spent = ledger.spent(1e-5)
    assert math.isinf(spent.epsilon)
    assert "1 of 2 releases have no certificate, first entry 2 (no noise)" in str(spent)


def test_failures_that_reach_delta_leave_no_promise(ledger):
    for _ in range(3):
        add(ledger, failure=4e-6)
    assert math.isfinite(ledger.spent(1.3e-5).epsilon)
    assert "fail with probability 1.2e-05" in ledger.spent(1e-5).reason


def test_a_release_beyond_the_budget_is_refused_before_it_is_recorded(tmp_path):
    ledger = Ledger(tmp_path / "ledger", cap=(1.0, 1e-5))
    for _ in range(7):
        add(ledger, 1.0)
    with pytest.raises(CduError, match=r"is spent, and this release would bring that to ε = 1\.\d+; .* costs no budg"):
        add(ledger, 1.0)
    kept = (tmp_path / "ledger" / ENTRIES).read_bytes()
    assert ledger.spent(1e-5).epsilon <= 1 < composed((*ledger.entries(), ledger.entries()[0]), 1e-5).epsilon
    with pytest.raises(CduError, match="make that unbounded, since 1 of"):
        add_without(ledger)
    assert (tmp_path / "ledger" / ENTRIES).read_bytes() == kept
    add_without(ledger, retrained=True)
    add(ledger, 1e6)


def test_a_budget_stays_what_it_was_when_the_ledger_was_begun(tmp_path):
    Ledger(tmp_path / "ledger", cap=(1.0, 1e-5))
    assert Ledger(tmp_path / "ledger").cap == Ledger(tmp_path / "ledger", cap=(1.0, 1e-5)).cap
    with pytest.raises(CduError, match="begun with the budget ε = 1 at δ = 1e-05, not with the budget ε = 2"):
        Ledger(tmp_path / "ledger", cap=(2.0, 1e-5))
    for cap in ((0.0, 1e-5), (1.0, 1.0), (math.inf, 1e-5)):
        with pytest.raises(CduError):
            Ledger(tmp_path / "other", cap=cap)
    assert not (tmp_path / "other").exists()


def test_an_entry_says_what_was_released(ledger):
    certificate = certify(budget_bound(0.1), 2.0, 1e-6)
    ledger.record([7, "user 8"], "NewtonStep", W, W + 1, certificate)
    (entry,) = Ledger(ledger.folder).entries()
    assert (entry.number, entry.method, entry.sigma, entry.sensitivity, entry.delta) == (1, "NewtonStep", 2, 0.1, 1e-6)
    assert entry.mu == 0.05
    assert entry.certificate == json.loads(certificate.model_dump_json())
    assert entry.before == hashlib.sha256(W.tobytes()).hexdigest() != entry.after
    assert entry.time.endswith("+00:00")


def test_ids_are_kept_as_salted_hashes_alone(ledger, tmp_path):
    add(ledger, ids=["user 1234567", 7654321])
    content = b"".join((ledger.folder / name).read_bytes() for name in FILES)
    for secret in (b"1234567", b"7654321", hashlib.sha256(b"7654321").hexdigest().encode()):
        assert secret not in content
    assert [entry.number for entry in ledger.about("7654321")] == [1]
    assert ledger.about("nobody") == ()
    assert ledger.hashed(["7"]) == ledger.hashed([7])
    assert ledger.hashed(["7"]) != Ledger(tmp_path / "another").hashed(["7"])
    assert stat.S_IMODE((ledger.folder / SALT).stat().st_mode) == 0o600


@pytest.mark.parametrize("ids", [[], "user", ["a", "a"], ["7", 7], ["a", ""]])
def test_ids_that_name_nobody_or_somebody_twice_are_refused(ledger, ids):
    with pytest.raises(CduError, match="id"):
        add(ledger, ids=ids)
    assert ledger.entries() == ()


def test_a_certificate_that_does_not_rest_on_gaussian_noise_is_refused(ledger):
    certificate = certify(budget_bound(0.1), 2.0, 1e-5)
    with pytest.raises(CduError, match="cannot be composed"):
        ledger.record(["a"], "m", W, W, certificate.model_copy(update={"epsilon": certificate.epsilon / 2}))
    for given_certificate, reason in ((certificate, "why"), (None, "")):
        with pytest.raises(CduError, match="either a certificate or the reason"):
            ledger.record(["a"], "m", W, W, given_certificate, reason)
    assert ledger.entries() == ()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_tensor_has_the_hash_of_its_bytes(dtype):
    array = np.linspace(-1, 1, 7, dtype=dtype)
    tensor = torch.from_numpy(array.copy()).requires_grad_()
    assert weights_hash(tensor) == weights_hash(array) == hashlib.sha256(array.tobytes()).hexdigest()
    assert weights_hash(torch.from_numpy(np.stack([array, array], 1))[:, 0]) == weights_hash(array)
    assert weights_hash(tensor.detach().to(torch.bfloat16)) != weights_hash(array)


def test_named_tensors_have_one_hash_for_names_types_shapes_and_bytes():
    tensors = {
        "weight": torch.arange(6.0).reshape(2, 3),
        "bias": torch.tensor(1.5, dtype=torch.float64),
        "counted": torch.tensor(7),
        "empty": torch.zeros(0, 2),
    }
    text = b"named tensors\n"
    for name, kind, shape in (
        ("bias", "float64", "[]"),
        ("counted", "int64", "[]"),
        ("empty", "float32", "[0, 2]"),
        ("weight", "float32", "[2, 3]"),
    ):
        text += f'["{name}", "{kind}", {shape}]\n'.encode() + tensors[name].numpy().tobytes()
    found = hashlib.sha256(text).hexdigest()
    assert weights_hash(tensors) == found
    assert weights_hash(dict(reversed(tensors.items()))) == found
    assert weights_hash({name: tensor.numpy() for name, tensor in tensors.items()}) == found
    for other in (
        {"weight": tensors["weight"].reshape(3, 2)},
        {"bias": tensors["bias"].view(torch.int64)},
        {"counted": torch.tensor(8)},
        {"another": torch.zeros(0)},
    ):
        assert weights_hash({**tensors, **other}) != found
    assert weights_hash({"half": torch.ones(2, dtype=torch.bfloat16)}) != weights_hash({"half": torch.ones(2)})


def test_a_model_with_other_buffers_has_another_entry(ledger):
    before = {"weight": W, "mean": W}
    entry = ledger.record(["a"], "m", before, before | {"mean": W + 1}, None, "no noise")
    assert entry.before == weights_hash(before) != entry.after
    hashed = ledger.record_hashed(ledger.hashed(["b", 3]), "m", before, before, None, "no noise")
    assert ledger.about("b") == ledger.about(3) == (hashed,)
    for wrong in ([], ["b"], [hashed.ids[0]] * 2):
        with pytest.raises(CduError, match="hash"):
            ledger.record_hashed(wrong, "m", before, before, None, "no noise")


def refusal(function, *arguments, **keys):
    """The sentence of a refusal; empty where there is none."""
    try:
        function(*arguments, **keys)
    except CduError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("failure", [0.0, 2e-6])
def test_what_has_room_is_what_can_be_recorded(tmp_path, failure):
    ledger = Ledger(tmp_path / "ledger", cap=(1.0, 1e-5))
    for _ in range(5):
        for distance in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3):
            ledger.expect_room(0)
            foreseen, found = (
                refusal(ledger.expect_room, distance, failure),
                refusal(add, ledger, 1.0, failure, distance=distance),
            )
            assert foreseen == found
    assert 3 < len(ledger.entries()) < 25
    kept = (ledger.folder / ENTRIES).read_bytes()
    with pytest.raises(CduError, match=r"no certificate is foreseen.* costs no budget and takes about 3 minutes$"):
        ledger.expect_room(None, retraining="about 3 minutes")
    with pytest.raises(CduError, match=r"takes about 184 seconds$"):
        ledger.expect_room(9.0, retraining=183.7)
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(CduError, match="mu = "):
            ledger.expect_room(wrong)
    assert (ledger.folder / ENTRIES).read_bytes() == kept
    Ledger(tmp_path / "other").expect_room(None)


# What an accident or an intruder does to the files.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "ledger"
    ledger = Ledger(folder, cap=(5.0, 1e-5))
    for number in range(4):
        add(ledger, 1.0 + number, ids=[number])
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_byte_of_any_file_is_found(whole, data):
    name = data.draw(st.sampled_from(FILES))
    content = bytearray((whole / name).read_bytes())
    before = bytes(content)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        (whole / name).write_bytes(content)
        with pytest.raises(CduError, match=name):
            Ledger(whole).check()
    finally:
        (whole / name).write_bytes(before)
    Ledger(whole).check()


@given(data=st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_that_is_cut_off_or_longer_is_found(whole, data):
    name = data.draw(st.sampled_from(FILES))
    before = (whole / name).read_bytes()
    cut = before[: data.draw(st.integers(0, len(before) - 1))]
    try:
        (whole / name).write_bytes(data.draw(st.sampled_from([cut, before + b"\n", before + cut or b"{}"])))
        with pytest.raises(CduError, match=name):
            Ledger(whole).check()
    finally:
        (whole / name).write_bytes(before)


def changed(change):
    """A change of the list of lines."""

    def apply(folder):
        lines = (folder / ENTRIES).read_bytes().splitlines(keepends=True)
        (folder / ENTRIES).write_bytes(b"".join(change(lines)))

    return apply


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (changed(lambda lines: lines[:-1]), "line 4: it is missing"),
        (changed(lambda lines: lines[:1]), "line 2: it is missing, and so are all up to line 4"),
        (changed(lambda lines: []), "line 1: it is missing"),
        (changed(lambda lines: [lines[0], *lines[2:]]), "line 2: it holds entry 3"),
        (changed(lambda lines: [lines[0], lines[2], lines[1], lines[3]]), "line 2: it holds entry 3"),
        (changed(lambda lines: [*lines[:2], lines[2].replace(b"method", b"Method"), lines[3]]), "line 3: it was chan"),
        (changed(lambda lines: [*lines[:3], lines[3][:-40]]), "line 4: it is torn"),
        (changed(lambda lines: [*lines, lines[3]]), "line 5: it holds entry 4"),
        (changed(lambda lines: [*lines, b"\n"]), "line 5: it was changed"),
        (lambda folder: (folder / HEAD).unlink(), "head.json is missing"),
        (lambda folder: (folder / SALT).unlink(), "salt is missing"),
        (lambda folder: (folder / SETTINGS).unlink(), "settings.json is missing"),
        (lambda folder: (folder / ENTRIES).unlink(), "entries.jsonl is missing"),
        (lambda folder: (folder / SALT).write_bytes(bytes(32)), "is not the salt"),
    ],
)
def test_check_names_the_line_that_was_changed(copy, change, sentence):
    change(copy)
    result = CliRunner().invoke(app, ["check", str(copy)])
    assert result.exit_code == 1
    assert sentence in str(result.exception)
    with pytest.raises(CduError, match=sentence):
        Ledger(copy)


def test_a_line_of_another_ledger_is_found(copy, tmp_path):
    other = Ledger(tmp_path / "other", cap=(5.0, 1e-5))
    for _ in range(4):
        add(other)
    for name in (ENTRIES, HEAD):
        shutil.copy(other.folder / name, copy / name)
    with pytest.raises(CduError, match="line 1: it holds entry 1, which does not follow"):
        Ledger(copy).check()


def test_a_last_line_that_was_written_anew_is_found(copy):
    old, new = (Path(shutil.copytree(copy, copy.with_name(name))) for name in ("old", "new"))
    changed(lambda lines: lines[:3])(new)
    entries = Ledger(old).entries()
    head = module.Head(count=3, last=entries[2].hash).sealed()[1]
    (new / HEAD).write_bytes(head)
    add(Ledger(new), 9.0)
    shutil.copy(new / ENTRIES, old / ENTRIES)
    with pytest.raises(CduError, match=r"line 4 was added or exchanged"):
        Ledger(old).check()
    # All files together are consistent: only a hash that was noted shows what happened.
    Ledger(new).check(entries[2].hash)
    with pytest.raises(CduError, match="written anew, or an older one was put back"):
        Ledger(new).check(entries[3].hash)


def test_entries_of_another_format_are_not_read_as_this_one(copy):
    def newer(lines):
        content = json.loads(lines[3])
        del content["hash"]
        text = json.dumps(content | {"format": 2}, separators=(",", ":"))
        return [*lines[:3], f'{text[:-1]},"hash":"{hashlib.sha256(text.encode()).hexdigest()}"}}\n'.encode()]

    changed(newer)(copy)
    with pytest.raises(CduError, match=r"line 4: its values are of another format \(format\)"):
        Ledger(copy)


def test_a_folder_without_a_ledger_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("text")
    with pytest.raises(CduError, match="holds no ledger"):
        Ledger(tmp_path)
    with pytest.raises(CduError, match="holds no ledger"):
        Ledger(tmp_path / "mine.txt")
    with pytest.raises(CduError, match="there is no ledger in"):
        Ledger.existing(tmp_path / "absent")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# Crashes and several processes.


@pytest.mark.parametrize("survives", range(4))
def test_a_crash_between_two_writes_loses_nothing_that_was_released(ledger, monkeypatch, survives):
    """The process ends after ``survives`` of the writes; an entry that is written counts, whatever the head says."""
    add(ledger)
    done = []

    class Ends(Exception):
        pass

    def writes(path, content, mode=0o644, original=module.write_durably):
        if len(done) == survives:
            raise Ends
        done.append(path.name)
        original(path, content, mode)

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_durably", writes)
        returned = []
        for _ in range(2):
            try:
                returned.append(add(ledger).number)
            except Ends:
                break
    entries = Ledger(ledger.folder).entries()
    assert len(entries) == 1 + (survives + 1) // 2
    assert set(returned) <= {entry.number for entry in entries}
    # Two crashes in a row: the head is mended before the next line is written.
    assert add(ledger).number == len(entries) + 1
    assert len(ledger.entries()) == json.loads((ledger.folder / HEAD).read_text())["count"] == len(entries) + 1


def test_a_head_that_is_mended_survives_the_next_crash(ledger, monkeypatch):
    """Without that the second crash would leave two entries that the head does not count."""

    class Ends(Exception):
        pass

    def only_entries(path, content, mode=0o644, original=module.write_durably):
        original(path, content, mode)
        if path.name == ENTRIES:
            raise Ends

    monkeypatch.setattr(module, "write_durably", only_entries)
    for number in range(1, 4):
        with pytest.raises(Ends):
            add(ledger)
        assert len(ledger.entries()) == number


def test_an_entry_that_cannot_be_written_is_told(ledger, monkeypatch):
    def full(path, content, mode=0o644):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_durably", full)
    with pytest.raises(CduError, match=r"entry 1 of .* cannot be written .* release nothing"):
        add(ledger)


WRITER = """
import sys
import numpy as np
from cdu.unlearning.ledger import Ledger
sys.stdin.read()
ledger = Ledger(sys.argv[1])
for number in range(5):
    print(ledger.record([number], "m", np.zeros(3), np.ones(3), None, "no noise").number)
assert "torch" not in sys.modules
"""


@pytest.mark.slow  # Eight interpreters import the package.
def test_eight_processes_that_begin_one_ledger_leave_a_whole_chain(tmp_path, environment):
    folder = tmp_path / "ledger"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], **pipes) for _ in range(8)]
    for writer in writers:
        writer.stdin.close()
    printed = [int(line) for writer in writers for line in writer.stdout]
    assert [writer.wait() for writer in writers] == [0] * 8
    assert sorted(printed) == [entry.number for entry in Ledger(folder).entries()] == list(range(1, 41))
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, LOCK])
    assert list(tmp_path.iterdir()) == [folder]


#: Forks a process that records without end, and kills it, once for every pause that stands on a line of its input.
KILLER = """
import os, signal, sys, time
import numpy as np
from cdu.unlearning.ledger import Ledger
ledger, read, write = Ledger(sys.argv[1]), *os.pipe()
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        while True:
            number = ledger.record(["a"], "m", np.zeros(3), np.ones(3), None, "no noise").number
            os.write(1, b"%d\\n" % number)
    time.sleep(float(line))
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    before = len(ledger.entries())
    os.write(1, b"whole %d\\n" % before)
"""


@pytest.mark.slow  # Some forty processes are killed, which takes about five seconds.
def test_a_killed_process_has_released_nothing_without_an_entry(tmp_path, environment):
    """Set CDU_KILLS to kill more."""
    kills = int(os.environ.get("CDU_KILLS", "40"))
    draws = random.Random(0)
    unreleased = printed = 0
    for first in range(0, kills, 20):
        folder = tmp_path / f"ledger {first}"
        pauses = "".join(f"{draws.uniform(0, 0.1)}\n" for _ in range(min(20, kills - first)))
        killer = [sys.executable, "-c", KILLER, str(folder)]
        run = subprocess.run(killer, input=pauses, capture_output=True, text=True, env=environment)
        assert run.returncode == 0, run.stderr
        released = [int(line) for line in run.stdout.splitlines() if not line.startswith("whole")]
        counts = [int(line.split()[1]) for line in run.stdout.splitlines() if line.startswith("whole")]
        entries = Ledger(folder).entries()
        assert released == sorted(set(released))
        assert set(released) <= {entry.number for entry in entries}
        # A kill costs one entry at most that was written and not released.
        assert len(entries) - len(released) <= len(counts)
        unreleased += len(entries) - len(released)
        printed += len(released)
    print(f"{kills} kills: {printed} releases, {unreleased} entries without a release")
    assert printed > 0


# The ledger beside the rest.


def test_a_release_is_noted_before_it_is_returned(ledger):
    problem = logistic_problem(radius=10.0)
    released = release(problem, NewtonStep(1.0), 20.0, 1e-5, ledger=ledger, ids=["user 1", 2])
    exact = release(problem, Retrain(), ledger=ledger, ids=["user 3"])
    first, second = ledger.entries()
    assert (first.method, first.sigma, len(first.ids)) == ("NewtonStep", 20.0, 2)
    assert (first.before, first.after) == (weights_hash(problem.w_star), weights_hash(released.w))
    assert first.certificate == released.certificate.model_dump(mode="json")
    assert (second.retrained, second.mu, second.after) == (True, 0.0, weights_hash(exact.w))
    assert ledger.spent(1e-5).epsilon == pytest.approx(released.certificate.epsilon, rel=1e-12)
    release(problem, NewtonStep(1.0), ledger=ledger, ids=["user 4"])
    assert ledger.spent(1e-5).reason.endswith("first entry 3 (no noise)")


def test_a_release_that_cannot_be_noted_is_refused_before_the_method_runs(ledger):
    def never(problem, generator):
        raise AssertionError

    problem = logistic_problem()
    for keys, sentence in (
        ({"ledger": ledger}, "without ids"),
        ({"ids": ["a"]}, "without a ledger"),
        ({"ledger": ledger, "ids": []}, "give a list"),
        ({"ledger": ledger, "ids": ["a"], "unsafe_seed": 0}, "unsafe_seed = 0"),
    ):
        with pytest.raises(CduError, match=sentence):
            release(problem, never, 1.0, **keys)
    (ledger.folder / HEAD).unlink()
    with pytest.raises(CduError, match="is missing"):
        release(problem, never, 1.0, ledger=ledger, ids=["a"])


class Stops(NewtonStep):
    """A step that stops the test where it is taken, with a bound of the projection alone."""

    by_projection = True

    def __call__(self, problem, generator):
        raise AssertionError


class Unknown(Stops):
    """The same, of which nothing is said."""


@pytest.mark.parametrize("method", [NewtonStep, Unknown])
def test_a_release_beyond_the_budget_does_not_leave(tmp_path, method):
    ledger = Ledger(tmp_path / "ledger", cap=(0.5, 1e-5))
    with pytest.raises(CduError if method is NewtonStep else AssertionError):
        release(logistic_problem(radius=10.0), method(1.0), 20.0, ledger=ledger, ids=["a"])
    assert ledger.entries() == ()


def test_a_release_that_certainly_exceeds_the_budget_is_refused_before_the_method_runs(tmp_path):
    ledger = Ledger(tmp_path / "ledger", cap=(0.5, 1e-5))
    problem = logistic_problem(radius=10.0)
    for sigma in (0.0, 20.0):
        with pytest.raises(CduError, match=r"nothing was recorded.*takes about 3 minutes"):
            release(problem, Stops(1.0), sigma, ledger=ledger, ids=["a"], retraining="about 3 minutes")
    # What is foreseen is what is then certified.
    release(problem, NewtonStep(1.0), 200.0, ledger=ledger, ids=["a"])
    (entry,) = ledger.entries()
    with pytest.raises(AssertionError):
        release(problem, Stops(1.0), 200.0, ledger=ledger, ids=["a"])
    tight = Ledger(tmp_path / "tight", cap=(entry.certificate["epsilon"], 1e-5))
    release(problem, NewtonStep(1.0), 200.0, ledger=tight, ids=["a"])
    tighter = Ledger(tmp_path / "tighter", cap=(entry.certificate["epsilon"] * (1 - 1e-9), 1e-5))
    with pytest.raises(CduError, match="nothing was recorded"):
        release(problem, Stops(1.0), 200.0, ledger=tighter, ids=["a"])
    release(problem, Retrain(), ledger=tighter, ids=["a"])


def test_a_temporary_file_that_a_killed_process_left_is_removed(ledger):
    left = ledger.folder / f".{ENTRIES}.99999.tmp"
    left.write_bytes(b"half")
    add(ledger)
    assert not left.exists()


def test_the_command_lists_releases_and_what_is_spent(whole):
    def lines(*arguments):
        result = CliRunner().invoke(app, ["ledger", str(whole), *arguments], catch_exceptions=False)
        assert result.exit_code == 0
        return result.output.splitlines()

    listed = lines()
    assert [line[0] for line in listed[:4]] == ["1", "2", "3", "4"]
    assert listed[4] == f"all releases, 4: {Ledger(whole).spent(1e-5)}"
    assert listed[5:] == ["the budget ε = 5 at δ = 1e-05", f"last hash: {Ledger(whole).check()}"]
    assert [line[0] for line in lines("--id", "2")[:-3]] == ["3"]
    assert "at δ = 1e-07" in lines("--delta", "1e-7")[4]
    checked = CliRunner().invoke(app, ["check", str(whole), "--noted", Ledger(whole).entries()[1].hash])
    assert checked.exit_code == 0
    assert listed[6].split()[-1] in checked.output


def test_the_command_ends_with_one_sentence_and_one(copy, monkeypatch, capsys):
    (copy / HEAD).unlink()
    monkeypatch.setattr(sys, "argv", ["cdu", "check", str(copy)])
    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"cdu: {copy / HEAD} is missing; ")
