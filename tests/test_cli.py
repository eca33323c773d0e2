"""The program: exit codes, what an interruption says, and what `cdu unlearn` and `cdu plan` print and leave."""

import io
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

import cdu
from cdu.certification.certificate import Certificate
from cdu.cli import main
from cdu.cli.application import DONE
from cdu.cli.own_model import PENDING
from cdu.own_model import deletion
from cdu.unlearning.ledger import Ledger


def imported(code, *modules):
    """Which of some modules a program imports."""
    probe = f"import sys\n{code}\nprint([name for name in {modules!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_the_package_alone_imports_nothing_heavy():
    assert imported("import cdu", "torch", "numpy", "pydantic", "importlib.metadata") == "[]"


@pytest.mark.slow  # PyTorch is imported by another process.
def test_the_unlearner_imports_little_beside_pytorch():
    slow = ("scipy.stats", "scipy.sparse.linalg", "pandas", "matplotlib", "sklearn", "torchvision", "cdu.experiments")
    assert imported("from cdu import Unlearner", *slow) == "[]"


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
    """The program in this process: its exit code, and what it wrote to stdout and to stderr."""
    monkeypatch.setattr(sys, "argv", ["cdu", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, *capsys.readouterr()


def failing(error):
    def function(*_, **__):
        raise error

    return function


def test_a_command_that_did_what_it_says_ends_in_0(monkeypatch, capsys):
    code, printed, said = run(monkeypatch, capsys, "certify", "--radius", 1, "--sigma", 1)
    assert (code, said) == (0, "")
    assert "ε" in printed


def test_a_refusal_ends_in_1_with_one_sentence(monkeypatch, capsys):
    refusal = "cdu: give exactly one of --sigma and --epsilon; the other is computed\n"
    assert run(monkeypatch, capsys, "certify", "--radius", 1) == (1, "", refusal)


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["certify", "--sigma", "much"], ["plan"], ["unlearn", "--model", "a:b"]]
)
def test_a_wrong_command_line_ends_in_2(monkeypatch, capsys, arguments):
    assert run(monkeypatch, capsys, *arguments)[0] == 2


def test_an_interruption_ends_in_130_and_says_what_is_kept(monkeypatch, capsys):
    monkeypatch.setattr("cdu.experiments.execution.Kernel", failing(KeyboardInterrupt()))
    assert run(monkeypatch, capsys, "section", "02_training") == (130, "", f"\ncdu: stopped; {DONE}\n")


def test_any_other_exception_stays_what_it_is(monkeypatch):
    monkeypatch.setattr("cdu.certification.certify", failing(ZeroDivisionError()))
    monkeypatch.setattr(sys, "argv", ["cdu", "certify", "--radius", "1", "--sigma", "1"])
    with pytest.raises(ZeroDivisionError):
        main()


# --- unlearn and plan ----------------------------------------------------------------------------------------------

SHOP = '''
"""A shop's own code: a model, its rows, three of every user, and its training."""
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import cdu

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))

def build():
    print("building")
    return Net()

def table():
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 4, generator=draws)
    return inputs, inputs[:, :3].argmax(dim=1)

def rows():
    return cdu.as_data(*table(), ids=[f"user {row // 3}" for row in range(60)])

def doubled(outputs, targets):
    return 2 * cross_entropy(outputs, targets)

def train(data, seed):
    print("training on", len(data), "rows")
    torch.manual_seed(seed + 1)
    model, samples = Net(), data.samples()
    keep = cdu.ball(model, 5.0)
    for _ in range(5):
        loss = cross_entropy(model(samples.inputs), samples.targets)
        for one, slope in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters()))):
            one.data -= 0.5 * slope
        keep()
    return model
'''


