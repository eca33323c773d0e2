"""The guide's pages run when the book is built: in this Python, offline, once for each state of the library."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from cdu.experiments.repository import repository

# Each builds a small book, with a kernel for every page.
pytestmark = pytest.mark.slow

FRONT = """---
file_format: mystnb
kernelspec:
  name: python3
  display_name: Python 3
  language: python
---

# Page

"""


@pytest.fixture
def book(tmp_path, environment):
    """A book with the execution settings of the real one; ``build(code)`` builds it with a page of this code."""
    configured = yaml.safe_load((repository() / "_config.yml").read_text(encoding="utf-8"))
    settings = {
        "execute": configured["execute"],
        "sphinx": {
            "extra_extensions": ["cdu_guide"],
            "local_extensions": {"cdu_guide": "book/_ext"},
            "config": {"nb_output_stderr": configured["sphinx"]["config"]["nb_output_stderr"]},
        },
    }
    shutil.copytree(repository() / "book" / "_ext", tmp_path / "book" / "_ext")
    (tmp_path / "book" / "guide").mkdir()
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(settings))
    contents = {"format": "jb-book", "root": "index", "chapters": [{"file": "guide/page"}]}
    (tmp_path / "book" / "_toc.yml").write_text(yaml.safe_dump(contents))
    (tmp_path / "book" / "index.md").write_text("# Index\n")

    def build(code, **variables):
        page = tmp_path / "book" / "guide" / "page.md"
        text = f"{FRONT}```{{code-cell}} python\n{code}\n```\n"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)
        command = ["jupyter-book", "build", "book/", "-W"]
        return subprocess.run(
            command, cwd=tmp_path, env={**environment, **variables}, capture_output=True, text=True, check=False
        )

    return build


def shown(folder):
    return (folder / "_build" / "html" / "guide" / "page.html").read_text()


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def test_a_page_runs_in_this_python_whatever_the_user_has_installed(book, tmp_path):
    theirs = tmp_path / "theirs"
    for name in ("python3", "cdu-guide"):
        (theirs / "kernels" / name).mkdir(parents=True)
        broken = {"argv": ["false"], "language": "python", "display_name": "Python 3"}
        (theirs / "kernels" / name / "kernel.json").write_text(json.dumps(broken))
    startup = theirs / "profile_default" / "startup" / "first.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("open = None")
    code = (
        "import sys\n"
        "assert not {'_limit', 'signal', 'startup'} & set(dir())\n"
        "open('made', 'w').write('here')\n"
        "print('ran in', sys.executable)\n"
        "print('a progress bar', file=sys.stderr)"
    )
    variables = {"JUPYTER_PATH": str(theirs), "JUPYTER_DATA_DIR": str(theirs), "IPYTHONDIR": str(theirs)}
    done = book(code, **variables, PYTHONSTARTUP=str(startup))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"ran in {sys.executable}" in shown(tmp_path)
    assert "a progress bar\n" not in shown(tmp_path)
    assert files(tmp_path / "book" / "guide") == {(tmp_path / "page.md").relative_to(tmp_path)}
    assert not (tmp_path / "book" / "made").exists()


def test_a_page_runs_again_when_the_library_has_changed_and_only_then(book, tmp_path):
    copy = tmp_path / "library"
    shutil.copytree(repository() / "src" / "cdu", copy / "cdu", ignore=shutil.ignore_patterns("__pycache__"))
    code = "import secrets\nprint('drawn', secrets.token_hex(8))"
    drawn = []
    for change in ("", "", "\n# Another line.\n"):
        with (copy / "cdu" / "checks.py").open("a") as module:
            module.write(change)
        done = book(code, PYTHONPATH=str(copy))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        drawn.append(shown(tmp_path).split("drawn ")[1][:16])
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print(1 / 0)", "ZeroDivisionError"),
        ("import socket\nsocket.create_connection(('example.org', 80))", "pages of the guide run without a network"),
    ],
)
def test_a_page_that_fails_or_asks_for_the_network_fails_the_build(book, code, words):
    done = book(code)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr


def test_a_page_has_two_minutes():
    first = repository() / "book" / "_ext" / "guide_kernel.py"
    code = f"import signal\nexec(open({os.fspath(first)!r}).read())\nprint(signal.alarm(0))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "120\n"
