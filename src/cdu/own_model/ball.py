"""The ball ‖w‖₂ ≤ C around the origin, for whoever trains in a loop of his own."""

import torch
from torch import Tensor, nn

from cdu.checks import expect, expect_length
from cdu.models.training import project
from cdu.own_model.parts import Patterns, choose


class Ball:
    """Projects the chosen parameters of a module in place onto ‖w‖₂ ≤ C whenever it is called.

    Their norm is taken together and in double precision; a tied parameter counts once. Weights inside are left as they
    are, and those outside end inside for certain.

    Attributes:
        parameters: The chosen parameters, found when the ball is made.
        radius: C.
    """

    def __init__(self, parameters: list[nn.Parameter], radius: float) -> None:
        self.parameters = parameters
        self.radius = radius

    @torch.no_grad()
    def __call__(self, *_: object) -> None:
        """Project.

        Arguments are not looked at: an optimiser passes some to its hooks.

        Raises:
            CduError: A weight is NaN or infinite.
        """
        w = torch.cat([parameter.reshape(-1) for parameter in self.parameters])
        inside = _inside(w, self.radius)
        if inside is w:
            return
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, values in zip(self.parameters, inside.split(sizes), strict=True):
            parameter.copy_(values.view_as(parameter))


def ball(model: nn.Module, radius: float, parameters: Patterns = "*") -> Ball:
    """A projection onto the ball that a certificate's Δ = 2C rests on: call it after every step of training.

    Call it yourself, or let the optimiser: ``optimizer.register_step_post_hook(cdu.ball(model, radius=10))``.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> keep = ball(model, radius=10)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[30.0, 40.0]]))
        >>> keep()
        >>> model.weight.round(decimals=3).tolist()
        [[6.0, 8.0]]

    Args:
        model: A user's module, in training.
        radius: C, in the units of the weights.
        parameters: Glob patterns of the parameters that are w; frozen ones never are
            (:func:`~cdu.own_model.parts.choose`).

    Raises:
        CduError: The radius is not positive and finite, a pattern chooses nothing, or parameters differ in type or
            device.
    """
    expect_length(radius=radius)
    chosen = [model.get_parameter(name) for name in choose(model, parameters).chosen]
    kinds = sorted({f"{parameter.dtype} {parameter.device}" for parameter in chosen})
    expect(len(kinds) == 1, f"the chosen parameters are {' and '.join(kinds)}; one vector holds them, so give them one")
    return Ball(chosen, radius)


def _inside(w: Tensor, radius: float) -> Tensor:
    """The projection of w; projected again where rounding has left it outside."""
    norm = w.double().norm()
    expect(bool(norm.isfinite()), f"the weights have the norm {norm:g}; training has diverged, lower its learning rate")
    while (inside := project(w, radius)) is not w:
        w = inside
    return w
