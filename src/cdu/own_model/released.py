"""What answers a request to delete: a model that may leave, and what is promised about it."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cdu.certification import Certificate
from cdu.unlearning.ledger_entries import Entry


@dataclass(frozen=True)
class Released:
    """The answer to a request: a model that may leave.

    Example:
        >>> import torch
        >>> from torch.nn.functional import cross_entropy
        >>> from cdu import Task, Unlearner, as_data
        >>> unlearner = Unlearner(nn.Linear(3, 2), Task(cross_entropy), as_data(torch.eye(3), [0, 1, 1]))
        >>> released = unlearner.forget(["1"])
        >>> released.certificate is None, released.promise, released.model.training
        (True, 'none: no noise', False)

    Attributes:
        model: The model, in evaluation mode. It shares no memory with any other.
        entry: The ledger's entry.
        folder: Where its weights, its certificate and a page about it lie.
        seconds: Wall time of the whole request; 0 where an earlier answer was read back.
        note: What else a reader should know, in words.
    """

    model: nn.Module
    entry: Entry
    folder: Path
    seconds: float = 0.0
    note: str = ""

    @property
    def promise(self) -> str:
        """What the release promises on its own, in a few words."""
        return self.entry.promise

    @property
    def certificate(self) -> Certificate | None:
        """The guarantee; None where there is none, see :attr:`reason`."""
        return None if self.entry.certificate is None else Certificate.model_validate(self.entry.certificate)

    @property
    def reason(self) -> str:
        """Why there is no certificate; empty where there is one, or where retraining needs none."""
        return "" if self.entry.retrained else self.entry.reason
