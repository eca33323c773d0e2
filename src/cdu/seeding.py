"""Independent random streams from one seed, told apart by what they are for."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

#: Where the words of the Mersenne Twister lie in a generator's state, each in eight bytes, and how many there are.
OFFSET, WORDS = 24, 624


def seed_for(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, derived from the run's seed.

    Args:
        seed: The run's seed.
        purpose: Words and numbers that name the stream, such as ``("batches", epoch)``.

    Returns:
        The first 63 bits of SHA-256 over seed and purpose, so that no two purposes share a stream and
        adding one never shifts another.

    Example:
        >>> seed_for(0, "batches", 1) == seed_for(0, "batches", 1)
        True
        >>> seed_for(0, "batches", 1) == seed_for(0, "batches", 2)
        False
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose; see :func:`seed_for`. PyTorch uses 32 bits of a seed."""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))


def secret_generator(secret: bytes, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose whose whole state comes from a secret.

    A seed would not do: PyTorch uses 32 bits of it, so that whoever has a release could try them all. Here the 624
    words of the Mersenne Twister are SHAKE-256 of the secret and the purpose.

    Args:
        secret: Bytes that nobody knows, such as ``secrets.token_bytes(32)``.
        purpose: As for :func:`seed_for`.
    """
    content = b"/".join([secret.hex().encode(), *(str(part).encode() for part in purpose)])
    words = np.frombuffer(hashlib.shake_256(content).digest(4 * WORDS), dtype="<u4")
    found = torch.Generator().manual_seed(0)
    state = found.get_state()
    state.numpy()[OFFSET : OFFSET + 8 * WORDS].view("<u8")[:] = words
    found.set_state(state)
    return found


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


def forked(source: torch.Generator, *purpose: str | int) -> torch.Generator:
    """Another generator that depends on the state of ``source`` and the purpose, without a draw from it."""
    return generator(int(torch.randint(2**62, (), generator=source.clone_state())), *purpose)
