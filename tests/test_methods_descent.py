import copy
import functools
import math
import re
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch.func import grad, vmap
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from cdu.certification import budget_bound, certify, gaussian_sigma, residual_bound
from cdu.certification.rounding import computed
from cdu.errors import CduError
from cdu.models.objective import Objective
from cdu.models.settings import TrainingSettings
from cdu.seeding import generator
from cdu.unlearning.methods.descent import Learner
from cdu.unlearning.methods.fine_tune import FineTune
from cdu.unlearning.methods.neg_grad_plus import NegGradPlus
from cdu.unlearning.methods.negative_gradient import NegativeGradient
from cdu.unlearning.methods.original import Original
from cdu.unlearning.methods.random_labels import RandomLabels, wrong_labels
from cdu.unlearning.methods.salun import SalUn
from cdu.unlearning.methods.scrub import Scrub
from cdu.unlearning.problem import Problem, UnlearningResult
from cdu.unlearning.release import distance_bound, post_process, publish, publish_at
from conftest import counted, network

RETAINED, FORGOTTEN, CLASSES, RATE = 30, 10, 3, 0.01
SMOOTH_ENOUGH = ["logistic", "mlp", "smooth mlp"]
BATCH_NORM = ["allcnn", "resnet18"]

METHODS = {
    "fine-tuning": FineTune(2, RATE),
    "negative gradient": NegativeGradient(2, RATE),
    "NegGrad+": NegGradPlus(2, RATE, 0.7),
    "random labels": RandomLabels(2, RATE),
    "SalUn": SalUn(2, RATE, 0.5),
    "SCRUB": Scrub(3, 2, RATE, 0.4),
}
all_methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
forgetting = pytest.mark.parametrize(
    ("name", "seed"), [("mlp", 0), ("mlp", 1), ("mlp", 2), ("allcnn", 0), ("allcnn", 1)]
)
#: With w* outside the ball, on its boundary and far inside.
every_ball = pytest.mark.parametrize(
    ("name", "scale"), [("logistic", 100.0), ("mlp", 0.8), ("smooth mlp", 1.0), ("allcnn", 0.8), ("resnet18", 100.0)]
)


def make_problem(name, seed=0, l2=0.01, scale=100.0, batch_size=7):
    """Forget 10 of 40 samples; w* is not what the module's own parameters are. The radius is ``scale`` · ‖w*‖."""
    objective, w, samples = network(name, seed, count=RETAINED + FORGOTTEN, l2=l2)
    w = w + 0.1 * torch.randn(len(w), generator=generator(seed, "w"), dtype=torch.float64)
    retain, forget = samples.subset(torch.arange(RETAINED)), samples.subset(torch.arange(RETAINED, len(samples)))
    training = TrainingSettings(batch_size=batch_size)
    return Problem(objective, w, retain, forget, scale * w.norm().item(), None, seed, training)


@functools.cache
def trained_problem(name, seed):
    """The same after training on D to a low loss."""
    problem = make_problem(name, seed, l2=1e-4)
    update = FineTune(40, 0.02)(replace(problem, retain=problem.everything), generator(seed))
    objective = Objective(update.model, l2=1e-4)
    assert objective.mean_loss(update.w, problem.everything) < 0.7
    return replace(problem, objective=objective, w_star=update.w)


def rows_of(samples, inputs):
    """Which of the samples a batch holds."""
    same = (samples.normalised(samples.inputs) == inputs.unsqueeze(1)).flatten(2).all(2)
    assert (same.sum(1) == 1).all()
    return same.int().argmax(1)


def student_batches(monkeypatch, problem):
    """Rows of D that go through the learner's network, batch by batch; retained ones come first in D."""
    calls = counted(monkeypatch, Learner, "outputs")
    return lambda: [rows_of(problem.everything, inputs) for _, inputs in calls]


def by_hand(problem, losses, mask=None):
    """Plain PyTorch: unfused Adam on the module's own parameters, then projection.

    Each of ``losses`` maps the module to the loss of one step.
    """
    module = copy.deepcopy(problem.objective.model).train()
    vector_to_parameters(problem.w_star.clone(), module.parameters())
    adam = torch.optim.Adam(module.parameters(), RATE, weight_decay=problem.objective.l2, foreach=False)
    for loss in losses:
        before = parameters_to_vector(module.parameters()).detach()
        adam.zero_grad()
        loss(module).backward()
        adam.step()
        after = parameters_to_vector(module.parameters()).detach()
        if mask is not None:
            after = mask * after + (1 - mask) * before
        vector_to_parameters(after * min(1, problem.radius / after.norm().item()), module.parameters())
    return module


