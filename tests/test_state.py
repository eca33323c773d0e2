import json
import math
import os
import random
import shutil
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from cdu.errors import CduError
from cdu.own_model.release_certificate import ReleaseCertificate
from cdu.own_model.state import State
from cdu.own_model.state_files import CERTIFICATE, LEDGER, PAGE, RELEASES, REQUEST, SETTINGS, WEIGHTS, write_weights
from cdu.unlearning.ledger import Ledger
from cdu.unlearning.ledger_entries import weights_hash
from cdu.unlearning.sealed import read_sealed
from states import OPTIONS, answer, answer_without, ask, begin, tensors
from states import SETTINGS as GIVEN


@pytest.fixture
def state(tmp_path):
    return begin(tmp_path / "state")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_state_carries_a_model_from_request_to_request(state):
    folder = state.folder
    assert (state.number, state.pending(), state.gone()) == (0, None, frozenset())
    assert weights_hash(state.weights()) == weights_hash(tensors())
    first = ask(state)
    assert (first.number, first.options) == (1, OPTIONS)
    entry = answer(state, first)
    assert (entry.before, entry.after) == (weights_hash(tensors()), weights_hash(tensors(1)))
    state = State.open(folder)
    assert state.settings.l2 == GIVEN.l2
    assert (state.number, state.pending()) == (1, None)
    assert all(torch.equal(tensor, state.weights()[name]) for name, tensor in tensors(1).items())
    assert state.gone() == set(state.ledger.hashed(["user 1", "2"]))
    assert not (folder / RELEASES / "0000").exists()
    answer(state, ask(state, "user 3"))
    assert sorted(path.name for path in (folder / RELEASES).iterdir()) == ["0001", "0002"]
    for number in ("0001", "0002"):
        found = sorted(path.name for path in (folder / RELEASES / number).iterdir())
        assert found == sorted([WEIGHTS, CERTIFICATE, PAGE])
    assert state.check(noted=entry.hash) == state.ledger.entries()[1].hash
    with pytest.raises(CduError, match="written anew"):
        state.check(noted="0" * 64)


def test_what_knows_deleted_rows_or_the_salt_is_readable_by_its_owner_alone(state):
    assert mode(state.folder / RELEASES / "0000" / WEIGHTS) == 0o600
    assert mode(state.folder / LEDGER / "salt") == 0o600
    request = ask(state)
    assert mode(state.folder / REQUEST) == 0o600
    answer(state, request)
    assert mode(state.folder / RELEASES / "0001") == 0o755
    assert mode(state.folder / RELEASES / "0001" / WEIGHTS) == 0o644
    content = b"".join(path.read_bytes() for path in state.folder.rglob("*") if path.is_file())
    assert b"user 1" not in content


def test_a_request_is_kept_until_it_is_answered_or_given_up(state):
    request = ask(state)
    again = State.open(state.folder)
    assert again.pending() == request == ask(again) == ask(again, 2, "user 1")
    for keys in ({"method": "retraining"}, {"epsilon": 2.0}, {"epsilon": None}):
        with pytest.raises(CduError, match=r"another request is pending in .* since .*withdraw it"):
            ask(again, **keys)
    with pytest.raises(CduError, match="another request"):
        ask(again, "user 1")
    again.withdraw_request()
    again.withdraw_request()
    other = ask(again, "user 5")
    with pytest.raises(CduError, match="request 1 is not under way"):
        answer(again, request)
    answer(again, other)
    with pytest.raises(CduError, match=r"request 1 is not under way .* whose last release is 1"):
        answer(again, other)
    assert again.number == 1


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"options": {"damping": math.inf}}, "cannot be kept"),
        ({"options": {"model": torch.zeros(1)}}, "cannot be kept"),
        ({"ids": []}, "give a list"),
        ({"epsilon": -1.0}, "epsilon = -1"),
        ({"delta": 2.0}, "delta = 2"),
    ],
)
def test_a_request_that_cannot_be_kept_is_refused(state, keys, sentence):
    given = {"ids": ["a"], "method": "m", "epsilon": 1.0, "delta": 1e-5, "options": {}} | keys
    with pytest.raises(CduError, match=sentence):
        state.begin_request(**given)
    assert state.pending() is None