class Shop:
    """A folder with a shop's code, weights and ids, and the program, which is called from there."""

    def __init__(self, folder, monkeypatch, capsys):
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        self.state = folder / "unlearn"

    def cdu(self, command, *options, data="shop:rows"):
        line = [command, "--model", "shop:build", "--data", data, "--device", "cpu", *options]
        return run(self.monkeypatch, self.capsys, *line)

    def unlearn(self, *options, **keys):
        return self.cdu("unlearn", "--state", "unlearn", *options, **keys)

    def plan(self, *options):
        return self.cdu("plan", *options)

    def stdin(self, content):
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    def interrupted(self, *options):
        """The program, with Ctrl-C while it computes."""
        with self.monkeypatch.context() as patch:
            patch.setattr(deletion, "release", failing(KeyboardInterrupt()))
            return self.unlearn(*options)

    def weights(self, number):
        return load_file(self.state / "releases" / f"{number:04d}" / "weights.safetensors")

    def certificate(self, number):
        """What a release's file says."""
        return json.loads((self.state / "releases" / f"{number:04d}" / "certificate.json").read_text())

    def guarantee(self, number):
        return self.certificate(number)["guarantee"]

    def named(self, identity):
        """The numbers of the releases whose requests named an id."""
        return [entry.number for entry in Ledger.existing(self.state / "ledger").about(identity)]


@pytest.fixture
def shop(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "ids.txt").write_text("# a request\nuser 1\n\nuser 2\n")
    (tmp_path / "next.txt").write_text("user 7\n")
    sys.path.insert(0, str(tmp_path))
    import shop

    torch.manual_seed(0)
    save_file(shop.Net().state_dict(), tmp_path / "w.safetensors")
    yield Shop(tmp_path, monkeypatch, capsys)
    sys.modules.pop("shop", None)


#: What the first request gives, and the second need not.
BEGIN = ("--weights", "w.safetensors", "--radius", 5, "--l2", 1e-2)
FIRST = (*BEGIN, "--forget", "ids.txt")
NEXT = ("--forget", "next.txt")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_unlearn_prints_the_guarantee_and_leaves_the_release_and_its_entry(shop):
    options = ("--option", "damping=10", "--option", "solver=exact")
    code, printed, said = shop.unlearn(*FIRST, "--epsilon", 2, "--delta", 1e-4, *options)
    assert (code, said) == (0, "building\n")
    (entry,) = Ledger.existing(shop.state / "ledger").entries()
    guarantee = str(Certificate.model_validate(entry.certificate))
    assert printed == f"{guarantee}\nentry 1 of the ledger in unlearn\nrelease: unlearn/releases/0001\n"
    assert "ε = 2" in guarantee
    assert "δ = 0.0001" in guarantee
    kept = shop.certificate(1)
    assert kept["options"] == {"damping": 10, "solver": "exact"}
    assert kept["guarantee"]["sigma"] == entry.sigma > 0
    assert sorted(path.name for path in shop.state.iterdir()) == [".lock", "ledger", "releases", "settings.json"]
    assert [path.name for path in (shop.state / "releases").iterdir()] == ["0001"]
    assert sorted(path.name for path in (shop.state / "releases" / "0001").iterdir()) == [
        "certificate.json", "release.html", "weights.safetensors",
    ]  # fmt: skip
    assert shop.named("user 1") == shop.named("user 2") == [1]
    assert sorted(path.name for path in shop.folder.iterdir() if path.name != "__pycache__") == [
        "ids.txt", "next.txt", "shop.py", "unlearn", "w.safetensors",
    ]  # fmt: skip


def test_without_epsilon_the_release_is_the_librarys_to_the_bit_and_says_that_it_promises_nothing(shop):
    options = ("--option", "damping=10", "--option", "solver=exact", "--task", "shop:doubled")
    code, printed, _ = shop.unlearn(*FIRST, *options)
    assert code == 0
    assert printed.startswith("no certificate: no noise\n")
    import shop as code_of

    model = code_of.Net()
    model.load_state_dict(load_file("w.safetensors"))
    own = cdu.Unlearner(model, cdu.Task(code_of.doubled), code_of.rows(), l2=1e-2, radius=5.0)
    expected = own.forget(["user 1", "user 2"], damping=10, solver="exact").model.state_dict()
    assert same(shop.weights(1), expected)
    other = cdu.Unlearner(model, cdu.Task(cross_entropy), code_of.rows(), l2=1e-2, radius=5.0)
    assert not same(shop.weights(1), other.forget(["user 1", "user 2"], damping=10, solver="exact").model.state_dict())


