"""Running a notebook: parameters, startup files, kernels; when a record is current."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from cdu import notebook, records
from cdu.config import load_experiment
from cdu.errors import CduError
from cdu.execution import execute_here, read_notebook, same_code
from cdu.records import mark_current, mark_path

CELL = 'dataset = "digits"\nseed = 0'
BEGIN = 'from cdu import notebook\nrun = notebook.begin("02_training", globals())'


def begun(tmp_path, *cells, **beside):
    """What ``begin`` makes of a notebook whose cells were run after some names were there for other reasons."""
    namespace = dict(beside)
    for cell in cells:
        exec(cell, namespace)
    namespace["In"] = ["", *cells, BEGIN]
    namespace["output"] = str(tmp_path)
    return notebook.begin("02_training", namespace)


def test_names_of_startup_files_are_no_parameters(tmp_path):
    run = begun(tmp_path, CELL, "# injected\nseed = 3", histfile="x", epochs=7, options={"a": 1})
    assert run.scenario.seed == 3


@pytest.mark.parametrize("cell", ["epochs = 7", "epochs: int = 7", "a = epochs = 7"])
def test_a_parameter_that_a_notebook_does_not_know_is_refused_wherever_it_is_set(tmp_path, cell):
    with pytest.raises(CduError, match=r"unknown parameter '(epochs|a)'"):
        begun(tmp_path, CELL, cell)


def test_cells_after_the_call_do_not_count_when_it_is_run_again(tmp_path):
    namespace = {}
    exec(CELL, namespace)
    namespace |= {"In": ["", CELL, BEGIN, "epochs = 7", BEGIN], "epochs": 7, "output": str(tmp_path)}
    assert notebook.begin("02_training", namespace).scenario.seed == 0


def test_a_plain_script_gives_the_parameters_that_it_has(tmp_path):
    run = notebook.begin("02_training", {"dataset": "digits", "seed": 2, "output": str(tmp_path), "epochs": 7})
    assert run.scenario.seed == 2


def test_a_name_of_digits_is_a_name(tmp_path):
    text = (load_experiment.__globals__["repository"]() / "experiments" / "quick.yaml").read_text()
    path = tmp_path / "2024.yaml"
    path.write_text(text.replace("name: quick", "name: 2024"))
    assert load_experiment(str(path)).name == "2024"


def test_cells_run_in_this_process_with_parameters_in_place_of_the_notebook_s_own(tmp_path, monkeypatch):
    seen = []

    class Stop(Exception):
        pass

    def begin(section, namespace, extra=()):
        seen.append((section, namespace["seed"], namespace["dataset"]))
        raise Stop

    monkeypatch.setattr(notebook, "begin", begin)
    with pytest.raises(Stop):
        execute_here("02_training", {"seed": 5})
    assert seen == [("02_training", 5, "digits")]


def test_a_copy_is_of_the_same_code_whatever_its_text_and_parameters_are(tmp_path):
    path = tmp_path / "copy.ipynb"
    assert same_code(path, "05_relearn")
    content = read_notebook("05_relearn")
    content.cells.insert(1, new_code_cell("seed = 4", metadata={"tags": ["injected-parameters"]}))
    content.cells.insert(0, new_markdown_cell("Other words."))
    nbformat.write(content, path)
    assert same_code(path, "05_relearn")
    content.cells[-1].source += "\n1 + 1"
    nbformat.write(content, path)
    assert not same_code(path, "05_relearn")
    nbformat.write(new_notebook(), path)
    assert not same_code(path, "05_relearn")


def test_a_record_has_the_mark_of_its_settings_and_revision_and_no_other(tmp_path):
    record = tmp_path / "02_training.json"
    other = tmp_path / "03_methods.json"
    mark_current(other, "a" * 12, 1)
    for settings, revision in (("a" * 12, 1), ("b" * 12, 1), ("b" * 12, 2), ("a" * 12, 1)):
        mark_current(record, settings, revision)
        assert {path.name for path in tmp_path.iterdir()} == {
            mark_path(record, settings, revision).name,
            mark_path(other, "a" * 12, 1).name,
        }
    assert records.mark_path(record, "a" * 12, 1).parent == tmp_path
