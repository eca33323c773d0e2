"""Execute the pages of the guide when the book is built: in this very Python, and anew when the library has changed."""

import hashlib
import json
import os
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from jupyter_cache import get_cache

import cdu

#: The pages that are executed; the others are text, or notebooks that papermill ran.
FOLDER = "guide/"

KERNEL = "cdu-guide"

#: Packages whose versions can change what a page computes.
COMPUTING = ("numpy", "scikit-learn", "scipy", "torch")


def code_hash():
    """Hash of what the pages compute with. jupyter-cache looks at the text of their cells alone."""
    package = Path(cdu.__file__).parent
    modules = sorted(package.rglob("*.py"))
    parts = [f"{path.relative_to(package)} {path.read_text(encoding='utf-8')}" for path in modules]
    parts += [platform.python_version(), *(f"{name} {version(name)}" for name in COMPUTING)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def drop_old_outputs(app):
    """Empty the cache of executed pages where they were executed with other code."""
    stamp = _stamp(app)
    code = code_hash()
    if stamp.exists() and stamp.read_text() == code:
        return
    shutil.rmtree(stamp.parent, ignore_errors=True)
    stamp.parent.mkdir(parents=True)
    # Begun here: pages are read in several processes, each of which would begin it.
    _ = get_cache(stamp.parent).db
    stamp.write_text(code)


def read_anew_with_the_code(app, docname, content):
    """Let a page of the guide depend on the stamp, as on an included file: it is read again when that is written."""
    if docname.startswith(FOLDER):
        app.env.note_dependency(str(_stamp(app)))


def run_in_this_python(app, config):
    """Give pages a kernel of this Python, whatever kernels and startup files the user has."""
    folder = Path(app.outdir).parent / ".kernel"
    specification, profile = folder / "kernels" / KERNEL / "kernel.json", folder / "ipython"
    for needed in (specification.parent, profile):
        needed.mkdir(parents=True, exist_ok=True)
    specification.write_text(json.dumps(kernel(profile)))
    # The first folder in which Jupyter looks for kernels.
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("JUPYTER_PATH")]))
    config.nb_kernel_rgx_aliases = {"python3": KERNEL}


def kernel(profile):
    """What a kernel.json holds: how this Python is started, without the user's profile, on one thread."""
    first = Path(__file__).with_name("guide_kernel.py")
    return {
        "argv": [
            sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=50",
            f"--IPKernelApp.ipython_dir={profile}", "--IPKernelApp.exec_PYTHONSTARTUP=False",
            f"--IPKernelApp.exec_files={first}",
        ],
        "env": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
        "language": "python",
        "display_name": "Python 3",
    }  # fmt: skip


def _stamp(app):
    return Path(app.env.mystnb_config.execution_cache_path) / "code"


def setup(app):
    app.connect("config-inited", run_in_this_python)
    # After myst-nb, which says where the cache is (priority 500).
    app.connect("builder-inited", drop_old_outputs, priority=600)
    app.connect("source-read", read_anew_with_the_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
