"""The entries of a ledger, what they promise together, and the chain that they form."""

import hashlib
import hmac
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cdu.certification.certificate import FAILURE_MARGIN, Certificate
from cdu.certification.gaussian import composed_sensitivity, gaussian_epsilon
from cdu.checks import expect, expect_delta
from cdu.unlearning.sealed import REMEDY, Sealed, unsealed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    #: A vector of weights, or all named tensors of a model.
    Weights: TypeAlias = Tensor | NDArray[np.generic] | Mapping[str, Tensor] | Mapping[str, NDArray[np.generic]]


class Entry(Sealed):
    """One release.

    Attributes:
        number: From 1.
        time: When the entry was written, UTC, just before the release left.
        ids: The ids that the request names, each as HMAC-SHA256 with the ledger's salt.
        method: The method's class.
        retrained: Whether the model was trained from scratch without the samples, which spends nothing.
        sigma: Standard deviation of the noise per coordinate.
        sensitivity: Δ; None without a certificate, as the next and ``mu``.
        delta: δ of the release's own certificate, ``failure`` included.
        failure: ρ, the probability that Δ fails.
        mu: μ = Δ/σ of Gaussian differential privacy; 0 for a retrained model.
        certificate: The certificate's values.
        reason: Why there is no certificate; empty where there is one.
        before: SHA-256 of the weights before the request, as :func:`weights_hash` takes it.
        after: The same of the released weights.
        version: The version of cdu.
        previous: The hash of the entry before; of the settings in the first entry.
    """

    number: int
    time: str
    ids: tuple[str, ...]
    method: str
    retrained: bool
    sigma: float
    sensitivity: float | None
    delta: float | None
    failure: float
    mu: float | None
    # Not a Certificate: a later version with other fields must still read what was promised.
    certificate: dict[str, Any] | None
    reason: str
    before: str
    after: str
    version: str
    previous: str

    @property
    def promise(self) -> str:
        """What the release promises on its own, in a few words."""
        if self.retrained:
            return "retrained: exact, spends nothing"
        if self.certificate is None:
            return f"none: {self.reason}"
        return f"ε = {self.certificate['epsilon']:.4g}, δ = {self.certificate['delta']:g}"


@dataclass(frozen=True)
class Foreseen:
    """A release that is not made yet, as far as it counts with others.

    Attributes:
        number: Which entry it would be.
        mu: μ = Δ/σ; None without a certificate.
        failure: ρ, the probability that Δ fails.
        reason: Why there would be no certificate.
    """

    number: int
    mu: float | None
    failure: float
    reason: str


@dataclass(frozen=True)
class Spent:
    """What several releases promise together.

    Attributes:
        releases: How many.
        mu: √(Σ μ_i²); infinite where a release has no certificate.
        failure: Σ ρ_i.
        delta: δ at which ε is quoted, ``failure`` included.
        epsilon: ε; infinite where nothing is promised.
        reason: Why ε is infinite; empty where it is finite.
    """

    releases: int
    mu: float
    failure: float
    delta: float
    epsilon: float
    reason: str = ""

    def __str__(self) -> str:
        """In one line."""
        if self.reason:
            return f"ε is unbounded at δ = {self.delta:g}: {self.reason}"
        return f"ε = {self.epsilon:.4g} at δ = {self.delta:g} (μ = {self.mu:.4g}, ρ = {self.failure:g})"


def composed(entries: Sequence[Entry | Foreseen], delta: float) -> Spent:
    """What the releases of one chain of deletions promise together.

    Gaussian mechanisms with noise of their own compose to μ = √(Σ μ_i²), μ_i = Δ_i/σ_i (Dong, Roth & Su 2022,
    Corollary 3.3). Any Δ_i fails with probability at most Σ ρ_i, so that ε is that of μ at δ − Σ ρ_i. Where a ρ_i
    covers several requests already it is counted for each: ε is then larger than it need be.

    Args:
        entries: The releases.
        delta: δ of all releases together.

    Raises:
        CduError: δ is no probability between 0 and 1.
    """
    expect_delta(delta)
    mus = [math.inf if entry.mu is None else entry.mu for entry in entries]
    mu, failure = math.hypot(*mus), math.fsum(entry.failure for entry in entries)
    left = delta - failure * FAILURE_MARGIN
    reason = ""
    if math.inf in mus:
        first = entries[mus.index(math.inf)]
        reason = f"{mus.count(math.inf)} of {len(mus)} releases have no certificate, first entry {first.number} "
        reason += f"({first.reason})"
    elif left <= 0:
        reason = f"the bounds fail with probability {failure:g}, which is not below δ"
    epsilon = math.inf if reason else gaussian_epsilon(1.0, left, mu) if mu > 0 else 0.0
    return Spent(len(entries), mu, failure, delta, epsilon, reason)


