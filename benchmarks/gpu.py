"""At what rate does a device train and differentiate? ``python -m benchmarks.gpu`` prints a table and writes JSON.

Three questions, in at most ``--seconds`` (90) on a GPU:

- images a second in steps of training of the AllCNN and of ResNet-18, in every precision, eager and captured, beside
  the rate of a product of two large matrices;
- the same for two and four models side by side: in one process, each replayed on a CUDA stream of its own;
- the rate of gradients and of Hessian-vector products in float32, with several sizes of chunk, kept and anew, and by
  forward over reverse differentiation, which the package does not use.

Images are random, of CIFAR-10's shape: no rate depends on their values. A CPU runs tiny sizes to see that the program
works; its rates mean nothing.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

from cdu import storage
from cdu.data.samples import Dataset, Samples
from cdu.evaluation.timing import operations
from cdu.experiments.device import channels_last, matrix_rate, training_operations
from cdu.models import architectures, precision
from cdu.models.cuda_graph import replayed
from cdu.models.objective import Linearised, Objective, parameter_vector
from cdu.models.precision import Precision, pick_device
from cdu.models.settings import ModelSettings
from cdu.models.training import Adam, Step

Network = Literal["allcnn", "resnet18"]

NETWORKS: tuple[Network, ...] = ("allcnn", "resnet18")


@dataclass(frozen=True)
class Sizes:
    """How much is computed.

    Attributes:
        batch: Images in a step.
        steps: Steps that are timed together.
        turns: How often anything is timed; the median counts.
        width: Factor on the networks' filters.
        hessian: Samples of gradients and products, by network.
        chunks: Bytes of a chunk that are tried.
        models: How many are trained side by side.
    """

    batch: int = 128
    steps: int = 60
    turns: int = 2
    width: float = 1.0
    hessian: dict[str, int] = field(default_factory=lambda: {"allcnn": 1500, "resnet18": 900})
    chunks: tuple[int, ...] = (2**32, 2**31, 2**33)
    models: tuple[int, ...] = (2, 4)


SIZES = {
    "cuda": Sizes(),
    "cpu": Sizes(8, 2, 1, 0.05, {"allcnn": 24, "resnet18": 24}, (2**22, 2**28), (2,)),
}


class Sheet:
    """Rows of the table: printed and written as soon as they are there.

    Args:
        path: The JSON file.
        head: What holds for all rows.
        seconds: After so many nothing more is begun.
    """

    def __init__(self, path: Path, head: dict[str, Any], seconds: float) -> None:
        self.path = path
        self.head = head
        self.rows: list[dict[str, Any]] = []
        self._end = time.perf_counter() + seconds

    def add(self, what: str, **values: Any) -> None:
        """One row."""
        self.rows.append({"what": what, **values})
        storage.write_json(self.path, {**self.head, "rows": self.rows})
        print(f"{what:<68}" + "  ".join(_cell(key, value) for key, value in values.items()), flush=True)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Errors of the GPU become a row: the rest of the table is still of use."""
        try:
            yield
        except RuntimeError as error:
            self.add(what, error=str(error).strip().splitlines()[0])

    def has_time(self, what: str) -> bool:
        """Whether there is time left; otherwise a row says what is left out."""
        if time.perf_counter() < self._end:
            return True
        self.add(what, error="left out: the time is over")
        return False


def _cell(key: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{key} {value:.1%}" if key.startswith("share") else f"{key} {value:,.4g}"
    return f"{key} {value}"


def random_samples(count: int, device: torch.device) -> Samples:
    """Random images of CIFAR-10's shape, channels last."""
    stream = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=stream)
    targets = torch.randint(0, 10, (count,), generator=stream)
    samples = Samples(inputs, targets, (0.5,) * 3, (0.5,) * 3).to(device)
    return channels_last(Dataset("cifar10", samples, samples)).train


def network(name: Network, sizes: Sizes, device: torch.device, seed: int = 0) -> torch.nn.Module:
    """A network with fresh weights."""
    return architectures.build(ModelSettings(name=name, width=sizes.width), (3, 32, 32), 10, seed).to(device)


def steps_of(
    name: Network, sizes: Sizes, samples: Samples, chosen: Precision, captured: bool, seed: int = 0
) -> Callable[[Tensor], None]:
    """A step of training, as :func:`cdu.models.training.train` runs it, or the same without capture."""
    model = network(name, sizes, samples.device, seed).train()
    w = parameter_vector(model).requires_grad_()
    step = Step(Objective(model), w, Adam(w, 1e-3, 5e-4), samples, 20.0, chosen)
    step.begin()
    return replayed(step, step.state) if captured else step


def timed(program: Callable[[], Any], turns: int, device: torch.device) -> float:
    """Median of the seconds that a program takes, after one run without a clock."""
    found = []
    for turn in range(turns + 1):
        _wait(device)
        start = time.perf_counter()
        program()
        _wait(device)
        if turn:
            found.append(time.perf_counter() - start)
    return median(found)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training_rates(sheet: Sheet, sizes: Sizes, device: torch.device, rates: dict[str, float]) -> None:
    """Images a second of one model: every network and precision, eager and captured."""
    samples = random_samples(sizes.batch * sizes.steps, device)
    batches = torch.randperm(len(samples)).to(device).split(sizes.batch)
    # What a GPU trains in comes first, in case that time runs out.
    order: tuple[Precision, ...] = ("bf16", "tf32", "float32")
    for name in NETWORKS:
        model = network(name, sizes, device)
        count = training_operations(Objective(model), samples, sizes.batch)
        for chosen in order:
            for captured in (True, False) if device.type == "cuda" else (False,):
                what = f"training {name}, {chosen}, {'captured' if captured else 'eager'}"
                if not sheet.has_time(what):
                    continue
                with sheet.attempt(what), precision.training(device.type, chosen):
                    run = steps_of(name, sizes, samples, chosen, captured)
                    speed = len(samples) / timed(lambda run=run: [run(rows) for rows in batches], sizes.turns, device)
                    sheet.add(
                        what,
                        images_per_second=speed,
                        share_of_bf16=speed * count / rates["bf16"],
                        share_of_own=speed * count / rates[chosen],
                    )


