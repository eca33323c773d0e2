import pytest
import torch
from torch.func import functional_call, grad, hessian, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from cdu.curvature.hessian import Hessian
from cdu.curvature.lissa import lissa
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models.architectures import build
from cdu.models.objective import Linearised, Objective, kept_bytes, parameter_vector
from cdu.models.settings import ModelSettings
from conftest import NETWORKS, counted, network, random_samples


def direct_loss(objective, samples):
    """L(w, S) in one piece, as the reference that nothing is chunked in."""
    inputs, targets = samples.batch(slice(None))

    def loss(w):
        outputs = functional_call(objective.model, objective.tensors(w), (inputs,))
        return torch.nn.functional.cross_entropy(outputs, targets) + 0.5 * objective.l2 * w.dot(w)

    return loss


def direct_products(objective, w, samples, vectors):
    """∇²L(w, S) v for every row v: from the dense Hessian, or forward over reverse where that would be large."""
    loss = direct_loss(objective, samples)
    if len(w) < 500:
        return vectors @ hessian(loss)(w)
    return torch.stack([jvp(grad(loss), (w,), (v,))[1] for v in vectors])


class Shared(torch.nn.Module):
    """One matrix used by two layers, and a layer that fails when it is told to."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.fails = False

    def forward(self, inputs):
        if self.fails:
            raise RuntimeError("told to fail")
        return self.second(torch.tanh(self.first(inputs)))


def test_weights_are_put_in_place_as_functional_call_does_and_the_modules_own_come_back():
    model = Shared().double()
    objective, own = Objective(model), dict(model.named_parameters())
    w, inputs = draws(0, objective.size), draws(1, 5, 4)
    expected = functional_call(model, objective.tensors(w), (inputs,))
    assert torch.equal(objective.forward(w, inputs), expected)
    model.fails = True
    with pytest.raises(RuntimeError, match="told to fail"):
        objective.forward(w, inputs)
    assert all(parameter is own[name] for name, parameter in model.named_parameters())
    assert model.second.weight is model.first.weight


def draws(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_loss_gradient_and_products_equal_the_dense_reference(name, seed):
    objective, w, samples = network(name, seed)
    loss = direct_loss(objective, samples)
    assert objective.loss(w, samples) == pytest.approx(loss(w).item(), rel=1e-12)
    assert torch.allclose(objective.gradient(w, samples), grad(loss)(w), atol=1e-12)
    vectors = draws(seed, 3, len(w))
    expected = direct_products(objective, w, samples, vectors)
    assert torch.allclose(objective.hvp(w, samples, vectors), expected, atol=1e-10)
    assert torch.allclose(objective.hvp(w, samples, vectors[0]), expected[0], atol=1e-10)


@pytest.mark.parametrize("name", ["allcnn", "resnet18"])
def test_buffers_mode_and_parameters_are_left_alone(name):
    objective, w, samples = network(name)
    before = {key: value.clone() for key, value in objective.model.state_dict().items()}
    objective.model.train()
    objective.gradient(w + 1, samples)
    objective.hvp(w + 1, samples, w)
    objective.outputs(w + 1, samples)
    assert objective.model.training
    after = objective.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_chunk_does_not_change_the_result():
    objective, w, samples = network("mlp", chunk=2)
    whole = Objective(objective.model, l2=objective.l2, chunk=1000)
    assert torch.allclose(objective.gradient(w, samples), whole.gradient(w, samples), atol=1e-14)


def test_any_module_and_loss_will_do():
    model = torch.nn.Linear(3, 1).double()
    inputs, targets = torch.randn(7, 3).double(), torch.randn(7).double()

    def squares(outputs, wanted):
        return (outputs.squeeze(1) - wanted).square().mean()

    objective = Objective(model, squares, l2=0.0)
    design = torch.cat([inputs, torch.ones(7, 1)], 1)
    vector = torch.randn(4).double()
    product = objective.hvp(torch.zeros(4).double(), Samples(inputs, targets, dtype=torch.float64), vector)
    assert torch.allclose(product, 2 * design.T @ design @ vector / 7)


def frozen():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("model", "change", "words"),
    [
        (frozen(), {}, "frozen parameters, which would be moved and noised"),
        (torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2).double()), {}, "float32 cpu.*float64 cpu"),
        (torch.nn.ReLU(), {}, "of which there must be some"),
        (torch.nn.Linear(3, 2), {"l2": -1e-3}, "l2 = -0.001"),
        (torch.nn.Linear(3, 2), {"l2": float("nan")}, "l2 = nan"),
        (torch.nn.Linear(3, 2), {"chunk": 0}, "chunk = 0"),
    ],
)
def test_what_cannot_be_one_vector_of_weights_is_refused(model, change, words):
    with pytest.raises(CduError, match=words):
        Objective(model, **change)


# --- products at one point ------------------------------------------------------------------------------------------

#: One seed where a product takes long.
SEEDS = {"allcnn": [1], "resnet18": [1]}
NETWORKS_AND_SEEDS = [(name, seed) for name in NETWORKS for seed in SEEDS.get(name, [0, 1, 2])]


def chunk_bytes(objective, w, samples):
    return objective.rows(w, samples) * objective.bytes_per_sample(w, samples)


@pytest.mark.parametrize(("name", "seed"), NETWORKS_AND_SEEDS)
def test_products_are_the_references_and_no_bit_depends_on_the_graphs_kept(name, seed):
    objective, w, samples = network(name, seed, count=8, chunk=3)
    vectors = draws(seed, 3, len(w))
    expected = direct_products(objective, w, samples, vectors)
    anew = Linearised(objective, w, samples, kept_bytes=0)
    one, several = anew.product(vectors[0]), anew.product(vectors)
    assert torch.allclose(several, expected, atol=1e-10)
    assert torch.allclose(one, expected[0], atol=1e-10)
    for chunks in (1, 3):
        linearised = Linearised(objective, w, samples, chunks * chunk_bytes(objective, w, samples))
        for _ in range(2):
            assert torch.equal(linearised.product(vectors[0]), one)
            assert torch.equal(linearised.product(vectors), several)


def test_kept_graphs_have_a_gibibyte_on_a_cpu_and_half_of_what_a_gpu_has_free(monkeypatch):
    assert kept_bytes(torch.device("cpu")) == 2**30
    free = {"mem_get_info": (50, 80), "memory_reserved": 20, "memory_allocated": 12}
    for name, value in free.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert kept_bytes(torch.device("cuda")) == (50 + 20 - 12) // 2
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**40, 2**40))
    assert kept_bytes(torch.device("cuda")) == 2**33


@pytest.mark.parametrize("name", NETWORKS)
def test_several_vectors_at_first_are_the_same_as_one_by_one(name):
    objective, w, samples = network(name, count=8, chunk=3)
    vectors = draws(0, 2, len(w))
    linearised = Linearised(objective, w, samples)
    first, again = linearised.product(vectors), linearised.product(vectors)
    assert torch.equal(first, again)
    assert torch.allclose(first, torch.stack([linearised.product(vector) for vector in vectors]), atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_products_in_float32_are_those_in_float64_to_four_digits(name):
    objective, w, samples = network(name, 1, count=8, chunk=3)
    vectors = draws(1, 2, len(w))
    expected = objective.hvp(w, samples, vectors)
    single = Objective(objective.model.float(), l2=objective.l2, chunk=3), w.float(), samples.to(dtype=torch.float32)
    anew, kept = Linearised(*single, kept_bytes=0), Linearised(*single)
    for _ in range(2):
        found = kept.product(vectors.float())
        assert found.dtype == torch.float32
        assert ((found - expected).norm(dim=1) <= 1e-4 * expected.norm(dim=1)).all()
        assert torch.equal(found, anew.product(vectors.float()))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_kept_graphs_leave_mode_buffers_and_gradients_alone(name, training):
    objective, w, samples = network(name, count=8, chunk=3)
    before = {key: value.clone() for key, value in objective.model.state_dict().items()}
    point = w.clone()
    objective.model.train(training)
    linearised = Linearised(objective, w, samples, chunk_bytes(objective, w, samples))
    for _ in range(2):
        linearised.product(w)
        assert objective.model.training == training
        assert all(module.training == training for module in objective.model.modules())
    after = objective.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.grad is None for parameter in objective.model.parameters())
    assert torch.equal(w, point)
    assert not w.requires_grad


@pytest.mark.parametrize(("kept", "anew"), [(0, 3), (1, 2), (2, 1), (3, 0), (100, 0)])
def test_chunks_beyond_the_memory_for_graphs_are_computed_anew(monkeypatch, kept, anew):
    objective, w, samples = network("mlp", count=13, chunk=5)
    linearised = Linearised(objective, w, samples, kept * chunk_bytes(objective, w, samples))
    calls = counted(monkeypatch, objective, "batch_loss")
    linearised.product(w)
    assert len(calls) == 3
    for _ in range(2):
        calls.clear()
        linearised.product(w)
        assert len(calls) == anew


def test_a_first_product_that_fails_spoils_no_later_one():
    objective, w, samples = network("mlp")
    linearised = Linearised(objective, w, samples)
    with pytest.raises(RuntimeError):
        linearised.product(w[:-1])
    assert torch.equal(linearised.product(w), objective.hvp(w, samples, w))


# --- chunks by memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_little_memory_makes_small_chunks_and_the_same_results(name):
    objective, w, samples = network(name, count=8, chunk=1000)
    vectors = draws(0, 2, len(w))
    assert objective.rows(w, samples) == 1000
    gradient, product = objective.gradient(w, samples), objective.hvp(w, samples, vectors)
    size = objective.bytes_per_sample(w, samples)
    for room, rows in ((4 * size - 1, 3), (size, 1)):
        objective.chunk_bytes = room
        assert objective.rows(w, samples) == rows
        assert torch.allclose(objective.gradient(w, samples), gradient, atol=1e-10)
        linearised = Linearised(objective, w, samples, 2 * rows * size)
        for _ in range(2):
            assert torch.allclose(linearised.product(vectors), product, atol=1e-10)
    objective.chunk_bytes = 1
    assert objective.rows(w, samples) == 1


def test_several_vectors_are_taken_together_as_far_as_memory_allows(monkeypatch):
    objective, w, samples = network("mlp", count=8, chunk=4)
    vectors = draws(0, 5, len(w))
    product = objective.hvp(w, samples, vectors)
    for together, passes in ((5, 1), (2, 3), (1, 5)):
        objective.chunk_bytes = together * chunk_bytes(objective, w, samples)
        with monkeypatch.context() as patch:
            calls = counted(patch, objective, "batch_loss")
            assert torch.allclose(objective.hvp(w, samples, vectors), product, atol=1e-12)
        assert len(calls) == 2 * passes


def bytes_per_sample(settings, shape, count=4, dtype=torch.float64):
    model = build(settings, shape, 3, 0).to(dtype)
    return Objective(model).bytes_per_sample(
        parameter_vector(model), random_samples(shape, count, count).to(dtype=dtype)
    )


def test_a_samples_bytes_grow_with_the_width_of_the_model():
    wide = [
        [(ModelSettings(name="mlp", hidden=(width,)), (1, 4, 4)) for width in (4, 8, 100)],
        [(ModelSettings(name="allcnn", width=width), (3, 8, 8)) for width in (0.02, 0.04, 0.1)],
        [(ModelSettings(name="resnet18", width=width), (3, 8, 8)) for width in (0.02, 0.04, 0.1)],
        [(ModelSettings(name="allcnn", width=0.02), (3, side, side)) for side in (8, 16, 32)],
    ]
    for models in wide:
        sizes = [bytes_per_sample(*model) for model in models]
        assert 0 < sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_samples_bytes_do_not_depend_on_their_number_and_do_on_their_type(name):
    sizes = {bytes_per_sample(*NETWORKS[name], count) for count in (1, 2, 9, 40)}
    assert len(sizes) == 1
    (size,) = sizes
    # Labels have eight bytes in either.
    assert size / 2 <= bytes_per_sample(*NETWORKS[name], dtype=torch.float32) < size


def test_what_all_samples_share_is_not_counted():
    shape, settings = (1, 28, 28), ModelSettings(name="mlp", hidden=(500,))
    assert bytes_per_sample(settings, shape) < 8 * 28 * 28 * 500 / 50


def test_a_samples_bytes_are_measured_again_for_another_shape_or_type():
    objective, w, samples = network("allcnn")
    small = objective.bytes_per_sample(w, samples)
    assert objective.bytes_per_sample(w, random_samples((3, 16, 16), 4, 0)) > small
    assert objective.bytes_per_sample(w, samples) == small


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_module_alone(training):
    objective, w, samples = network("resnet18")
    before = {key: value.clone() for key, value in objective.model.state_dict().items()}
    objective.model.train(training)
    objective.bytes_per_sample(w, samples)
    assert objective.model.training == training
    after = objective.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
@pytest.mark.parametrize("start", [0, 1, 6, 7, 50])
def test_batches_go_through_all_samples_from_a_row_on(size, start):
    samples = random_samples((1, 4, 4), 7, 0)
    inputs, targets = samples.batch(slice(start, None))
    batches = list(samples.batches(size, start))
    assert [len(labels) for _, labels in batches] == [min(size, 7 - row) for row in range(start, 7, size)]
    if batches:
        assert torch.equal(torch.cat([images for images, _ in batches]), inputs)
        assert torch.equal(torch.cat([labels for _, labels in batches]), targets)


class InPlace(torch.nn.Module):
    """Changes its inputs, as a first layer ReLU(inplace=True) does."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 3)

    def forward(self, inputs):
        inputs -= 0.5
        return self.linear(torch.nn.functional.relu(inputs, inplace=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_module_that_works_in_place_leaves_the_samples_as_they_are(dtype):
    model = InPlace().to(dtype)
    rng = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(20, 6, generator=rng, dtype=dtype), torch.randint(3, (20,), generator=rng)
    samples, before = Samples(inputs, targets, dtype=dtype), inputs.clone()
    objective, w = Objective(model, l2=0.1, chunk=7), parameter_vector(model)
    twin = torch.nn.Sequential(torch.nn.ReLU(), model.linear)
    plain, moved = Objective(twin, l2=0.1, chunk=7), Samples(inputs - 0.5, targets, dtype=dtype)
    for _ in range(2):
        assert torch.equal(objective.outputs(w, samples), plain.outputs(w, moved))
        assert torch.allclose(objective.gradient(w, samples), plain.gradient(w, moved))
        assert torch.allclose(objective.hvp(w, samples, w), plain.hvp(w, moved, w))
        assert objective.mean_loss(w, samples) == pytest.approx(plain.mean_loss(w, moved))
        assert torch.equal(inputs, before)


def test_every_part_of_a_module_is_given_back_in_its_own_mode():
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4), torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(4, 3))
    )
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    objective, samples = Objective(model), Samples(torch.randn(10, 6), torch.zeros(10, dtype=torch.long))
    with objective.evaluating():
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(ZeroDivisionError), objective.evaluating():
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == modes
    objective.gradient(parameter_vector(model), samples)
    assert [module.training for module in model.modules()] == modes