def mean_loss(problem, rows, targets=None):
    """The loss of some rows of D as a function of the module, with pixels normalised by hand."""
    everything = problem.everything
    inputs = (everything.inputs[rows].double() / 255 - 0.5) / 0.5
    return lambda module: cross_entropy(module(inputs), everything.targets[rows] if targets is None else targets)


def assert_agree(problem, update, module):
    torch.testing.assert_close(update.w, parameters_to_vector(module.parameters()).detach(), rtol=1e-7, atol=1e-8)
    for one, other in zip(update.model.buffers(), module.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)
    assert (update.w - problem.w_star).norm() > 0.01


def is_pass(rows, first, last):
    """Whether batches hold every row from ``first`` to ``last`` once."""
    return torch.equal(torch.cat(rows).sort().values, torch.arange(first, last))


def gradient(problem, samples):
    """The mean of per-sample gradients at w*, without the l2 term."""
    objective = problem.objective

    def loss(w, inputs, target):
        return cross_entropy(objective.forward(w, inputs.unsqueeze(0)), target.unsqueeze(0))

    inputs, targets = samples.batch(slice(None))
    return vmap(grad(loss), in_dims=(None, 0, 0))(problem.w_star, inputs, targets).mean(0)


def first_step(problem, descent):
    """Where Adam's first step leads: its two moments are the gradient and its square."""
    total = descent + problem.objective.l2 * problem.w_star
    return problem.w_star - RATE * total / (total.abs() + 1e-8)


def divergence(problem, module, rows):
    """Mean KL(teacher ‖ student) from its definition."""
    inputs = (problem.everything.inputs[rows].double() / 255 - 0.5) / 0.5
    teacher = copy.deepcopy(problem.objective.model).eval()
    vector_to_parameters(problem.w_star.clone(), teacher.parameters())
    with torch.no_grad():
        p = teacher(inputs).softmax(1)
    return (p * (p.log() - module(inputs).softmax(1).log())).sum(1).mean()


def state(problem):
    """Everything that a method must leave as it is."""
    model = problem.objective.model
    sets = (problem.retain.inputs, problem.retain.targets, problem.forget.inputs, problem.forget.targets)
    tensors = [tensor.clone() for tensor in (problem.w_star, *sets, *model.parameters(), *model.buffers())]
    return tensors, [module.training for module in model.modules()]


# What holds for all of them.


@all_methods
@pytest.mark.parametrize(("name", "training"), [("mlp", True), ("allcnn", False), ("resnet18", True)])
def test_no_method_changes_samples_or_original(name, method, training):
    problem = make_problem(name)
    problem.objective.model.train(training)
    before = state(problem)
    update = method(problem, generator(0))
    after = state(problem)
    assert all(torch.equal(one, other) for one, other in zip(before[0], after[0], strict=True))
    assert before[1] == after[1]
    assert update.w.data_ptr() != problem.w_star.data_ptr()
    assert update.model is not problem.objective.model
    assert not any(module.training for module in update.model.modules())
    assert not update.w.requires_grad
    for (label, old), new in zip(problem.objective.model.named_buffers(), update.model.buffers(), strict=True):
        assert not torch.equal(old, new), label


@all_methods
@pytest.mark.parametrize("name", ["mlp", "allcnn"])
def test_the_state_of_the_generator_decides(name, method):
    problem = make_problem(name)
    source = generator(0)
    one, next_one = method(problem, source), method(problem, source)
    # PyTorch's own random state must not matter.
    torch.manual_seed(5)
    same = method(problem, generator(0))
    assert torch.equal(one.w, same.w)
    assert all(torch.equal(a, b) for a, b in zip(one.model.buffers(), same.model.buffers(), strict=True))
    assert not torch.allclose(one.w, next_one.w)


@all_methods
@pytest.mark.parametrize(("name", "dtype"), [("mlp", torch.float64), ("allcnn", torch.float32)])
def test_the_result_lies_in_the_ball_in_the_type_of_the_weights(name, method, dtype):
    problem = make_problem(name)
    problem.objective.model.to(dtype)
    problem = replace(
        problem,
        w_star=problem.w_star.to(dtype),
        retain=problem.retain.to(dtype=dtype),
        forget=problem.forget.to(dtype=dtype),
        radius=0.9 * problem.w_star.norm().item(),
    )
    update = method(problem, generator(0))
    assert update.w.dtype == dtype
    assert update.w.isfinite().all()
    assert update.w.double().norm() <= problem.radius


