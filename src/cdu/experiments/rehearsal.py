"""A rehearsal: an experiment with all its sections, cut to seconds on a CPU. None of its numbers means anything."""

import json
from pathlib import Path
from typing import Any

import yaml

from cdu import storage
from cdu.data import download
from cdu.experiments.experiment import load_experiment, merged
from cdu.experiments.settings import DatasetSettings

#: What a rehearsal changes: every block that a dataset has, cut to seconds on a CPU.
SMALL: dict[str, Any] = {
    "samples": 500,
    "model": {"width": 0.05},
    "forget": {"size": 50},
    "training": {"epochs": 1},
    # The authors' constants of LiSSA take ten thousand steps.
    "unlearning": {"dampings": {"code": {"value": 0.01, "lissa": {"scale": 1000}}}},
    "relearn": {"max_epochs": 1},
    "attack": {"folds": 2, "classifiers": ["logistic regression"]},
    "scale": {
        "hessian_samples": 30, "spectrum_samples": 30, "lanczos_steps": 4, "judged": 50, "recalibrated": 128,
    },
    "bound": {"spectrum_samples": 30, "hessian_samples": 30, "lanczos_steps": 3, "nodes": 2},
    "sweeps": {
        "hessian_samples": 30, "spectrum_samples": 30, "lanczos_steps": 3, "judged": 50, "noise_draws": 1,
        "requests": 2, "epochs": [1],
    },
    "shadows": {"shadows": 8, "pool": 20},
}  # fmt: skip

#: The same for LiSSA's constants of every damping.
SMALL_LISSA = {"depth": 3, "repeats": 2, "batch_size": 10}

#: Points that a rehearsal keeps of every list that is swept.
KEPT_POINTS = 2


def rehearsal(file: str, folder: Path) -> str:
    """Write an experiment with all its sections, cut to seconds on a CPU; returns the path of its file.

    Images are the experiment's own where some are at hand, else digits.

    Args:
        file: The experiment's name or file.
        folder: Where the new file is written.
    """
    experiment = load_experiment(file)
    present = [name for name in experiment.datasets if download.at_hand(name)]
    datasets = {name: _small(experiment.settings(name)) for name in present}
    if not present:
        datasets = {"digits": _small(experiment.settings(next(iter(experiment.datasets))))}
    content = {
        **experiment.model_dump(mode="json", exclude={"datasets", "expected_seconds", "section_seeds"}),
        "name": f"{experiment.name}-rehearsal",
        "description": f"{experiment.description} Cut to a rehearsal: no number means anything.",
        "seeds": experiment.seeds[:1],
        "datasets": datasets,
    }
    path = folder / f"{content['name']}.yaml"
    storage.write_text(path, yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False, allow_unicode=True))
    return str(path)


def _small(settings: DatasetSettings) -> dict[str, Any]:
    """Settings cut to seconds: every list that is swept keeps its first points."""
    content = settings.model_dump(mode="json", exclude_none=True)
    cut = merged(content, {key: value for key, value in SMALL.items() if key in content or key == "samples"})
    for named in cut["unlearning"]["dampings"].values():
        named["lissa"] |= SMALL_LISSA
    for values in cut.get("scale", {}).get("methods", {}).values():
        values |= {key: 1 for key in values if key.endswith("epochs")}
    for block in ("bound", "sweeps"):
        for key, value in cut.get(block, {}).items():
            if isinstance(value, list):
                cut[block][key] = value[:KEPT_POINTS]
    return cut
