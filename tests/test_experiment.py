import re

import pytest
import yaml

from cdu.errors import CduError
from cdu.experiments.experiment import available_experiments, load_experiment
from cdu.experiments.repository import repository
from cdu.experiments.sections import COMMON, OPTIONAL, SECTIONS, section_hash, section_settings


def test_every_experiment_is_valid_and_every_section_has_a_notebook():
    assert available_experiments() == [
        "batchnorm",
        "fixed-features",
        "mnist",
        "paper",
        "paper-cpu",
        "paper-resnet18",
        "quick",
        "resnet18",
    ]
    for name in available_experiments():
        assert load_experiment(name).name == name
    assert {path.stem for path in (repository() / "notebooks").glob("*.py")} == set(SECTIONS)


def test_the_experiments_are_the_papers_setting():
    mnist = load_experiment("mnist")
    training = mnist.settings("mnist").training
    assert (training.epochs, training.batch_size, training.learning_rate, training.weight_decay) == (
        50,
        128,
        1e-3,
        5e-4,
    )
    assert mnist.settings("mnist").forget.size == 1000
    assert mnist.seeds == tuple(range(10))
    assert mnist.settings("mnist").training.radius == 10
    large = {
        ("paper", "cifar10"): "allcnn",
        ("paper-resnet18", "cifar10"): "resnet18",
        ("paper-resnet18", "svhn"): "resnet18",
    }
    for (name, dataset), network in large.items():
        settings = load_experiment(name).settings(dataset)
        assert (settings.model.name, settings.model.width) == (network, 1.0)
        assert (settings.training.epochs, settings.training.batch_size, settings.training.radius) == (50, 128, 20)
        assert settings.forget.size == 1000


def changed(tmp_path, change):
    content = yaml.safe_load((repository() / "experiments" / "quick.yaml").read_text())
    change(content)
    path = tmp_path / "quick.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["datasets"]["digits"]["training"].update(epochs=0),
            r"training.epochs: .*greater than.*\(found 0\)",
        ),
        (lambda c: c["datasets"]["digits"]["training"].update(epoch=3), r"training.epoch: Extra inputs"),
        (lambda c: c["datasets"]["digits"]["forget"].update(kind="class"), "needs 'label'"),
        (lambda c: c["datasets"]["digits"]["unlearning"].update(default="x"), "default damping 'x' is not among"),
        (lambda c: c["datasets"].update(imagenet=c["datasets"]["digits"]), "imagenet"),
        (
            lambda c: c.update(section_seeds={"99_magic": [0]}),
            r"section_seeds names no section of ours: \['99_magic'\]",
        ),
        (lambda c: c.update(sections=["99_magic"]), r"sections names no section of ours: \['99_magic'\]"),
        (lambda c: c.update(name="slow"), "its name is 'slow'; it must equal the file's, 'quick'"),
        (lambda c: c.pop("datasets"), r"datasets: a block of named settings is needed.*found None"),
        (lambda c: c["datasets"].update(digits=5), r"datasets.digits: a block of named settings.*found 5"),
        (lambda c: c.update(defaults=3), r"defaults: a block of named settings.*found 3"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, change, message):
    with pytest.raises(CduError, match=message):
        load_experiment(changed(tmp_path, change))


def test_a_number_is_a_number_however_it_is_written(tmp_path):
    text = (repository() / "experiments" / "quick.yaml").read_text()
    for written in ("1e-3", "1E-3", ".1e-2", "1.0e-3", "0.001", "+1e-3"):
        path = tmp_path / "quick.yaml"
        path.write_text(re.sub(r"learning_rate: \S+, weight_decay", f"learning_rate: {written}, weight_decay", text))
        assert load_experiment(str(path)).settings("digits").training.learning_rate == 1e-3
    path.write_text(re.sub(r"(fine-tuning: .*learning_rate: )\[.*?\]", r"\1[1e-4, 3e-4]", text))
    space = load_experiment(str(path)).settings("digits").methods.spaces["fine-tuning"]
    assert space["learning_rate"] == (1e-4, 3e-4)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [0, 1, 2]", "seeds: [0, 1, 1]", r"a seed is listed twice in \[0, 1, 1\]"),
        ("seeds: [0, 1, 2]", "seeds: [0, 1, 2]\nseeds: [5]", "'seeds' is given twice"),
        ("radius: 8", "radius: true", "'radius' is True; yes and no are no numbers"),
        ("dampings: [", "dampings: [yes, ", "'dampings' is .*yes and no are no numbers"),
    ],
)
def test_what_yaml_would_take_for_something_else_is_refused(tmp_path, old, new, message):
    text = (repository() / "experiments" / "quick.yaml").read_text()
    assert old in text
    path = tmp_path / "quick.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(CduError, match=message):
        load_experiment(str(path))


