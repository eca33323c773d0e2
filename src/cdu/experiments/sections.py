"""The sections of the report, the settings that their numbers depend on, and the revisions of these numbers."""

from dataclasses import dataclass
from typing import Any

from cdu.experiments.settings import DatasetSettings
from cdu.settings import digest

#: Blocks of settings that every section's numbers depend on.
COMMON = ("model", "forget", "training")


@dataclass(frozen=True)
class Section:
    """One section of the report, which one notebook of the same name reproduces.

    Attributes:
        blocks: The blocks of settings that its numbers depend on, beside :data:`COMMON`.
        revision: Revision of its numbers: raised by hand when they are meant to change, with a line in CHANGELOG.md
            that says what moved and by how much. Records of an earlier revision are not current. The canaries tell
            whether numbers move (:mod:`cdu.verification.canaries`).
        needs: The block of settings without which it is not run; empty where it always is.
        timed: Whether it times programs against each other. No batch runs it: it wants the machine to itself.
        by_hand: Whether no batch runs it, for the time that it takes; ``cdu section`` does.
        stands_for: Sections that are too expensive for large networks, and whose numbers it has under the same names.
            It stands for them where they were not run.
        loads: Sections whose models, or unlearned models, it loads where those are run for the same seed.
        priority: A batch starts first what others wait for, then what takes longest, so that all cores are busy to the
            end.
    """

    blocks: tuple[str, ...] = ()
    revision: int = 1
    needs: str = ""
    timed: bool = False
    by_hand: bool = False
    stands_for: tuple[str, ...] = ()
    loads: tuple[str, ...] = ("02_training",)
    priority: int = 0


_UNLEARNED = ("02_training", "03_methods")

#: Every section by name.
SECTIONS = {
    "01_theory": Section(("unlearning", "theory"), priority=1),
    "02_training": Section(loads=(), priority=4),
    "03_unlearning": Section(("unlearning",)),
    "03_methods": Section(("unlearning", "methods"), revision=2, priority=3),
    "04_attacks": Section(("unlearning", "methods", "attack"), revision=2, loads=_UNLEARNED, priority=1),
    "04_shadows": Section(("unlearning", "methods", "shadows", "scale"), revision=2, by_hand=True),
    "05_relearn": Section(("unlearning", "methods", "relearn"), revision=2, loads=_UNLEARNED),
    "06_ablations": Section(("unlearning", "attack", "ablations"), priority=1),
    "07_sequential": Section(("unlearning", "sequential"), priority=1),
    "08_efficiency": Section(("unlearning", "efficiency"), timed=True),
    "09_official_code": Section(("unlearning", "attack", "official")),
    "10_audit": Section(("unlearning", "methods", "audit"), revision=2, loads=_UNLEARNED, priority=2),
    "11_scale": Section(
        ("unlearning", "attack", "relearn", "scale"),
        needs="scale",
        stands_for=("03_unlearning", "04_attacks", "05_relearn"),
    ),
    "11_bound": Section(
        ("unlearning", "bound"), needs="bound", stands_for=("01_theory", "03_unlearning", "08_efficiency")
    ),
    "11_sweeps": Section(("unlearning", "sweeps"), needs="sweeps", stands_for=("06_ablations", "07_sequential")),
    "12_certified_linear": Section(("unlearning", "linear"), needs="linear", loads=(), priority=2),
    "13_alternatives": Section(("unlearning", "linear", "alternatives"), needs="alternatives", priority=2),
}

#: Sections that no batch runs, since they time programs; and those that take too long.
BENCHMARKS = tuple(name for name, section in SECTIONS.items() if section.timed)
BY_HAND = tuple(name for name, section in SECTIONS.items() if section.by_hand)

#: Sections that run only where an experiment has a block of settings for them, with its name.
OPTIONAL = {name: section.needs for name, section in SECTIONS.items() if section.needs}

#: The revision of every section's numbers.
REVISIONS = {name: section.revision for name, section in SECTIONS.items()}

#: The sections that stand for one that was not run; where several have a number, the first one's counts.
STAND_INS = {
    name: others
    for name in SECTIONS
    if (others := tuple(other for other, section in SECTIONS.items() if name in section.stands_for))
}


def section_settings(settings: DatasetSettings, section: str) -> dict[str, Any]:
    """The blocks that the numbers of one section depend on, as plain values; those that a dataset lacks are absent."""
    blocks = settings.model_dump(mode="json", include={*COMMON, *SECTIONS[section].blocks, "samples"})
    return {name: block for name, block in blocks.items() if block is not None}


def section_hash(settings: DatasetSettings, dataset: str, section: str) -> str:
    """Hash of the settings that the numbers of one section depend on, and of nothing else."""
    return digest({"dataset": dataset, "section": section, **section_settings(settings, section)})
