"""The memory of a container, as control groups tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch_ci.executors import usage

CONTAINER = "c0ffee" * 10


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for `/`."""
    monkeypatch.setattr(usage, "CGROUP_ROOT", tmp_path / "sys/fs/cgroup")
    monkeypatch.setattr(usage, "PROC_ROOT", tmp_path / "proc")
    (tmp_path / "proc/77").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("lines", "folder"),
    [
        (f"0::/system.slice/docker-{CONTAINER}.scope", f"system.slice/docker-{CONTAINER}.scope"),
        (f"9:memory:/docker/{CONTAINER}\n1:name=systemd:/docker/{CONTAINER}\n0::/", f"memory/docker/{CONTAINER}"),
    ],
    ids=["version 2", "version 1"],
)
def test_the_group_of_a_container_is_found(machine: Path, lines: str, folder: str) -> None:
    """Both versions of control groups lead to the container's own numbers."""
    (machine / "proc/77/cgroup").write_text(lines + "\n")
    stat = machine / "sys/fs/cgroup" / folder / "memory.stat"
    stat.parent.mkdir(parents=True)
    stat.write_text("anon 100\nfile 5000\nshmem 20\n")
    found = usage.memory_stat_file(77, CONTAINER)
    assert found == stat
    assert usage.read_memory_bytes(found) == 120
    stat.unlink()
    assert usage.read_memory_bytes(found) is None


def test_the_group_of_another_process_is_not_taken_for_it(machine: Path) -> None:
    """A pid that means another process here, as with an engine elsewhere, gives no number."""
    (machine / "proc/77/cgroup").write_text("0::/user.slice\n")
    (machine / "sys/fs/cgroup/user.slice").mkdir(parents=True)
    (machine / "sys/fs/cgroup/user.slice/memory.stat").write_text("anon 100\n")
    assert usage.memory_stat_file(77, CONTAINER) is None
    assert usage.memory_stat_file(78, CONTAINER) is None


@pytest.mark.parametrize(
    ("stat", "used"),
    [
        ({"anon": 1, "file": 1000, "shmem": 2}, 3),
        ({"total_rss": 1, "total_cache": 1000, "total_shmem": 2, "rss": 9}, 3),
        ({"total_rss": 1}, 1),
        ({}, None),
    ],
)
def test_the_page_cache_is_not_counted(stat: dict[str, int], used: int | None) -> None:
    """What a script holds counts, shared memory and files in memory too; what the kernel caches of disks does not."""
    assert usage.memory_bytes(stat) == used


@pytest.mark.parametrize(
    ("memory", "cpu", "text"),
    [
        ("docker/c", "docker/c/cpu.stat", "usage_usec 1500000\nuser_usec 1000000\n"),
        ("memory/docker/c", "cpuacct/docker/c/cpuacct.usage", "1500000000\n"),
    ],
    ids=["version 2", "version 1"],
)
def test_the_cpu_time_of_a_group_is_read(machine: Path, memory: str, cpu: str, text: str) -> None:
    """Both versions of control groups tell the seconds of user and system together, until the group is gone."""
    root = machine / "sys/fs/cgroup"
    stat = root / memory / "memory.stat"
    stat.parent.mkdir(parents=True)
    file = root / cpu
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    assert usage.cpu_file(stat) == file
    assert usage.read_cpu_s(file) == 1.5
    file.unlink()
    assert usage.read_cpu_s(file) is None


def test_a_group_without_cpu_accounting_has_no_cpu_time(machine: Path) -> None:
    """Version 1 may be without that controller."""
    assert usage.cpu_file(machine / "sys/fs/cgroup/memory/docker/c/memory.stat") is None
