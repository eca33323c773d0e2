import time

import pytest
import torch

from cdu.curvature.conjugate_gradient import conjugate_gradient
from cdu.curvature.hessian import Hessian
from cdu.curvature.lissa import lissa
from cdu.errors import CduError
from cdu.evaluation import peers, timing
from cdu.seeding import generator
from conftest import network

CPU = torch.device("cpu")


def test_programs_take_turns_and_the_median_counts():
    calls = []
    waits = iter([0.0, 0.0, 0.03, 0.0, 0.0])

    def slow():
        calls.append("slow")
        time.sleep(0.01)
        return 1

    def uneven():
        calls.append("uneven")
        time.sleep(next(waits))
        return 2

    found = timing.in_turns({"slow": slow, "uneven": uneven}, 4, CPU)
    assert calls == ["slow", "uneven"] * 5
    assert (found["slow"].result, found["uneven"].result) == (1, 2)
    assert found["slow"].low <= found["slow"].seconds <= found["slow"].high
    assert found["slow"].low >= 0.01
    assert found["uneven"].high >= 0.03 > found["uneven"].seconds


def test_operations_of_a_matrix_product_and_its_derivatives():
    left, right = torch.randn(5, 7), torch.randn(7, 11, requires_grad=True)
    assert timing.operations(lambda: left @ right) == 2 * 5 * 7 * 11
    assert timing.operations(lambda: torch.autograd.grad((left @ right).sum(), right)) == 2 * 2 * 5 * 7 * 11


def test_peak_memory_is_that_of_the_program():
    size = 64 * 2**20
    _, peak = timing.single_run(lambda: torch.ones(size // 4), CPU)
    if peak is None:
        pytest.skip("this system does not tell peak memory")
    assert 0.98 * size <= peak < 1.5 * size


@pytest.mark.parametrize("name", ["mlp", "smooth mlp", "allcnn", "resnet18"])
def test_curvlinops_computes_the_same_operator(name):
    pytest.importorskip("curvlinops")
    objective, w, samples = network(name)
    objective.model.train()
    vector = torch.randn(len(w), dtype=w.dtype, generator=torch.Generator().manual_seed(0))
    own, other = Hessian(objective, w, samples) + 0.3, peers.Curvlinops(objective, w, samples, 0.3)
    assert torch.allclose(own @ vector, other @ vector, atol=1e-9)
    assert objective.model.training


@pytest.mark.slow
def test_curvlinops_solves_the_same_system():
    pytest.importorskip("curvlinops")
    objective, w, samples = network("logistic", count=40)
    gradient = objective.gradient(w, samples)
    expected = conjugate_gradient(Hessian(objective, w, samples) + 0.5, gradient, 1e-12).x
    other = peers.Curvlinops(objective, w, samples, 0.5)
    assert torch.allclose(other.conjugate_gradient(gradient, 1e-10), expected, atol=1e-8)
    assert torch.allclose(other.neumann(gradient, 60, 0.5), expected, atol=1e-8)


def test_the_authors_functions_are_called_with_our_problem(clone):
    objective, w, samples = network("logistic", count=40, l2=0.1)
    objective.model.train()
    gradient = objective.gradient(w, samples)
    operator = Hessian(objective, w, samples) + 0.4
    own = lissa(operator, gradient, 20.0, 6, 4000, 5, generator(0)).x
    shape = {"batch_size": 5, "depth": 6, "repeats": 400}
    torch.manual_seed(0)
    other = peers.Authors(str(clone)).lissa(objective, w, peers.in_memory(samples), gradient, 0.4, 20.0, **shape)
    assert (own - other).norm() < 0.02 * own.norm()
    assert objective.model.training
    with pytest.raises(CduError, match=r"holds no unlearn\.py"):
        peers.Authors("nowhere")


def test_decoded_images_are_the_normalised_ones():
    _, _, samples = network("allcnn")
    images, ready = peers.Images(samples), peers.in_memory(samples)
    assert len(images) == len(ready) == len(samples)
    for row in range(len(samples)):
        # The decoding is in float32.
        assert torch.allclose(images[row][0].double(), ready[row][0], atol=1e-6)
        assert images[row][1] == ready[row][1]
