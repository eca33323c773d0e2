"""Progress bars of computations that may take long."""

import threading

from tqdm import tqdm


class Progress(tqdm):  # type: ignore[type-arg]  # tqdm's class takes no parameters when the program runs
    """A bar of tqdm's whose lock is this process's own.

    tqdm's lock is shared with forked processes: one that is killed while it holds the lock would stop all others for
    ever.
    """

    _lock = threading.RLock()