def test_data_that_are_no_cdu_data_are_taken_too_and_their_ids_are_row_numbers(shop):
    (shop.folder / "rows.txt").write_text("7\n")
    assert shop.unlearn(*BEGIN, "--forget", "rows.txt", "--method", "nothing", data="shop:table")[0] == 0
    assert shop.named(7) == [1]


def test_a_second_request_needs_the_state_alone(shop):
    assert shop.unlearn(*FIRST, "--epsilon", 2, "--cap", 5, "--method", "nothing")[0] == 0
    code, printed, said = shop.unlearn(*NEXT, "--epsilon", 2, "--method", "nothing")
    assert (code, said) == (0, "building\n")
    assert "entry 2 of the ledger in unlearn\nrelease: unlearn/releases/0002\n" in printed
    # Its noise is that of the ball that the state was begun with.
    assert shop.guarantee(2)["sigma"] == shop.guarantee(1)["sigma"]
    assert shop.named("user 7") == [2]
    assert same(shop.weights(2), shop.weights(1)) is False
    before = shop.weights(2)
    code, printed, _ = shop.unlearn(*NEXT, "--epsilon", 2, "--method", "nothing")
    assert code == 0
    assert "release 2 already, which is read back\nentry 2 of" in printed
    assert same(shop.weights(2), before)
    # The current weights may be named, and no others.
    assert shop.unlearn("--weights", "unlearn/releases/0002/weights.safetensors", *NEXT)[0] == 0


def test_a_request_beyond_the_cap_is_refused_and_the_same_by_retraining_is_not(shop):
    asked = ("--epsilon", 2, "--method", "nothing", "--delta", 1e-4)
    assert shop.unlearn(*FIRST, *asked, "--cap", 2.5)[0] == 0
    code, printed, said = shop.unlearn(*NEXT, *asked, "--training-seconds", 90)
    assert (code, printed) == (1, "")
    assert said.startswith("building\ncdu: ")
    assert "retrain, which costs no budget and takes about 90 seconds" in said
    assert not (shop.state / "request.json").exists()
    code, printed, said = shop.unlearn(*NEXT, "--method", "retrain", "--train", "shop:train")
    # What the shop's own code prints is no part of the answer.
    assert (code, said) == (0, "building\ntraining on 51 rows\n")
    assert printed.splitlines() == [
        "retrained: exact, spends nothing",
        "entry 2 of the ledger in unlearn",
        "release: unlearn/releases/0002",
    ]
    import shop as code_of

    expected = code_of.train(code_of.rows().without(["user 1", "user 2", "user 7"]), 0).state_dict()
    assert same(shop.weights(2), expected)
    code, _, said = shop.unlearn(*NEXT, "--cap", 9)
    assert code == 1
    assert "budget" in said


def test_only_the_chosen_parameters_move_and_what_is_fixed_must_be_said(shop):
    head = (*FIRST, "--epsilon", 2, "--method", "nothing", "--parameters", "head.*")
    code, _, said = shop.unlearn(*head)
    assert code == 1
    assert "say whether they were ever trained on the data" in said
    assert not shop.state.exists()
    assert shop.unlearn(*head, "--fixed-never-saw-data")[0] == 0
    old, new = load_file("w.safetensors"), shop.weights(1)
    assert [name for name in old if torch.equal(old[name], new[name])] == ["body.bias", "body.weight"]
    # The state knows both.
    assert shop.unlearn(*NEXT, "--epsilon", 2, "--method", "nothing")[0] == 0
    assert torch.equal(shop.weights(2)["body.weight"], old["body.weight"])
    for option in (("--parameters", "body.*"), ("--fixed-saw-data",)):
        code, _, said = shop.unlearn("--forget", "ids.txt", *option)
        assert code == 1
        assert "was begun with" in said


def test_ids_are_read_from_stdin(shop):
    shop.stdin("\ufeffuser 4\r\n# none\n  user 5  \n".encode())
    assert shop.unlearn(*BEGIN, "--forget", "-", "--method", "nothing")[0] == 0
    assert shop.named("user 4") == shop.named("user 5") == [1]
    shop.stdin(b"\n")
    assert shop.unlearn("--forget", "-") == (1, "", "cdu: --forget - names no id; write one a line\n")


