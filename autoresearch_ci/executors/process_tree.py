"""The processes of a native run: the first one and everything it started, daemons included.

A training script may fork twice, start a session of its own and change its environment. So a process belongs to the
run when one of these says so: its session, its parent, the run's own output folder in its environment, and on Linux
that the kernel handed it to us when its parent died (see `adopting_orphans`).

Runs and agents go on side by side, and an orphan that hid all of the others may be of any tree that was there when it came.
It is nobody's as long as there are several of these, and then the last one's: it dies with that, and harms no neighbour.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, Self

import psutil

from autoresearch_ci.executors.child import Child

MARKER: Final = "AUTORESEARCH_OUTPUT_DIR"  # the one variable of the contract that is different in every run
KILL_TIMEOUT_S: Final = 5.0  # for a tree to be gone after SIGKILL; a fork bomb and a hanging driver need the bound
_ROUND_S: Final = 0.2
_REAP_TICK_S: Final = 0.005
_PR_GET_DUMPABLE: Final = 3  # linux/prctl.h, as those below
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37


class _Attribute:
    """One of the kernel's attributes of this process, kept at a value while anybody wants it: uses overlap, from several threads.

    `get` and `set` speak to the kernel; what was there before the first use is there again after the last.
    """

    def __init__(self, get: Callable[[], int], put: Callable[[int], bool], wanted: int) -> None:
        self._get, self._put, self._wanted = get, put, wanted
        self._lock, self._users, self._before, self._holds = threading.Lock(), 0, 0, False

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Whether it has the value."""
        with self._lock:
            if self._users == 0:
                self._before = self._get()
                self._holds = self._put(self._wanted)
            self._users += 1
        try:
            yield self._holds
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._put(self._before)


def _is_subreaper() -> int:
    now = ctypes.c_int()
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(now), 0, 0, 0)
    return now.value


def _be_subreaper(value: int) -> bool:
    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(value), 0, 0, 0) == 0)


def _is_dumpable() -> int:
    return int(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 1)


def _be_dumpable(value: int) -> bool:
    return bool(ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(value), 0, 0, 0) == 0)


# One for each process and not for each executor, as what they stand for.
_ADOPTING: Final = _Attribute(_is_subreaper, _be_subreaper, 1)
_UNREADABLE: Final = _Attribute(_is_dumpable, _be_dumpable, 0)


@contextmanager
def adopting_orphans() -> Iterator[bool]:
    """Makes Linux give this process its orphaned descendants as children, however they hid; False where it cannot."""
    if sys.platform != "linux":
        yield False
        return
    with _ADOPTING.held() as holds:
        yield holds


@contextmanager
def unreadable() -> Iterator[None]:
    """Keeps our memory and environment, and so our tokens, from other processes of the same user, on Linux; root reads all."""
    if sys.platform != "linux":
        yield
        return
    with _UNREADABLE.held():
        yield


class _Neighbours:
    """The trees of this process that are there now, and one look at a time: what belongs to one is not another's."""

    def __init__(self) -> None:
        self.looking = threading.Lock()
        self.trees: list[ProcessTree] = []


_NEIGHBOURS: Final = _Neighbours()  # of this process: the kernel hands orphans to all of it


