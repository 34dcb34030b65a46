"""What a running container uses: from its control group (versions 1 and 2), else from the engine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from docker.errors import NotFound
from docker.models.containers import Container

from autoresearch_ci.executors.engine import talking

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
PROC_ROOT: Final = Path("/proc")
STATS_INTERVAL_S: Final = 2.0  # an answer of the engine costs it some milliseconds
STATS_SHARE: Final = 0.05  # of the time so far: what a short run does after the last answer is more of it


class Usage:
    """The highest memory and the CPU seconds of a running container, by samples: from its control group, else from the engine.

    `pool`: a thread of it waits for the engine's answers, which take up to a second.
    """

    def __init__(self, container: Container, pool: Executor) -> None:
        self._container, self._pool = container, pool
        self._bytes: int | None = None
        self.cpu_s: float | None = None
        self._started = self._next_question = time.monotonic()
        self._asked: Future[Any] | None = None
        with talking("to describe a run"):
            container.reload()
        self._file = memory_stat_file(container.attrs["State"]["Pid"], str(container.id))
        self._cpu_file = cpu_file(self._file) if self._file else None

    @property
    def peak_mb(self) -> float | None:
        return None if self._bytes is None else self._bytes / 2**20

    def sample(self) -> None:
        """Takes what can be had at once."""
        if self._file is not None:
            self._take(read_memory_bytes(self._file), read_cpu_s(self._cpu_file) if self._cpu_file else None)
        elif self._asked is None:
            if time.monotonic() >= self._next_question:
                self._asked = self._pool.submit(self._ask)
        elif self._asked.done():
            now, stats = time.monotonic(), self._asked.result()
            self._asked, self._next_question = None, now + min(STATS_INTERVAL_S, STATS_SHARE * (now - self._started))
            cpu_s = stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage", 0) / 1e9
            self._take(memory_bytes(stats.get("memory_stats", {}).get("stats", {})), cpu_s)

    def _ask(self) -> Any:
        with talking("to measure a run"), suppress(NotFound):
            return self._container.stats(stream=False, one_shot=True)
        return {}

    def _take(self, used: int | None, cpu_s: float | None) -> None:
        """Keeps the most: of a container that has just ended the engine says zeros, and a group that is gone says nothing."""
        self._bytes = max((n for n in (used, self._bytes) if n is not None), default=None)
        self.cpu_s = max((s for s in (cpu_s, self.cpu_s) if s), default=None)


def memory_stat_file(pid: int, container_id: str) -> Path | None:
    """The `memory.stat` of the container whose first process is `pid`; None where this machine does not show it.

    That is so when the engine runs in a virtual machine (Docker Desktop) or elsewhere.
    """
    try:
        lines = (PROC_ROOT / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return None
    groups = {controllers: path.lstrip("/") for _, controllers, path in (line.split(":", 2) for line in lines)}
    # Version 1 has one hierarchy for each controller; a version 2 group is the one without controllers.
    for folder, group in ((CGROUP_ROOT / "memory", groups.get("memory")), (CGROUP_ROOT, groups.get(""))):
        # A pid of another machine may exist here too: only a group with the container's own name is the container's.
        if group is not None and container_id in group and (folder / group / "memory.stat").is_file():
            return folder / group / "memory.stat"
    return None


def cpu_file(memory_stat: Path) -> Path | None:
    """The file with the CPU time of the group whose `memory.stat` is given; None where there is none."""
    group = memory_stat.parent
    if (group / "cpu.stat").is_file():
        return group / "cpu.stat"
    of_version_1 = CGROUP_ROOT / "cpuacct" / group.relative_to(CGROUP_ROOT / "memory") / "cpuacct.usage"
    return of_version_1 if of_version_1.is_file() else None


def read_cpu_s(file: Path) -> float | None:
    """CPU seconds, user and system, that a group has used; None when it is gone."""
    try:
        text = file.read_text()
    except OSError:
        return None
    if file.name == "cpuacct.usage":
        return int(text) / 1e9
    return int(dict(line.split() for line in text.splitlines())["usage_usec"]) / 1e6


def read_memory_bytes(stat_file: Path) -> int | None:
    """What `memory_bytes` says of a `memory.stat` file; None when its group is gone."""
    try:
        text = stat_file.read_text()
    except OSError:
        return None
    return memory_bytes({name: int(value) for name, value in (line.split() for line in text.splitlines())})


def memory_bytes(stat: Mapping[str, int]) -> int | None:
    """What the processes hold: anonymous memory, shared memory and tmpfs files; None when the numbers are not there.

    Not the kernel's own high-water mark (`memory.peak`), for that counts the page cache: a script that reads 50 GB of
    data would seem to need them.
    """
    if "anon" in stat:
        return stat["anon"] + stat.get("shmem", 0)
    if "total_rss" in stat:
        return stat["total_rss"] + stat.get("total_shmem", 0)
    return None
