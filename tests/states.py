"""A small state and requests to it, for tests."""

import torch

from cdu.certification import budget_bound, certify
from cdu.own_model.release_certificate import Facts
from cdu.own_model.state import State
from cdu.own_model.state_files import StateSettings

SETTINGS = StateSettings(l2=0.1, radius=10.0, delta=1e-5)
OPTIONS = {"damping": 10.0, "solver": "conjugate_gradient"}
FACTS = Facts(rows_deleted=3, rows_retained=97, seconds=1.5)


def tensors(value=0.0):
    """The state of a small module, its buffers too."""
    return {
        "weight": torch.arange(6.0).reshape(2, 3) + value,
        "bias": torch.full((2,), float(value), dtype=torch.float64),
        "norm.num_batches_tracked": torch.tensor(7),
    }


def begin(folder, cap=None):
    return State.begin(folder, SETTINGS, tensors(), cap)


def ask(state, *ids, method="Newton step", epsilon=1.0):
    return state.begin_request(ids or ["user 1", 2], method, epsilon, 1e-5, OPTIONS)


def certificate(sigma=10.0, distance=1.0):
    return certify(budget_bound(distance), sigma, 1e-5)


def answer(state, request, value=None, sigma=10.0):
    """Commit a release with a certificate."""
    value = request.number if value is None else value
    return state.commit(request, tensors(value), certificate(sigma), "", 0.0, False, FACTS)


def answer_without(state, request, retrained=False):
    """Commit a release without one."""
    return state.commit(request, tensors(9.0), None, "training <assumption> violated", 0.0, retrained, FACTS)