class Attention(torch.nn.Module):
    """One layer of attention over six tokens of four numbers."""

    def __init__(self):
        super().__init__()
        self.mix, self.read = torch.nn.Linear(4, 12), torch.nn.Linear(4, 3)

    def forward(self, inputs):
        query, key, value = self.mix(inputs).unsqueeze(1).chunk(3, dim=-1)
        return self.read(torch.nn.functional.scaled_dot_product_attention(query, key, value).squeeze(1).mean(dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_a_network_with_fused_attention_are_those_of_its_dense_hessian(dtype):
    model = Attention().to(dtype)
    rng = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(20, 6, 4, generator=rng, dtype=dtype), torch.randint(3, (20,), generator=rng)
    samples = Samples(inputs, targets, dtype=dtype)
    objective, w = Objective(model, l2=0.1, chunk=8), parameter_vector(model)
    vectors = torch.randn(3, len(w), generator=rng, dtype=dtype)
    with sdpa_kernel(SDPBackend.MATH):
        dense = hessian(lambda point: objective.batch_loss(point, inputs, targets))(w)
    dense += 0.1 * torch.eye(len(w), dtype=dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    assert torch.allclose(objective.hvp(w, samples, vectors), vectors @ dense, atol=tolerance)
    operator = Hessian(objective, w, samples) + 1.0
    solution = lissa(operator, vectors[0], scale=50, depth=3, repeats=2, batch_size=4, generator=rng)
    assert solution.x.isfinite().all()


def test_the_size_of_a_chunk_goes_with_the_loss_to_another_module():
    model = torch.nn.Linear(3, 2)
    objective = Objective(model, l2=0.5, chunk=7, chunk_bytes=1000)
    twin = objective.with_model(torch.nn.Linear(3, 2))
    assert (twin.chunk, twin.chunk_bytes, twin.l2, twin.loss_function) == (7, 1000, 0.5, objective.loss_function)
    assert objective.with_model(model, l2=0.0).l2 == 0