def test_a_batch_runs_the_sections_that_it_names_and_large_networks_only_where_they_are_set_up():
    assert {section for _, _, section in load_experiment("paper-cpu").jobs()} == {"02_training", "11_scale"}
    mnist = {section for _, _, section in load_experiment("mnist").jobs()}
    assert set(OPTIONAL) & mnist == {"12_certified_linear", "13_alternatives"}
    paper = load_experiment("paper-resnet18")
    assert {dataset for dataset, _, section in paper.jobs() if section == "11_scale"} == {"cifar10", "svhn"}
    assert set(paper.jobs(datasets=["svhn"], sections=["11_scale"])) == {
        ("svhn", seed, "11_scale") for seed in paper.seeds
    }


def test_what_no_batch_runs_is_run_where_it_is_named():
    quick = load_experiment("quick")
    assert "04_shadows" not in {section for _, _, section in quick.jobs()}
    assert quick.jobs(sections=["04_shadows"]) == quick.by_hand() == [("digits", 0, "04_shadows")]


def test_only_a_rehearsal_s_hash_knows_of_the_number_of_samples():
    settings = load_experiment("quick").settings("digits")
    small = settings.model_copy(update={"samples": 500})
    assert "samples" not in section_settings(settings, "02_training")
    assert section_settings(small, "02_training")["samples"] == 500
    assert section_hash(settings, "digits", "02_training") != section_hash(small, "digits", "02_training")


def test_a_section_can_have_seeds_of_its_own():
    quick = load_experiment("quick")
    assert [seed for _, seed, section in quick.jobs() if section == "01_theory"] == [0, 1, 2, 3, 4]
    assert [seed for _, seed, section in quick.jobs() if section == "03_unlearning"] == [0, 1, 2]
    assert quick.seeds_of("02_training") == quick.seeds


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(CduError, match=r"no experiment 'slow'.*known are batchnorm, .*mnist, .*quick"):
        load_experiment("slow")
    with pytest.raises(CduError, match=r"experiment 'quick' has no dataset 'mnist'.*is 'mnist'"):
        load_experiment("quick").settings("mnist")


def test_a_sections_hash_depends_on_its_own_settings_only(tmp_path):
    before = load_experiment("quick").settings("digits")
    path = changed(tmp_path, lambda c: c["datasets"]["digits"]["relearn"].update(max_epochs=7))
    after = load_experiment(path).settings("digits")
    same = {name: section_hash(before, "digits", name) == section_hash(after, "digits", name) for name in SECTIONS}
    assert same == {name: name not in {"05_relearn", "11_scale"} for name in SECTIONS}


def test_shadow_models_depend_on_the_block_of_large_networks_where_there_is_one():
    before = load_experiment("batchnorm").settings("digits")
    part = before.scale.model_copy(update={"hessian_samples": 7})
    after = before.model_copy(update={"scale": part})
    same = {name: section_hash(before, "digits", name) == section_hash(after, "digits", name) for name in SECTIONS}
    assert same == {name: name not in {"04_shadows", "11_scale"} for name in SECTIONS}
    assert set(section_settings(before, "04_shadows")) == {*COMMON, *SECTIONS["04_shadows"].blocks}
    small = section_settings(load_experiment("quick").settings("digits"), "04_shadows")
    assert set(small) == {*COMMON, *SECTIONS["04_shadows"].blocks} - {"scale"}
