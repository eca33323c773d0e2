"""Does training in bf16 cost accuracy? ``python -m benchmarks.precision`` trains in it and in float32, with some seeds.

Both start from the same weights and see the same batches; accuracy is that on the test set, computed in float32. The
recipe is that of the experiment ``paper``. On a CPU, ``--width 0.1 --samples 2000 --judged 2000`` tries the program.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from cdu import storage
from cdu.data import datasets
from cdu.evaluation.accuracy import accuracy
from cdu.experiments.device import channels_last
from cdu.experiments.experiment import load_experiment
from cdu.models import architectures, precision
from cdu.models.objective import Objective
from cdu.models.precision import Precision, pick_device
from cdu.models.settings import ModelSettings
from cdu.models.training import train

COMPARED: tuple[Precision, ...] = ("float32", "bf16")


def main() -> None:
    """Train, print both accuracies with their spread over seeds, write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--network", default="allcnn", choices=["allcnn", "resnet18"])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=0, help="training images; 0 are all of them")
    parser.add_argument("--judged", type=int, default=0, help="test images; 0 are all of them")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs") / "precision.json")
    options = parser.parse_args()
    device = pick_device(options.device)
    print(precision.configure(device.type))
    dataset = channels_last(datasets.load("cifar10", device))
    # The files' own order is random.
    samples, judged = (
        part.subset(torch.arange(size or len(part)))
        for part, size in ((dataset.train, options.samples), (dataset.test, options.judged))
    )
    recipe = load_experiment("paper").settings("cifar10").training.model_copy(update={"epochs": options.epochs})
    settings = ModelSettings(name=options.network, width=options.width)
    found: dict[str, list[dict[str, Any]]] = {chosen: [] for chosen in COMPARED}
    for seed in range(options.seeds):
        for chosen in COMPARED:
            model = architectures.build(settings, dataset.input_shape, dataset.classes, seed).to(device)
            trained = train(model, samples, recipe, seed, label=f"{chosen}, seed {seed}", computed_in=chosen)
            share = accuracy(Objective(trained.model), trained.w, judged)
            row = {"seed": seed, "accuracy": share, "loss": trained.history[-1]["loss"], "seconds": trained.seconds}
            found[chosen].append(row)
            print(f"{chosen}, seed {seed}: accuracy {share:.2%}, loss {row['loss']:.4f}, {row['seconds']:.1f} s")
            asked = {key: str(value) for key, value in vars(options).items()}
            storage.write_json(options.output, {"options": asked, "found": found})
    values = {chosen: torch.tensor([row["accuracy"] for row in rows]).double() for chosen, rows in found.items()}
    for chosen, shares in values.items():
        print(f"{chosen}: {_spread(shares)} over {options.seeds} seeds")
    print(f"bf16 − float32: {_spread(values['bf16'] - values['float32'])}, seed by seed")


def _spread(shares: torch.Tensor) -> str:
    """Mean and standard deviation in percent."""
    deviation = f"{100 * shares.std():.2f}" if len(shares) > 1 else "unknown"
    return f"{100 * shares.mean():.2f} ± {deviation} %"


if __name__ == "__main__":
    main()