def chain(path: Path, text: bytes, start: str) -> tuple[Entry, ...]:
    """The entries of a file, each of which must hold the hash of the one before.

    Args:
        path: The file, for errors.
        text: Its content.
        start: What stands for the hash before the first.

    Raises:
        CduError: A line was changed, is torn, missing or out of order; the sentence names it.
    """
    lines = text.split(b"\n")
    expect(lines.pop() == b"", f"{path}, line {len(lines) + 1}: it is torn, it has no end; {REMEDY}")
    entries: list[Entry] = []
    previous = start
    for number, line in enumerate(lines, start=1):
        entry = unsealed(Entry, line, f"{path}, line {number}")
        expect(
            (entry.number, entry.previous) == (number, previous),
            f"{path}, line {number}: it holds entry {entry.number}, which does not follow the line before; lines are "
            f"missing, exchanged or of another ledger; {REMEDY}",
        )
        entries.append(entry)
        previous = entry.hash
    return tuple(entries)


def weights_hash(weights: "Weights") -> str:
    """SHA-256 of a vector's bytes, or of a model's tensors.

    Of a vector it is the hash of its numbers, in their order and type, and nothing else. Of named tensors it is the
    hash of, for each in the order of the names' code points, one line of JSON with its name, type and shape, then its
    bytes; a first line says so. So a model with other buffers, names, types or shapes has another hash.

    Args:
        weights: A tensor; or an array of NumPy with the same numbers, which has the same hash; or a mapping from names
            to either.
    """
    if not isinstance(weights, Mapping):
        return hashlib.sha256(_array(weights).data).hexdigest()
    found = hashlib.sha256(b"named tensors\n")
    for name in sorted(weights):
        tensor = weights[name]
        kind = str(tensor.dtype).removeprefix("torch.")
        found.update(json.dumps([name, kind, list(tensor.shape)]).encode() + b"\n")
        found.update(_array(tensor).data)
    return found.hexdigest()


def _array(tensor: "Tensor | NDArray[np.generic]") -> "NDArray[np.generic]":
    """The numbers of a tensor, or of an array, one after another in memory."""
    import numpy as np

    if isinstance(tensor, np.ndarray):
        return np.ascontiguousarray(tensor)
    import torch

    # As bytes: NumPy does not have all types of PyTorch.
    found: NDArray[np.generic] = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return found


def expect_hashed(hashes: Sequence[str]) -> None:
    """Refuse what :func:`hashed_ids` does not give."""
    expect(
        len(hashes) > 0 and all(re.fullmatch("[0-9a-f]{64}", one) for one in hashes),
        f"the request names {len(hashes)} hashes of ids, or one that is none; take what the ledger's hashed(ids) gives",
    )
    expect(len(set(hashes)) == len(hashes), "the hash of an id is listed twice; list each once")


def hashed_ids(salt: bytes, ids: Sequence[str | int]) -> tuple[str, ...]:
    """HMAC-SHA256 of every id, as hexadecimal digits; the number 7 is the text "7".

    Raises:
        CduError: There is no id, or one is empty or listed twice.
    """
    expect(
        not isinstance(ids, str | bytes) and len(ids) > 0,
        f"ids is {ids!r}; give a list with the id of everybody whose samples the request deletes",
    )
    texts = [str(one) for one in ids]
    expect("" not in texts, "an id is empty; leave it out, or name whom it stands for")
    expect(len(set(texts)) == len(texts), f"the {len(texts)} ids name {len(set(texts))} different ones; list each once")
    return tuple(hmac.new(salt, text.encode(), hashlib.sha256).hexdigest() for text in texts)


def expect_composable(certificate: Certificate | None, reason: str) -> None:
    """Refuse a certificate that is not the Gaussian mechanism's, of which μ = Δ/σ would say too little."""
    expect(
        (certificate is None) == bool(reason),
        "give either a certificate or the reason for which there is none, not both and not neither",
    )
    if certificate is None or certificate.sensitivity == 0:
        return
    together = composed_sensitivity(certificate.sensitivity, certificate.releases)
    left = certificate.delta - certificate.failure * FAILURE_MARGIN
    least = gaussian_epsilon(certificate.sigma, left, together)
    expect(
        certificate.epsilon >= least * (1 - 1e-9),
        f"the certificate says ε = {certificate.epsilon:g}, its σ and Δ give {least:g}: it does not rest on Gaussian "
        "noise for Δ alone, so that it cannot be composed; make it with cdu.certify",
    )
