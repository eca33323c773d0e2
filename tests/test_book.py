"""The built book: every page is there, and needs no network."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cdu.experiments.experiment import load_experiment
from cdu.experiments.repository import repository
from cdu.experiments.sections import BENCHMARKS, BY_HAND, OPTIONAL, SECTIONS
from cdu.report.api_pages import PACKAGE, api_pages

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def built_book(environment, tmp_path_factory):
    """The book, built with warnings as errors from a copy of the tracked files: what a fresh clone holds.

    ``CDU_BOOK`` names one that was built so already.
    """
    if "CDU_BOOK" in os.environ:
        return Path(os.environ["CDU_BOOK"])
    copy = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=repository(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (repository() / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repository() / name, copy / name)
    command = ["jupyter-book", "build", "book/", "-W", "--keep-going"]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return copy / "_build" / "html"


def pages(block):
    """All pages that a block of the contents names; a pattern stands for the generated pages that fit it."""
    if isinstance(block, dict):
        yield from (block[key] for key in ("root", "file") if key in block)
        for value in block.values():
            yield from pages(value)
    elif isinstance(block, list):
        for value in block:
            yield from pages(value)


CONTENTS = yaml.safe_load((repository() / "book" / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [*pages(CONTENTS), *(f"api/{name}" for name in api_pages())]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_built_and_needs_no_network(built_book, page):
    content = (built_book / f"{page}.html").read_text()
    loaded = re.findall(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=\"(https?:)?//[^\"]*\"", content)
    assert loaded == []
    # The reference quotes one, in an example of a refusal.
    assert page.startswith("api/") or "Traceback" not in content


def test_the_book_shows_the_references_of_both_experiments_and_their_runs(built_book):
    unlearning = (built_book / "unlearning.html").read_text()
    for title in ("Results: MNIST", "Results: digits"):
        assert title in unlearning
    for dataset, experiment in (("digits", "quick"), ("mnist", "mnist")):
        for section in SECTIONS:
            first = load_experiment(experiment).seeds_of(section)[0]
            record = repository() / "results" / experiment / dataset / f"seed-{first}" / f"{section}.json"
            alone = section in BENCHMARKS or section in BY_HAND or section in OPTIONAL
            if alone and not record.exists():
                # No batch makes these, so that an experiment may have references without them.
                continue
            assert (built_book / "runs" / f"{dataset}-{experiment}-seed-{first}-{section}.html").exists()


@pytest.mark.skipif(
    "CDU_BOOK" not in os.environ, reason="CDU_BOOK names no book that was built after a batch of 'quick'"
)
def test_every_run_of_the_batch_has_a_page(built_book):
    jobs = load_experiment("quick").jobs()
    missing = [job for job in jobs if not (built_book / "runs" / "{}-quick-seed-{}-{}.html".format(*job)).exists()]
    assert missing == []


def test_the_contents_name_every_page_that_is_there():
    book = repository() / "book"
    there = {
        path.relative_to(book).with_suffix("").as_posix() for path in [*book.glob("*.md"), *book.glob("guide/*.md")]
    }
    assert there == set(pages(CONTENTS))


def test_the_pages_of_the_guide_were_executed(built_book):
    guide = [page for page in PAGES if page.startswith("guide/")]
    assert guide
    for page in guide:
        content = (built_book / f"{page}.html").read_text()
        inputs, outputs = (content.count(f'class="cell_{part}') for part in ("input", "output"))
        assert inputs == 0 or outputs > 0, page


def test_every_module_is_in_the_reference():
    named = {
        line.removeprefix("## ") for page in api_pages().values() for line in page.splitlines() if line[:3] == "## "
    }
    modules = [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")]
    assert named == {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in modules}


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium is installed")
def test_formulas_are_set_in_a_browser_without_the_network(built_book, tmp_path):
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path}", "--virtual-time-budget=8000", "--dump-dom", f"file://{built_book}/theory-bound.html",
    ]  # fmt: skip
    page = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert page.count("<mjx-container") >= 10