@pytest.mark.parametrize(
    "method",
    [
        FineTune(0, RATE),
        NegativeGradient(0, RATE),
        NegGradPlus(0, RATE, 0.5),
        RandomLabels(0, RATE),
        SalUn(0, RATE),
        Scrub(0, 0, RATE, 0.5),
    ],
    ids=METHODS,
)
def test_no_epochs_leave_the_original(method):
    for name in ("mlp", "allcnn"):
        problem = make_problem(name)
        update = method(problem, generator(0))
        assert torch.equal(update.w, problem.w_star)
        buffers = zip(update.model.buffers(), problem.objective.model.buffers(), strict=True)
        assert all(torch.equal(one, other) for one, other in buffers)


@pytest.mark.parametrize(
    ("method", "count"),
    [
        (FineTune(3, RATE), 3 * 30),
        (NegativeGradient(1, RATE), 10),
        # Ten batches of D_r, 7-7-7-7-2 twice, go with those of D_u, 7-3 over and over.
        (NegGradPlus(2, RATE, 0.5), 2 * 30 + 5 * 10),
        (NegGradPlus(2, RATE, 1), 2 * 30),
        (RandomLabels(2, RATE), 2 * 40),
        (SalUn(2, RATE, 0.1), 10 + 2 * 40),
        (Scrub(4, 3, RATE, 0.5), 4 * 30 + 3 * 10),
    ],
)
def test_every_gradient_is_counted(method, count):
    update = method(make_problem("mlp"), generator(0))
    assert update.gradient_samples == count
    assert update.hvp_samples == 0
    assert update.seconds > 0


# Against plain PyTorch, on the batches that were seen.


@every_ball
def test_fine_tuning_is_training_on_the_retained_samples(name, scale, monkeypatch):
    problem = make_problem(name, scale=scale)
    batches = student_batches(monkeypatch, problem)
    update = FineTune(2, RATE)(problem, generator(0))
    assert is_pass(batches()[:5], 0, RETAINED)
    assert is_pass(batches()[5:], 0, RETAINED)
    assert [len(rows) for rows in batches()] == [7, 7, 7, 7, 2] * 2
    assert_agree(problem, update, by_hand(problem, [mean_loss(problem, rows) for rows in batches()]))


@every_ball
def test_the_negative_gradient_climbs_on_the_forget_samples(name, scale, monkeypatch):
    problem = make_problem(name, scale=scale)
    batches = student_batches(monkeypatch, problem)
    update = NegativeGradient(1, RATE)(problem, generator(0))
    assert is_pass(batches(), RETAINED, 40)

    def negative(rows):
        return lambda module: -mean_loss(problem, rows)(module)

    assert_agree(problem, update, by_hand(problem, [negative(rows) for rows in batches()]))


@every_ball
def test_neg_grad_plus_descends_and_climbs_at_once(name, scale, monkeypatch):
    problem = make_problem(name, scale=scale)
    batches = student_batches(monkeypatch, problem)
    weight = 0.7
    update = NegGradPlus(2, RATE, weight)(problem, generator(0))

    def difference(kept, gone):
        # In this order the running statistics follow D_r first.
        return lambda module: (
            weight * mean_loss(problem, kept)(module) - (1 - weight) * mean_loss(problem, gone)(module)
        )

    pairs = zip(batches()[::2], batches()[1::2], strict=True)
    assert_agree(problem, update, by_hand(problem, [difference(*pair) for pair in pairs]))


@every_ball
def test_random_labels_are_trained_on_with_the_retained_samples(name, scale, monkeypatch):
    problem = make_problem(name, scale=scale)
    calls = counted(monkeypatch, Learner, "loss")
    update = RandomLabels(2, RATE)(problem, generator(0))
    losses = [mean_loss(problem, rows_of(problem.everything, inputs), targets) for _, inputs, targets in calls]
    assert_agree(problem, update, by_hand(problem, losses))


