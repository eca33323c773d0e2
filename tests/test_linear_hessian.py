"""The Hessian of a linear model in closed form, against automatic differentiation."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from cdu.curvature.hessian import Hessian
from cdu.curvature.linear_hessian import LinearHessian, has_closed_form
from cdu.curvature.minimise import newton_direction
from cdu.data.samples import Samples
from cdu.models.architectures import LogisticRegression
from cdu.models.losses import squared_error, weighted_cross_entropy
from cdu.models.objective import Objective


def problem(loss, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(50, 7, generator=generator)
    labels = torch.randint(0, 4, (50,), generator=generator)
    objective = Objective(LogisticRegression(7, 4).double(), loss, l2=0.02)
    w = torch.randn(objective.size, dtype=torch.float64, generator=generator)
    return objective, w, Samples(rows.to(dtype), labels, dtype=torch.float64)


@pytest.mark.parametrize("loss", [cross_entropy, squared_error])
@pytest.mark.parametrize("seed", range(3))
def test_products_are_those_of_automatic_differentiation(loss, seed):
    objective, w, samples = problem(loss, seed)
    vector = torch.randn(len(w), dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    for damping in (0.0, 0.3):
        ours = (LinearHessian(objective, w, samples) + damping) @ vector
        theirs = (Hessian(objective, w, samples) + damping) @ vector
        assert ours.dtype == torch.float64
        assert (ours - theirs).norm() <= 1e-6 * theirs.norm()


@pytest.mark.parametrize("loss", [cross_entropy, squared_error])
def test_small_gradients_lose_no_digits(loss):
    objective, w, samples = problem(loss, 0)
    gradient = objective.gradient(w, samples)
    whole, small = (newton_direction(objective, w, samples, part, 1e-5) for part in (gradient, 1e-12 * gradient))
    assert (whole - 1e12 * small).norm() <= 1e-4 * whole.norm()
    dense = torch.linalg.solve(Hessian(objective, w, samples).dense(), gradient)
    assert (whole - dense).norm() <= 1e-4 * dense.norm()


def test_it_is_used_where_it_is_right():
    objective, _, samples = problem(cross_entropy, 0)
    assert has_closed_form(objective, samples)
    assert not has_closed_form(*(problem(cross_entropy, 0, torch.float64)[part] for part in (0, 2)))
    assert not has_closed_form(problem(weighted_cross_entropy, 0)[0], samples)
    assert not has_closed_form(Objective(torch.nn.Linear(7, 4).double(), l2=0.1), samples)