def test_the_weights_of_another_model_are_refused(state):
    request = ask(state)
    for changed, sentence in (
        ({"weight": torch.zeros(3, 2)}, r"'weight' is float32 of shape \(3, 2\), .* float32 of shape \(2, 3\)"),
        ({"bias": torch.zeros(2)}, "'bias' is float32"),
        ({"more": torch.zeros(2)}, "'more' is float32 .* with absent"),
        ({"weight": [1.0]}, "of the type list"),
    ):
        with pytest.raises(CduError, match=sentence):
            state.commit(request, tensors(1) | changed, None, "why", 0.0, False, None)
    assert (state.number, State.open(state.folder).pending()) == (0, request)


def test_a_release_beyond_the_budget_leaves_the_request_under_way(tmp_path):
    state = begin(tmp_path / "state", cap=(1.0, 1e-5))
    request = ask(state)
    with pytest.raises(CduError, match="nothing was recorded"):
        answer(state, request, sigma=0.1)
    with pytest.raises(CduError, match="nothing was recorded"):
        answer_without(state, request)
    state = State.open(tmp_path / "state")
    assert [path.name for path in (state.folder / RELEASES).iterdir()] == ["0000"]
    assert state.pending() == request
    answer_without(state, request, retrained=True)
    state.check()


def test_tied_weights_are_kept(tmp_path):
    weight = torch.randn(3, 3)
    state = State.begin(tmp_path / "state", GIVEN, {"first": weight, "second": weight, "part": weight[0]})
    assert torch.equal(state.weights()["second"], weight)


def test_a_state_is_not_begun_where_something_is(tmp_path, state):
    with pytest.raises(CduError, match="holds something already"):
        begin(state.folder)
    for folder in (tmp_path / "nothing", tmp_path, state.folder / LEDGER):
        with pytest.raises(CduError, match="there is no state in"):
            State.open(folder)
    (tmp_path / "file").write_text("text")
    with pytest.raises(CduError, match="no state can be begun"):
        begin(tmp_path / "file" / "state")
    with pytest.raises(CduError, match="holds no tensor"):
        State.begin(tmp_path / "other", GIVEN, {})
    with pytest.raises(CduError, match="delta = 0"):
        begin(tmp_path / "other", cap=(1.0, 0.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "state"]


# What an accident or an intruder does to the files.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    state = begin(tmp_path_factory.mktemp("whole") / "state", cap=(5.0, 1e-5))
    answer(state, ask(state, "a"))
    answer(state, ask(state, "b"))
    ask(state, "c")
    return state.folder


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def edited(name, old, new):
    def change(folder):
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new, 1))

    return change


def resealed(name, **values):
    """A file whose values were edited by somebody who made its hash anew."""

    def change(folder):
        found = read_sealed(ReleaseCertificate, folder / name)
        (folder / name).write_bytes(found.model_copy(update=values).sealed()[1])

    return change


def other_weights(number):
    def change(folder):
        write_weights(folder / RELEASES / number / WEIGHTS, tensors(8), 0o644)

    return change


