"""What works where only the core is installed, and the sentence where something needs the extra ``report``."""

import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors.torch import save_model
from torch import nn

import cdu
from cdu.experiments.repository import repository
from cdu.extras import MissingExtraError, needs_report

PROJECT = tomllib.loads((repository() / "pyproject.toml").read_text(encoding="utf-8"))["project"]

#: Rooms that the core has, and modules of the evaluation that a release needs.
CORE_ROOMS = ("data", "models", "curvature", "certification", "unlearning", "own_model")
CORE_MODULES = ("convex", "evaluation.audit", "evaluation.audit_trials", "evaluation.accuracy", "evaluation.relearning")


#: Finds modules as Python does, but for those that are to be absent.
FINDER = """
import sys
from importlib.machinery import PathFinder

class TheCoreAlone(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {absent!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [TheCoreAlone if finder is PathFinder else finder for finder in sys.meta_path]
"""


def needed(requirements, extra=""):
    """Names of all packages that requirements bring."""
    found = set()
    waiting = list(requirements)
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if wanted and name not in found:
            found.add(name)
            try:
                waiting += requires(name) or []
            except PackageNotFoundError:
                continue
    return found


@cache
def absent_modules():
    """Every module of this environment that no package of the core brings."""
    core = needed(PROJECT["dependencies"]) | {"cdu"}
    return sorted(
        module
        for module, packages in packages_distributions().items()
        if not {canonicalize_name(name) for name in packages} & core
    )