def test_an_interrupted_request_is_kept_and_resumed_as_it_was_asked(shop):
    asked = ("--epsilon", 2, "--delta", 1e-4, "--option", "damping=10")
    code, printed, said = shop.interrupted(*FIRST, *asked)
    assert (code, printed, said) == (130, "", f"building\n\ncdu: stopped; {PENDING}\n")
    assert (shop.state / "request.json").exists()
    assert shop.named("user 1") == []
    code, _, said = shop.unlearn(*NEXT)
    assert code == 1
    assert "another request is pending" in said
    # As PENDING says: the same command with --resume in place of --forget.
    code, printed, _ = shop.unlearn(*BEGIN, *asked, "--resume")
    assert code == 0
    assert "ε = 2" in printed
    assert (shop.guarantee(1)["delta"], shop.certificate(1)["options"]) == (1e-4, {"damping": 10})
    assert shop.named("user 1") == shop.named("user 2") == [1]
    code, _, said = shop.unlearn("--resume")
    assert code == 1
    assert said.endswith("cdu: no request is under way in unlearn; give --forget with a file of ids\n")
    # Where a state was begun before, it is enough.
    assert shop.interrupted(*NEXT, "--method", "nothing")[0] == 130
    assert shop.unlearn("--resume")[0] == 0
    assert shop.named("user 7") == [2]


def test_an_error_of_the_shops_own_code_stays_a_traceback_and_the_request_is_kept(shop):
    shop.monkeypatch.setattr("shop.train", failing(ZeroDivisionError()))
    asked = ("--method", "retrain", "--train", "shop:train")
    with pytest.raises(ZeroDivisionError):
        shop.unlearn(*FIRST, *asked)
    shop.monkeypatch.undo()
    shop.monkeypatch.chdir(shop.folder)
    assert shop.unlearn("--resume", "--train", "shop:train")[0] == 0
    assert shop.named("user 1") == [1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (BEGIN, "give exactly one of --forget, with a file of ids, and --resume"),
        ((*FIRST, "--resume"), "give exactly one of --forget"),
        (("--forget", "ids.txt"), "no weights were given, and unlearn holds no model yet; give --weights"),
        ((*BEGIN, "--forget", "none.txt"), "--forget none.txt cannot be read"),
        ((*BEGIN, "--forget", "w.safetensors"), "--forget w.safetensors is no text in UTF-8"),
        ((*FIRST, "--device", "tpu9"), "unknown device"),
        ((*FIRST, "--option", "damping"), "--option damping is not of the form name=value"),
        ((*FIRST, "--option", "epsilon=1"), "give --epsilon"),
        ((*FIRST, "--train", "shop:no"), "has no 'no'; name one that it has"),
        ((*FIRST, "--task", "no:loss"), "there is no module 'no'"),
        ((*FIRST, "--weights", "shop.py"), "shop.py cannot be read as safetensors"),
        ((*FIRST, "--radius", 0.1), "above radius = 0.1"),
    ],
)
def test_a_first_request_that_cannot_be_meant_is_refused_and_begins_no_state(shop, options, sentence):
    code, printed, said = shop.unlearn(*options)
    assert (code, printed) == (1, "")
    assert sentence in said
    assert not shop.state.exists()


def test_a_first_request_that_fails_releases_nothing_and_the_next_one_goes_on(shop):
    (shop.folder / "no.txt").write_text("user 1\nuser 99\n")
    for options, sentence in (
        ((*BEGIN, "--forget", "no.txt"), "1 of 2 ids are in no row: 'user 99'"),
        ((*FIRST, "--method", "none"), "none"),
        ((*FIRST, "--option", "colour=red"), "colour"),
        ((*FIRST, "--method", "retrain"), "needs your training loop"),
    ):
        code, printed, said = shop.unlearn(*options)
        assert (code, printed) == (1, "")
        assert sentence in said
        assert not (shop.state / "request.json").exists()
    assert shop.unlearn(*FIRST, "--method", "nothing")[0] == 0
    assert shop.named("user 1") == [1]


