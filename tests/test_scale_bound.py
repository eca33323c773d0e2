"""The numbers of the section on the bound of a large network, against direct computation in float64."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, cg, eigsh
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from cdu.data.samples import part_of
from cdu.experiments.experiment import load_experiment
from cdu.experiments.records import read_record
from cdu.experiments.repository import repository
from cdu.experiments.setup import Setup
from cdu.seeding import generator
from cdu.verification.canaries import FOLDER

#: As for canaries of networks with BatchNorm: the record is of single precision, and of another processor.
CLOSE = 3e-2


class Loss:
    """The mean loss over samples plus (l2/2)‖w‖², in float64 and by PyTorch's own means."""

    def __init__(self, module, samples, l2):
        self.module, self.l2 = module.double().eval(), l2
        self.names = {name: parameter.shape for name, parameter in module.named_parameters()}
        self.inputs, self.targets = (
            part if number else part.double() for number, part in enumerate(samples.batch(slice(0, len(samples))))
        )

    def __call__(self, w):
        parts = w.split([shape.numel() for shape in self.names.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(self.names.items(), parts, strict=True)}
        outputs = functional_call(self.module, named, (self.inputs,))
        return cross_entropy(outputs, self.targets) + self.l2 / 2 * w.square().sum()

    def gradient(self, w, create_graph=False):
        point = w.detach().requires_grad_()
        return point, torch.autograd.grad(self(point), point, create_graph=create_graph)[0]

    def hessian(self, w, damping=0.0):
        point, gradient = self.gradient(w, create_graph=True)

        def product(vector):
            vector = torch.from_numpy(np.asarray(vector).reshape(-1))
            image = torch.autograd.grad(gradient, point, vector, retain_graph=True)[0]
            return (image + damping * vector).numpy()

        return LinearOperator((len(w), len(w)), matvec=product, dtype=np.float64)


# It trains two networks for an epoch, and takes some two hundred products.
@pytest.mark.slow
def test_the_sections_numbers_are_those_of_a_direct_computation(tmp_path):
    folder = repository() / FOLDER
    record = read_record(folder / "batchnorm" / "digits" / "seed-0" / "11_bound.json")
    known = {(one.metric, one.method, one.point): one.value for one in record.metrics}
    setup = Setup(load_experiment(str(folder / "batchnorm.yaml")), "digits", 0, tmp_path, torch.device("cpu"))
    original, retrained = setup.original, setup.retrained
    w, target = original.w.double(), retrained.w.double()
    part = part_of(setup.retain, 200, generator(0, "hessian"))
    kept, gone, some = (Loss(original.model, one, setup.l2) for one in (setup.retain, setup.forget, part))
    retain, forget = kept.gradient(w)[1], -len(setup.forget) / len(setup.retain) * gone.gradient(w)[1]
    everything = Loss(original.model, setup.train, setup.l2).gradient(w)[1]
    spectrum = Loss(original.model, part_of(setup.retain, 200, generator(0, "spectrum")), setup.l2)
    low, high = eigsh(spectrum.hessian(w), 2, which="BE", tol=1e-6)[0]
    expected = {
        ("right_hand_side", "network", None): retain.norm(),
        ("right_hand_side", "network, forget gradient", None): forget.norm(),
        ("forms_cosine", "network", None): retain @ forget / retain.norm() / forget.norm(),
        ("forms_gap", "network", None): (retain - forget).norm(),
        ("gradient_original", "network", None): everything.norm(),
        ("gradient_retrained", "network", None): kept.gradient(target)[1].norm(),
        ("gradient_retrained_own", "network", None): Loss(retrained.model, setup.retain, setup.l2)
        .gradient(target)[1]
        .norm(),
        ("distance_original", "network", None): (w - target).norm(),
    }
    steep = max(abs(eigsh(some.hessian(w), 1, which="LM", tol=1e-6)[0][0]), abs(low), abs(high))
    middle = (w + target) / 2
    bends = []
    for before, after in ((w, middle), (middle, target)):
        one, other = some.hessian(before), some.hessian(after)
        apart = LinearOperator(one.shape, matvec=lambda v, a=one, b=other: b.matvec(v) - a.matvec(v), dtype=np.float64)
        bends.append(abs(eigsh(apart, 1, which="LM", tol=1e-4)[0][0]) / (after - before).norm().item())
    for method, vector in (("network", retain), ("network, forget gradient", forget)):
        for damping in (2.0, 20.0, 200.0):
            solution = torch.from_numpy(cg(some.hessian(w, damping), vector.numpy(), rtol=1e-8)[0])
            moved = w - solution
            moved = moved * min(1.0, 8 / moved.norm().item())
            expected["distance", method, damping] = (moved - target).norm()
            expected["step_norm", method, damping] = solution.norm()
    for key, value in expected.items():
        assert known[key] == pytest.approx(float(value), rel=CLOSE), key
    # From inside and from below, and near: eight Lanczos steps, and a tolerance of a hundredth.
    assert low * (1 + CLOSE) <= known["lambda_min", "network", None] <= 0.8 * low
    assert 0.9 * high <= known["lambda_max", "network", None] <= high * (1 + CLOSE)
    assert 0.9 * steep <= known["gradient_lipschitz", "network", None]
    assert 0.9 * max(bends) <= known["hessian_lipschitz", "network", None] <= max(bends) * (1 + CLOSE)
    for label in ("", ", statistics of D_r first"):
        bend, least, left, gap = (
            known[metric, f"network{label}", None]
            for metric in ("hessian_lipschitz", "lambda_min", "gradient_retrained", "forms_gap")
        )
        for form, more in (("", 0.0), (", forget gradient", gap)):
            for damping in (20.0, 200.0):
                bound = (16 * (8 * bend + damping) + left + more) / (damping + least)
                assert known["bound", f"network{form}{label}", damping] == pytest.approx(bound, rel=1e-6)
