"""Independent random streams from one seed, told apart by what they are for."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_for(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, derived from the run's seed.

    Args:
        seed: The run's seed.
        purpose: Words and numbers that name the stream, such as ``("batches", epoch)``.

    Returns:
        The first 63 bits of SHA-256 over seed and purpose, so that no two purposes share a stream and
        adding one never shifts another.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose; see :func:`seed_for`."""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's global streams, from which layers such as dropout draw, begin at ``seed`` within the block.

    Afterwards the CPU's is as it was. ``torch.manual_seed`` would do as much, but it imports the compiler once, which
    takes seconds, and notes the call stack whenever there is no GPU.
    """
    stream = torch.default_generator
    before = stream.get_state()
    stream.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    try:
        yield
    finally:
        stream.set_state(before)


def offshoot(source: torch.Generator, *purpose: str | int) -> torch.Generator:
    """Another generator that depends on the state of ``source`` and the purpose, without a draw from it."""
    return generator(int(torch.randint(2**62, (), generator=source.clone_state())), *purpose)
