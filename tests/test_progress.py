"""Progress bars."""

import os
import signal

from cdu.progress import Progress


def test_a_forked_process_that_is_killed_in_a_bar_stops_no_other():
    with Progress.get_lock():
        child = os.fork()
        if child == 0:
            Progress.get_lock().acquire()
            signal.pause()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert list(Progress(range(3), disable=True)) == [0, 1, 2]
    assert Progress.get_lock() is not Progress.__base__.get_lock()
