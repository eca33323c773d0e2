"""Noisy fine-tuning with a clipped model: certified for any network and any training, whatever its gradients are."""

from torch import Tensor

from cdu.certification import Certificate
from cdu.certification.contraction import contracted_certificate, contracted_sigma, model_clipping_bound
from cdu.certification.rounding import ball_rounding
from cdu.checks import expect, expect_count, expect_not_negative, expect_positive
from cdu.models.training import project
from cdu.unlearning.methods.noisy_fine_tuning import NoisyDescent


class ModelClipping(NoisyDescent):
    """From the projection of w*, descend on D_r; project the model after every step, then add noise.

    w₀ = the projection of w* onto ‖w‖ ≤ C, then N times

        w ← P_C(w − η(g + λw)) + N(0, σ²I), g = ∇(mean loss of a batch of D_r), P_C the projection onto ‖w‖ ≤ C.

    Koloskova, Allouah, Jha, Guerraoui & Koyejo (2025), "Certified Unlearning for Neural Networks", in its form with a
    clipped model. Nothing is assumed of the loss or of training: before the noise of each step both runs lie in the
    ball, at most 2C apart, so that every step contracts the hockey-stick divergence of what came before
    (:mod:`cdu.certification.contraction`). σ is the least for which N steps certify (ε, δ). One step needs the noise of
    output perturbation for 2C; at ε = 1 and δ = 1e-5 ten steps need a tenth of that each. What the steps of an
    expansive loss do between the projections plays no part, and the shift cannot be spread over the steps as in
    :class:`~cdu.unlearning.methods.noisy_fine_tuning.NoisyFineTuning`, whose maps have a known expansion.

    Different from the source: the bound is the one of that module; the paper itself was not seen. It is not Gaussian
    differential privacy, so that a ledger does not compose it, and of an audit the bound from counts applies. The
    release is the last noisy iterate, which lies outside the ball. Arithmetic, weight decay and BatchNorm are as for
    :class:`~cdu.unlearning.methods.noisy_fine_tuning.NoisyFineTuning`.

    Experiments cannot name it in their search spaces: it is not registered.

    Args:
        epsilon: ε to certify.
        delta: δ to certify.
        steps: N.
        learning_rate: η.
        model_clip: C.
        decay: λ.
        batch_size: Samples of a batch; the training recipe's when None.
    """

    def __init__(
        self,
        epsilon: float,
        delta: float,
        steps: int,
        learning_rate: float,
        model_clip: float,
        decay: float = 0.0,
        batch_size: int | None = None,
    ) -> None:
        if batch_size is not None:
            expect_count(batch_size=batch_size)
        expect_positive(learning_rate=learning_rate)
        expect_not_negative(decay=decay)
        self.delta = delta
        self.steps = steps
        self.learning_rate = learning_rate
        self.model_clip = model_clip
        self.decay = decay
        self.batch_size = batch_size
        # Far more than rounding in float64 adds (every call checks that), and too little to show in σ.
        self._rounding = 2.0**-26 * model_clip
        bound = model_clipping_bound(model_clip, steps, self._rounding)
        self.bound = bound.model_copy(update={"arithmetic": "float64"})
        self.sigma = contracted_sigma(epsilon, delta, self.bound.sensitivity, steps)

    @property
    def certificate(self) -> Certificate:
        """What all steps together certify, by contraction."""
        return contracted_certificate(self.bound, self.sigma, self.delta)

    def start(self, w: Tensor) -> Tensor:
        """The projection onto ‖w‖ ≤ C."""
        return project(w, self.model_clip)

    def step(self, w: Tensor, gradient: Tensor) -> Tensor:
        """A step down the gradient as it is, then the projection."""
        return project(w - self.learning_rate * (gradient + self.decay * w), self.model_clip)

    def expect_room_for_rounding(self, size: int) -> None:
        """Refuse so many weights that two projected models could be farther apart than the bound allows for."""
        outside = 2 * ball_rounding(self.model_clip, size)
        expect(
            outside <= self._rounding,
            f"rounding may add {outside:.3g} to the distance of two projected models, of which the certificate has "
            f"room for {self._rounding:.3g}; unlearn fewer than {size:,} weights",
        )
