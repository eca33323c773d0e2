"""What every method shares: projection onto the ball, then noise, then the certificate."""

import copy
import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters
from torch.optim.swa_utils import update_bn

from cdu.certification import Bound, Certificate, certify, required_sigma
from cdu.certification.rounding import arithmetic_of, computed, projection_bound, projection_rounding
from cdu.checks import expect
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models.batchnorm import has_statistics
from cdu.models.objective import Objective
from cdu.models.training import project
from cdu.seeding import secret_generator
from cdu.unlearning.ledger import Ledger
from cdu.unlearning.methods.descent import Learner
from cdu.unlearning.noise import draw_noise, expect_noise_shows
from cdu.unlearning.noted import expect_notable, expect_room_for, note
from cdu.unlearning.problem import Method, Problem, UnlearningResult, expect_answerable


@dataclass(frozen=True)
class Release:
    """A model that is handed out.

    Attributes:
        w: The released weights, shape (p,).
        objective: L with the buffers that belong to the released model.
        certificate: What it guarantees; None where no noise was added.
        update: The method's own result and cost, before projection and noise.

    Example:
        >>> update = UnlearningResult(torch.tensor([2.0]), seconds=0.5)
        >>> Release(update.w, Objective(nn.Linear(1, 1, bias=False)), None, update).promise
        'none: no noise'
    """

    w: Tensor
    objective: Objective
    certificate: Certificate | None
    update: UnlearningResult

    @property
    def promise(self) -> str:
        """The certificate in a few words, or "none" and why."""
        if self.certificate is not None:
            return f"ε = {self.certificate.epsilon:.4g}, δ = {self.certificate.delta:g}: {self.certificate.worth}"
        return f"none: {self.update.no_certificate_reason or 'no noise'}"


