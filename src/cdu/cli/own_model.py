"""A model of one's own: unlearn, plan, what was released, and what a noise certifies."""

import math
import sys
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdu.checks import expect
from cdu.cli import inputs
from cdu.cli.application import command
from cdu.errors import CduError

if TYPE_CHECKING:
    from torch import nn

    from cdu.own_model.released import Released
    from cdu.own_model.unlearner import Unlearner

#: What the commands that build an engineer's model take.
ModelOption = Annotated[str, typer.Option("--model", help="module:function that gives the module, without its weights")]
DataOption = Annotated[str, typer.Option("--data", help="module:name of a cdu.Data, or of a function that gives one")]
TaskOption = Annotated[
    str, typer.Option("--task", help="module:name of a cdu.Task or of a loss; cross-entropy of classes if not given")
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="safetensors file; not needed where the state holds a model already")
]
ForgetOption = Annotated[str, typer.Option("--forget", help="file with the ids to delete, one a line; - for stdin")]
EpsilonOption = Annotated[
    float | None, typer.Option("--epsilon", help="ε of this release; without it no noise is added, nothing certified")
]
DeltaOption = Annotated[float, typer.Option("--delta", help="δ of this release")]
L2Option = Annotated[float | None, typer.Option("--l2", min=0, help="l2 term of the training; 0 if not given")]
RadiusOption = Annotated[
    float | None, typer.Option("--radius", help="radius of the ball that training projected onto; none if not given")
]
ParametersOption = Annotated[
    list[str] | None,
    typer.Option("--parameters", help="pattern of the parameters that are trained, as 'head.*'; may be repeated"),
]
FixedOption = Annotated[
    bool | None,
    typer.Option("--fixed-saw-data/--fixed-never-saw-data", help="whether all other parameters learned from the data"),
]
CapOption = Annotated[
    float | None, typer.Option("--cap", help="ε that all releases together keep to, at --delta; fixed for a state")
]
TrainOption = Annotated[str, typer.Option("--train", help="module:function that trains anew: train(data, seed)")]
SecondsOption = Annotated[
    float | None, typer.Option("--training-seconds", min=0, help="how long training takes, for the plan and refusals")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda")]

#: What Ctrl-C leaves of ``cdu unlearn``.
PENDING = (
    "a request that was under way is kept in the state's folder, and nothing was released without its entry; the same "
    "command with --resume in place of --forget finishes it"
)


@dataclass(frozen=True)
class OwnModel:
    """What an engineer says of a model, as it was typed; see the options above."""

    model: str
    data: str
    task: str = ""
    weights: Path | None = None
    l2: float | None = None
    radius: float | None = None
    parameters: tuple[str, ...] = ()
    fixed_saw_data: bool | None = None
    cap: tuple[float, float] | None = None
    train: str = ""
    training_seconds: float | None = None
    device: str = "auto"

    def unlearner(self, state: Path | None) -> "Unlearner":
        """The ``Unlearner`` of this model: begun, or going on where the state's folder holds a model.

        Args:
            state: The state's folder; None for none.

        Raises:
            CduError: Something that was named is not there, or is not what it is to be.
        """
        import torch

        from cdu.models.precision import pick_device
        from cdu.own_model.unlearner import Unlearner

        device = pick_device(self.device)
        module = inputs.model(self.model)
        self._give_weights(module, state)
        kind = next((one.dtype for one in module.parameters() if one.is_floating_point()), torch.float32)
        l2, radius, parameters, fixed_saw_data = self._settings(state)
        return Unlearner(
            module.to(device),
            inputs.task(self.task),
            inputs.data(self.data).to(device, kind),
            l2=l2,
            radius=radius,
            parameters=parameters,
            fixed_saw_data=fixed_saw_data,
            state=state,
            cap=self.cap,
            train=inputs.named(self.train, "--train") if self.train else None,
            training_seconds=self.training_seconds,
        )

    def _settings(self, state: Path | None) -> tuple[float, float, tuple[str, ...], bool | None]:
        """What was typed; what was not is what the state was begun with, or the default."""
        l2, radius, fixed = 0.0, math.inf, None
        parameters: tuple[str, ...] = ("*",)
        if state is not None and _begun(state):
            from cdu.own_model.state import State

            kept = State.open(state).settings
            l2, parameters, fixed = kept.l2, kept.parameters, kept.fixed_saw_data
            radius = math.inf if kept.radius is None else kept.radius
        return (
            l2 if self.l2 is None else self.l2,
            radius if self.radius is None else self.radius,
            self.parameters or parameters,
            fixed if self.fixed_saw_data is None else self.fixed_saw_data,
        )

    def _give_weights(self, module: "nn.Module", state: Path | None) -> None:
        """Load the weights; where a state holds a model already, they may only be its own."""
        if state is None or not _begun(state):
            expect(
                self.weights is not None,
                f"no weights were given, and {state or 'no folder'} holds no model yet; give --weights with a "
                "safetensors file",
            )
        if self.weights is None:
            return
        inputs.load_weights(module, self.weights)
        if state is not None and _begun(state):
            from cdu.own_model.state import State

            expect(
                inputs.same_weights(module, State.open(state).weights()),
                f"{self.weights} is not the model that {state} holds, which answers the next request; leave --weights "
                "out, or begin another state in an empty folder",
            )


@command(kept=PENDING)
def unlearn(
    model: ModelOption,
    data: DataOption,
    state: Annotated[Path, typer.Option(help="folder that holds the model and what was released; begun if not there")],
    forget: ForgetOption = "",
    task: TaskOption = "",
    weights: WeightsOption = None,
    epsilon: EpsilonOption = None,
    delta: DeltaOption = 1e-5,
    method: Annotated[str, typer.Option(help="its name in cdu.unlearning.registry")] = "newton",
    options: Annotated[
        list[str] | None, typer.Option("--option", help="name=value for the method, as damping=10; may be repeated")
    ] = None,
    l2: L2Option = None,
    radius: RadiusOption = None,
    parameters: ParametersOption = None,
    fixed_saw_data: FixedOption = None,
    cap: CapOption = None,
    train: TrainOption = "",
    training_seconds: SecondsOption = None,
    device: DeviceOption = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="finish the request that an interruption left, as it was asked")
    ] = False,
) -> None:
    """Delete rows from a model: answer one request, write down what was promised, hand out the release.

    Without --epsilon no noise is added and nothing is certified.
    """
    expect(bool(forget) != resume, "give exactly one of --forget, with a file of ids, and --resume")
    ids = inputs.read_ids(forget) if forget else []
    values = inputs.values(options or ())
    own = OwnModel(
        model,
        data,
        task,
        weights,
        l2,
        radius,
        tuple(parameters or ()),
        fixed_saw_data,
        None if cap is None else (cap, delta),
        train,
        training_seconds,
        device,
    )
    with _asides():
        unlearner = own.unlearner(state)
        if resume:
            expect(
                unlearner.pending is not None, f"no request is under way in {state}; give --forget with a file of ids"
            )
            released = unlearner.resume()
        else:
            released = unlearner.forget(ids, method=method, epsilon=epsilon, delta=delta, **values)
    typer.echo(_promised(released))
    if released.note:
        typer.echo(released.note)
    typer.echo(f"entry {released.entry.number} of the ledger in {state}")
    typer.echo(f"release: {released.folder}")


