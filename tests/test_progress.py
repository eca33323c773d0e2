"""Progress bars."""

import os
import signal

from cdu.progress import Progress


def test_a_forked_process_that_is_killed_in_a_bar_stops_no_other():
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        Progress.get_lock().acquire()
        os.write(writing, b"held")
        signal.pause()
    assert os.read(reading, 4) == b"held"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert Progress.get_lock().acquire(False)
    Progress.get_lock().release()
    assert list(Progress(range(3))) == [0, 1, 2]
