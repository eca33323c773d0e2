"""Timings: programs in turns, the machine's matrix rate, floating-point operations, peak memory."""

import ctypes
import gc
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from cdu.progress import Progress

Program = Callable[[], Any]

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """Wall times of one program.

    Attributes:
        seconds: The median.
        low: The shortest.
        high: The longest.
        result: What the program returned the last time.
    """

    seconds: float
    low: float
    high: float
    result: Any

    @property
    def metrics(self) -> dict[str, float]:
        """Median, shortest and longest by the names that they have in records."""
        return {"seconds": self.seconds, "seconds_low": self.low, "seconds_high": self.high}


def in_turns(
    programs: Mapping[Name, Program], repetitions: int, device: torch.device, warm: bool = True
) -> dict[Name, Timing]:
    """Time programs one after another, round by round, so that a slow minute of the machine hits all of them.

    Where a result has its own ``seconds``, as our solvers' results do, these count: they leave out the check of the
    residual that follows, which no peer makes.

    Args:
        programs: What to time, by name.
        repetitions: Rounds.
        device: What to wait for before the clock is read.
        warm: Run each once before, untimed.
    """
    times: dict[Name, list[float]] = {name: [] for name in programs}
    results: dict[Name, Any] = {}
    turns = [name for _ in range(repetitions + warm) for name in programs]
    for turn, name in enumerate(Progress(turns, desc="timing", leave=False)):
        if turn % len(programs) == 0:
            # Once a round: it takes a second where many graphs have been made.
            gc.collect()
        _wait(device)
        start = time.perf_counter()
        results[name] = programs[name]()
        _wait(device)
        if not warm or turn >= len(programs):
            elapsed = time.perf_counter() - start
            times[name].append(getattr(results[name], "seconds", elapsed))
    return {name: Timing(median(seconds), min(seconds), max(seconds), results[name]) for name, seconds in times.items()}


def matrix_rate(device: torch.device, size: int = 2048, repetitions: int = 7) -> float:
    """Floating-point operations a second of a float32 matrix product, the fastest of several."""
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    return 2 * size**3 / in_turns({"product": lambda: left @ right}, repetitions, device)["product"].low


def operations(program: Program) -> int:
    """Floating-point operations of a program's matrix products and convolutions, a multiply-add counted as two."""
    with FlopCounterMode(display=False) as counter:
        program()
    return int(counter.get_total_flops())


def single_run(program: Program, device: torch.device) -> tuple[float, int | None]:
    """Seconds of one run, and the bytes that it takes at its peak beyond what was taken before.

    The bytes are None where the system does not tell.
    """
    gc.collect()
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        seconds = _seconds(program, device)
        return seconds, torch.cuda.max_memory_allocated(device) - before
    try:
        # Memory that was freed but not given back would hide what the program takes.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return _seconds(program, device), None
    before = _status("VmRSS")
    seconds = _seconds(program, device)
    return seconds, max(0, _status("VmHWM") - before)


def _seconds(program: Program, device: torch.device) -> float:
    start = time.perf_counter()
    program()
    _wait(device)
    return time.perf_counter() - start


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
