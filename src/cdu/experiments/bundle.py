"""The small folder of results that ``cdu paper`` leaves, and how to go on from it on another machine."""

import io
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from cdu import storage
from cdu.errors import CduError
from cdu.experiments.paper import Stage, summary
from cdu.models.training import AGAIN

#: Limits of a folder of results: the number of files, the bytes of each, and the bytes of all together.
FILES, FILE_BYTES, ALL_BYTES = 8, 16 * 2**20, 64 * 2**20


def pack(
    found: Sequence[Stage], output: Path, folder: Path, absent: Sequence[str], verdicts: Sequence[str] = ()
) -> list[Path]:
    """Write what was reached into one folder: a summary, records, executed notebooks, kept points, and models.

    Models' weights come last, the oldest first, as far as they fit; the moments of Adam are left out.

    Args:
        found: The stages.
        output: Folder of all runs.
        folder: Where to; at most :data:`FILES` files of at most :data:`FILE_BYTES`.
        absent: What was not at hand, in words.
        verdicts: The verdicts on the runs, one line for each set-up.

    Returns:
        The files.

    Raises:
        CduError: A file is too large.
    """
    folder.mkdir(parents=True, exist_ok=True)
    experiments = {stage.experiment.name for stage in found}
    runs = [path for name in sorted(experiments) for path in sorted((output / name).glob("*/seed-*/*"))]
    kept = sorted((output / "checkpoints").rglob("*.json"))
    parts = {
        "records": [path for path in runs if path.suffix == ".json" or ".settings-" in path.name],
        "notebooks": [path for path in runs if path.suffix == ".ipynb"],
        "points": kept,
    }
    written = [folder / "summary.md"]
    storage.write_text(written[0], summary(found, output, absent, verdicts))
    for name, paths in parts.items():
        written.append(_archive(folder / f"{name}.tar.gz", paths, output))
    left = ALL_BYTES - sum(path.stat().st_size for path in written)
    written += _models(output, folder, FILES - len(written), left)
    for path in written:
        if path.stat().st_size > FILE_BYTES:
            raise CduError(
                f"{path} has {path.stat().st_size:,} bytes, more than the {FILE_BYTES:,} that a file of results may "
                f"have; take its contents from {output} instead"
            )
    return written


def _archive(path: Path, files: Iterable[Path], root: Path) -> Path:
    def save(temporary: Path) -> None:
        with tarfile.open(temporary, "w:gz") as archive:
            for file in files:
                archive.add(file, file.relative_to(root))

    storage.write(path, save)
    return path


def _models(output: Path, folder: Path, files: int, room: int) -> list[Path]:
    """Archives of trained models, the oldest first, as many as fit into so many files and bytes."""
    largest = FILE_BYTES - 2 * tarfile.RECORDSIZE
    groups: list[list[tuple[str, bytes]]] = []
    used = largest
    for path in sorted(output.glob("checkpoints/*/*.safetensors"), key=lambda one: one.stat().st_mtime):
        if ".partial." in path.name:
            continue
        content = _without_moments(path)
        size = len(content) + 2 * tarfile.BLOCKSIZE
        if size > largest:
            continue
        if used + size > largest:
            if len(groups) == files:
                break
            groups.append([])
            room, used = room - 2 * tarfile.RECORDSIZE, 0
        if size > room:
            break
        groups[-1].append((str(path.relative_to(output)), content))
        room, used = room - size, used + size
    groups = [group for group in groups if group]
    return [_bytes_archive(folder / f"models-{number}.tar", group) for number, group in enumerate(groups, start=1)]


def _without_moments(path: Path) -> bytes:
    """A trained model as it is kept, without the moments of Adam, which only a training under way needs."""
    tensors, history = storage.read_tensors(path, AGAIN)
    return storage.tensor_bytes({name: one for name, one in tensors.items() if not name.startswith("adam.")}, history)


def _bytes_archive(path: Path, contents: Iterable[tuple[str, bytes]]) -> Path:
    def save(temporary: Path) -> None:
        with tarfile.open(temporary, "w") as archive:
            for name, content in contents:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))

    storage.write(path, save)
    return path


def _lay_out(archive: tarfile.TarFile, member: tarfile.TarInfo, output: Path) -> None:
    """Write one file of an archive below a folder, unless it is there already."""
    target = (output / member.name).resolve()
    content = archive.extractfile(member) if member.isfile() else None
    if content is None or not target.is_relative_to(output.resolve()):
        raise tarfile.TarError(f"'{member.name}' is no plain file below the folder of runs")
    if not target.exists():
        storage.write(target, lambda temporary: temporary.write_bytes(content.read()))


def unpack(folder: Path, output: Path) -> None:
    """Lay out what :func:`pack` left, so that the runs go on from there; what is there already stays.

    Args:
        folder: The folder of results.
        output: Folder of all runs.

    Raises:
        CduError: The folder holds no archives, or a damaged one.
    """
    archives = sorted(folder.glob("*.tar*"))
    if not archives:
        raise CduError(f"{folder} holds no archives; give the folder that an earlier 'cdu paper' left")
    for path in archives:
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    _lay_out(archive, member, output)
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise CduError(f"{path} cannot be unpacked ({error}); take the archives from {folder} again") from error
