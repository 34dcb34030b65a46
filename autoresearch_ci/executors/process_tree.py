"""The processes of a native run: the first one and everything it started, daemons included.

A training script may fork twice, start a session of its own and change its environment. So a process belongs to the
run when one of these says so: its session, its parent, the run's own output folder in its environment, and on Linux
that the kernel handed it to us when its parent died (see `adopting_orphans`).
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psutil

MARKER: Final = "AUTORESEARCH_OUTPUT_DIR"  # the one variable of the contract that is different in every run
KILL_TIMEOUT_S: Final = 5.0  # for a tree to be gone after SIGKILL; a fork bomb and a hanging driver need the bound
_ROUND_S: Final = 0.2
_PR_GET_DUMPABLE: Final = 3  # linux/prctl.h, as those below
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37


@contextmanager
def adopting_orphans() -> Iterator[bool]:
    """Makes Linux give this process its orphaned descendants as children, however they hid; False where it cannot."""
    if sys.platform != "linux":
        yield False
        return
    prctl = ctypes.CDLL(None).prctl
    before = ctypes.c_int()
    prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    try:
        yield prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0) == 0
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(before.value), 0, 0, 0)


@contextmanager
def unreadable() -> Iterator[None]:
    """Keeps our memory and environment, and so our tokens, from other processes of the same user, on Linux; root reads all."""
    if sys.platform != "linux":
        yield
        return
    prctl = ctypes.CDLL(None).prctl
    before = prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
    prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(before == 1), 0, 0, 0)


class ProcessTree:
    """The tree of one run. Make it before the run's first process, then set `root` to its pid.

    `marker`: the AUTORESEARCH_OUTPUT_DIR that only this run has. `adopting`: what `adopting_orphans` gave. `led`: whether the
    first process is a wall's, which takes all others with it when it ends.
    """

    def __init__(self, marker: str, *, adopting: bool, led: bool = False) -> None:
        self.root = 0
        self._led = led
        self._marker = marker
        self._adopting = adopting
        # Only what is new can belong to the run: this keeps a look at the tree cheap on a machine with many processes.
        self._strangers = set(psutil.pids())
        self._at_first = len(self._strangers) - 2**5  # some of them end meanwhile
        self._members: dict[int, psutil.Process] = {}

    def members(self) -> list[psutil.Process]:
        """The processes of the run that are there now, zombies included."""
        pids = set(psutil.pids())
        self._strangers &= pids  # a number that is free again may be given to one of ours
        self._members = {pid: process for pid, process in self._members.items() if pid in pids}
        for pid in sorted(pids - self._strangers - self._members.keys()):
            with suppress(psutil.Error, OSError):  # gone already, or somebody else's
                process = psutil.Process(pid)
                if self._belongs(process):
                    self._members[pid] = process
                    continue
            self._strangers.add(pid)
        return list(self._members.values())

    def _belongs(self, process: psutil.Process) -> bool:
        parent = process.ppid()
        if process.pid == self.root or parent in self._members:
            return True
        if sys.platform != "win32":
            session = os.getsid(process.pid)
            # Our own helpers stay in our session, and orphans of the run never do.
            if session == self.root or (self._adopting and parent == os.getpid() and session != os.getsid(0)):
                return True
        return process.environ().get(MARKER) == self._marker

    def has_more_than(self, limit: int) -> bool:
        """Whether there are so many members; cheap as long as the machine has hardly more processes than before."""
        return len(psutil.pids()) - self._at_first > limit and len(self.members()) > limit

    def alive(self) -> bool:
        """Whether any member still does something: a zombie waits only for us to take notice, a wall for the others."""
        for process in self._inmates():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    return True
        return False

    def memory_bytes(self) -> int:
        """Resident memory of all members together. Pages that they share count for each.

        Not by `getrusage`: its maximum begins with the memory of the parent at the moment of the fork.
        """
        total = 0
        for process in self.members():
            with suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def terminate(self) -> None:
        """SIGTERM to every member (Windows knows no such thing: it ends them).

        A wall is stopped instead: it would end, and take the others with it, once the command itself has ended, while what
        that has started still writes its last numbers.
        """
        if self._led:
            with suppress(psutil.Error):
                psutil.Process(self.root).suspend()
        for process in self._inmates():
            with suppress(psutil.Error):
                process.terminate()

    def _inmates(self) -> list[psutil.Process]:
        return [process for process in self.members() if not (self._led and process.pid == self.root)]

    def kill(self) -> None:
        """SIGKILL to every member and to what they start meanwhile, until none is left or KILL_TIMEOUT_S is over."""
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while (living := self.members()) and time.monotonic() < deadline:
            for process in living:
                with suppress(psutil.Error):
                    process.kill()
            # The first process is its Popen's to wait for; the others are waited for here, so that none stays a zombie.
            others = [process for process in living if process.pid != self.root]
            if not others:
                return
            psutil.wait_procs(others, timeout=_ROUND_S)


def kill_marked(folder: str) -> None:
    """Kills every process whose output folder lies in `folder`: what a session that died has left running."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARKER, "").startswith(folder + os.sep):
                process.kill()
