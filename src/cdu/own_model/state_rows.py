"""Rows of the data, by what a state knows of their ids: which are left, which go, and whom a request names."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cdu.checks import expect
from cdu.data.source import Data
from cdu.own_model.state import State
from cdu.own_model.state_files import Request


def rows_left(state: State, data: Data) -> Data:
    """The rows of all ids that no answered request named."""
    gone = state.gone()
    deleted = [identity for digest, identity in _by_hash(state, data).items() if digest in gone]
    return data.without(deleted) if deleted else data


def rows_to_go(state: State, left: Data, ids: Sequence[str | int]) -> NDArray[np.int64]:
    """The places of the rows of some ids, ascending.

    Raises:
        CduError: An id is in no row, or is gone already.
    """
    entries = state.ledger.entries()
    numbers = {digest: entry.number for entry in entries for digest in entry.ids}
    hashes = state.ledger.hashed(ids)
    again = [(str(one), numbers[digest]) for one, digest in zip(ids, hashes, strict=True) if digest in numbers]
    first, number = again[0] if again else ("", 0)
    expect(
        not again,
        f"{len(again)} of the {len(ids)} ids are gone already, such as '{first}' by release {number}; leave them out",
    )
    return left.rows_of(ids)


def ids_of(state: State, request: Request, data: Data) -> list[str]:
    """The ids that a request names.

    Raises:
        CduError: One is in no row of the data, so that it is known by its hash alone.
    """
    names = _by_hash(state, data)
    lost = [digest for digest in request.ids if digest not in names]
    expect(
        not lost,
        f"{len(lost)} of the {len(request.ids)} ids of the pending request are in no row of the data; give the data "
        "that the request was made for",
    )
    return [names[digest] for digest in request.ids]


def _by_hash(state: State, data: Data) -> dict[str, str]:
    """The ids of the data by their hashes in the ledger."""
    known = np.unique(data.ids).tolist()
    return dict(zip(state.ledger.hashed(known), known, strict=True))
