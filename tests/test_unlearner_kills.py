"""A process that deletes row after row is killed at any moment: nothing is lost, released twice or without an entry."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn
from torch.nn.functional import mse_loss

import cdu
from cdu.own_model.state import State
from cdu.unlearning.ledger_entries import weights_hash

USERS, L2, RADIUS, DAMPING = 300, 0.1, 2.0, 3.0
TASK = cdu.Task(mse_loss, "regression")

#: After so many kills the next state is begun.
KILLS_OF_A_STATE = 20


def model():
    made = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(made.weight, 1.0)
    return made


def rows():
    """One row of every user: inputs and targets."""
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(USERS, 3, generator=draws, dtype=torch.float64)
    return inputs, inputs @ torch.tensor([[1.0], [-1.0], [0.5]], dtype=torch.float64)


def data():
    return cdu.as_data(*rows(), ids=range(USERS))


def asked(number):
    """What release ``number`` is asked for: a step without noise, then noise without a step, by turns."""
    if number % 2:
        return {"method": "newton", "damping": DAMPING, "solver": "exact"}
    return {"method": "nothing", "epsilon": 1.0, "delta": 1e-4}


# --- the program that forks, and kills what it forked -----------------------------------------------------------------


def say(*what):
    os.write(1, (" ".join(map(str, what)) + "\n").encode())


def load(folder):
    return cdu.Unlearner.load(folder, model(), TASK, data())


def forget_next(own):
    user = own.data.ids[0]
    released = own.forget([user], **asked(own._state.number + 1))
    say("answered", released.entry.number, user)


def delete_without_end(folder):
    begin_request = State.begin_request

    def noted(state, ids, *arguments):
        request = begin_request(state, ids, *arguments)
        say("kept", request.number, *ids)
        return request

    State.begin_request = noted
    own = load(folder)
    if own.pending is not None:
        own.resume()
    while True:
        forget_next(own)


def kill(place: Path, pauses: Iterable[float]) -> None:
    """Fork a process that deletes, and kill it: once for every pause, which is in units of one request."""
    torch.set_num_threads(1)
    for turn, pause in enumerate(pauses):
        folder = place / f"{turn // KILLS_OF_A_STATE}"
        if turn % KILLS_OF_A_STATE == 0:
            say("begun")
            cdu.Unlearner(model(), TASK, data(), l2=L2, radius=RADIUS, state=folder)
            forget_next(load(folder))
            start = time.perf_counter()
            forget_next(load(folder))
            seconds = time.perf_counter() - start
        child = os.fork()
        if child == 0:
            try:
                delete_without_end(folder)
            finally:
                os._exit(1)
        time.sleep(float(pause) * seconds)
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "the process ended before it was killed"
        parts = len(list((folder / "releases").glob("*.part")))
        own = load(folder)
        say("loaded", own._state.number, own.pending.number if own.pending else 0, parts)
        # What is pending is finished here, or by the next process, which is killed in its turn.
        if own.pending is not None and turn % 2:
            say("resumed", own.resume().entry.number)
            assert own.pending is None


# --- what it left -----------------------------------------------------------------------------------------------------


def in_ball(w):
    return w * min(1.0, RADIUS / np.linalg.norm(w))


def step(w, left):
    """One Newton step on the rows of some users, in closed form, projected."""
    x, y = (part.numpy()[left] for part in rows())
    hessian = 2 / len(left) * x.T @ x + L2 * np.eye(3)
    gradient = 2 / len(left) * x.T @ (x @ w - y[:, 0]) + L2 * w
    return in_ball(w - np.linalg.solve(hessian + DAMPING * np.eye(3), gradient))


def expect_releases(folder):
    """Every entry has its release, with the weights that the request asks for, and no release is without an entry."""
    own = load(folder)
    if own.pending is not None:
        own.resume()
    own._state.check()
    entries = own._state.ledger.entries()
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "ledger", "releases", "settings.json"]
    releases = sorted((folder / "releases").iterdir())
    assert [path.name for path in releases] == [f"{entry.number:04d}" for entry in entries]
    hashes = own._state.ledger.hashed(range(USERS))
    user_of = {digest: user for user, digest in enumerate(hashes)}
    users = [user_of[digest] for entry in entries for digest in entry.ids]
    assert len(users) == len(set(users)) == len(entries)
    assert set(own.data.ids) == set(map(str, range(USERS))) - set(map(str, users))
    before, w = weights_hash(model().state_dict()), model().weight.detach().numpy()[0]
    for entry, path in zip(entries, releases, strict=True):
        found = load_file(path / "weights.safetensors")
        assert (entry.before, entry.after) == (before, weights_hash(found))
        left = [user for user in range(USERS) if user not in users[: entry.number]]
        if entry.number % 2:
            assert entry.certificate is None
            np.testing.assert_allclose(found["weight"][0], step(in_ball(w), left), rtol=0, atol=1e-12)
        else:
            assert entry.certificate["epsilon"] <= 1.0
            assert 0 < np.linalg.norm(found["weight"][0] - in_ball(w)) < 12 * entry.sigma
        before, w = entry.after, found["weight"][0]
    return users


@pytest.mark.slow  # Two hundred processes are killed, which takes a minute or two.
def test_no_kill_loses_a_request_or_answers_one_twice(tmp_path, environment):
    """Set CDU_KILLS to kill more or fewer."""
    kills = int(os.environ.get("CDU_KILLS", "200"))
    draws = random.Random(0)
    pauses = [draws.uniform(0.05, 1.3) for _ in range(kills)]
    killer = f"from pathlib import Path; from {__name__} import kill; kill(Path({str(tmp_path)!r}), {pauses})"
    here = {**environment, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    run = subprocess.run([sys.executable, "-c", killer], capture_output=True, text=True, env=here)
    assert run.returncode == 0, run.stderr
    releases = parts = unfinished = 0
    for turn, output in enumerate(run.stdout.split("begun\n")[1:]):
        users = expect_releases(tmp_path / f"{turn}")
        lines = [(kind, *map(int, numbers)) for kind, *numbers in map(str.split, output.splitlines())]
        # What was handed out has its entry, and was handed out once.
        answered = [line[1:] for line in lines if line[0] == "answered"]
        assert len(answered) == len(set(answered))
        assert all(users[number - 1] == user for number, user in answered)
        kept = 0
        for kind, number, *rest in lines:
            if kind == "kept":
                # A request that is on the disk is the one that gets this number, whoever answers it.
                kept = number
                assert users[number - 1] == rest[0]
            elif kind == "loaded":
                pending, left = rest
                assert kept <= max(number, pending)
                assert pending in (0, number + 1)
                parts += left
                unfinished += pending > 0
        releases += len(users)
    print(f"{kills} kills: {releases} releases, {parts} folders left half, {unfinished} requests left under way")
    assert releases > kills // 10
    if kills >= 100:
        assert parts > 0
        assert unfinished > 0
