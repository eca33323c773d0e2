"""How a release is noted in a ledger, and what is refused beforehand since it could not be noted."""

from collections.abc import Sequence

from torch import Tensor

from cdu.certification import Certificate, gaussian_sigma
from cdu.certification.rounding import arithmetic_of, projection_bound
from cdu.checks import expect
from cdu.unlearning.ledger import Ledger
from cdu.unlearning.methods.retrain import Retrain
from cdu.unlearning.problem import Method, Problem


def expect_notable(ledger: Ledger | None, ids: Sequence[str | int] | None, unsafe_seed: int | None) -> None:
    """Refuse, before hours are spent, what a ledger could not note.

    Args:
        ledger: Where the release is to be noted; None for nowhere.
        ids: Whom the request names; None without a ledger.
        unsafe_seed: A seed that was given for the noise; None without.

    Raises:
        CduError: One of ledger and ids was given without the other, a seed was given with a ledger, an id is unusable,
            or the ledger was changed.
    """
    expect(
        (ledger is None) == (ids is None),
        f"a {'ledger was given without ids' if ids is None else 'list of ids was given without a ledger'}; give both, "
        "or neither",
    )
    expect(
        ledger is None or unsafe_seed is None,
        f"unsafe_seed = {unsafe_seed} is for tests, and a ledger is for releases that leave; give one of them",
    )
    if ledger is not None and ids is not None:
        ledger.hashed(ids)


def expect_room_for(
    ledger: Ledger,
    problem: Problem,
    method: Method,
    sigma: float,
    retraining: str | float = "",
    promise: tuple[float, float] | None = None,
) -> None:
    """Refuse, before hours are spent, a release that cannot fit into a ledger's budget whatever the method finds.

    Δ = 2C with its rounding is an upper bound of what will be certified: a method's own bound may be smaller, and is
    known only when the method ran. So nothing is refused here unless the method's class says ``by_projection = True``,
    which means that its result never has a bound, a radius or noise of its own. Then Δ is exactly that of the
    projection, and without σ, or with an infinite radius, there is no certificate. All other releases are refused when
    they are to be noted.

    Args:
        ledger: The ledger.
        problem: What is to be unlearned.
        method: How.
        sigma: The noise that is to be added.
        retraining: What retraining would take, in words or in seconds; see
            :meth:`~cdu.unlearning.ledger.Ledger.expect_room`.
        promise: ε and δ, where the noise is the least that certifies them: then μ is known whatever Δ is.

    Raises:
        CduError: The release would exceed the budget, or the ledger was changed.
    """
    if promise is not None and not isinstance(method, Retrain):
        ledger.expect_room(1 / gaussian_sigma(*promise, 1.0), retraining=retraining)
        return
    # A class that is derived from one of these may have a bound of its own, and has to say so itself.
    if not vars(type(method)).get("by_projection", False):
        return
    if sigma == 0:
        ledger.expect_room(None, retraining=retraining)
    elif problem.radius < float("inf"):
        w = problem.w_star
        bound = projection_bound(problem.radius, len(w), arithmetic_of(w.dtype))
        ledger.expect_room(bound.sensitivity / sigma, retraining=retraining)


def note(
    ledger: Ledger,
    ids: Sequence[str | int],
    method: Method,
    before: Tensor,
    after: Tensor,
    certificate: Certificate | None,
    reason: str,
    sigma: float,
) -> None:
    """Write the entry of a release.

    Args:
        ledger: The ledger.
        ids: Whom the request names.
        method: The method; :class:`~cdu.unlearning.methods.retrain.Retrain` spends nothing.
        before: The weights before the request.
        after: The weights that are to be released.
        certificate: What the release guarantees; None for nothing.
        reason: Why it guarantees nothing, where that is known.
        sigma: Noise of a release without a certificate.

    Raises:
        CduError: As for :meth:`~cdu.unlearning.ledger.Ledger.record`.
    """
    ledger.record(
        ids,
        type(method).__name__,
        before,
        after,
        certificate,
        "" if certificate else reason or "no noise",
        sigma=sigma,
        retrained=isinstance(method, Retrain),
    )
