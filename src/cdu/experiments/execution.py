"""Running a section's notebook: through papermill in a kernel of this environment, or cell by cell in this process."""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from cdu.clock import OutOfTime
from cdu.errors import CduError
from cdu.experiments.repository import repository
from cdu.settings import digest

#: The tag of the cell that parameters are injected after.
PARAMETERS_TAG = "parameters"


def read_notebook(section: str) -> Any:
    """A section's Jupytext script as a notebook, with a kernel that names its language.

    Raises:
        CduError: The script is absent.
    """
    import jupytext

    script = repository() / "notebooks" / f"{section}.py"
    if not script.is_file():
        raise CduError(f"{script} is absent; restore it from git")
    content = jupytext.read(script)
    content.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    content.metadata.pop("jupytext", None)
    return content


def write_notebook(section: str, target: Path, kernel: str = "python3") -> None:
    """Convert a Jupytext script to a notebook for a kernel of some name."""
    import jupytext

    content = read_notebook(section)
    content.metadata["kernelspec"]["name"] = kernel
    jupytext.write(content, target)


def install_kernel() -> str:
    """Register this Python as a kernel of a name that no other has; returns the name."""
    from ipykernel.kernelspec import install

    install(kernel_name="cdu", display_name="Python 3 (cdu)", prefix=sys.prefix)
    return "cdu"


class Kernel:
    """A process of this very Python in which notebooks run one after another, each in an empty namespace.

    Kernels and startup files of the user's machine make no difference. What a notebook imports is there at once for the
    next. Used as a context manager, it ends its process.
    """

    def __init__(self) -> None:
        self._profile = tempfile.mkdtemp(prefix="cdu-ipython-")
        self._manager: Any = None

    def __enter__(self) -> "Kernel":
        """Nothing is started before it is needed."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the process."""
        self.stop()
        shutil.rmtree(self._profile, ignore_errors=True)

    def options(self) -> dict[str, Any]:
        """What papermill is given to run a notebook here, the namespace emptied."""
        if self._manager is None:
            self._manager = _this_python()
        else:
            _emptied(self._manager)
        arguments = [
            "--log-level=50",
            f"--IPKernelApp.ipython_dir={self._profile}",
            "--IPKernelApp.exec_PYTHONSTARTUP=False",
        ]
        # On a loaded machine the last output of a cell can take longer than the four seconds that are usual.
        return {"km": self._manager, "extra_arguments": arguments, "iopub_timeout": 60}

    def stop(self) -> None:
        """End the process; the next notebook starts another."""
        from jupyter_core.utils import run_sync

        if self._manager is not None and self._manager.has_kernel:
            run_sync(self._manager.shutdown_kernel)(now=True)
        self._manager = None


def execute(section: str, executed: Path, parameters: dict[str, object], kernel: Kernel) -> None:
    """Run a section through papermill.

    Args:
        section: The notebook's name.
        executed: Where the executed copy is written; it stays when a cell fails.
        parameters: What papermill injects.
        kernel: Where it runs.

    Raises:
        CduError: A cell failed, or the kernel died.
        OutOfTime: The batch's time was up.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    source = executed.with_suffix(".source.ipynb")
    write_notebook(section, source)
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    bar, folder = sys.stderr.isatty(), str(repository())
    try:
        papermill.execute_notebook(
            str(source), str(executed), parameters, progress_bar=bar, cwd=folder, **kernel.options()
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == OutOfTime.__name__:
            raise OutOfTime(error.evalue) from None
        raise CduError(
            f"{section} failed for {parameters['dataset']}, seed {parameters['seed']}: {error.ename}: {error.evalue} "
            f"(the executed copy with the traceback is {executed})"
        ) from error
    except DeadKernelError as error:
        kernel.stop()
        raise CduError(
            f"{section} failed for {parameters['dataset']}, seed {parameters['seed']}: the notebook's process died, "
            "most often for lack of memory; run fewer jobs at once (CORES=1) or a smaller experiment"
        ) from error
    finally:
        source.unlink(missing_ok=True)


def _this_python() -> Any:
    """A kernel manager that starts this Python, whatever kernels there are under its name."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=command, language="python", display_name="Python 3")

    return ThisPython()


def _emptied(manager: Any) -> None:
    """Forget the names and the history of the notebook before; modules stay imported."""
    from jupyter_core.utils import run_sync

    async def reset() -> None:
        client = manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=60)
            await client.execute_interactive("get_ipython().reset(new_session=True)", silent=True, timeout=60)
        finally:
            client.stop_channels()

    run_sync(reset)()


def execute_here(section: str, parameters: dict[str, object]) -> None:
    """Run a section's cells one after another in this process, without a kernel and without an executed copy.

    Args:
        section: The notebook's name.
        parameters: Take the place of the notebook's own after the cell that sets them.
    """
    namespace: dict[str, object] = {"__name__": "__main__"}
    for cell in read_notebook(section).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, f"notebooks/{section}.py", "exec"), namespace)
        if PARAMETERS_TAG in cell.metadata.get("tags", []):
            namespace.update(parameters)


def cells_hash(section: str) -> str:
    """Hash of the code cells that a section's script has now. Text, and values of parameters, make no difference."""
    cells = [cell for cell in read_notebook(section).cells if cell.cell_type == "code"]
    return digest([cell.source for cell in cells if PARAMETERS_TAG not in cell.metadata.get("tags", [])])