@every_ball
def test_salun_moves_only_the_salient_weights(name, scale, monkeypatch):
    problem = make_problem(name, scale=scale)
    calls = counted(monkeypatch, Learner, "loss")
    update = SalUn(2, RATE, 0.3)(problem, generator(0))
    with problem.objective.evaluating():
        size = gradient(problem, problem.forget).abs()
    # Rounding decides among the many gradients of 0 that narrow networks have.
    count = math.ceil(0.3 * len(size))
    smallest = size.sort().values[-count]
    mask = calls[0][0].mask
    assert mask.sum() == count
    assert mask[size > smallest + 1e-12].all()
    assert not mask[size < smallest - 1e-12].any()
    losses = [mean_loss(problem, rows_of(problem.everything, inputs), targets) for _, inputs, targets in calls]
    assert_agree(problem, update, by_hand(problem, losses, mask))


@every_ball
def test_scrub_climbs_and_descends_by_turns(name, scale, monkeypatch):
    problem = make_problem(name, scale=scale)
    batches = student_batches(monkeypatch, problem)
    weight = 0.4
    update = Scrub(3, 2, RATE, weight)(problem, generator(0))
    passes, rows = [], batches()
    for length in (2, 5, 2, 5, 5):
        passes.append(rows[:length])
        rows = rows[length:]
    assert not rows
    assert [is_pass(part, RETAINED, 40) for part in passes] == [True, False, True, False, False]
    assert [is_pass(part, 0, RETAINED) for part in passes] == [False, True, False, True, True]

    def climb(rows):
        return lambda module: -divergence(problem, module, rows)

    def descend(rows):
        # The student must see a batch once, or its running statistics would move twice.
        def loss(module):
            outputs = module((problem.everything.inputs[rows].double() / 255 - 0.5) / 0.5)
            agreement = divergence(problem, lambda _: outputs, rows)
            return weight * agreement + (1 - weight) * cross_entropy(outputs, problem.everything.targets[rows])

        return loss

    steps = [(descend if rows.max() < RETAINED else climb)(rows) for rows in batches()]
    assert_agree(problem, update, by_hand(problem, steps))


# Closed forms of a single step.


@pytest.mark.parametrize("l2", [0.0, 0.05])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SMOOTH_ENOUGH)
def test_the_first_step_of_each_has_a_closed_form(name, seed, l2):
    problem = make_problem(name, seed, l2, batch_size=64)
    kept, gone = (gradient(problem, samples) for samples in (problem.retain, problem.forget))
    steps = [
        (FineTune(1, RATE), kept),
        (NegativeGradient(1, RATE), -gone),
        (NegGradPlus(1, RATE, 0.6), 0.6 * kept - 0.4 * gone),
        # Teacher and student still agree, so that the divergence has no gradient.
        (Scrub(1, 0, RATE, 0.4), 0.6 * kept),
        (Scrub(1, 0, RATE, 1.0), 0 * kept),
    ]
    for method, descent in steps:
        update = method(problem, generator(seed))
        torch.testing.assert_close(update.w, first_step(problem, descent), rtol=0, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SMOOTH_ENOUGH)
def test_scrubs_first_step_on_the_forget_set_does_nothing_without_weight_decay(name, seed):
    problem = make_problem(name, seed, l2=0.0, batch_size=64)
    update = Scrub(1, 1, RATE, 0.4)(problem, generator(seed))
    # Adam's moments after a gradient of 0 and one of g, both corrected for the two steps.
    g = 0.6 * gradient(problem, problem.retain)
    mean, square = g * (1 - 0.9) / (1 - 0.9**2), g.square() * (1 - 0.999) / (1 - 0.999**2)
    torch.testing.assert_close(update.w, problem.w_star - RATE * mean / (square.sqrt() + 1e-8), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["mlp", "allcnn"])
def test_a_learners_step_decays_and_projects_like_training(name):
    problem = make_problem(name, l2=0.05, scale=0.7)
    start = problem.w_star / 2
    learner = Learner(problem, RATE, generator(0), start=start)
    assert torch.equal(learner.w, start)
    learner.step((learner.w * 0).sum())
    decayed = start - RATE * 0.05 * start / (0.05 * start.abs() + 1e-8)
    torch.testing.assert_close(learner.w.detach(), decayed)
    outside = Learner(problem, RATE, generator(0))
    outside.step((outside.w * 0).sum())
    assert outside.w.norm().item() == pytest.approx(problem.radius, rel=1e-12)
    assert outside.result().w.norm().item() <= problem.radius


# What each is for.