def removed(name):
    def change(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


CHANGES = [
    (edited(f"{RELEASES}/0002/{WEIGHTS}", b"\x00\x00", b"\x01\x00"), WEIGHTS),
    (edited(f"{RELEASES}/0001/{WEIGHTS}", b"{", b"["), WEIGHTS),
    (other_weights("0002"), "does not hold the weights that were recorded"),
    (edited(f"{RELEASES}/0001/{CERTIFICATE}", b"Newton", b"newton"), CERTIFICATE),
    (resealed(f"{RELEASES}/0001/{CERTIFICATE}", guarantee=None), "'guarantee' is not what the ledger"),
    (resealed(f"{RELEASES}/0001/{CERTIFICATE}", retrained=True), "'retrained' is not what the ledger"),
    (resealed(f"{RELEASES}/0002/{CERTIFICATE}", page="0" * 64), PAGE),
    (edited(f"{RELEASES}/0002/{PAGE}", b"at most", b"at best"), PAGE),
    (edited(SETTINGS, b"0.1", b"0.2"), SETTINGS),
    (edited(f"{LEDGER}/entries.jsonl", b"Newton", b"newton"), "entries.jsonl, line 1"),
    (edited(REQUEST, b"Newton", b"newton"), REQUEST),
    (removed(f"{RELEASES}/0001"), "0001 is missing"),
    (removed(f"{RELEASES}/0002"), "0002 is missing"),
    (removed(f"{RELEASES}/0002/{WEIGHTS}"), f"{WEIGHTS} is missing"),
    (removed(f"{RELEASES}/0002/{CERTIFICATE}"), f"{CERTIFICATE} is missing"),
    (removed(f"{RELEASES}/0002/{PAGE}"), f"{PAGE} is missing"),
    (removed(RELEASES), f"{RELEASES} is missing"),
    (removed(LEDGER), "there is no state in"),
    (removed(SETTINGS), "there is no state in"),
    (lambda folder: shutil.copytree(folder / RELEASES / "0002", folder / RELEASES / "0003"), "0003 has no entry"),
]


@pytest.mark.parametrize(("change", "sentence"), CHANGES, ids=[sentence for _, sentence in CHANGES])
def test_a_state_that_was_changed_is_found(copy, change, sentence):
    state = State.open(copy)
    change(copy)
    with pytest.raises(CduError, match=sentence):
        State.open(copy)
    if "no state" not in sentence:
        with pytest.raises(CduError, match=sentence):
            state.check()


def test_a_model_that_came_and_was_changed_is_found(state):
    other_weights("0000")(state.folder)
    with pytest.raises(CduError, match="does not hold the weights that were recorded"):
        State.open(state.folder)
    with pytest.raises(CduError, match="does not hold the weights that were recorded"):
        state.weights()


def test_the_ledger_of_another_state_is_found(copy, tmp_path):
    other = begin(tmp_path / "other", cap=(5.0, 1e-5))
    shutil.rmtree(copy / LEDGER)
    shutil.copytree(other.folder / LEDGER, copy / LEDGER)
    with pytest.raises(CduError, match="written anew"):
        State.open(copy)


def test_an_entry_that_starts_from_other_weights_is_found(copy):
    Ledger(copy / LEDGER).record(["z"], "m", tensors(5), tensors(6), None, "exact", retrained=True)
    shutil.copytree(copy / RELEASES / "0002", copy / RELEASES / "0003")
    (copy / REQUEST).unlink()
    with pytest.raises(CduError, match=r"entry 3 .* starts from other weights"):
        State.open(copy)


# Crashes, full disks and several processes.

OPERATIONS = ("replace", "rename", "fsync", "mkdir", "unlink", "rmdir", "chmod")


class Dies(BaseException):
    """The process ends here: nothing that it would still do is done."""


def dying(patched, after, error=Dies):
    """Let every operation on files fail after so many."""
    done = []

    def ending(name, original):
        def operation(*arguments, **keys):
            if len(done) >= after:
                raise error
            result = original(*arguments, **keys)
            done.append(name)
            return result

        return operation

    for name in OPERATIONS:
        patched.setattr(os, name, ending(name, getattr(os, name)))
    return done


def consistent(folder):
    """Open a state that a crash left, and say what must hold of it."""
    state = State.open(folder)
    entries, pending = state.ledger.entries(), state.pending()
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    names = sorted(path.name for path in (folder / RELEASES).iterdir())
    assert names == [f"{number:04d}" for number in range(min(1, len(entries)), len(entries) + 1)]
    for entry in entries:
        content = json.loads((folder / RELEASES / f"{entry.number:04d}" / CERTIFICATE).read_bytes())
        assert (content["entry"]["number"], content["entry"]["hash"]) == (entry.number, entry.hash)
        assert content["weights"]["tensors"] == entry.after
    assert not list(folder.glob(".*.tmp"))
    assert pending is None or pending.number == len(entries) + 1
    return state


@pytest.mark.slow  # Some thirty states are copied, opened and checked.
@pytest.mark.parametrize("earlier", [0, 1])
def test_a_crash_after_any_operation_of_commit_loses_nothing(tmp_path, monkeypatch, earlier):
    base = begin(tmp_path / "base")
    for number in range(earlier):
        answer(base, ask(base, f"earlier {number}"))
    request = ask(base)
    counts, operations = [], 0
    while True:
        folder = Path(shutil.copytree(base.folder, tmp_path / f"{operations}"))
        state = State.open(folder)
        with monkeypatch.context() as patched:
            dying(patched, operations)
            try:
                answer(state, request)
            except Dies:
                ended = False
            else:
                ended = True
        state._lock.release(force=True)
        state = consistent(folder)
        counts.append(state.number - earlier)
        if state.number == earlier:
            assert state.pending() == request
            answer(state, request)
        assert state.pending() is None
        assert (state.number, weights_hash(state.weights())) == (earlier + 1, weights_hash(tensors(request.number)))
        shutil.rmtree(folder)
        if ended:
            break
        operations += 1
    # The entry's own step is the only one before which nothing counts and after which all does.
    assert counts == sorted(counts)
    assert set(counts) == {0, 1}
    assert operations > 15


def crashed(state, request):
    """Leave what a process leaves that ends when the entry is written and the release is not whole."""
    with pytest.MonkeyPatch.context() as patched:
        dying(patched, 17)
        with pytest.raises(Dies):
            answer(state, request)
    state._lock.release(force=True)
    assert list(state.folder.glob(f"{RELEASES}/*.part"))
    assert state.number == 1


@pytest.mark.parametrize(
    "call",
    [
        "begin",
        "ask",
        # Some thirty states are copied, opened and checked.
        pytest.param("answer", marks=pytest.mark.slow),
        pytest.param("open", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_told_in_one_sentence_wherever_it_is_met(state, tmp_path, monkeypatch, call):
    """After every operation that may be the last that succeeds: one CduError, and nothing is half done."""
    told = set()
    for after in range(100):
        folder = tmp_path / f"{after}"
        if call == "begin":
            act = partial(begin, folder)
        else:
            one = State.open(shutil.copytree(state.folder, folder))
            request = None if call == "ask" else ask(one)
            if call == "open":
                crashed(one, request)
            act = {
                "ask": partial(ask, one),
                "answer": partial(answer, one, request),
                "open": partial(State.open, folder),
            }
            act = act[call]
        with monkeypatch.context() as patched:
            dying(patched, after, OSError(28, "No space left on device"))
            try:
                act()
            except CduError as error:
                sentence = str(error).replace(str(folder), "FOLDER")
                told.add(sentence)
            else:
                break
        if call == "begin" and not folder.exists():
            continue
        found = consistent(folder)
        if call == "answer":
            # The sentence says whether the release counts.
            assert found.pending() == (None if found.number else request)
            assert ("is recorded in" in sentence) == (found.number == 1)
        if call == "open":
            assert (found.number, found.pending()) == (1, None)
    assert 0 < after < 99
    assert all("No space left" in sentence and "; " in sentence for sentence in told)
    if call == "answer":
        assert sum("nothing was recorded" in sentence for sentence in told) == 1
        assert sum("release 1 is recorded in" in sentence for sentence in told) == 1


def test_a_folder_that_cannot_be_written_is_told(state, monkeypatch):
    def refused(path, flags, *rest, original=os.open):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(13, "Permission denied")
        return original(path, flags, *rest)

    monkeypatch.setattr(os, "open", refused)
    for call in (lambda: State.open(state.folder), lambda: ask(state), state.check):
        with pytest.raises(CduError, match=r"cannot be locked .*Permission denied.* that you may write to"):
            call()


def test_two_processes_do_not_work_on_one_state_at_once(state):
    other = State.open(state.folder)
    with state.locked():
        request = ask(state)
        calls = (
            lambda: State.open(state.folder),
            lambda: ask(other),
            lambda: answer(other, request),
            other.check,
            other.withdraw_request,
        )
        for call in calls:
            with pytest.raises(CduError, match=r"another process works on .* wait until it has ended"):
                call()
        assert weights_hash(other.weights()) == weights_hash(tensors())
    # Both computed an answer to the same request: one is released.
    assert ask(other) == request
    answer(other, request, value=4)
    with pytest.raises(CduError, match="request 1 is not under way"):
        answer(state, request, value=5)
    assert weights_hash(state.weights()) == weights_hash(tensors(4))
    assert state.number == 1


def test_a_forked_process_is_told_to_open_the_state_anew(tmp_path):
    state = begin(tmp_path / "state")
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            ask(state)
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert "CduError: " + str(state.folder) + " was opened before this process was forked; open it" in told.read()
    assert state.pending() is None


#: Forks a process that asks and answers without end, and kills it, once for every line of its input: after so many
#: times what a process takes that answers one request. After twenty kills it goes on with another state.
KILLER = """
import os, signal, sys, time
from pathlib import Path
import torch
from states import answer, ask, begin
from cdu.own_model.state import State
torch.set_num_threads(1)
for turn, line in enumerate(sys.stdin):
    if turn % 20 == 0:
        folder = Path(sys.argv[1]) / f"{turn // 20}"
        begin(folder)
        start = time.perf_counter()
        state = State.open(folder)
        answer(state, ask(state, "user 1"))
        seconds = time.perf_counter() - start
        os.write(1, b"begun\\n")
    child = os.fork()
    if child == 0:
        state = State.open(folder)
        pending = state.pending()
        while True:
            if pending is None:
                pending = ask(state, f"user {state.number + 1}")
                os.write(1, b"asked %d\\n" % pending.number)
            entry = answer(state, pending)
            os.write(1, b"answered %d\\n" % entry.number)
            pending = None
    time.sleep(float(line) * seconds)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    parts = len(list((folder / "releases").glob("*.part")))
    state = State.open(folder)
    pending = state.pending()
    os.write(1, b"opened %d %d %d\\n" % (state.number, pending.number if pending else 0, parts))
"""


@pytest.mark.slow  # Two hundred processes are killed, which takes a minute or two.
def test_a_process_that_is_killed_at_any_moment_leaves_a_consistent_state(tmp_path, environment):
    """Set CDU_KILLS to kill more or fewer."""
    kills = int(os.environ.get("CDU_KILLS", "200"))
    draws = random.Random(0)
    here = {**environment, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    pauses = "".join(f"{draws.uniform(0.05, 1.2)}\n" for _ in range(kills))
    killer = [sys.executable, "-c", KILLER, str(tmp_path)]
    run = subprocess.run(killer, input=pauses, capture_output=True, text=True, env=here)
    assert run.returncode == 0, run.stderr
    answered = parts = unfinished = 0
    for turn, output in enumerate(run.stdout.split("begun\n")[1:]):
        lines = [(kind, *map(int, numbers)) for kind, *numbers in map(str.split, output.splitlines())]
        entries = consistent(tmp_path / f"{turn}").ledger.entries()
        # What was handed out has an entry, and nothing was handed out twice.
        released = [line[1] for line in lines if line[0] == "answered"]
        assert released == sorted(set(released))
        assert set(released) <= {entry.number for entry in entries}
        # Each request named another user, who stands in the one entry that answered him.
        ledger = Ledger(tmp_path / f"{turn}" / LEDGER)
        for entry in entries:
            assert ledger.about(f"user {entry.number}") == (entry,)
        # A request that was on the disk is answered or still under way, after every kill.
        asked = 1
        for kind, number, *rest in lines:
            if kind == "asked":
                asked = number
            elif kind == "opened":
                pending, left = rest
                assert asked <= max(number, pending)
                assert pending in (0, number + 1)
                parts += left
                unfinished += pending > 0
        answered += len(entries)
    print(f"{kills} kills: {answered} releases, {parts} folders left half, {unfinished} requests left under way")
    assert answered > kills // 20
    if kills >= 100:
        assert parts > 0
        assert unfinished > 0
