"""Running a notebook: parameters, startup files, kernels; when a record is current."""

import pytest
from nbformat.v4 import new_markdown_cell

from cdu.errors import CduError
from cdu.experiments import execution, run
from cdu.experiments.execution import cells_hash, execute_here, read_notebook
from cdu.experiments.experiment import load_experiment
from cdu.experiments.records import mark_current, mark_path
from cdu.experiments.run import begin

CELL = 'dataset = "digits"\nseed = 0'
BEGIN = 'from cdu.experiments.run import begin\nrun = begin("02_training", globals())'


def begun(tmp_path, *cells, **beside):
    """What ``begin`` makes of a notebook whose cells were run after some names were there for other reasons."""
    namespace = dict(beside)
    for cell in cells:
        exec(cell, namespace)
    namespace["In"] = ["", *cells, BEGIN]
    namespace["output"] = str(tmp_path)
    return begin("02_training", namespace)


def test_names_of_startup_files_are_no_parameters(tmp_path):
    run = begun(tmp_path, CELL, "# injected\nseed = 3", histfile="x", epochs=7, options={"a": 1})
    assert run.setup.seed == 3


@pytest.mark.parametrize("cell", ["epochs = 7", "epochs: int = 7", "a = epochs = 7"])
def test_a_parameter_that_a_notebook_does_not_know_is_refused_wherever_it_is_set(tmp_path, cell):
    with pytest.raises(CduError, match=r"unknown parameter '(epochs|a)'"):
        begun(tmp_path, CELL, cell)


def test_cells_after_the_call_do_not_count_when_it_is_run_again(tmp_path):
    namespace = {}
    exec(CELL, namespace)
    namespace |= {"In": ["", CELL, BEGIN, "epochs = 7", BEGIN], "epochs": 7, "output": str(tmp_path)}
    assert begin("02_training", namespace).setup.seed == 0


def test_a_plain_script_gives_the_parameters_that_it_has(tmp_path):
    run = begin("02_training", {"dataset": "digits", "seed": 2, "output": str(tmp_path), "epochs": 7})
    assert run.setup.seed == 2


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

    monkeypatch.setattr(run, "begin", begin)
    with pytest.raises(Stop):
        execute_here("02_training", {"seed": 5})
    assert seen == [("02_training", 5, "digits")]


def test_the_hash_of_a_notebook_is_that_of_its_code_whatever_its_text_and_parameters_are(tmp_path, monkeypatch):
    content = read_notebook("05_relearn")
    monkeypatch.setattr(execution, "read_notebook", lambda section: content)
    before = cells_hash("05_relearn")
    content.cells.insert(0, new_markdown_cell("Other words."))
    parameters = next(cell for cell in content.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = "seed = 4"
    assert cells_hash("05_relearn") == before
    content.cells[-1].source += "\n1 + 1"
    assert cells_hash("05_relearn") != before


def test_a_record_has_the_mark_of_what_it_was_made_from_and_no_other(tmp_path):
    record = tmp_path / "02_training.json"
    other = mark_path(tmp_path / "03_methods.json", "a" * 12, 1, "c")
    mark_current(other)
    for kind in (("a" * 12, 1, "c"), ("b" * 12, 1, "c"), ("b" * 12, 2, "c"), ("b" * 12, 2, "d"), ("a" * 12, 1, "c")):
        mark = mark_path(record, *kind)
        mark_current(mark)
        assert set(tmp_path.iterdir()) == {mark, other}