@forgetting
def test_the_negative_gradient_stops_once_the_model_does_worse_than_guessing(name, seed):
    problem = trained_problem(name, seed)
    update = NegativeGradient(100, RATE / 2)(problem, generator(0))
    stop = int(re.match(r"stopped after (\d+) of 100 epochs", update.note)[1])
    assert 1 < stop < 100

    def loss_after(epochs):
        result = NegativeGradient(epochs, RATE / 2)(problem, generator(0))
        assert result.note == ""
        assert result.gradient_samples == epochs * FORGOTTEN
        return result.w, Objective(result.model).mean_loss(result.w, problem.forget)

    last, before = loss_after(stop), loss_after(stop - 1)
    assert torch.equal(last[0], update.w)
    assert update.gradient_samples == stop * FORGOTTEN
    assert before[1] <= math.log(CLASSES) < last[1]
    assert problem.objective.mean_loss(problem.w_star, problem.forget) < last[1]


@pytest.mark.parametrize("seed", range(3))
def test_neg_grad_plus_raises_the_forget_loss_more_the_smaller_its_weight(seed):
    problem = trained_problem("smooth mlp", seed)
    losses = []
    for weight in (1, 0.9, 0.7, 0.5):
        update = NegGradPlus(3, RATE, weight)(problem, generator(seed))
        losses.append(problem.objective.mean_loss(update.w, problem.forget))
    assert losses == sorted(losses)
    assert losses[-1] > losses[0] + 0.1


@pytest.mark.parametrize("name", ["mlp", *BATCH_NORM])
def test_neg_grad_plus_with_weight_1_is_fine_tuning_bit_for_bit(name):
    problem = make_problem(name, scale=0.9)
    plain, same = (method(problem, generator(3)) for method in (FineTune(3, RATE), NegGradPlus(3, RATE, 1)))
    assert torch.equal(plain.w, same.w)
    assert all(torch.equal(a, b) for a, b in zip(plain.model.buffers(), same.model.buffers(), strict=True))


def test_neg_grad_plus_pairs_fine_tunings_batches_with_a_forget_set_that_begins_anew(monkeypatch):
    problem = make_problem("mlp")
    batches = student_batches(monkeypatch, problem)
    FineTune(4, RATE)(problem, generator(0))
    plain = batches()
    NegGradPlus(4, RATE, 0.5)(problem, generator(0))
    both = batches()[len(plain) :]
    kept, gone = both[::2], both[1::2]
    assert all(torch.equal(one, other) for one, other in zip(plain, kept, strict=True))
    passes = [torch.cat(gone[start : start + 2]) for start in range(0, 20, 2)]
    assert all(is_pass([rows], RETAINED, 40) for rows in passes)
    assert len({tuple(rows.tolist()) for rows in passes}) == len(passes)
    NegGradPlus(4, RATE, 0.5)(problem, generator(1))
    elsewhere = batches()[len(plain) + len(both) :][1::2]
    assert not torch.equal(torch.cat(elsewhere), torch.cat(gone))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [3, 5])
def test_wrong_labels_are_never_true_and_uniform_over_the_others(seed, classes):
    true = torch.arange(20000) % classes
    labels = wrong_labels(true, classes, generator(seed))
    assert labels.dtype == true.dtype
    for label in range(classes):
        counts = labels[true == label].bincount(minlength=classes).tolist()
        assert counts.pop(label) == 0
        assert stats.chisquare(counts).pvalue > 1e-3
    assert not torch.equal(labels, wrong_labels(true, classes, generator(seed + 10)))
    assert torch.equal(wrong_labels(true % 2, 2, generator(seed)), 1 - true % 2)


@pytest.mark.parametrize("method", [RandomLabels(3, RATE), SalUn(3, RATE)], ids=["random labels", "SalUn"])
def test_labels_are_drawn_once_for_the_forget_samples_alone(method, monkeypatch):
    problem = make_problem("mlp")
    calls = counted(monkeypatch, Learner, "loss")
    method(problem, generator(0))
    per_epoch = math.ceil(40 / 7)
    assert len(calls) == 3 * per_epoch
    orders, labels = [], []
    for epoch in range(3):
        batches = calls[epoch * per_epoch : (epoch + 1) * per_epoch]
        rows = torch.cat([rows_of(problem.everything, inputs) for _, inputs, _ in batches])
        assert is_pass([rows], 0, 40)
        orders.append(rows.tolist())
        labels.append(torch.cat([targets for _, _, targets in batches])[rows.argsort()])
    assert orders[0] != orders[1] != orders[2]
    assert torch.equal(labels[0], labels[1])
    assert torch.equal(labels[0], labels[2])
    assert torch.equal(labels[0][:RETAINED], problem.retain.targets)
    assert (labels[0][RETAINED:] != problem.forget.targets).all()
    assert labels[0].max() < CLASSES