class ProcessTree:
    """The tree of one run: a context manager, whose first process is started by `begin`.

    `marker`: the AUTORESEARCH_OUTPUT_DIR that only this run has. `adopting`: what `adopting_orphans` gave. `led`: whether the
    first process is a wall's, which takes all others with it when it ends. `cpus`: the cores that no neighbour's processes begin
    on; empty: there are none. `cpu_s`: CPU seconds of its orphans, for whom nobody but us waits, once they are killed.
    """

    def __init__(self, marker: str, *, adopting: bool, led: bool = False, cpus: tuple[int, ...] = ()) -> None:
        self.root = 0
        self.cpu_s = 0.0
        self._led = led
        self._marker = marker
        self._adopting = adopting
        self._cpus = set(cpus)
        # Only what is new can belong to the run: this keeps a look at the tree cheap on a machine with many processes.
        self._strangers = set(psutil.pids())
        self._at_first = len(self._strangers) - 2**5  # some of them end meanwhile
        self._members: dict[int, psutil.Process] = {}
        self._sessions: set[int] = set()  # of all members ever: nobody joins one from outside

    def __enter__(self) -> Self:
        with _NEIGHBOURS.looking:
            _NEIGHBOURS.trees.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _NEIGHBOURS.looking:
            _NEIGHBOURS.trees.remove(self)

    def begin(self, start: Callable[[], Child]) -> Child:
        """The run's first process, started. No tree looks meanwhile: as long as nobody knows whose it is, it is like any orphan."""
        with _NEIGHBOURS.looking:
            child = start()
            self.root = child.pid
            return child

    def members(self) -> list[psutil.Process]:
        """The processes of the run that are there now, zombies included."""
        with _NEIGHBOURS.looking:
            pids = set(psutil.pids())
            self._strangers &= pids  # a number that is free again may be given to one of ours
            self._members = {pid: process for pid, process in self._members.items() if pid in pids}
            for pid in sorted(pids - self._strangers - self._members.keys()):
                with suppress(psutil.Error, OSError):  # gone already, or somebody else's
                    process = psutil.Process(pid)
                    belongs = self._belongs(process)
                    if belongs is None:
                        continue  # it is looked at again: a neighbour may take it, or end
                    if belongs:
                        self._members[pid] = process
                        if sys.platform != "win32":
                            self._sessions.add(os.getsid(pid))
                        continue
                self._strangers.add(pid)
            return list(self._members.values())

    def _belongs(self, process: psutil.Process) -> bool | None:
        """Whether it is of this run; None while nobody can tell."""
        parent = process.ppid()
        if process.pid == self.root or parent in self._members:
            return True
        if sys.platform == "win32":
            return process.environ().get(MARKER) == self._marker
        session = os.getsid(process.pid)
        # Our own helpers stay in our session, and orphans of a run never do.
        if self._adopting and parent == os.getpid() and session != os.getsid(0):
            return self._owns(process, session)
        return session == self.root or session in self._sessions or process.environ().get(MARKER) == self._marker

    def _owns(self, orphan: psutil.Process, session: int) -> bool | None:
        """Whether an orphan that we were handed is this run's: by what it could not hide, else when nobody else's can it be."""
        marker, cores = "", set[int]()
        with suppress(psutil.Error, OSError):  # a zombie has none
            marker = orphan.environ().get(MARKER, "")
        if sys.platform == "linux":
            with suppress(OSError):
                cores = os.sched_getaffinity(orphan.pid)
        trees = [tree for tree in _NEIGHBOURS.trees if orphan.pid not in tree._strangers]
        for tree in trees:
            known = orphan.pid == tree.root or orphan.pid in tree._members
            if known or session == tree.root or session in tree._sessions or marker == tree._marker:
                return tree is self
        # Last: a process can go to other cores, but only one that means to be taken for another run's goes to those.
        there = [tree for tree in trees if cores and cores <= tree._cpus]
        if len(there) == 1:
            return there == [self]
        return True if trees == [self] else None

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
            # The first process is its Child's to wait for; the others are waited for here, so that none stays a zombie.
            others = [process for process in living if process.pid != self.root]
            if not others:
                return
            self._reap(others)

    def _reap(self, killed: list[psutil.Process]) -> None:
        """Waits a round for processes to be gone, and takes notice of those that we adopted."""
        if sys.platform == "win32":
            psutil.wait_procs(killed, timeout=_ROUND_S)
            return
        deadline = time.monotonic() + _ROUND_S
        while (killed := [process for process in killed if not self._is_gone(process)]) and time.monotonic() < deadline:
            time.sleep(_REAP_TICK_S)

    def _is_gone(self, process: psutil.Process) -> bool:
        if sys.platform == "win32":
            return not process.is_running()
        try:
            pid, _, used = os.wait4(process.pid, os.WNOHANG)
        except ChildProcessError:  # its own parent waits for it, or we will when that is gone
            return not process.is_running()
        if pid:
            self.cpu_s += used.ru_utime + used.ru_stime
        return bool(pid)


def kill_marked(folder: str) -> None:
    """Kills every process whose output folder lies in `folder`: what a session that died has left running."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARKER, "").startswith(folder + os.sep):
                process.kill()
