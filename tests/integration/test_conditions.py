"""The conditions of real runs, beside a real neighbour, and of cards by a stand-in for the driver's library."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from autoresearch_ci import conditions
from autoresearch_ci.conditions import Cards, Conditions
from autoresearch_ci.executors.native import NativeExecutor
from autoresearch_ci.experiment import Ending, Run, Scalar
from autoresearch_ci.runs import RunRequest
from tests.interrupts import Never

# Three cards, of which the third cannot be opened and the second idles; what the first does is the test's to set.
NVML = """
#include <string.h>
unsigned sm = 1980, application = 1755, limit = 1980;
unsigned long long reasons = 0;
int nvmlInit_v2(void) { return FAIL; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 3; return 0; }
int nvmlSystemGetDriverVersion(char *s, unsigned n) { strncpy(s, "570.86.15", n); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = (void *)(long)(i + 1); return i == 2; }
int nvmlDeviceGetClockInfo(void *d, int which, unsigned *mhz) { *mhz = d == (void *)1 ? sm : 345; return which != 1; }
int nvmlDeviceGetHandleByUUID(const char *id, void **d) {
    *d = (void *)(long)(strcmp(id, "GPU-b") ? strcmp(id, "MIG-a") ? 1 : 9 : 2);
    return strcmp(id, "GPU-a") && strcmp(id, "GPU-b") && strcmp(id, "MIG-a");
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *instance, void **d) { *d = (void *)1; return instance != (void *)9; }
int nvmlDeviceGetApplicationsClock(void *d, int which, unsigned *mhz) { *mhz = application; return application ? 0 : 3; }
#ifndef OLD
int nvmlDeviceGetMaxClockInfo(void *d, int which, unsigned *mhz) { *mhz = limit; return limit ? 0 : 3; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *bits) {
    *bits = d == (void *)1 ? reasons : 1;
    return 0;
}
#endif
"""
HOT, POWER_CAP, IDLE = 0x40, 0x4, 0x1


class Driver:
    """A stand-in for the driver's library, and the cards that it tells of."""

    def __init__(self, path: Path) -> None:
        cards = Cards.of_this_machine(str(path))
        assert cards is not None
        self.cards = cards
        self._library = ctypes.CDLL(str(path))

    def now(self, **values: int) -> None:
        for name, value in values.items():
            kind = ctypes.c_ulonglong if name == "reasons" else ctypes.c_uint
            kind.in_dll(self._library, name).value = value

    def during_a_run(self, **values: int) -> dict[str, Scalar]:
        """The conditions of a run of some looks, in which the first card did this."""
        described = Conditions({}, self.cards)
        self.now(**values)
        before = described.begin()
        assert before.looking is not None
        deadline = time.monotonic() + 20
        while len(before.looking.looks) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        return described.end(before, Run(ending=Ending.EXITED, exit_code=0, wall_s=0.2))


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Builds the stand-in; the cards are then looked at often."""
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("builds a library with gcc")
    monkeypatch.setattr(conditions, "LOOK_EVERY_S", 0.02)

    def build(*options: str) -> Path:
        source, library = tmp_path / "nvml.c", tmp_path / "nvml.so"
        source.write_text(NVML)
        command = ["gcc", "-shared", "-fPIC", "-DFAIL=0", *options, "-o", str(library), str(source)]
        subprocess.run(command, check=True, timeout=60)
        return library

    return build


def test_the_clock_of_a_card_at_work_is_told(build: Callable[..., Path]) -> None:
    """The median clock of the cards that work, not of those that idle, the clock limit, and the driver's version."""
    driver = Driver(build())
    assert driver.cards.driver == "570.86.15"
    found = driver.during_a_run(sm=1740, reasons=POWER_CAP)
    assert found == {"clock_mhz": 1740.0, "throttled": False, "clock_limit_mhz": 1755}
    driver.now(application=0)
    assert driver.cards.limit_mhz() == 1980
    driver.now(limit=0)
    assert driver.cards.limit_mhz() is None


def test_heat_is_told(build: Callable[..., Path]) -> None:
    """A card that is too hot is throttled; one that only reached its power cap is not."""
    driver = Driver(build())
    assert driver.during_a_run(sm=900, reasons=HOT | POWER_CAP)["throttled"] is True


def test_a_slot_looks_at_its_own_card(build: Callable[..., Path]) -> None:
    """By its UUID; an instance has the clock of its card, and a card that is not there has none."""
    driver = Driver(build())
    driver.now(sm=1740, reasons=0)
    assert [look.clock_mhz for look in driver.cards.only("GPU-a").look()] == [1740]
    assert [look.clock_mhz for look in driver.cards.only("MIG-a").look()] == [1740]
    assert driver.cards.only("GPU-b").look() == []  # it idles
    assert driver.cards.only("GPU-z").look() == []
    assert len(driver.cards.only("GPU-a,GPU-b")._handles) == 2
    assert driver.cards.only("") is driver.cards


def test_cards_that_idle_tell_no_clock(build: Callable[..., Path]) -> None:
    """A run that used no card has no clock; neither has one where the driver is too old to say what a card does."""
    driver = Driver(build())
    driver.now(reasons=IDLE)
    assert driver.cards.look() == []
    described = Conditions({"device": "A100"}, driver.cards)
    found = described.end(described.begin(), Run(ending=Ending.EXITED, exit_code=0, wall_s=0.2))
    assert found == {"device": "A100", "clock_limit_mhz": 1755}


def test_an_old_driver_tells_what_it_can(build: Callable[..., Path]) -> None:
    """Functions that the library does not have are no error."""
    driver = Driver(build("-DOLD"))
    assert driver.cards.look() == []
    assert driver.cards.limit_mhz() == 1755
    driver.now(application=0)
    assert driver.cards.limit_mhz() is None


def test_without_a_driver_there_are_no_cards(build: Callable[..., Path], tmp_path: Path) -> None:
    """No library, one of something else, and one that cannot initialise are all no cards."""
    assert Cards.of_this_machine(str(tmp_path / "missing.so")) is None
    assert Cards.of_this_machine("libc.so.6") is None
    assert Cards.of_this_machine(str(build("-UFAIL", "-DFAIL=9"))) is None


@pytest.mark.skipif(sys.platform == "win32", reason="nobody tells the CPU time of a tree there")
def test_a_neighbour_of_a_real_run_is_seen(tmp_path: Path) -> None:
    """A busy loop beside a run is other load; what the run itself burns, in children too, is not."""
    (tmp_path / "tree").mkdir()
    burn = "import time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass\n"
    (tmp_path / "tree" / "train.py").write_text(
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])"
    )
    request = RunRequest(
        name="t-0001-1", tree=tmp_path / "tree", script="train.py", command="python train.py", variables={},
        timeout_s=60, log=tmp_path / "run.log",
    )  # fmt: skip
    described = Conditions()
    with NativeExecutor(scratch=tmp_path / "s", cache=None, memory=None, python=Path(sys.executable)) as executor:
        neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            before = described.begin()
            run = executor.run(request, Never())
            found = described.end(before, run)["other_load"]
        finally:
            neighbour.kill()
            neighbour.wait()
    assert isinstance(found, float)
    assert found > 0.3
    assert run.cpu_s is not None
    assert run.cpu_s > 0.3
    assert found + run.cpu_s / run.wall_s < (psutil.cpu_count() or 1) + 0.3  # nothing is counted twice
