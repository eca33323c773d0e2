"""The sections of the report, the settings that their numbers depend on, and the revisions of these numbers."""

from typing import Any

from cdu.experiments.settings import DatasetSettings
from cdu.settings import digest

#: The section of the report each notebook reproduces, and the blocks of settings its numbers depend on.
SECTIONS: dict[str, tuple[str, ...]] = {
    "01_theory": ("model", "forget", "training", "unlearning", "theory"),
    "02_training": ("model", "forget", "training"),
    "03_unlearning": ("model", "forget", "training", "unlearning"),
    "03_methods": ("model", "forget", "training", "unlearning", "methods"),
    "04_attacks": ("model", "forget", "training", "unlearning", "methods", "attack"),
    "04_shadows": ("model", "forget", "training", "unlearning", "methods", "shadows", "scale"),
    "05_relearn": ("model", "forget", "training", "unlearning", "methods", "relearn"),
    "06_ablations": ("model", "forget", "training", "unlearning", "attack", "ablations"),
    "07_sequential": ("model", "forget", "training", "unlearning", "sequential"),
    "08_efficiency": ("model", "forget", "training", "unlearning", "efficiency"),
    "09_official_code": ("model", "forget", "training", "unlearning", "attack", "official"),
    "10_audit": ("model", "forget", "training", "unlearning", "methods", "audit"),
    "11_scale": ("model", "forget", "training", "unlearning", "attack", "relearn", "scale"),
    "11_bound": ("model", "forget", "training", "unlearning", "bound"),
    "11_sweeps": ("model", "forget", "training", "unlearning", "sweeps"),
}

#: Sections that time programs against each other. No batch runs them: they want the machine to themselves.
BENCHMARKS = ("08_efficiency",)

#: Sections that no batch runs, for the time that they take: each by ``cdu section``.
BY_HAND = ("04_shadows",)

#: Sections that run only where an experiment has a block of settings for them.
OPTIONAL = {"11_scale": "scale", "11_bound": "bound", "11_sweeps": "sweeps"}

#: The revision of every section's numbers: raised by hand when they are meant to change, with a line in CHANGELOG.md
#: that says what moved and by how much. Records of an earlier revision are not current. The canaries tell whether
#: numbers move (:mod:`cdu.verification.canaries`).
REVISIONS: dict[str, int] = {
    **dict.fromkeys(SECTIONS, 1),
    **dict.fromkeys(("03_methods", "04_attacks", "04_shadows", "05_relearn", "10_audit"), 2),
}


def section_settings(settings: DatasetSettings, section: str) -> dict[str, Any]:
    """The blocks that the numbers of one section depend on, as plain values; those that a dataset lacks are absent."""
    blocks = settings.model_dump(mode="json", include={*SECTIONS[section], "samples"})
    return {name: block for name, block in blocks.items() if block is not None}


def section_hash(settings: DatasetSettings, dataset: str, section: str) -> str:
    """Hash of the settings that the numbers of one section depend on, and of nothing else."""
    return digest({"dataset": dataset, "section": section, **section_settings(settings, section)})