def release(
    problem: Problem,
    method: Method,
    sigma: float = 0.0,
    delta: float = 1e-5,
    *,
    epsilon: float | None = None,
    unsafe_seed: int | None = None,
    ledger: Ledger | None = None,
    ids: Sequence[str | int] | None = None,
    retraining: str | float = "",
) -> Release:
    """Run a method, project its result onto the ball of radius C, add N(0, σ²I).

    The Newton iterate can leave the ball; the projection is non-expansive and the retrained model lies inside, so
    that every bound on the distance stays valid and 2C becomes one.

    Whoever knows the noise subtracts it. So the state that it is drawn from is of the operating system's entropy, which
    is neither returned nor kept, and every call draws anew. It is drawn and added in float64, whatever the weights'
    type, and the sum is rounded to that.

    Args:
        problem: What is to be unlearned.
        method: How.
        sigma: Standard deviation of the noise per coordinate; 0 for none, and for a method that adds its own noise.
        delta: δ of the certificate.
        epsilon: ε to certify: σ is then the least that does. In place of ``sigma``.
        unsafe_seed: For tests: a seed from which method and noise are drawn. Such a release has no certificate, since
            whoever knows the seed, or has another release of it, subtracts the noise.
        ledger: Where the release is noted. Its entry is on the disk before this function returns. A release that
            certainly exceeds the ledger's budget is refused before the method runs; for which methods that is known,
            :func:`~cdu.unlearning.noted.expect_room_for` says.
        ids: For the ledger: whom the request names, such as users' numbers. The ledger keeps their salted hashes.
        retraining: What retraining would take, in words or in seconds, which such a refusal then says.

    Example:
        >>> from cdu import NewtonStep
        >>> retain = Samples(torch.ones(3, 1), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> forget = Samples(torch.ones(1, 1), torch.tensor([[6.0]]))
        >>> objective = Objective(nn.Linear(1, 1, bias=False), nn.functional.mse_loss)
        >>> problem = Problem(objective, torch.tensor([3.0]), retain, forget, radius=5, retrain=None, seed=0)
        >>> ledger = Ledger("ledger", cap=(1.0, 1e-5))  # ε = 1 at δ = 1e-5 for all releases together
        >>> release(problem, NewtonStep(damping=1), sigma=100, ledger=ledger, ids=["user 17"]).promise
        'ε = 0.3407, δ = 1e-05: meaningful'

    Raises:
        CduError: No method could answer (:func:`~cdu.unlearning.problem.expect_answerable`), σ and ε are both given, σ
            was given to a method with noise of its own, or that method's certificate promises less than ε or has too
            large a δ; nothing bounds the distance that ε needs noise for; the release would exceed the ledger's budget,
            or there is another reason for which :meth:`~cdu.unlearning.ledger.Ledger.record` refuses it; or as for
            :func:`publish`.
    """
    expect(
        epsilon is None or sigma == 0,
        f"sigma = {sigma} and epsilon = {epsilon} are both given, and one follows from the other; give one of them",
    )
    expect_answerable(problem, sigma, delta, certified=epsilon is not None)
    expect_notable(ledger, ids, unsafe_seed)
    if ledger is not None:
        promise = None if epsilon is None else (epsilon, delta)
        expect_room_for(ledger, problem, method, sigma, retraining, promise)
    if unsafe_seed is None:
        source = secret_generator(secrets.token_bytes(32), "release")
    else:
        source = torch.Generator().manual_seed(unsafe_seed)
    result = method(problem, source)
    expect(
        isinstance(result, UnlearningResult),
        f"{type(method).__name__} returned a {type(result).__name__}; return an UnlearningResult",
    )
    own, total = result.certificate, len(problem.retain) + len(problem.forget)
    expect(
        own is None or sigma == 0,
        f"sigma = {sigma:g} was given to a method that adds noise of its own; leave it out, and make the method for "
        "the epsilon and delta that are wanted",
    )
    expect(
        own is None or own.delta < 1 / total,
        f"the method's own certificate has delta = {0 if own is None else own.delta:g}, not below one over the number "
        f"of samples, {total:,}: so much would let one be published outright; make the method for far less",
    )
    expect(
        bool(result.w.isfinite().all()),
        "the unlearned weights hold NaN or infinite numbers; lower the method's learning rate, raise its damping, or "
        "retrain",
    )
    if epsilon is not None:
        sigma = _sigma_for(problem, result, epsilon, delta)
    released = publish(problem, result, source, sigma, delta, torch.float64)
    if ledger is not None and ids is not None:
        reason = result.no_certificate_reason
        note(ledger, ids, method, problem.w_star, released.w, released.certificate, reason, sigma)
    if unsafe_seed is None:
        return released
    reason = result.no_certificate_reason or "the seed of its noise was given"
    return replace(released, certificate=None, update=replace(result, no_certificate_reason=reason))


def publish(
    problem: Problem,
    result: UnlearningResult,
    generator: torch.Generator,
    sigma: float = 0.0,
    delta: float = 1e-5,
    noise_dtype: torch.dtype | None = None,
) -> Release:
    """Project a result that was computed before and add noise to it; see :func:`release`.

    The noise is drawn in ``noise_dtype``, in the weights' own type when None, as the committed records have it.

    Where the method brought a bound of its own the certificate rests on it, else on the projection; where the method
    added noise of its own none is added here and its certificate is passed on.

    Raises:
        CduError: The weights or σ are not finite, the noise would be lost in the weights' rounding, the projection
            would leave what the method's bound is about, or there is nothing to certify by (see
            :func:`distance_bound`).
    """
    original = problem.objective
    w = projected(problem, result, sigma)
    objective = original if result.model is None else original.with_model(result.model)
    if sigma == 0 or result.certificate is not None:
        return Release(w, objective, result.certificate, result)
    certificate = None if result.no_certificate_reason else certify(distance_bound(problem, result), sigma, delta)
    noise = draw_noise(w.to(noise_dtype or w.dtype), generator)
    return Release((w + sigma * noise).to(w.dtype), objective, certificate, result)


