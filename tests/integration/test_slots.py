"""Runs side by side, each in a slot of its own, with real processes and real containers."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import docker
import psutil
import pytest

from autoresearch_ci.agents import AgentRequest
from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors.agents import NativeAgents
from autoresearch_ci.executors.child import Child
from autoresearch_ci.executors.container import ContainerExecutor
from autoresearch_ci.executors.image import Image
from autoresearch_ci.executors.native import NativeExecutor
from autoresearch_ci.executors.process_tree import ProcessTree, adopting_orphans, unreadable
from autoresearch_ci.experiment import Ending
from autoresearch_ci.runs import RunRequest
from autoresearch_ci.slots import Slot
from tests.integration.test_native import daemon
from tests.interrupts import Never


def affinity() -> list[int]:
    """The cores of this thread; two that are not there where no thread is kept to some."""
    if sys.platform != "linux":
        return [0, 1]
    return sorted(os.sched_getaffinity(0))


CORES = affinity()
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps runs to cores, and hands us orphans"),
    pytest.mark.skipif(len(CORES) < 2, reason="two runs need two cores"),
]
MIB = 2**20
SOON_S = 20.0
PR_GET_DUMPABLE, PR_GET_CHILD_SUBREAPER = 3, 37  # linux/prctl.h


class Side:
    """One of the runs: an export, a log, and what the script and the test tell each other by files."""

    def __init__(self, folder: Path, slot: Slot) -> None:
        self.slot, self.tree, self.log = slot, folder / f"tree-{slot.number}", folder / f"run-{slot.number}.log"
        self.tree.mkdir()

    def request(self, script: str) -> RunRequest:
        (self.tree / "train.py").write_text(textwrap.dedent(script))
        return RunRequest(
            name=f"t-000{self.slot.number}-1", tree=self.tree, script="train.py", command="python train.py",
            variables={"MKL_NUM_THREADS": "5"}, timeout_s=60, log=self.log, slot=self.slot,
        )  # fmt: skip

    def wait_for(self, name: str) -> Path:
        path = self.tree / name
        soon(path.exists)
        return path

    def tell(self, name: str) -> None:
        (self.tree / name).touch()

    def daemon_lives(self) -> bool:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(self.wait_for("daemon.pid").read_text()))
            return bool(process.status() != psutil.STATUS_ZOMBIE)
        return False


def soon(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def two(folder: Path, memory: int | None = None) -> tuple[Side, Side]:
    slots = (Slot(number=n, cpus=(CORES[n - 1],), threads=1, memory=memory) for n in (1, 2))
    first, second = (Side(folder, slot) for slot in slots)
    return first, second


@pytest.fixture(params=[False, True], ids=["bare", "walled"])
def native(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[NativeExecutor]:
    scratch = tmp_path / "scratch"
    with NativeExecutor(
        scratch=scratch, cache=None, memory=None, python=Path(sys.executable), walled=request.param
    ) as executor:
        yield executor


# What a run sees of its slot; then it burns `{burn}` seconds of CPU time, but waits until the other one is there.
LOOK = """
import os, subprocess, sys, time
print(sorted(os.sched_getaffinity(0)), os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"], flush=True)
subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < {burn} / 2: pass"])
while time.process_time() < {burn} / 2: pass
time.sleep({rest})
"""


def test_two_native_runs_keep_to_their_cores(native: NativeExecutor, tmp_path: Path) -> None:
    """Each sees its own core and cap of threads (but for what the user set), and is told its own CPU time."""
    sides, before = two(tmp_path), affinity()
    scripts = (LOOK.format(burn=0.4, rest=1.2), LOOK.format(burn=1.4, rest=0))
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(native.run, s.request(script), Never()) for s, script in zip(sides, scripts, strict=True)]
        few, many = (future.result(60) for future in made)
    assert [side.log.read_text() for side in sides] == [f"[{core}] 1 5\n" for core in CORES[:2]]
    assert few.cpu_s is not None
    assert many.cpu_s is not None
    assert 0.35 < few.cpu_s < 0.9
    assert 1.3 < many.cpu_s < 2.0
    assert affinity() == before


def test_a_native_run_has_its_slots_memory(native: NativeExecutor, tmp_path: Path) -> None:
    """Who is above its share is ended, and the neighbour below it goes on."""
    large, small = two(tmp_path, memory=150 * MIB)
    with ThreadPoolExecutor(2) as pool:
        too_much = pool.submit(
            native.run, large.request("b = bytearray(b'x') * (200 * 2**20)\nimport time; time.sleep(30)"), Never()
        )
        enough = pool.submit(native.run, small.request("import time; time.sleep(1)"), Never())
        assert too_much.result(60).ending is Ending.OUT_OF_MEMORY
        assert enough.result(60).exit_code == 0


UNTIL = """
import os, time
open("ready", "w").close()
while not os.path.exists("end"):
    time.sleep(0.01)
"""


@pytest.mark.parametrize("hidden", [False, True], ids=["marked", "hidden"])
def test_the_end_of_a_run_is_not_its_neighbours(native: NativeExecutor, tmp_path: Path, hidden: bool) -> None:
    """A run's daemon, however it hid, lives on when the run beside it ends, and is gone after its own run; so is the other's."""
    ending, staying = two(tmp_path)
    script = daemon(hidden=hidden, quiet=True) + UNTIL
    with ThreadPoolExecutor(2) as pool:
        stays = pool.submit(native.run, staying.request(script), Never())
        ends = pool.submit(native.run, ending.request(script), Never())
        for side in (ending, staying):
            side.wait_for("ready")
        if native.wall.leads:  # its pids are another namespace's: that the run can end by itself says enough
            ending.tell("end")
            assert ends.result(60).exit_code == 0
            assert not stays.done()
            staying.tell("end")
            assert stays.result(60).exit_code == 0
            return
        ending.tell("end")
        assert ends.result(60).exit_code == 0
        assert not ending.daemon_lives()
        time.sleep(0.5)
        assert staying.daemon_lives()
        assert not stays.done()
        staying.tell("end")
        assert stays.result(60).exit_code == 0
    assert not staying.daemon_lives()
    assert not ending.daemon_lives()


def test_a_hidden_orphan_does_not_outlive_those_it_may_be_of(tmp_path: Path) -> None:
    """Without cores of its own to tell it by: runs that came later do not keep it, it ends with the last that was there."""
    first, second, third = (Side(tmp_path, Slot(number=number)) for number in (1, 2, 3))
    with (
        NativeExecutor(
            scratch=tmp_path / "s", cache=None, memory=None, python=Path(sys.executable), walled=False
        ) as native,
        ThreadPoolExecutor(3) as pool,
    ):
        beside = pool.submit(native.run, second.request(UNTIL), Never())
        second.wait_for("ready")
        native.run(first.request(daemon(hidden=True, quiet=True)), Never())
        later = pool.submit(native.run, third.request(UNTIL), Never())
        third.wait_for("ready")
        second.tell("end")
        assert beside.result(60).exit_code == 0
        assert not first.daemon_lives()
        assert not later.done()
        third.tell("end")
        assert later.result(60).exit_code == 0


def test_a_run_and_an_agent_leave_each_other_alone(native: NativeExecutor, tmp_path: Path) -> None:
    """An agent lives through the end of runs beside it, with its hidden daemon; and a run through an agent's end."""
    run, agent = two(tmp_path)
    agents = NativeAgents(tmp_path / "agents")
    asked = AgentRequest(
        command=(sys.executable, "-c", daemon(hidden=True, quiet=True) + UNTIL), tree=agent.tree, timeout_s=60
    )
    with ThreadPoolExecutor(2) as pool:
        working = pool.submit(agents.launch, asked, Never())
        agent.wait_for("ready")
        assert native.run(run.request("import time; time.sleep(0.5)"), Never()).exit_code == 0
        time.sleep(0.3)
        assert not working.done()
        assert agent.daemon_lives()
        training = pool.submit(native.run, run.request(UNTIL), Never())
        run.wait_for("ready")
        agent.tell("end")
        assert working.result(60).exit_code == 0
        time.sleep(0.3)
        assert not training.done()
        assert not agent.daemon_lives()
        run.tell("end")
        assert training.result(60).exit_code == 0


def test_what_this_process_is_for_runs_it_is_until_the_last_of_them() -> None:
    """Overlapping uses, ended in any order, leave it as it was before the first."""

    before = _attribute(PR_GET_DUMPABLE), _adopts()
    assert before == (1, False)
    first, second = unreadable(), unreadable()
    adopting, still_adopting = adopting_orphans(), adopting_orphans()
    first.__enter__()
    second.__enter__()
    assert adopting.__enter__() is True
    assert still_adopting.__enter__() is True
    first.__exit__(None, None, None)
    adopting.__exit__(None, None, None)
    assert (_attribute(PR_GET_DUMPABLE), _adopts()) == (0, True)
    second.__exit__(None, None, None)
    still_adopting.__exit__(None, None, None)
    assert (_attribute(PR_GET_DUMPABLE), _adopts()) == before


def _attribute(option: int, *arguments: object) -> int:
    return int(ctypes.CDLL(None).prctl(option, *arguments, *(0,) * (4 - len(arguments))))


def _adopts() -> bool:
    now = ctypes.c_int()
    _attribute(PR_GET_CHILD_SUBREAPER, ctypes.byref(now))
    return bool(now.value)


def test_cores_that_are_not_there_are_a_machine_error(native: NativeExecutor, tmp_path: Path) -> None:
    """One line and a hint, and this process is where it was."""
    before = affinity()
    for cpus in ((100_000,), (CORES[0], 1023)):
        side = Side(tmp_path, Slot(number=cpus[0] + 1, cpus=cpus))
        with pytest.raises(MachineError, match="cannot be kept to the cores") as caught:
            native.run(side.request(""), Never())
        assert caught.value.hint
    assert affinity() == before


IN_CONTAINER = """
import os, time
from pathlib import Path
v1, v2 = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory.max")
limit = (v2 if v2.exists() else v1).read_text().strip()
print(sorted(os.sched_getaffinity(0)), limit, os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"])
end = time.process_time() + {burn}
while time.process_time() < end: pass
"""


def test_two_containers_keep_to_their_slots(engine: docker.DockerClient, cpu_image: Image, tmp_path: Path) -> None:
    """Each sees its own core, memory and cap of threads, and is told its own log and CPU time; by one client."""
    sides = [Side(tmp_path, Slot(number=n, cpus=(CORES[n - 1],), threads=1, memory=(64 + n) * MIB)) for n in (1, 2)]
    scripts = (IN_CONTAINER.format(burn=0.5), IN_CONTAINER.format(burn=1.5))
    with (
        ContainerExecutor(
            engine, cpu_image, session="slots-tests", cache=None, platform="cpu", memory=512 * MIB
        ) as executor,
        ThreadPoolExecutor(2) as pool,
    ):
        assert executor.machine_bytes > 512 * MIB
        made = [pool.submit(executor.run, s.request(script), Never()) for s, script in zip(sides, scripts, strict=True)]
        few, many = (future.result(120) for future in made)
    assert [side.log.read_text() for side in sides] == [f"[{CORES[n]}] {(65 + n) * MIB} 1 5\n" for n in (0, 1)]
    assert few.cpu_s is not None
    assert many.cpu_s is not None
    assert few.cpu_s < 1.2 < many.cpu_s < 2.5


def test_a_container_asks_for_its_slots_device(engine: docker.DockerClient, cpu_image: Image) -> None:
    """By identifier; the only slot asks for all."""
    executor = ContainerExecutor(engine, cpu_image, session="slots-tests", cache=None, platform="cuda")
    (one,), (every,) = executor._devices(Slot(device="MIG-1,GPU-b")), executor._devices(Slot())
    assert (one["DeviceIDs"], one["Count"]) == (["MIG-1", "GPU-b"], 0)
    assert (every["DeviceIDs"], every["Count"]) == ([], -1)
    assert one["Capabilities"] == every["Capabilities"] == [["gpu", "compute", "utility"]]


def test_a_first_process_is_never_a_neighbours() -> None:
    """Of trees that share a core none looks while another one's first process starts: it would seem to be its own orphan."""
    with (
        adopting_orphans() as adopting,
        ProcessTree("first", adopting=adopting, cpus=(CORES[0],)) as first,
        ProcessTree("second", adopting=adopting, cpus=(CORES[0],)) as second,
        ThreadPoolExecutor(1) as pool,
    ):
        looks: list[Future[list[psutil.Process]]] = []

        def start() -> Child:
            command = [sys.executable, "-c", "import time; time.sleep(30)"]
            child = Child(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
            looks.append(pool.submit(first.members))
            time.sleep(0.3)
            assert not looks[0].done()
            return child

        child = second.begin(start)
        try:
            assert looks[0].result(SOON_S) == []
            assert [process.pid for process in second.members()] == [child.pid]
            first.kill()
            assert child.poll() is None
        finally:
            second.kill()
            assert child.wait(SOON_S)
            child.stdout.close()


def test_many_short_runs_on_the_same_cores(native: NativeExecutor, tmp_path: Path) -> None:
    """None of them ends another one."""
    sides = [Side(tmp_path, Slot(number=n, cpus=(CORES[n % 2],), threads=1)) for n in range(1, 5)]
    script = "import time; time.sleep(0.05); print('done')"

    def often(side: Side) -> list[Ending]:
        made = []
        for _ in range(6):
            side.log.unlink(missing_ok=True)
            made.append(native.run(side.request(script), Never()).ending)
        return made

    with ThreadPoolExecutor(4) as pool:
        endings = [ending for made in pool.map(often, sides) for ending in made]
    assert endings == [Ending.EXITED] * 24
    assert [side.log.read_text() for side in sides] == ["done\n"] * 4