def with_the_core_alone(code, *arguments, folder=None):
    """Run a program as if nothing but the core were installed: importing anything else fails."""
    return subprocess.run(
        [sys.executable, "-c", FINDER.format(absent=absent_modules()) + code, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def command(*arguments, folder=None):
    return with_the_core_alone("from cdu.cli import main; main()", *arguments, folder=folder)


def modules_of_the_core():
    source = repository() / "src" / "cdu"
    paths = [path for room in CORE_ROOMS for path in sorted((source / room).rglob("*.py"))]
    paths += [source / f"{name.replace('.', '/')}.py" for name in CORE_MODULES]
    paths += [path for path in sorted(source.glob("*.py")) if path.name != "__main__.py"]
    names = (".".join(path.relative_to(source.parent).with_suffix("").parts) for path in paths if path.exists())
    return [name.removesuffix(".__init__") for name in names]


def test_the_packages_of_the_report_are_not_in_the_core():
    extra = {canonicalize_name(Requirement(text).name) for text in PROJECT["optional-dependencies"]["report"]}
    assert not extra & needed(PROJECT["dependencies"])
    assert {"sklearn", "yaml", "pandas", "matplotlib", "pooch", "torchvision", "snakemake"} <= set(absent_modules())
    assert not {"torch", "numpy", "scipy", "jinja2", "typer", "cdu"} & set(absent_modules())


@pytest.mark.slow  # imports PyTorch in another process
def test_every_public_name_and_every_module_of_the_core_is_imported_without_the_extra():
    code = f"""
import importlib
import cdu
for name in {modules_of_the_core()!r}:
    importlib.import_module(name)
for name in cdu.__all__:
    getattr(cdu, name)
print(cdu.__version__, len(cdu.__all__))
"""
    done = with_the_core_alone(code)
    assert (done.stderr, done.stdout.split()) == ("", [cdu.__version__, str(len(cdu.__all__))])


@pytest.mark.slow  # imports PyTorch in another process
def test_a_module_of_the_evaluation_is_imported_without_the_extra_or_says_what_it_needs():
    code = """
import importlib, pkgutil
import cdu.evaluation
from cdu.extras import MissingExtraError
for module in pkgutil.walk_packages(cdu.evaluation.__path__, "cdu.evaluation."):
    try:
        importlib.import_module(module.name)
    except MissingExtraError as error:
        print(module.name, error)
"""
    done = with_the_core_alone(code)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) < 10
    assert [line for line in lines if line.startswith("cdu.evaluation.posterior_attacks ")] == [
        "cdu.evaluation.posterior_attacks attacking posteriors needs the packages of the extra 'report': pip install "
        "'cdu[report]' (there is no module 'sklearn')"
    ]


@pytest.mark.slow  # eight programs are started one after another
def test_commands_of_the_core_run_without_the_extra(tmp_path):
    code = """
import cdu, torch
zero = torch.zeros(3)
cdu.Ledger("ledger").record(["7"], "retrain", zero + 1, zero, None, "no noise", retrained=True)
"""
    assert with_the_core_alone(code, folder=tmp_path).stderr == ""
    for arguments in (
        ["--version"],
        ["--help"],
        ["certify", "--radius", 1, "--epsilon", 1],
        ["ledger", "ledger"],
        ["check", "ledger"],
        ["unlearn", "--help"],
        ["plan", "--help"],
        ["data", "status"],
    ):
        done = command(*arguments, folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), arguments


@pytest.mark.slow  # each case starts a program
@pytest.mark.parametrize(
    "arguments",
    [
        ["experiments"],
        ["section", "02_training"],
        ["batch", "quick"],
        ["bench"],
        ["paper", "--rehearse"],
        ["notebooks"],
        ["reference", "quick"],
        ["verify"],
        ["canaries", "02_training"],
    ],
)
def test_what_needs_the_extra_says_so_in_one_sentence(arguments, tmp_path):
    done = command(*arguments, folder=tmp_path)
    assert done.returncode == 1
    sentence = f"cdu: 'cdu {arguments[0]}' needs the packages of the extra 'report': pip install 'cdu[report]' (there"
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


@pytest.mark.slow  # imports PyTorch in another process
def test_a_plan_is_made_without_the_extra(tmp_path):
    stand_ins = """
from types import ModuleType

class Data:
    def to(self, device, dtype):
        return self

class Task:
    def __init__(self, loss, kind):
        pass

class Unlearner:
    def __init__(self, *parts, **options):
        pass

    def plan(self, ids, **options):
        return f"a plan for {ids}"

for module, name, value in (
    ("cdu.data.source", "Data", Data),
    ("cdu.data.source", "as_data", None),
    ("cdu.own_model.task", "Task", Task),
    ("cdu.own_model.unlearner", "Unlearner", Unlearner),
):
    setattr(sys.modules.setdefault(module, ModuleType(module)), name, value)

from cdu.cli import main
main()
"""
    (tmp_path / "extrashop.py").write_text(
        "from torch import nn\nfrom cdu.data.source import Data\nbuild = lambda: nn.Linear(3, 2)\nrows = Data()\n"
    )
    (tmp_path / "ids.txt").write_text("7\n")
    save_model(nn.Linear(3, 2), tmp_path / "w.safetensors")
    line = [
        "plan",
        "--model",
        "extrashop:build",
        "--data",
        "extrashop:rows",
        "--weights",
        "w.safetensors",
        "--forget",
        "ids.txt",
    ]
    done = with_the_core_alone(stand_ins, *line, folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a plan for ['7']\n", "")


def test_fetching_a_dataset_says_so_too(tmp_path):
    code = "import os; os.environ['CDU_DATA'] = 'data'\nfrom cdu.cli import main; main()"
    done = with_the_core_alone(code, "data", "fetch", "mnist", folder=tmp_path)
    assert done.returncode == 1
    assert "fetching a dataset needs the packages of the extra 'report': pip install 'cdu[report]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_only_an_import_of_this_package_that_fails_is_the_extras_affair(tmp_path, monkeypatch):
    (tmp_path / "plug_in_of_somebody.py").write_text("import a_module_that_is_nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_nowhere") as caught, needs_report("this"):
        import plug_in_of_somebody  # noqa: F401
    assert not isinstance(caught.value, MissingExtraError)
    with pytest.raises(ModuleNotFoundError, match=r"cdu\.nothing") as caught, needs_report("this"):
        exec("import cdu.nothing", {"__name__": "cdu.somewhere"})
    assert not isinstance(caught.value, MissingExtraError)
    with pytest.raises(MissingExtraError, match=r"^this needs .* 'nowhere_at_all'"), needs_report("this"):
        exec("import nowhere_at_all", {"__name__": "cdu.somewhere"})
