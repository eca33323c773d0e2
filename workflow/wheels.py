"""Collect the wheels that another machine lacks, for running the paper's networks there without a network.

    python workflow/wheels.py HAVE FOLDER [PYTHON]

HAVE is a file with the names of the packages that are there, one a line, as `pip freeze` or `pip list` prints them.
PYTHON is that machine's version, such as 3.12. What is needed is the closure of this project's own requirements and of
those of its extra ``report``, without those of the book, at the versions installed here. It must run in the project's
environment.
"""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: What builds the book: it is built at home.
BOOK = {"jupyter-book", "sphinx-mathjax-offline"}

#: Linux on x86-64, by the oldest C library that wheels are made for.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28, 31, 34)] + ["manylinux2014_x86_64"]


def requirements(name: str) -> list[str]:
    """What a package needs; nothing is known of one that only the other machine's Python needs."""
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []


def locked(name: str) -> str:
    """A package at the version installed here, or else at the locked one."""
    try:
        return f"{name}=={version(name)}"
    except PackageNotFoundError:
        for line in Path("requirements.lock").read_text(encoding="utf-8").splitlines():
            if canonicalize_name(line.split("==")[0]) == name:
                return line.split(";")[0].strip()
    return name


def lacking(present: set[str], python: str) -> list[str]:
    """Names of all packages that the project needs, without those that are present and what only they need."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    found: dict[str, None] = {}
    waiting = ["cdu"]
    while waiting:
        package = waiting.pop()
        extra = "report" if package == "cdu" else ""
        for text in requirements(package):
            needed = Requirement(text)
            name = canonicalize_name(needed.name)
            wanted = needed.marker is None or needed.marker.evaluate({**environment, "extra": extra})
            if wanted and name not in present | BOOK and name not in found:
                found[name] = None
                waiting.append(name)
    return sorted(found)


def main(have: str, folder: str, python: str = "3.12") -> None:
    """Download the wheels and say how much they are."""
    if not Path(have).is_file():
        sys.exit(f"HAVE = '{have}' is no file; give one with what 'pip freeze' prints on the other machine")
    for old in Path(folder).glob("*.whl"):
        old.unlink()
    lines = Path(have).read_text(encoding="utf-8").splitlines()
    present = {canonicalize_name(match[0]) for line in lines if (match := re.match(r"[A-Za-z0-9._-]+", line.strip()))}
    options = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for platform in PLATFORMS:
        options += ["--platform", platform]
    names = lacking(present, python)
    for name in names:
        pinned = locked(name)
        # Where there is no wheel, one is built, which fits there if it holds Python alone.
        if not pip("download", *options, "--dest", folder, pinned) and not pip("wheel", "--wheel-dir", folder, pinned):
            sys.exit(f"{pinned}: no wheel can be had or built; ask for another version in requirements.lock")
    wheels = list(Path(folder).glob("*.whl"))
    bound = [path.name for path in wheels if "-any" not in path.name and "manylinux" not in path.name]
    if bound:
        sys.exit(f"{bound[0]} was built for this machine and may not fit the other; take another version")
    size = sum(path.stat().st_size for path in wheels)
    print(f"{len(names)} packages, {size / 2**20:.1f} MiB, in {folder}: {', '.join(names)}")


def pip(command: str, *arguments: str) -> bool:
    """Run pip without dependencies; returns whether it succeeded."""
    line = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--disable-pip-version-check", *arguments]
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


main(*sys.argv[1:])
