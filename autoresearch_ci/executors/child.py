"""A process that we started, to be waited for together with the CPU time that it took, and started on cores of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

from autoresearch_ci.errors import MachineError

_FIRST_WAIT_S: Final = 0.0005  # as `subprocess` waits
_LONGEST_WAIT_S: Final = 0.05


class Child:
    """The first process of a run. `returncode`: None while it is there. `cpu_s`: of it and of all its descendants that it, or
    they, have waited for, once it has ended; None before, and on Windows.

    Not what `getrusage` says of all our children: other runs, and git, end meanwhile. For several threads.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._process = process
        self._lock = threading.Lock()
        self.pid = process.pid
        self.stdout: IO[bytes] = process.stdout
        self.cpu_s: float | None = None

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def poll(self) -> int | None:
        """Its exit code when it has ended, negative for the signal that ended it; None while it is there."""
        with self._lock:
            if sys.platform == "win32" or self._process.returncode is not None:
                return self._process.poll()
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.cpu_s = used.ru_utime + used.ru_stime
                self._process.returncode = os.waitstatus_to_exitcode(status)
            return self._process.returncode

    def wait(self, timeout_s: float) -> bool:
        """Waits for its end, and says whether it came in this time."""
        deadline, pause_s = time.monotonic() + timeout_s, _FIRST_WAIT_S
        while self.poll() is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_WAIT_S)
        return True


@contextmanager
def on_cores(cpus: tuple[int, ...]) -> Iterator[None]:
    """What this thread starts meanwhile begins its life on these cores; empty: on any.

    By the thread's own affinity, which a child inherits at its birth: so there is no moment in which it is elsewhere, and nothing
    to be found on the PATH. Only Linux can. MachineError when this process may not use one of them.
    """
    if not cpus or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cpus)
        if os.sched_getaffinity(0) != set(cpus):  # the kernel passes over those that are not there
            os.sched_setaffinity(0, before)
            raise OSError("some are not there")
    except OSError as error:
        raise MachineError(
            f"a run cannot be kept to the cores {', '.join(map(str, cpus))}: {error.strerror or error}",
            hint="were cores taken from this process meanwhile? start again, or lower `parallel`",
        ) from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
