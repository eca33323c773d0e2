"""What an engineer names on the command line: code, weights, ids, options."""

import io
import sys

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from cdu.cli import inputs
from cdu.errors import CduError


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder with a module of its own, as the working directory; what is imported there is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_a_name_is_found_from_the_working_directory(shop):
    (shop / "corner").mkdir()
    (shop / "corner" / "models.py").write_text("def build():\n    return 7\n")
    assert inputs.named("corner.models:build", "--model")() == 7


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("corner_shop", r"^--model corner_shop is not of the form module:name, as in shop\.model:build$"),
        (":build", "is not of the form module:name"),
        ("corner_shop:a.b", "is not of the form module:name"),
        ("nowhere_at_all:build", r"^--model nowhere_at_all:build: there is no module 'nowhere_at_all' in "),
        ("corner_shop.inner:build", r"there is no module 'corner_shop\.inner' in "),
        ("corner_shop:rebuild", r"^--model corner_shop:rebuild: .*corner_shop\.py has no 'rebuild'; "),
    ],
)
def test_a_name_that_is_not_there_is_refused_in_a_sentence(shop, reference, sentence):
    (shop / "corner_shop.py").write_text("build = 1\n")
    with pytest.raises(CduError, match=sentence):
        inputs.named(reference, "--model")


def test_what_a_users_module_raises_is_shown_as_it_is(shop):
    (shop / "corner_broken.py").write_text("import nowhere_at_all\n")
    (shop / "corner_divides.py").write_text("1 / 0\n")
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        inputs.named("corner_broken:build", "--model")
    with pytest.raises(ZeroDivisionError):
        inputs.named("corner_divides:build", "--model")


def test_a_model_is_built_by_its_function_and_must_be_a_module(shop):
    (shop / "corner_models.py").write_text(
        "from torch import nn\nmade = nn.Linear(2, 1)\nbuild = lambda: nn.Linear(3, 2)\nother = lambda: 7\n"
    )
    assert inputs.model("corner_models:build").weight.shape == (2, 3)
    assert inputs.model("corner_models:made").weight.shape == (1, 2)
    with pytest.raises(
        CduError, match=r"^--model corner_models:other gives something of type int; it is to give a torch\.nn\.Module$"
    ):
        inputs.model("corner_models:other")


def test_weights_come_back_to_the_bit_tied_ones_and_buffers_too(tmp_path):
    for make in (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), Tied):
        saved, other = make(), make()
        assert not inputs.same_weights(other, saved.state_dict())
        save_model(saved, tmp_path / "w.safetensors")
        inputs.load_weights(other, tmp_path / "w.safetensors")
        assert inputs.same_weights(other, saved.state_dict())
        assert not inputs.same_weights(other, {})


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"weight": (2, 3)}, r"does not fit the model: it lacks bias; give this model's weights$"),
        ({"weight": (2, 3), "bias": (2,), "scale": (1,)}, r"it holds scale, which the model has not; give"),
        ({"weights": (2, 3), "bias": (2,)}, r"it lacks weight and holds weights, which the model has not; give"),
        ({"weight": (3, 2), "bias": (2,)}, r"size mismatch for weight"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, tensors, sentence):
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "w.safetensors")
    with pytest.raises(CduError, match=sentence) as caught:
        inputs.load_weights(nn.Linear(3, 2), tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)


def test_a_pickle_is_not_read_and_an_absent_file_is_named(tmp_path):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pt")
    for name in ("w.pt", "absent.safetensors"):
        with pytest.raises(CduError, match=rf"{name} cannot be read as safetensors \("):
            inputs.load_weights(nn.Linear(3, 2), tmp_path / name)


def test_ids_are_lines_without_comments_from_a_file_or_the_standard_input(tmp_path, monkeypatch):
    text = "\ufeff# the request of Monday\n\nuser 17\r\n  Zoë #2 \n#user 3\n42".encode()
    (tmp_path / "ids.txt").write_bytes(text)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    wanted = ["user 17", "Zoë #2", "42"]
    assert inputs.read_ids(str(tmp_path / "ids.txt")) == wanted
    assert inputs.read_ids("-") == wanted


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"# none\n\n", "names no id; write one a line$"),
        (b"\xff\xfe7", "is no text in UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_file_without_ids_is_refused(tmp_path, content, sentence):
    path = tmp_path / "ids.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CduError, match=sentence):
        inputs.read_ids(str(path))


def test_options_of_a_method_are_numbers_where_they_can_be():
    given = ["damping=10", "rate=1e-3", "solver=exact", "quick=true", "name=a=b"]
    found = inputs.values(given)
    assert found == {"damping": 10, "rate": 0.001, "solver": "exact", "quick": True, "name": "a=b"}
    assert [type(value) for value in found.values()] == [int, float, str, bool, str]


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["damping"], "is not of the form name=value"),
        (["=3"], "is not of the form name=value"),
        (["a=1", "a=2"], "--option a is given twice"),
        (["epsilon=1"], "give --epsilon$"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(pairs, sentence):
    with pytest.raises(CduError, match=sentence):
        inputs.values(pairs)
