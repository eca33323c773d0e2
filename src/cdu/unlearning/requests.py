"""Requests one after another: how a forget set is cut into them, and the chain of steps that answers them."""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdu import clock
from cdu.checks import expect
from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models.training import project
from cdu.seeding import generator, secret_generator
from cdu.unlearning.ledger import Ledger
from cdu.unlearning.noted import expect_notable, note
from cdu.unlearning.problem import Method, Problem, UnlearningResult, expect_answerable
from cdu.unlearning.release import Release, publish

#: Gives the update of a request by its number: from a file, or by the function that computes it.
Keep = Callable[[int, Callable[[], UnlearningResult]], UnlearningResult]


@dataclass(frozen=True)
class Request:
    """One of several requests to delete.

    Attributes:
        number: k, from 1.
        forget: What this request deletes, D_{u_k}.
        gone: What it and all requests before it delete.
        retain: D_{r_k}, what is left after it.
    """

    number: int
    forget: Samples
    gone: Samples
    retain: Samples


def requests(
    samples: Samples, train: NDArray[np.int64], forget: NDArray[np.int64], count: int, seed: int
) -> Iterator[Request]:
    """Cut a forget set into requests, in an order drawn from the seed, of sizes that differ by one at most.

    The order is the same for every ``count``: where two sequences have deleted as many samples, they have deleted the
    same ones, and share the retrained model.

    Args:
        samples: What the rows below are rows of.
        train: Rows of D.
        forget: Rows of D_u, a subset of D's.
        count: How many requests.
        seed: The run's seed.

    Raises:
        CduError: There are more requests than samples to forget, or none.
    """
    if not 1 <= count <= len(forget):
        raise CduError(
            f"a forget set of {len(forget)} samples cannot be cut into {count} requests; choose between 1 and "
            f"{len(forget)}, or a larger forget set"
        )
    order = forget[torch.randperm(len(forget), generator=generator(seed, "requests")).numpy()]
    done = 0
    for number, part in enumerate(np.array_split(order, count), start=1):
        done += len(part)
        gone = order[:done]
        left = np.setdiff1d(train, gone)
        yield Request(number, samples.subset(part), samples.subset(gone), samples.subset(left))


@dataclass(frozen=True)
class Answer:
    """What a method made of one request.

    Attributes:
        request: The request.
        problem: What the method was given: where it started, D_{r_k} and D_{u_k}.
        update: What it returned, before projection and noise.
        seed: What the noise is drawn from. A number, as in records: then all releases share one draw, so that they can
            be compared, but anyone who knows it can subtract the noise. Or secret bytes: then every σ has its own draw.
        method: The method, whose name a ledger keeps; None where the update was no method's.
    """

    request: Request
    problem: Problem
    update: UnlearningResult
    seed: int | bytes = field(repr=False)
    method: Method | None = field(default=None, repr=False)

    @property
    def iterate(self) -> Tensor:
        """w̃_k, projected onto the ball, without noise."""
        return project(self.update.w, self.problem.radius)

    def release(
        self,
        sigma: float = 0.0,
        delta: float = 1e-5,
        update: UnlearningResult | None = None,
        *,
        ledger: Ledger | None = None,
        ids: Sequence[str | int] | None = None,
    ) -> Release:
        """What is handed out after this request, with the noise of this request.

        Args:
            sigma: Standard deviation of the noise per coordinate; 0 for none. The same σ gives the same release again.
            delta: δ of the certificate of this release alone.
            update: Another method's update that gets the same noise, where the seed is a number; this one's when None.
            ledger: Where the release is noted; its entry is on the disk before this function returns. Every call is
                noted, so that whoever releases the same twice has spent it twice.
            ids: For the ledger: whom this request names.

        Raises:
            CduError: As for :func:`cdu.unlearning.release.release`, another update where the seed is secret, or a
                ledger where the seed is a number or no method is named.
        """
        expect_notable(ledger, ids, self.seed if isinstance(self.seed, int) else None)
        if isinstance(self.seed, int):
            noise = generator(self.seed, "request noise", self.request.number)
            return publish(self.problem, self.update if update is None else update, noise, sigma, delta)
        expect(update is None, "two updates with one secret draw would give their difference away; release each alone")
        expect_answerable(self.problem, sigma, delta)
        noise = secret_generator(self.seed, "request noise", self.request.number, float(sigma).hex())
        released = publish(self.problem, self.update, noise, sigma, delta, torch.float64)
        if ledger is not None and ids is not None:
            if self.method is None:
                raise CduError("the answer names no method, and a ledger does; make it with answers")
            reason = self.update.no_certificate_reason
            note(ledger, ids, self.method, self.problem.w_star, released.w, released.certificate, reason, sigma)
        return released


def compute(number: int, function: Callable[[], UnlearningResult]) -> UnlearningResult:
    """Compute an update and keep nothing: the default of :func:`answers`."""
    return function()


def answers(
    problem: Problem,
    asked: Iterable[Request],
    method: Method,
    sigma: float = 0.0,
    kept: Keep = compute,
    *,
    unsafe_seed: int | None = None,
) -> Iterator[Answer]:
    """Answer requests one after another, each from where the last one ended.

    w̃_k = P_C(s_{k−1} − (H_{k−1} + λI)⁻¹ ∇L(s_{k−1}, D_{r_k})) for the Newton step, with s_0 = w* and H_{k−1} the
    Hessian at s_{k−1} on D_{r_k}. The next start s_k is the noiseless w̃_k if ``sigma`` is 0, else the release
    w̃_k + N(0, σ²I), projected onto the ball: Theorem 3.4 asks of a start that it lies in there. The other form of the
    step has n_{u_k}/n_{r_k} · ∇L(s_{k−1}, D_{u_k}) in place of −∇L(s_{k−1}, D_{r_k}).

    Args:
        problem: The original model; its D_r and D_u are not used.
        asked: The requests, in order.
        method: Answers each.
        sigma: Standard deviation of the noise that is carried on; 0 where the noiseless iterate is.
        kept: Computes an update, or reads a kept one; keeps nothing by default.
        unsafe_seed: For tests and records: seed of what the method draws, and of the noise, in which releases with
            different σ then share their draw. Otherwise all is drawn from the operating system's entropy.

    Yields:
        The answer to each request, before the next is looked at.

    Raises:
        CduError: The method refuses a request; the answers before it have been yielded.
        OutOfTime: The batch's time is up.
    """
    expect(
        unsafe_seed is not None or sigma == 0 or kept is compute,
        "what is kept of a chain that carries its noise on cannot be told from another's; keep nothing, or give a seed",
    )
    seed = secrets.token_bytes(32) if unsafe_seed is None else unsafe_seed
    state = problem.w_star
    for request in asked:
        clock.require(f"request {request.number}")
        local = replace(
            problem,
            w_star=project(state, problem.radius),
            retain=request.retain,
            forget=request.forget,
            stopped=None,
        )
        purpose = ("request", request.number)
        draws = generator(seed, *purpose) if isinstance(seed, int) else secret_generator(seed, *purpose)
        update = kept(request.number, partial(method, local, draws))
        answer = Answer(request, local, update, seed, method)
        yield answer
        state = answer.iterate if sigma == 0 else answer.release(sigma).w
