"""Settings of the Newton step, of the noise and of requests."""

from typing import Annotated

from pydantic import Field, model_validator

from cdu.curvature.settings import LissaSettings
from cdu.settings import Count, Positive, Settings


class DampingSettings(Settings):
    """One named choice of the damping λ, with LiSSA constants that go with it."""

    value: Positive
    lissa: LissaSettings


class UnlearningSettings(Settings):
    """The Newton step and the noise.

    Attributes:
        dampings: Named values of λ.
        default: The name among them that the released model uses.
        sigma: Standard deviation of the released noise, per coordinate.
        delta: The δ at which ε is quoted.
        epsilon: The ε for which the necessary σ is quoted.
        exact_limit: Largest number of parameters for which the dense Hessian is built.
    """

    dampings: dict[str, DampingSettings]
    default: str = "assumption"
    sigma: Positive = 0.01
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    epsilon: Positive = 1.0
    exact_limit: int = 5000

    @model_validator(mode="after")
    def _default_is_named(self) -> "UnlearningSettings":
        if self.default not in self.dampings:
            raise ValueError(f"default damping '{self.default}' is not among {sorted(self.dampings)}")
        return self


class SequentialSettings(Settings):
    """Requests one after another, and training that has not converged.

    Attributes:
        requests: k, into how many requests the forget set is cut.
        long_requests: The same for a longer sequence, of the same forget set.
        retrained_at: Requests after which a model is retrained to compare with; the last one always is among them.
        epochs: Numbers of epochs after which training is stopped, ascending.
    """

    requests: Count = 10
    long_requests: Count = 50
    retrained_at: tuple[Count, ...] = (1, 5)
    epochs: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 5, 10, 20, 50)

    @model_validator(mode="after")
    def _requests_exist(self) -> "SequentialSettings":
        if any(number > self.requests for number in self.retrained_at):
            raise ValueError(f"retrained_at names a request after the last of {self.requests}")
        if list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError(f"epochs must ascend, found {list(self.epochs)}")
        return self