@command()
def plan(
    model: ModelOption,
    data: DataOption,
    forget: ForgetOption,
    state: Annotated[Path | None, typer.Option(help="folder that holds the model, where there is one already")] = None,
    task: TaskOption = "",
    weights: WeightsOption = None,
    epsilon: Annotated[float, typer.Option("--epsilon", help="ε of this release")] = 1.0,
    delta: DeltaOption = 1e-5,
    l2: L2Option = None,
    radius: RadiusOption = None,
    parameters: ParametersOption = None,
    fixed_saw_data: FixedOption = None,
    train: TrainOption = "",
    training_seconds: SecondsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """What a request would cost and what it would promise. Nothing is released, and no state is begun."""
    ids = inputs.read_ids(forget)
    own = OwnModel(
        model,
        data,
        task,
        weights,
        l2,
        radius,
        tuple(parameters or ()),
        fixed_saw_data,
        train=train,
        training_seconds=training_seconds,
        device=device,
    )
    with _asides():
        unlearner = own.unlearner(state if state is not None and _begun(state) else None)
        planned = unlearner.plan(ids, epsilon=epsilon, delta=delta)
    typer.echo(str(planned))


@command()
def ledger(
    folder: Annotated[Path, typer.Argument(help="the folder of a ledger or of a state")],
    delta: Annotated[float | None, typer.Option(help="δ; the budget's if not given, 1e-5 without one")] = None,
    identity: Annotated[str, typer.Option("--id", help="only the releases whose request named this id")] = "",
) -> None:
    """What was released when, and what all releases promise together."""
    from cdu.unlearning.ledger import Ledger, summary

    typer.echo(summary(Ledger.existing(_ledger_in(folder)), delta, identity))


@command()
def check(
    folder: Annotated[Path, typer.Argument(help="the folder of a ledger or of a state")],
    noted: Annotated[str, typer.Option(help="a hash that 'cdu ledger' printed earlier")] = "",
) -> None:
    """Whether a ledger, or a state with its releases, is as it was written; exit code 1 where it was changed."""
    from cdu.unlearning.ledger import Ledger

    if _begun(folder):
        from cdu.own_model.state import State

        last = State.open(folder).check(noted)
    else:
        last = Ledger.existing(folder).check(noted)
    typer.echo(f"{folder} is whole; its last hash is {last}")


def _promised(released: "Released") -> str:
    """The guarantee, or why there is none."""
    if released.certificate is not None:
        return str(released.certificate)
    return f"no certificate: {released.reason}" if released.reason else released.promise


def _asides() -> AbstractContextManager[object]:
    """Send what the engineer's own code prints to stderr: stdout is for what the command says."""
    return redirect_stdout(sys.stderr)


def _begun(state: Path) -> bool:
    """Whether a state's folder holds a model already."""
    return _ledger_in(state) != state


def _ledger_in(folder: Path) -> Path:
    """The folder of a ledger: the given one, or the one inside of a state's."""
    inner = folder / "ledger"
    return inner if inner.is_dir() else folder


@command()
def certify(
    radius: Annotated[float | None, typer.Option(help="C, the radius that weights are projected onto: Δ = 2C")] = None,
    budget: Annotated[float | None, typer.Option(help="Δ fixed in advance, with retraining as fallback")] = None,
    delta: Annotated[float, typer.Option(help="δ, for all releases together")] = 1e-5,
    sigma: Annotated[float | None, typer.Option(help="noise per coordinate: prints the certified ε")] = None,
    epsilon: Annotated[float | None, typer.Option(help="ε wanted: prints the necessary noise")] = None,
    releases: Annotated[int, typer.Option(help="k, how many releases ε is for together")] = 1,
    json: Annotated[bool, typer.Option("--json", help="print the certificate as JSON and nothing else")] = False,
) -> None:
    """What a noise certifies, or which noise an ε needs: for weights projected onto a ball, or within a budget.

    An ε of at most 1 is called meaningful and one of at most 10 weak; above, e^ε exceeds 22,000: vacuous.
    """
    from cdu import certification

    if (sigma is None) == (epsilon is None):
        raise CduError("give exactly one of --sigma and --epsilon; the other is computed")
    if radius is not None and budget is None:
        bound = certification.trivial_bound(radius)
    elif budget is not None and radius is None:
        bound = certification.budget_bound(budget)
    else:
        raise CduError("give exactly one of --radius and --budget; it bounds the distance that noise must hide")
    if epsilon is not None:
        sigma = certification.required_sigma(bound, epsilon, delta, releases)
        # What is printed, and typed in again, must certify the ε that was asked for.
        sigma = sigma if json else _rounded_up(sigma)
    assert sigma is not None
    certificate = certification.certify(bound, sigma, delta, releases)
    if json:
        typer.echo(certificate.model_dump_json(indent=2))
        return
    if epsilon is not None:
        together = certification.composed_sensitivity(bound.value, releases)
        # The classical formula has no value at ε = 0.
        classical = certification.classical_sigma(epsilon, delta, together) if epsilon > 0 else float("inf")
        typer.echo(f"σ = {sigma:.6g} (classical formula, proved for ε ≤ 1 only: {classical:.6g})")
    typer.echo(str(certificate))


def _rounded_up(sigma: float) -> float:
    """The least number of six significant digits that is at least ``sigma``."""
    unit = 10.0 ** (math.floor(math.log10(sigma)) - 5)
    return math.ceil(sigma / unit) * unit
