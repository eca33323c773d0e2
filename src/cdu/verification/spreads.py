"""The values of further seeds, kept beside the references to estimate the spread between seeds.

    cdu section 04_attacks --seed 3 --output runs/spread    # and the other sections, and seeds
    python -m cdu.verification.spreads runs/spread/quick/digits            → results/spread/quick/digits.csv

Three seeds tell little about the spread of one number, and a test with few degrees of freedom misses large errors.
Nothing is compared with these values: they need not be made again when a number changes, only when the spread between
seeds does.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from cdu.errors import CduError
from cdu.experiments.records import read_record
from cdu.experiments.repository import repository
from cdu.verification.comparison import numbers
from cdu.verification.kinds import Key, Kind, Numbers, kind_of

#: The columns before those of the seeds.
COLUMNS = ("section", *Key._fields)


def spread_path(results: Path, experiment: str, dataset: str) -> Path:
    """Where the further seeds of a dataset are kept below ``results``."""
    return results / "spread" / experiment / f"{dataset}.csv"


def read_spread(results: Path, experiment: str, dataset: str) -> dict[str, list[Numbers]]:
    """The numbers of every further seed, by section; empty where there are none."""
    path = spread_path(results, experiment, dataset)
    if not path.exists():
        return {}
    found: dict[str, list[dict[Key, float | None]]] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream)
        width = len(next(rows)) - len(COLUMNS)
        for section, metric, method, split, axis, point, *values in rows:
            key = Key(metric, method, split, axis, float(point) if point else None)
            seeds = found.setdefault(section, [{} for _ in range(width)])
            for numbers_of, value in zip(seeds, values, strict=True):
                if value:
                    numbers_of[key] = float(value)
    return {section: list(seeds) for section, seeds in found.items()}


def write_spread(seeds: Mapping[str, Sequence[Numbers]], names: Sequence[int], path: Path) -> None:
    """Write the chaotic numbers of further seeds to four digits, one number a row and one seed a column.

    Args:
        seeds: By section the numbers of every seed, as many as ``names``.
        names: The seeds.
        path: Where to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow([*COLUMNS, *(f"seed {name}" for name in names)])
        for section, found in sorted(seeds.items()):
            keys = dict.fromkeys(key for one in found for key in one if kind_of(section, key, one) == Kind.CHAOTIC)
            for key in keys:
                values = ["" if (value := one.get(key)) is None else f"{value:.4g}" for one in found]
                point = "" if key.point is None else repr(key.point)
                rows.writerow([section, *key[:-1], point, *values])


def main() -> None:
    """Write the spread of the runs below a folder such as ``runs/spread/quick/digits``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    records = [read_record(path) for path in sorted(folder.glob("seed-*/*.json"))]
    sections = {record.section for record in records}
    complete = [
        seed
        for seed in sorted({one.seed for one in records})
        if sum(one.seed == seed for one in records) == len(sections)
    ]
    if not complete:
        raise CduError(f"no seed below {folder} has all of the sections {', '.join(sorted(sections))}")
    chosen = sorted((one for one in records if one.seed in complete), key=lambda one: one.seed)
    seeds = {name: [numbers(one) for one in chosen if one.section == name] for name in sections}
    path = spread_path(repository() / "results", chosen[0].experiment, chosen[0].dataset)
    write_spread(seeds, complete, path)
    print(f"seeds {', '.join(map(str, complete))} of {len(sections)} sections: {path}")


if __name__ == "__main__":
    main()
