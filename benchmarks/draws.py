"""How much of the accuracy after a few epochs is the draw of the starting point? ``python -m benchmarks.draws``.

The compute axis has one draw of each start a seed. Here noisy fine-tuning, with the constants that were chosen for each
seed of ``quick`` at ε = 1, is drawn again, and so are untrained weights and Gaussian noise of norm C without a model;
all are trained by the same program.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from cdu.evaluation.accuracy import accuracy
from cdu.experiments.experiment import load_experiment
from cdu.experiments.method_results import MethodResults
from cdu.experiments.repository import repository
from cdu.experiments.setup import Setup
from cdu.models import architectures
from cdu.models.objective import parameter_vector
from cdu.models.precision import pick_device
from cdu.seeding import generator
from cdu.unlearning.problem import UnlearningResult
from cdu.unlearning.registry import build
from cdu.unlearning.release import post_process, publish

EPOCHS = (0, 1, 2, 4)
DRAWS = 15


def starting_points(setup: Setup) -> Iterator[tuple[str, Tensor]]:
    """Each kind of start :data:`DRAWS` times: its name and the weights."""
    unlearned, settings = MethodResults(setup), setup.settings
    epsilon, delta = settings.unlearning.epsilon, settings.unlearning.delta
    method = build("noisy fine-tuning", unlearned.chosen("noisy fine-tuning"), epsilon, delta)
    for draw in range(DRAWS):
        yield "noisy fine-tuning", method(unlearned.problem, generator(setup.seed, "draw", draw)).w
        noise = torch.randn(unlearned.problem.w_star.shape, generator=generator(setup.seed, "noise", draw))
        yield "from noise", noise * unlearned.problem.radius / noise.norm()
        fresh = architectures.build(settings.model, setup.data.input_shape, setup.data.classes, 1000 + draw)
        yield "from scratch", parameter_vector(fresh)


def later(setup: Setup, w: Tensor) -> list[float]:
    """Test accuracy after each of :data:`EPOCHS` on D_r."""
    problem, seed = setup.problem(), setup.seed
    released = publish(problem, UnlearningResult(w, 0.0), generator(seed, "unused"))
    states = post_process(problem, released, generator(seed, "post-processing"), EPOCHS)
    return [accuracy(state.objective, state.w, setup.test) for _, state in states]


def main() -> None:
    """Print mean and standard deviation over the draws, the latter within a seed."""
    experiment = load_experiment("quick")
    checkpoints = repository() / "runs" / "checkpoints" / f"threads-{torch.get_num_threads()}"
    torch.set_flush_denormal(True)
    found: dict[str, list[list[float]]] = {}
    for seed in experiment.seeds:
        setup = Setup(experiment, "digits", seed, checkpoints, pick_device("cpu"))
        for name, w in tqdm(starting_points(setup), desc=f"seed {seed}", total=3 * DRAWS, unit="draw"):
            found.setdefault(name, []).append(later(setup, w))
    for name, values in found.items():
        draws = 100 * torch.tensor(values).reshape(len(experiment.seeds), DRAWS, len(EPOCHS))
        mean, deviation = draws.mean((0, 1)), draws.var(1).mean(0).sqrt()
        cells = (f"k = {k}: {m:.1f} ± {d:.1f} %" for k, m, d in zip(EPOCHS, mean, deviation, strict=True))
        print(f"{name}, {DRAWS} draws in each of {len(experiment.seeds)} seeds: {', '.join(cells)}")


if __name__ == "__main__":
    main()