def trials(
    problem: Problem, result: UnlearningResult, generator: torch.Generator, sigma: float, count: int, together: int = 64
) -> Iterator[Tensor]:
    """The weights of many releases of one result, bit for bit those of as many calls of :func:`publish`.

    The result is checked and projected once for all, which is most of a call.

    Args:
        problem: What was unlearned.
        result: A method's result, of one that adds no noise of its own.
        generator: Draws the noise.
        sigma: Standard deviation of the noise per coordinate, above 0.
        count: How many releases.
        together: Releases in a block.

    Yields:
        Blocks of releases, one a row, on the device of the result's weights.

    Raises:
        CduError: The method adds noise of its own, or as for :func:`publish`.
    """
    expect(
        sigma > 0 and result.certificate is None,
        "trials of a release differ in the noise that is added last; give sigma above 0 and a method without its own",
    )
    w = projected(problem, result, sigma)
    # Rows begin where vectors of their own would: a sum's last digits may depend on how its terms lie in memory.
    width = -(-len(w) // 16) * 16
    for first in range(0, count, together):
        rows = torch.empty(min(together, count - first), width, dtype=w.dtype)[:, : len(w)]
        for row in rows:
            row.normal_(generator=generator)
        yield rows.to(w.device).mul_(sigma).add_(w)


def projected(problem: Problem, result: UnlearningResult, sigma: float = 0.0) -> Tensor:
    """A result's weights, projected onto its ball: what noise is added to.

    Args:
        problem: What was to be unlearned.
        result: What a method returned.
        sigma: The noise that is to be added.

    Raises:
        CduError: As for :func:`publish`.
    """
    expect(0 <= sigma < math.inf, f"sigma = {sigma} is not a finite number of at least 0")
    expect(
        bool(result.w.isfinite().all()) or not (sigma or result.certificate),
        "the unlearned weights hold NaN or infinite numbers, which no noise hides; lower the method's learning rate, "
        "raise its damping, or retrain",
    )
    expect(
        sigma == 0
        or result.certificate is not None
        or result.bound is None
        or result.radius is not None
        # In double precision: in single the norm of ten million weights is 4e-4 too small on a CPU.
        or result.w.double().norm().item() <= problem.radius * (1 + 4 * torch.finfo(result.w.dtype).eps),
        f"the projection onto the problem's ball of radius {problem.radius:g} would move weights of norm "
        f"{result.w.double().norm():g} away from what the method's own bound is about; give the result a radius that "
        "its reference lies in, or math.inf",
    )
    expect(
        result.certificate is None or result.certificate.arithmetic != "exact",
        "the method's own certificate is a formula's: its Δ has no allowance for rounding; certify a bound of "
        "cdu.certification.rounding.computed",
    )
    w = project(result.w, _radius(problem, result))
    expect_noise_shows(w, sigma)
    return w


def publish_at(
    problem: Problem, result: UnlearningResult, generator: torch.Generator, epsilon: float, delta: float = 1e-5
) -> Release:
    """Like :func:`publish`, with the smallest σ that certifies (ε, δ); 0 for a method that adds noise of its own.

    Raises:
        CduError: The method's own certificate promises less, or as for :func:`publish`.
    """
    return publish(problem, result, generator, _sigma_for(problem, result, epsilon, delta), delta)


def _sigma_for(problem: Problem, result: UnlearningResult, epsilon: float, delta: float) -> float:
    """The smallest σ that certifies (ε, δ); 0 for a method that adds noise of its own, which must certify as much."""
    own = result.certificate
    if own is None:
        return required_sigma(distance_bound(problem, result), epsilon, delta)
    expect(
        own.epsilon <= epsilon * (1 + 1e-6) and own.delta <= delta,
        f"the method's own noise certifies ε = {own.epsilon:g} at δ = {own.delta:g}, not the ε = {epsilon:g} at δ = "
        f"{delta:g} that is asked for; make the method for those",
    )
    return 0.0


def distance_bound(problem: Problem, result: UnlearningResult) -> Bound:
    """The bound that noise for a result is scaled to: the method's own where that is smaller than the projection's.

    Every certificate of a release passes through here. Proofs are about real numbers and weights are rounded, so that
    a proven allowance is added to Δ: for the projection from the number of weights and their type, for the method's own
    bound from what it says of its computation, once for the release and once for its reference.

    Raises:
        CduError: Nothing bounds the distance, or the method has a bound but none on its rounding.
    """
    radius, arithmetic = _radius(problem, result), arithmetic_of(result.w.dtype)
    found = []
    if not math.isinf(radius):
        found.append(projection_bound(radius, len(result.w), arithmetic))
    if result.bound is not None and result.bound.fixed_in_advance:
        if result.rounding is None:
            raise CduError(
                f"the method's own bound, {result.bound.value:g}, is about exact arithmetic, and nothing is known of "
                f"the rounding of its {arithmetic} computation; give the result a proven rounding, or no bound"
            )
        rounding = result.rounding + projection_rounding(radius, arithmetic)
        found.append(computed(result.bound, arithmetic, 2 * rounding))
    if not found:
        raise CduError(
            "the result has neither a ball nor a bound fixed in advance, so that no noise certifies it; give it a "
            "finite radius to be projected onto"
        )
    return min(found, key=lambda bound: bound.sensitivity)


def post_process(
    problem: Problem, released: Release, generator: torch.Generator, epochs: tuple[int, ...]
) -> Iterator[tuple[int, Release]]:
    """Train a release further on D_r, by Adam and projection onto the ball; the certificate stays what it is.

    Post-processing is free in differential privacy, and so it is here: whatever is computed from the release and D_r
    alone is as close to what would be computed from the reference. Anything of D_u must stay out of it.

    Args:
        problem: Where D_r and the recipe come from.
        released: The release to start from; projected first, since noise leads far out of the ball.
        generator: Draws the order of the batches.
        epochs: After how many epochs to look, ascending.

    Yields:
        For each of ``epochs``, the number and the release as it is then; 0 is the release itself.
    """
    radius = _radius(problem, released.update)
    local = replace(problem, objective=released.objective, radius=radius)
    learner = Learner(local, problem.training.learning_rate, generator, start=project(released.w, radius))
    done = 0
    for wanted in epochs:
        while done < wanted:
            for inputs, targets in problem.retain.shuffled(problem.training.batch_size, generator):
                learner.step(learner.loss(inputs, targets))
            done += 1
        if done == 0:
            yield 0, released
            continue
        model = copy.deepcopy(learner.objective.model).eval()
        objective = released.objective.with_model(model)
        w = project(learner.w.detach().clone(), radius)
        yield done, Release(w, objective, released.certificate, released.update)


def _radius(problem: Problem, result: UnlearningResult) -> float:
    return problem.radius if result.radius is None else result.radius


def recalibrated(released: Release, samples: Samples, batch_size: int) -> Release:
    """A release whose BatchNorm statistics are those of D_r at the released weights.

    The statistics that training left are averages over D, the forget set included, and noise on the weights does not
    hide them. Means and variances over D_r at the released weights depend on the release and D_r alone: taking them is
    post-processing, and the certificate covers the whole model. Every batch counts alike.

    Args:
        released: The release; it is not changed.
        samples: D_r, or part of it.
        batch_size: Samples a batch; what is left over at the end is not used, unless there is nothing else.

    Raises:
        CduError: The module has no such statistics, or others that this does not renew; there are fewer than two
            samples, in all or in a batch.
    """
    expect(batch_size >= 2, f"batch_size = {batch_size} is below 2; a variance needs two samples")
    expect(
        all(
            isinstance(layer, nn.modules.batchnorm._BatchNorm)
            or not any(name.startswith("running_") for name, _ in layer.named_buffers(recurse=False))
            for layer in released.objective.model.modules()
        ),
        "the network has running statistics outside BatchNorm's layers, which would stay those of D; train without",
    )
    if not has_statistics(released.objective.model):
        raise CduError("the network has no BatchNorm statistics to recalibrate")
    if len(samples) < 2:
        raise CduError(f"statistics need at least two samples, found {len(samples)}; recalibrate on more of D_r")
    model = copy.deepcopy(released.objective.model)
    vector_to_parameters(released.w, model.parameters())
    size = min(batch_size, len(samples))
    update_bn((inputs for inputs, _ in samples.batches(size) if len(inputs) == size), model)
    objective = released.objective.with_model(model.eval())
    return replace(released, objective=objective)