def test_a_class_that_only_the_network_knows_is_a_wrong_label_too():
    problem = make_problem("logistic")
    two = [replace(part, targets=part.targets.clamp(max=1)) for part in (problem.retain, problem.forget)]
    calls = []

    def loss(outputs, targets):
        calls.append(targets)
        return cross_entropy(outputs, targets)

    problem.objective.loss_function = loss
    for seed in range(5):
        RandomLabels(1, RATE)(replace(problem, retain=two[0], forget=two[1]), generator(seed))
    assert torch.cat(calls).max() == CLASSES - 1


@forgetting
def test_random_labels_make_the_model_forget_and_keep_the_rest(name, seed):
    problem = trained_problem(name, seed)
    update = RandomLabels(20, RATE)(problem, generator(seed))
    objective = Objective(update.model)
    rise = [
        objective.mean_loss(update.w, part) - problem.objective.mean_loss(problem.w_star, part)
        for part in (problem.forget, problem.retain)
    ]
    assert rise[0] > 0.5
    assert rise[0] > 2 * rise[1]


@pytest.mark.parametrize("name", ["mlp", *BATCH_NORM])
def test_salun_with_all_weights_is_random_labels_bit_for_bit(name):
    problem = make_problem(name, scale=0.9)
    plain, same = (method(problem, generator(5)) for method in (RandomLabels(3, RATE), SalUn(3, RATE, 1)))
    assert torch.equal(plain.w, same.w)
    assert all(torch.equal(a, b) for a, b in zip(plain.model.buffers(), same.model.buffers(), strict=True))


@pytest.mark.parametrize(("name", "share"), [("mlp", 0.001), ("mlp", 0.9), ("allcnn", 0.5), ("resnet18", 0.1)])
def test_masked_weights_keep_their_bits(name, share):
    problem = make_problem(name)
    update = SalUn(2, RATE, share)(problem, generator(0))
    size = len(problem.w_star)
    assert (update.w != problem.w_star).sum() == math.ceil(share * size)


def test_the_projection_scales_masked_weights_all_alike():
    problem = make_problem("mlp", scale=0.8)
    update = SalUn(3, RATE, 0.3)(problem, generator(0))
    ratios = (update.w / problem.w_star).sort().values
    runs = (ratios[1:] - ratios[:-1] < 1e-12).sum()
    assert runs >= math.floor(0.7 * len(ratios)) - 1
    assert ratios.mode().values < 0.9


@pytest.mark.parametrize("name", ["mlp", "smooth mlp"])
def test_scrub_with_nothing_to_forget_and_no_divergence_is_fine_tuning(name):
    problem = make_problem(name)
    plain, same = (method(problem, generator(0)) for method in (FineTune(2, RATE), Scrub(2, 0, RATE, 0.0)))
    torch.testing.assert_close(plain.w, same.w, rtol=0, atol=1e-10)


@forgetting
def test_scrubs_student_disagrees_where_it_should(name, seed):
    problem = trained_problem(name, seed)
    far, near = [], []
    for forget_epochs in (0, 5):
        update = Scrub(8, forget_epochs, RATE, 0.5)(problem, generator(seed))
        module = copy.deepcopy(update.model)
        vector_to_parameters(update.w.clone(), module.parameters())
        far.append(divergence(problem, module, torch.arange(RETAINED, 40)).item())
        near.append(divergence(problem, module, torch.arange(RETAINED)).item())
    assert far[1] > 3 * far[0]
    assert far[1] > 3 * near[1]


