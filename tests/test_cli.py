"""The program: exit codes, what an interruption says, and how `cdu unlearn` and `cdu plan` call the library."""

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_model
from torch import nn
from typer.testing import CliRunner

import cdu
from cdu.cli import app, main
from cdu.cli.application import DONE
from cdu.errors import CduError
from cdu.unlearning.ledger import Ledger


def imported(code, *modules):
    """Which of some modules a program imports."""
    probe = f"import sys\n{code}\nprint([name for name in {modules!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_the_package_alone_imports_nothing_heavy():
    assert imported("import cdu", "torch", "numpy", "pydantic", "importlib.metadata") == "[]"


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_the_programs_options_import_no_pytorch(option):
    code = f"""
sys.argv = ["cdu", "{option}"]
from cdu.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
"""
    assert imported(code, "torch", "numpy", "pydantic", "cdu.experiments") == "[]"


def test_the_version_is_the_packages():
    done = subprocess.run([sys.executable, "-m", "cdu", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"cdu {cdu.__version__}\n"


# --- exit codes ----------------------------------------------------------------------------------------------------


def run(monkeypatch, capsys, *arguments):
    """The program in this process: its exit code, and what it wrote to stderr."""
    monkeypatch.setattr(sys, "argv", ["cdu", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, capsys.readouterr().err


def failing(error):
    def function(*_):
        raise error

    return function


def test_a_command_that_did_what_it_says_ends_in_0(monkeypatch, capsys):
    assert run(monkeypatch, capsys, "certify", "--radius", 1, "--sigma", 1) == (0, "")


def test_a_refusal_ends_in_1_with_one_sentence(monkeypatch, capsys):
    code, said = run(monkeypatch, capsys, "certify", "--radius", 1)
    assert (code, said) == (1, "cdu: give exactly one of --sigma and --epsilon; the other is computed\n")


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["certify", "--sigma", "much"], ["plan"], ["unlearn", "--model", "a:b"]]
)
def test_a_wrong_command_line_ends_in_2(monkeypatch, capsys, arguments):
    assert run(monkeypatch, capsys, *arguments)[0] == 2


def test_an_interruption_ends_in_130_and_says_what_is_kept(monkeypatch, capsys):
    monkeypatch.setattr("cdu.experiments.execution.Kernel", failing(KeyboardInterrupt()))
    assert run(monkeypatch, capsys, "section", "02_training") == (130, f"\ncdu: stopped; {DONE}\n")


def test_any_other_exception_stays_what_it_is(monkeypatch):
    monkeypatch.setattr("cdu.certification.certify", failing(ZeroDivisionError()))
    monkeypatch.setattr(sys, "argv", ["cdu", "certify", "--radius", "1", "--sigma", "1"])
    with pytest.raises(ZeroDivisionError):
        main()


# --- unlearn and plan ----------------------------------------------------------------------------------------------


class Data:
    def __init__(self, source):
        self.source, self.moved = source, None

    def to(self, device, dtype):
        self.moved = (device.type, dtype)
        return self


class Task:
    def __init__(self, loss, kind="as Task has it"):
        self.loss, self.kind = loss, kind


class Released(SimpleNamespace):
    promise, folder = "what is promised", "unlearn/releases/0001"
    entry = SimpleNamespace(number=1)
    certificate: object = "the certificate"


class Unlearner:
    """A stand-in that notes how it is called."""

    made: list = []  # noqa: RUF012 (set anew for every test)

    def __init__(self, model, task, data, **options):
        self.model, self.task, self.data, self.options = model, task, data, options
        self.pending, self.asked = None, None
        Unlearner.made.append(self)

    def forget(self, ids, **options):
        self.asked = (ids, options)
        return Released(certificate=None) if options["epsilon"] is None else Released()

    def plan(self, ids, **options):
        self.asked = (ids, options)
        return "the plan"

    def resume(self):
        self.asked = "resume"
        return Released()


class State:
    held: dict = {}  # noqa: RUF012 (set anew for every test)

    @classmethod
    def open(cls, folder):
        return cls()

    def weights(self):
        return State.held

    def check(self):
        if not State.held:
            raise CduError("release 1 was changed")


SHOP = """
import torch
from torch import nn

def build():
    return nn.Linear(3, 2)

def rows():
    return torch.ones(4, 3)

table = torch.zeros(4, 3)

def loss(outputs, targets):
    return (outputs - targets).square().mean()

def train():
    raise AssertionError("nobody retrains here")
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder with code, weights and ids, and a library that notes what it is asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "clishop", raising=False)
    (tmp_path / "clishop.py").write_text(SHOP)
    (tmp_path / "ids.txt").write_text("user 1\nuser 2\n")
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    save_model(model, tmp_path / "w.safetensors")
    Unlearner.made, State.held = [], dict(model.state_dict())
    names = {"unlearner": {"Unlearner": Unlearner}, "task": {"Task": Task}, "state": {"State": State}}
    for name, content in names.items():
        monkeypatch.setitem(sys.modules, f"cdu.own_model.{name}", _module(f"cdu.own_model.{name}", content))
    source = _module("cdu.data.source", {"Data": Data, "as_data": Data})
    monkeypatch.setitem(sys.modules, "cdu.data.source", source)
    yield model
    sys.modules.pop("clishop", None)


def _module(name, content):
    made = ModuleType(name)
    made.__dict__.update(content)
    return made


def asked(command, *options, model="clishop:build", data="clishop:rows"):
    line = [command, "--model", model, "--data", data, "--device", "cpu", *map(str, options)]
    return CliRunner().invoke(app, line)


UNLEARN = ("unlearn", "--weights", "w.safetensors", "--state", "unlearn", "--forget", "ids.txt")


def test_unlearn_hands_everything_to_the_library_and_prints_what_was_released(shop):
    done = asked(
        *UNLEARN, "--task", "clishop:loss", "--epsilon", 1, "--delta", 1e-6, "--method", "fine-tune",
        "--option", "epochs=2", "--option", "rate=0.5", "--l2", 5e-4, "--radius", 10, "--parameters", "head.*",
        "--parameters", "bias", "--train", "clishop:train",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (made,) = Unlearner.made
    assert torch.equal(made.model.weight, shop.weight)
    assert (made.task.loss.__name__, made.task.kind) == ("loss", "as Task has it")
    assert torch.equal(made.data.source, torch.ones(4, 3))
    assert made.data.moved == ("cpu", torch.float32)
    train = made.options.pop("train")
    assert train is sys.modules["clishop"].train
    state = made.options.pop("state")
    assert str(state) == "unlearn"
    assert made.options == {"l2": 5e-4, "radius": 10.0, "parameters": ("head.*", "bias")}
    ids, options = made.asked
    assert ids == ["user 1", "user 2"]
    assert options == {"method": "fine-tune", "epsilon": 1.0, "delta": 1e-6, "epochs": 2, "rate": 0.5}
    assert done.output.splitlines() == [
        "what is promised", "the certificate", "entry 1 of the ledger in unlearn", "release: unlearn/releases/0001"
    ]  # fmt: skip


def test_what_is_not_given_is_left_to_the_library(shop):
    done = asked(*UNLEARN, "--parameters", "head.*", data="clishop:table")
    assert done.exit_code == 0, done.output
    (made,) = Unlearner.made
    assert set(made.options) == {"state", "parameters"}
    assert made.options["parameters"] == "head.*"
    assert (made.task.loss, made.task.kind) == (nn.functional.cross_entropy, "classes")
    assert torch.equal(made.data.source, torch.zeros(4, 3))
    assert made.asked[1] == {"method": "newton", "epsilon": None, "delta": 1e-5}
    assert "no certificate: without --epsilon no noise is added" in done.output


def test_a_state_that_holds_a_model_needs_no_weights_and_takes_no_others(shop, tmp_path):
    Ledger(tmp_path / "unlearn" / "ledger")
    without = [option for option in UNLEARN if option not in ("--weights", "w.safetensors")]
    assert asked(*without).exit_code == 0
    assert asked(*UNLEARN).exit_code == 0
    State.held = {name: tensor + 1 for name, tensor in State.held.items()}
    refused = asked(*UNLEARN)
    assert isinstance(refused.exception, CduError)
    assert "w.safetensors is not the model that unlearn holds" in str(refused.exception)
    assert len(Unlearner.made) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--state", "unlearn", "--weights", "w.safetensors"], "^give exactly one of --forget"),
        (["--state", "unlearn", "--forget", "ids.txt", "--resume"], "^give exactly one of --forget"),
        (["--state", "unlearn", "--forget", "ids.txt"], "^no weights were given, and unlearn holds no model yet"),
        (["--state", "unlearn", "--weights", "w.safetensors", "--resume"], "^no request is under way in unlearn"),
        (["--state", "u", "--weights", "w.safetensors", "--forget", "ids.txt", "--device", "tpu9"], "unknown device"),
    ],
)
def test_what_cannot_be_meant_is_refused(shop, options, sentence):
    refused = asked("unlearn", *options)
    assert isinstance(refused.exception, CduError), refused.output
    with pytest.raises(CduError, match=sentence):
        raise refused.exception


def test_resume_finishes_what_is_pending(shop, monkeypatch):
    monkeypatch.setattr(Unlearner, "pending", property(lambda _: "a request", lambda _, value: None), raising=False)
    done = asked("unlearn", "--state", "unlearn", "--weights", "w.safetensors", "--resume")
    assert done.exit_code == 0, done.output
    assert Unlearner.made[0].asked == "resume"


def test_a_plan_begins_no_state(shop, tmp_path):
    done = asked("plan", "--weights", "w.safetensors", "--state", "unlearn", "--forget", "ids.txt", "--epsilon", 2)
    assert (done.exit_code, done.output) == (0, "the plan\n")
    assert "state" not in Unlearner.made[0].options
    assert Unlearner.made[0].asked == (["user 1", "user 2"], {"epsilon": 2.0, "delta": 1e-5})
    Ledger(tmp_path / "unlearn" / "ledger")
    assert asked("plan", "--state", "unlearn", "--forget", "ids.txt").exit_code == 0
    assert str(Unlearner.made[1].options["state"]) == "unlearn"


def test_ledger_and_check_take_the_folder_of_a_state_too(shop, tmp_path):
    ledger = Ledger(tmp_path / "unlearn" / "ledger")
    for folder in ("unlearn", "unlearn/ledger"):
        assert f"last hash: {ledger.check()}" in CliRunner().invoke(app, ["ledger", folder]).output
        found = CliRunner().invoke(app, ["check", folder])
        assert found.output == f"{folder} is whole; its last hash is {ledger.check()}\n"
    State.held = {}
    assert str(CliRunner().invoke(app, ["check", "unlearn"]).exception) == "release 1 was changed"
    assert CliRunner().invoke(app, ["check", "unlearn/ledger"]).exit_code == 0