def test_a_later_request_that_does_not_fit_the_state_is_refused_and_changes_nothing(shop):
    assert shop.unlearn(*FIRST, "--epsilon", 2, "--method", "nothing")[0] == 0
    before = shop.weights(1)
    (shop.folder / "gone.txt").write_text("user 7\nuser 1\n")
    for options, sentence in (
        (("--forget", "gone.txt"), "1 of the 2 ids are gone already, such as 'user 1'"),
        ((*NEXT, "--weights", "w.safetensors"), "w.safetensors is not the model that unlearn holds"),
        ((*NEXT, "--l2", 0.5), "unlearn was begun with l2 = 0.01, not 0.5"),
        ((*NEXT, "--radius", 6), "unlearn was begun with radius = 5.0, not 6.0"),
        ((*NEXT, "--cap", 9), "budget"),
    ):
        code, printed, said = shop.unlearn(*options)
        assert (code, printed) == (1, ""), options
        assert sentence in said
        assert "Traceback" not in said
    assert not (shop.state / "request.json").exists()
    assert same(shop.weights(1), before)
    assert run(shop.monkeypatch, shop.capsys, "check", "unlearn")[0] == 0


def test_a_plan_begins_no_state_and_counts_the_rows_that_are_left(shop):
    asked = ("--forget", "ids.txt", "--epsilon", 2, "--delta", 1e-4)
    code, printed, said = shop.plan(*BEGIN, *asked, "--state", "unlearn")
    # On a machine that is very slow a bar may follow.
    assert (code, said[:9]) == (0, "building\n")
    assert printed.startswith("delete 6 of 60 rows, ε = 2, δ = 0.0001\n")
    assert not shop.state.exists()
    code, printed, said = shop.plan(*asked)
    assert (code, printed) == (1, "")
    assert "no weights were given" in said
    assert shop.unlearn(*FIRST, "--epsilon", 2, "--delta", 1e-4, "--method", "nothing")[0] == 0
    planned = shop.plan(*BEGIN[2:], "--state", "unlearn", *NEXT, "--train", "shop:train", "--training-seconds", 1e-9)
    assert planned[0] == 0
    assert planned[1].startswith("delete 3 of 54 rows, ε = 1, δ = 1e-05\n")
    assert "Retrain" in planned[1]
    assert not (shop.state / "request.json").exists()
    assert sorted(path.name for path in (shop.state / "releases").iterdir()) == ["0001"]
    code, _, said = shop.plan("--state", "unlearn", "--forget", "ids.txt")
    assert code == 1
    assert "gone already" in said


def test_ledger_and_check_take_the_folder_of_a_state_and_of_its_ledger(shop):
    def said(*arguments):
        return run(shop.monkeypatch, shop.capsys, *arguments)

    assert shop.unlearn(*FIRST, "--epsilon", 2, "--method", "nothing")[0] == 0
    last = Ledger.existing(shop.state / "ledger").check()
    for folder in ("unlearn", "unlearn/ledger"):
        assert f"last hash: {last}" in said("ledger", folder)[1]
        assert said("check", folder) == (0, f"{folder} is whole; its last hash is {last}\n", "")
    changed = shop.state / "releases" / "0001" / "release.html"
    changed.write_text(changed.read_text().replace("ε", "e"))
    code, printed, complaint = said("check", "unlearn")
    assert (code, printed) == (1, "")
    assert complaint.startswith("cdu: unlearn/releases/0001/release.html was changed")
    assert said("check", "unlearn/ledger")[0] == 0
    assert said("check", "nothing")[0] == 1
    assert not (shop.folder / "nothing").exists()


@pytest.mark.slow  # Two processes that import PyTorch each.
def test_the_program_itself_is_stopped_by_ctrl_c_and_goes_on(shop):
    code = """
import signal
def wait(data, seed):
    print("waiting", flush=True)
    signal.pause()
"""
    with (shop.folder / "shop.py").open("a") as file:
        file.write(code)
    own = [sys.executable, "-m", "cdu", "unlearn", "--model", "shop:build", "--data", "shop:rows", "--state", "unlearn"]
    asked = [*map(str, FIRST), "--method", "retrain", "--train", "shop:wait"]
    with subprocess.Popen([*own, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line == "waiting\n":
                break
        os.kill(process.pid, signal.SIGINT)
        printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed, said) == (130, "", f"\ncdu: stopped; {PENDING}\n")
    done = subprocess.run([*own, "--resume", "--train", "shop:train"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "building\ntraining on 54 rows\n")
    assert shop.named("user 1") == [1]