@pytest.mark.parametrize(
    ("epochs", "rate", "words"),
    [
        (-1, RATE, "epochs = -1 is not a whole number of at least 0"),
        (1.5, RATE, "epochs = 1.5"),
        (1, 0.0, "learning_rate = 0.0 is not a positive finite number"),
        (1, math.nan, "learning_rate = nan"),
    ],
)
@pytest.mark.parametrize(
    "build",
    [
        FineTune,
        NegativeGradient,
        RandomLabels,
        SalUn,
        lambda epochs, rate: NegGradPlus(epochs, rate, 0.9),
        lambda epochs, rate: Scrub(epochs, 0, rate, 0.5),
    ],
)
def test_a_method_that_would_leave_the_original_as_it_is_is_refused(build, epochs, rate, words):
    with pytest.raises(CduError, match=re.escape(words)):
        build(epochs, rate)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: NegGradPlus(1, RATE, 0), "weight = 0"),
        (lambda: NegGradPlus(1, RATE, 1.2), "weight = 1.2"),
        (lambda: NegGradPlus(1, RATE, math.nan), "weight = nan"),
        (lambda: SalUn(1, RATE, 0), "share = 0"),
        (lambda: SalUn(1, RATE, 50), "share = 50"),
        (lambda: Scrub(2, 3, RATE, 0.5), "forget_epochs = 3"),
        (lambda: Scrub(2, -1, RATE, 0.5), "forget_epochs = -1"),
        (lambda: Scrub(2, 1, RATE, -0.1), "distillation_weight = -0.1"),
        (lambda: Scrub(2, 1, RATE, 2), "distillation_weight = 2"),
    ],
)
def test_nonsense_is_refused(build, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        build()


# Releases.


def noisy_release(name, scale=1.5):
    """A certified release whose network brings buffers of its own."""
    problem = make_problem(name, scale=scale)
    return problem, publish(problem, FineTune(1, RATE)(problem, generator(0)), generator(1), 0.5)


def same_release(one, other):
    buffers = zip(one.objective.model.buffers(), other.objective.model.buffers(), strict=True)
    return torch.equal(one.w, other.w) and all(torch.equal(a, b) for a, b in buffers)


@pytest.mark.parametrize("name", ["mlp", *BATCH_NORM])
def test_post_processing_sees_neither_the_forget_set_nor_the_original(name):
    problem, released = noisy_release(name)
    expected = list(post_process(problem, released, generator(2), (0, 1, 3)))
    blind = replace(problem, forget=None, w_star=None, objective=None, retrain=None, stopped=None)
    found = list(post_process(blind, released, generator(2), (0, 1, 3)))
    assert [epochs for epochs, _ in found] == [0, 1, 3]
    assert all(same_release(one, other) for (_, one), (_, other) in zip(expected, found, strict=True))


@pytest.mark.parametrize("name", ["mlp", *BATCH_NORM])
def test_looking_in_between_changes_nothing(name):
    problem, released = noisy_release(name)
    (_, zero), (_, one), (_, three) = post_process(problem, released, generator(2), (0, 1, 3))
    assert zero is released
    assert same_release(one, next(post_process(problem, released, generator(2), (1,)))[1])
    assert same_release(three, next(post_process(problem, released, generator(2), (3,)))[1])
    assert not same_release(one, three)
    for later in (one, three):
        assert later.certificate is released.certificate
        assert later.certificate is not None
        assert not any(module.training for module in later.objective.model.modules())


@pytest.mark.parametrize("name", ["mlp", *BATCH_NORM])
def test_post_processing_is_training_on_the_retained_samples(name, monkeypatch):
    problem, released = noisy_release(name)
    assert released.w.norm() > problem.radius
    before, buffers = released.w.clone(), [buffer.clone() for buffer in released.objective.model.buffers()]
    batches = student_batches(monkeypatch, problem)
    training = problem.training.model_copy(update={"learning_rate": RATE})
    ((_, after),) = post_process(replace(problem, training=training), released, generator(2), (2,))
    assert is_pass(batches()[:5], 0, RETAINED)
    assert is_pass(batches()[5:], 0, RETAINED)
    inside = released.w * (problem.radius / released.w.norm())
    from_there = replace(problem, objective=released.objective, w_star=inside)
    module = by_hand(from_there, [mean_loss(problem, rows) for rows in batches()])
    assert_agree(from_there, UnlearningResult(after.w, 0.0, model=after.objective.model), module)
    assert torch.equal(released.w, before)
    assert all(torch.equal(a, b) for a, b in zip(released.objective.model.buffers(), buffers, strict=True))
    assert after.objective.l2 == problem.objective.l2


def test_post_processing_stays_in_the_ball_that_the_method_asked_for():
    problem = make_problem("mlp")
    released = publish(problem, replace(Original()(problem, generator(0)), radius=0.3), generator(0), 1.0)
    assert released.certificate.sensitivity == pytest.approx(0.6)
    # Steps this large would lead far out of it.
    problem = replace(problem, training=problem.training.model_copy(update={"learning_rate": 0.1}))
    for _, later in post_process(problem, released, generator(0), (1, 2)):
        assert later.w.norm().item() <= 0.3
        assert later.w.norm().item() == pytest.approx(0.3)


def test_a_release_rests_on_the_smaller_of_the_methods_bound_and_the_projections():
    problem = make_problem("mlp")
    original = Original()(problem, generator(0))
    twice = 2 * problem.radius
    for bound, value in [
        (None, twice),
        (budget_bound(0.2), 0.2),
        (budget_bound(10 * twice), twice),
        (residual_bound(0.01, 1.0), twice),
    ]:
        update = replace(original, bound=bound, rounding=0.0)
        assert distance_bound(problem, update).value == pytest.approx(value)
        released = publish(problem, update, generator(0), 0.5, 1e-6)
        assert released.certificate == certify(distance_bound(problem, update), 0.5, 1e-6)
        assert released.certificate.sensitivity == pytest.approx(value)
    unbounded = replace(original, radius=math.inf, bound=budget_bound(3.0), rounding=0.0)
    assert distance_bound(problem, unbounded).value == 3
    for bound in (None, residual_bound(0.01, 1.0)):
        with pytest.raises(CduError, match="neither a ball nor a bound"):
            distance_bound(problem, replace(unbounded, bound=bound))
    own_ball = replace(original, radius=0.4)
    assert distance_bound(problem, own_ball).value == pytest.approx(0.8)
    assert publish(problem, own_ball, generator(0)).w.norm().item() == pytest.approx(0.4)


def test_no_noise_is_added_to_a_methods_own():
    problem = make_problem("mlp", scale=0.9)
    certificate = certify(computed(budget_bound(0.1), "float64", 0.0), 0.7, 1e-5)
    update = replace(Original()(problem, generator(0)), certificate=certificate, bound=budget_bound(0.3))
    for released in (publish(problem, update, generator(0), 0.5), publish_at(problem, update, generator(0), 1.0)):
        assert released.certificate is certificate
        torch.testing.assert_close(released.w, problem.w_star * 0.9)
        assert released.promise == f"ε = {certificate.epsilon:.4g}, δ = 1e-05: meaningful"


def test_a_reason_for_no_certificate_leaves_the_noise_and_takes_the_certificate():
    problem = make_problem("mlp")
    plain = Original()(problem, generator(0))
    uncertified = replace(
        plain, bound=budget_bound(0.1), rounding=0.0, no_certificate_reason="training assumption violated"
    )
    with_noise, without = (publish(problem, update, generator(0), 0.5) for update in (plain, uncertified))
    assert torch.equal(with_noise.w, without.w)
    assert without.certificate is None
    assert without.promise == "none: training assumption violated"
    assert publish_at(problem, uncertified, generator(0), 1.0).certificate is None
    assert publish(problem, plain, generator(0)).promise == "none: no noise"
    assert "vacuous" in publish(problem, plain, generator(0), 1e-3).promise


@pytest.mark.parametrize("epsilon", [0.5, 4.0, 30.0])
@pytest.mark.parametrize("bound", [None, budget_bound(0.2)])
def test_publishing_at_an_epsilon_takes_the_least_noise_that_certifies_it(epsilon, bound):
    problem = make_problem("mlp", scale=1.0)
    update = replace(Original()(problem, generator(0)), bound=bound, rounding=0.0)
    released = publish_at(problem, update, generator(0), epsilon, 1e-6)
    certificate = released.certificate
    assert certificate.delta == 1e-6
    assert certificate.epsilon <= epsilon
    assert certificate.sigma == gaussian_sigma(epsilon, 1e-6, distance_bound(problem, update).sensitivity)
    assert publish(problem, update, generator(0), 0.999 * certificate.sigma, 1e-6).certificate.epsilon > epsilon
    noise = torch.randn(len(update.w), generator=generator(0), dtype=torch.float64)
    torch.testing.assert_close(released.w - problem.w_star, certificate.sigma * noise)


def test_an_exact_step_needs_no_noise_and_says_so():
    problem = make_problem("mlp")
    exact = budget_bound(1.0).model_copy(update={"value": 0.0})
    update = replace(Original()(problem, generator(0)), bound=exact, rounding=0.0, radius=math.inf)
    assert publish(problem, update, generator(0), 0.1).certificate.epsilon == 0
    with pytest.raises(CduError):
        publish_at(problem, update, generator(0), 1.0)


@pytest.mark.parametrize("name", BATCH_NORM)
def test_a_release_carries_the_buffers_of_the_methods_network(name):
    problem = make_problem(name)
    update = FineTune(1, RATE)(problem, generator(0))
    released = publish(problem, update, generator(0))
    assert released.objective.model is update.model
    assert released.objective.l2 == problem.objective.l2
    kept = publish(problem, Original()(problem, generator(0)), generator(0))
    assert kept.objective is problem.objective
