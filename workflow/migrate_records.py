"""Bring records of schema 1 to schema 2: a revision of the numbers instead of a hash of the code's text.

    python workflow/migrate_records.py

It migrates the committed records, under ``results``; local runs are made again. Numbers, settings and all other fields
stay as they are. The hash of the lock is that of the record's commit, as git tells it; empty where git does not know
the commit. Records of schema 2 are left alone.
"""

import json
import subprocess
from functools import cache

from cdu.experiments.records import Record, write_record
from cdu.experiments.repository import repository
from cdu.settings import digest

#: The revision that every section had when revisions began.
FIRST = 1


@cache
def lock_hash_at(commit: str) -> str:
    """Hash of ``requirements.lock`` at a commit; empty where git knows no such file."""
    command = ["git", "-C", str(repository()), "show", f"{commit}:requirements.lock"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return digest(found.stdout) if found.returncode == 0 else ""


def migrated(content: dict) -> Record:
    """A record of schema 2 from the content of one of schema 1."""
    dropped = {"schema_version", "code_hash", "verdicts_hash"}
    kept = {name: value for name, value in content.items() if name not in dropped}
    return Record(schema_version=2, revision=FIRST, lock_hash=lock_hash_at(content["commit"]), **kept)


def main() -> None:
    """Migrate every committed record."""
    count = 0
    for path in sorted((repository() / "results").glob("*/*/seed-*/*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("schema_version") == 1:
            write_record(migrated(content), path)
            count += 1
    print(f"{count} records are of schema 2 now")


if __name__ == "__main__":
    main()