def side_by_side(sheet: Sheet, sizes: Sizes, device: torch.device, rates: dict[str, float]) -> None:
    """Images a second of several models in one process, each on a CUDA stream of its own; on a CPU, in turns."""
    samples = random_samples(sizes.batch * sizes.steps, device)
    batches = torch.randperm(len(samples)).to(device).split(sizes.batch)
    chosen: Precision = "bf16"
    for name in NETWORKS:
        count = training_operations(Objective(network(name, sizes, device)), samples, sizes.batch)
        for number in sizes.models:
            what = f"training {number} {name} side by side, {chosen}, streams"
            if not sheet.has_time(what):
                continue
            with sheet.attempt(what), precision.training(device.type, chosen):
                steps = [steps_of(name, sizes, samples, chosen, True, seed) for seed in range(number)]
                # Nothing may run beside a capture.
                for step in steps:
                    step(batches[0])
                streams = [torch.cuda.Stream(device) if device.type == "cuda" else None for _ in steps]

                def together(steps: Any = steps, streams: Any = streams) -> None:
                    for rows in batches:
                        for step, stream in zip(steps, streams, strict=True):
                            with nullcontext() if stream is None else torch.cuda.stream(stream):
                                step(rows)

                speed = number * len(samples) / timed(together, sizes.turns, device)
                sheet.add(what, images_per_second=speed, share_of_bf16=speed * count / rates["bf16"])


def forward_over_reverse(objective: Objective, w: Tensor, samples: Samples, vector: Tensor) -> Tensor:
    """∇²L(w, S) v without l2: the derivative along v of the gradient, forward through forward and backward pass."""
    total = torch.zeros_like(w)
    for inputs, targets, share in objective._chunks(samples, objective.rows(w, samples)):
        with forward_ad.dual_level():
            point = w.detach().clone().requires_grad_()
            loss = objective.batch_loss(forward_ad.make_dual(point, vector), inputs, targets)
            (gradient,) = torch.autograd.grad(loss, point)
            total.add_(forward_ad.unpack_dual(gradient).tangent, alpha=share)
    return total


def products(objective: Objective, w: Tensor, samples: Samples, vector: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The gradient, and every way to a product, by name."""
    kept = Linearised(objective, w, samples)
    return {
        "gradient": lambda: objective.gradient(w, samples),
        "product, kept": lambda: kept.product(vector),
        "product, anew": lambda: objective.hvp(w, samples, vector),
        "product, forward over reverse": lambda: forward_over_reverse(objective, w, samples, vector),
    }


def product_rates(sheet: Sheet, sizes: Sizes, device: torch.device, rates: dict[str, float]) -> None:
    """Operations a second of the gradient and of Hessian-vector products, in full single precision."""
    for chunk_bytes, name in product(sizes.chunks, NETWORKS):
        samples = random_samples(sizes.hessian[name], device)
        what = f"{name}, {len(samples)} samples, chunks of {chunk_bytes / 2**30:.3g} GiB"
        if not sheet.has_time(what):
            continue
        with sheet.attempt(what):
            objective = Objective(network(name, sizes, device), chunk_bytes=chunk_bytes)
            w = parameter_vector(objective.model)
            vector = torch.randn(len(w), generator=torch.Generator().manual_seed(1)).to(device)
            few = samples.subset(torch.arange(8))
            counted = products(objective, w, few, vector)
            gradient = 0.0
            for label, program in products(objective, w, samples, vector).items():
                # The first of kept products makes the graphs, which are not counted either.
                counted[label]()
                seconds = timed(program, sizes.turns, device)
                speed = operations(counted[label]) / len(few) * len(samples) / seconds
                gradient = gradient or speed
                sheet.add(
                    f"{label}: {what}",
                    samples_per_second=len(samples) / seconds,
                    share_of_float32=speed / rates["float32"],
                    share_of_gradient=speed / gradient,
                )
            if device.type == "cuda":
                sheet.add(f"peak memory: {what}", gib=torch.cuda.max_memory_allocated() / 2**30)
                torch.cuda.reset_peak_memory_stats()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=90.0, help="after so many nothing more is begun")
    parser.add_argument("--output", type=Path, default=Path("runs") / "gpu.json")
    options = parser.parse_args()
    device = pick_device(options.device)
    sizes = SIZES[device.type]
    head: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "arithmetic": precision.configure(device.type),
        "images": "random, of CIFAR-10's shape: rates do not depend on the values",
        "batch": sizes.batch,
        "width": sizes.width,
    }
    if device.type != "cuda":
        head["note"] = "a CPU with tiny sizes: these rates mean nothing"
    for key, value in head.items():
        print(f"{key}: {value}")
    sheet = Sheet(options.output, head, options.seconds)
    rates = {chosen: matrix_rate(device, chosen) for chosen in get_args(Precision)}
    for chosen, rate in rates.items():
        sheet.add(f"product of two matrices, {chosen}", operations_per_second=rate)
    for part in (training_rates, side_by_side, product_rates):
        part(sheet, sizes, device, rates)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
