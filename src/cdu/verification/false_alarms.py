"""How often ``cdu verify`` raises an alarm although nothing is wrong, counted between seeds of the same code.

    python -m cdu.verification.false_alarms results/mnist/mnist --draws 300
    python -m cdu.verification.false_alarms results/quick/digits runs/quick/digits --draws 300

Another platform can move a trained network as far as another seed does, and no farther. For this worst case a
"reference" of three seeds and a "run" of three others are drawn at random from all seeds, and compared as
`cdu verify --elsewhere` would. Nothing is wrong, so that every alarm is false. Continuous numbers, which no training
moves, and sections with fewer than six seeds are left out.

The draws overlap: ten seeds allow 2,100 pairs of disjoint sets, but hold few that are independent. The share of alarms
among them estimates the rate without bias, with an error that the number of draws does not show.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cdu.errors import CduError
from cdu.experiments.experiment import load_experiment
from cdu.experiments.records import Record, read_record
from cdu.verification import words
from cdu.verification.comparison import MEAN, Batch, Place, Undefined, compare, means, numbers, undefined
from cdu.verification.kinds import Kind, Numbers

#: Seeds on either side.
SIDE = 3


@dataclass(frozen=True)
class Seeds:
    """All records of one dataset, of the sections that every seed has.

    Attributes:
        experiment: Its name.
        dataset: The dataset.
        records: By section and seed.
    """

    experiment: str
    dataset: str
    records: dict[str, dict[int, Record]]
    _numbers: dict[tuple[str, int], Numbers] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return sorted(set.intersection(*(set(found) for found in self.records.values())))

    def numbers(self, section: str, seed: int) -> Numbers:
        """The numbers of one record, read once."""
        if (section, seed) not in self._numbers:
            self._numbers[section, seed] = numbers(self.records[section][seed])
        return self._numbers[section, seed]


def read(folders: Sequence[Path], sections: Sequence[str] = ()) -> Seeds:
    """Records below folders such as ``results/mnist/mnist``, of the sections that have enough seeds.

    Raises:
        CduError: There are none.
    """
    found: dict[str, dict[int, Record]] = {}
    for folder in folders:
        for path in sorted(folder.glob("seed-*/*.json")):
            if not sections or path.stem in sections:
                record = read_record(path)
                found.setdefault(record.section, {})[record.seed] = record
    enough = {section: records for section, records in found.items() if len(records) >= 2 * SIDE}
    if not enough:
        raise CduError(f"no section has {2 * SIDE} seeds under {', '.join(map(str, folders))}")
    first = next(iter(next(iter(enough.values())).values()))
    return Seeds(first.experiment, first.dataset, enough)


def disjoint(seeds: Sequence[int], draws: int, number: int = 0) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Random disjoint sets of :data:`SIDE` seeds, the reference's and the run's, and the others."""
    generator = np.random.default_rng(number)
    for _ in range(draws):
        mixed = [seeds[index] for index in generator.permutation(len(seeds))]
        yield mixed[:SIDE], mixed[SIDE : 2 * SIDE], mixed[2 * SIDE :]


def alarms(
    every: Seeds, reference: Sequence[int], run: Sequence[int], others: Sequence[int] = (), verdicts: bool = True
) -> Counter[str]:
    """The alarms of a comparison of two sets of seeds, by rule, and the changed verdicts that raise none.

    Args:
        every: All records.
        reference: The seeds that stand for the reference.
        run: Those that stand for the run.
        others: Those from which the spread is estimated too.
        verdicts: Whether verdicts are compared.
    """
    samples = load_experiment(every.experiment).settings(every.dataset).forget.size
    found: Counter[str] = Counter()
    batches = {
        (every.dataset, section): Batch(
            runs=[every.numbers(section, seed) for seed in run],
            references=[every.numbers(section, seed) for seed in reference],
            others=[every.numbers(section, seed) for seed in others],
        )
        for section in every.records
    }
    for (_, section), batch in batches.items():
        for row, (ours, theirs) in enumerate(zip(batch.runs, batch.references, strict=True)):
            place = Place(every.experiment, every.dataset, run[row], section)
            pair = (every.records[section][side[row]] for side in (run, reference))
            missing = frozenset[Undefined]().union(*map(undefined, pair))
            for one in compare(place, ours, theirs, batch.references, True, samples, missing):
                if one.excess and one.kind != Kind.CONTINUOUS:
                    lacking = one.reference is None or one.value is None
                    found[f"{'presence' if lacking else one.kind}: {section}, {one.key.metric}"] += 1
    for one in means(every.experiment, batches):
        if one.excess:
            found[f"{MEAN}: {one.place.section}, {one.key.metric}"] += 1
    if verdicts:
        for change in words.changed(*(_records(every, seeds, reference) for seeds in (reference, run))):
            kind = "contradiction" if change.contradicts else CHANGED
            found[f"{kind}: {change.identifier}, {change.reference} → {change.here}"] += 1
    return found


#: Prefix of the rule under which changed verdicts are counted that raise no alarm.
CHANGED = "changed"


def _records(every: Seeds, seeds: Sequence[int], names: Sequence[int]) -> list[Record]:
    """The records of some seeds under the names of others, as if another platform had made them."""
    return [
        records[seed].model_copy(update={"seed": name})
        for records in every.records.values()
        for seed, name in zip(seeds, names, strict=True)
    ]


def rate(every: Seeds, draws: int, spread: bool = False) -> dict[str, object]:
    """In how many of ``draws`` comparisons there is an alarm, and how often by which rule.

    Args:
        every: All records.
        draws: How many.
        spread: Whether the seeds on neither side help to estimate the spread, as those of
            :mod:`cdu.verification.spreads` do.
    """
    rules: Counter[str] = Counter()
    raised = 0
    for reference, run, others in disjoint(every.seeds, draws):
        found = alarms(every, reference, run, others if spread else ())
        raised += any(not rule.startswith(CHANGED) for rule in found)
        rules.update(found.keys())
    return {
        "experiment": every.experiment,
        "dataset": every.dataset,
        "sections": sorted(every.records),
        "seeds": every.seeds,
        "further seeds for the spread": len(every.seeds) - 2 * SIDE if spread else 0,
        "comparisons": draws,
        "alarms": raised,
        "by rule, in how many comparisons": dict(rules.most_common()),
    }


def main() -> None:
    """Print the rate as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="such as results/mnist/mnist")
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--section", action="append", default=[], help="this section alone; may be repeated")
    parser.add_argument("--spread", action="store_true", help="estimate spreads from the seeds on neither side too")
    chosen = parser.parse_args()
    found = rate(read(chosen.folders, chosen.section), chosen.draws, chosen.spread)
    print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
