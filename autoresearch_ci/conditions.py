"""What a machine was like while a run was on, and whether that spoilt the run's reading.

karpathy/autoresearch's own configuration reads 1.008 on an H200 and 0.998 on an H100, and a neighbour that took a tenth of the
steps away moved a metric more than most kept changes did: readings are compared only where conditions were the same.
"""

from __future__ import annotations

import copy
import ctypes
import os
import statistics
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Self

import psutil

from autoresearch_ci.experiment import Experiment, History, Measurement, Purpose, Reading, Recheck, Run, Scalar
from autoresearch_ci.slots import ONLY, Slot

OTHER_LOAD: Final = "other_load"
CLOCK: Final = "clock_mhz"
THROTTLED: Final = "throttled"
IDENTITY: Final = ("device", "driver", "executor", "torch")  # what must be the same for readings to be compared
SHORTEST_S: Final = 1.0  # of a shorter run the load is mostly that of starting it
MORE_LOAD: Final = 0.5  # cores more than usual: less comes and goes on any machine
SHARE_OF_CORES: Final = 0.1  # on a machine with many cores half a core is nothing
FEWER_STEPS: Final = 0.9  # of the usual steps at equal code
SLOWER_CLOCK: Final = 0.9  # of the usual clock at equal code: a warm card loses a few percent, a slowed one far more
RECENT: Final = 5  # runs say what is usual: a load that comes to stay is usual from the fourth run on

NVML: Final = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
MAX_CARDS: Final = 64
LOOK_EVERY_S: Final = 2.0  # at the clocks, for some ten microseconds
MAX_LOOKS: Final = 50_000  # a day of them: the bound of a run that nobody ended
THROTTLED_SHARE: Final = 0.1  # of the looks: a change of clocks shows as a slowdown for a moment (nvml.h)
_SM_CLOCK: Final = 1  # nvml.h, as the bits below
_IDLE: Final = 0x1
# Too hot, or the power supply's brake. Not the power cap (0x4): large cards are at it whenever they work hard.
_SLOWDOWN: Final = 0x8 | 0x20 | 0x40 | 0x80


class Look(NamedTuple):
    """What a card does now: its SM clock in MHz, and the bits of nvml.h that say what holds its clock down."""

    clock_mhz: int
    reasons: int


class Cards:
    """The NVIDIA cards of this machine, as the driver's library tells of them: by ctypes, as `probe.py` asks it elsewhere."""

    def __init__(self, nvml: ctypes.CDLL) -> None:
        self._nvml = nvml
        count, name = ctypes.c_uint(), ctypes.create_string_buffer(80)
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        nvml.nvmlSystemGetDriverVersion(name, 80)
        self.driver = name.value.decode(errors="replace")
        handles = [(index, ctypes.c_void_p()) for index in range(min(count.value, MAX_CARDS))]
        self._handles = [h for index, h in handles if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(h)) == 0]

    @classmethod
    def of_this_machine(cls, library: str = NVML) -> Self | None:
        """None without the library, or when it finds no driver."""
        try:
            nvml = ctypes.CDLL(library)
            return cls(nvml) if nvml.nvmlInit_v2() == 0 else None
        except (OSError, AttributeError):  # AttributeError: a driver from before 2013
            return None

    def only(self, device: str) -> Self:
        """Those of them that a slot owns, or whose instances it owns: by UUIDs with commas between them; empty: all."""
        if not device:
            return self
        found = copy.copy(self)
        found._handles = [h for uuid in device.split(",") if (h := self._card(uuid.encode())) is not None]
        return found

    def _card(self, uuid: bytes) -> ctypes.c_void_p | None:
        handle, card = ctypes.c_void_p(), ctypes.c_void_p()
        try:
            if self._nvml.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle)) != 0:
                return None
            if not uuid.startswith(b"MIG-"):
                return handle
            # An instance has no clock of its own.
            failed = self._nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle, ctypes.byref(card))
        except AttributeError:
            return None
        return None if failed else card

    def limit_mhz(self) -> int | None:
        """The highest SM clock that the slowest card may have: the one set for applications, else the card's own."""
        limits = [
            self._number("nvmlDeviceGetApplicationsClock", handle, _SM_CLOCK)
            or self._number("nvmlDeviceGetMaxClockInfo", handle, _SM_CLOCK)
            for handle in self._handles
        ]
        return min((limit for limit in limits if limit), default=None)

    def look(self) -> list[Look]:
        """What every card that works does now."""
        looks = []
        for handle in self._handles:
            clock = self._number("nvmlDeviceGetClockInfo", handle, _SM_CLOCK)
            reasons = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
            if clock is not None and reasons is not None and not reasons & _IDLE:
                looks.append(Look(clock, reasons))
        return looks

    def _number(self, function: str, *arguments: ctypes.c_void_p | int) -> int | None:
        """The number that a function gives as its last argument; None where this card or driver does not tell."""
        # A clock has 32 bits: they are the lower ones on every host that there is a driver for.
        number = ctypes.c_ulonglong()
        try:
            failed = getattr(self._nvml, function)(*arguments, ctypes.byref(number))
        except AttributeError:
            return None
        return None if failed else number.value


class _Looking:
    """A thread that looks at the cards while a run is on: before and after it they idle, and their clocks say nothing."""

    def __init__(self, cards: Cards) -> None:
        self._cards, self.looks, self._over = cards, list[Look](), threading.Event()
        threading.Thread(target=self._look, name="clocks of the cards", daemon=True).start()

    def _look(self) -> None:
        for _ in range(MAX_LOOKS):
            if self._over.wait(LOOK_EVERY_S):
                return
            self.looks += self._cards.look()

    def end(self) -> dict[str, Scalar]:
        """The median clock, and whether something held the cards down; empty when they were never seen at work."""
        self._over.set()
        looks = tuple(self.looks)
        if not looks:
            return {}
        slowed = sum(bool(look.reasons & _SLOWDOWN) for look in looks)
        clock = statistics.median(look.clock_mhz for look in looks)
        return {CLOCK: float(clock), THROTTLED: slowed > THROTTLED_SHARE * len(looks)}


@dataclass(frozen=True, slots=True)
class Sample:
    """The machine's clocks at the start of a run, in seconds. `busy_s`: of the cores that count; None: nobody knows them."""

    at: float
    busy_s: float | None
    own_s: float
    looking: _Looking | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """Describes runs. `fixed`: what stays the same while a process lives (`device`, `driver`, `executor`, `torch`), by name.
    `cards`: of a session that trains on them. `here`: whether runs are made on this machine, whose load may disturb them."""

    fixed: Mapping[str, Scalar] = field(default_factory=dict)
    cards: Cards | None = None
    here: bool = True

    def begin(self, slot: Slot = ONLY) -> Sample:
        """To be called before a run in this slot."""
        looking = None if self.cards is None else _Looking(self.cards.only(slot.device))
        return Sample(time.monotonic(), self._busy_s(slot), time.process_time(), looking)

    def end(self, before: Sample, run: Run, slot: Slot = ONLY) -> dict[str, Scalar]:
        """The fixed values, and for a run of a second or more `other_load`: the mean number of cores that were busy with neither
        the run nor this program, of those that the slot owns. What a virtual machine's host took away counts as busy. Not of a
        slot with neighbours and without cores of its own: they are no disturbance.

        Of cards at work: `clock_mhz`, their median SM clock, `clock_limit_mhz`, the highest that they may have, and `throttled`,
        whether heat or the power supply held them down. Of the slot's own card, where it has one."""
        found = dict(self.fixed)
        seconds, busy_s = time.monotonic() - before.at, self._busy_s(slot)
        if run.cpu_s is not None and run.wall_s >= SHORTEST_S and busy_s is not None and before.busy_s is not None:
            # Of this program's own time nobody knows how much fell on a slot's cores: with neighbours it is a load as any other.
            own_s = time.process_time() - before.own_s if slot.alone else 0.0
            found[OTHER_LOAD] = round(max(0.0, (busy_s - before.busy_s - run.cpu_s - own_s) / seconds), 2)
        if self.cards is not None and before.looking is not None:
            found |= before.looking.end()
            if (limit := self.cards.only(slot.device).limit_mhz()) is not None:
                found["clock_limit_mhz"] = limit
        return found

    def _busy_s(self, slot: Slot) -> float | None:
        return _busy_of(slot) if self.here else None


def disturbance(
    conditions: Mapping[str, Scalar],
    reading: Reading,
    usual: Sequence[Measurement],
    same_code: Sequence[Measurement],
    *,
    slot: Slot = ONLY,
) -> str:
    """Why a run was visibly disturbed, in one line; empty when it was not, or when there is nothing to compare it with.

    `usual`: earlier undisturbed runs of any code, oldest first, for the load and the heat. `same_code`: those of the same script,
    for the steps and the clock. The last RECENT of each that tell say what is usual. `slot`: where the run was made.
    """
    load, others = conditions.get(OTHER_LOAD), _numbers(usual, OTHER_LOAD)
    if isinstance(load, float) and others:
        median, cores = statistics.median(others), len(slot.cpus) or psutil.cpu_count() or 1
        if load > median + max(MORE_LOAD, SHARE_OF_CORES * cores):
            return f"{load:.1f} cores were busy with something else, {median:.1f} are usual"
    hot = [m.conditions[THROTTLED] for m in usual if THROTTLED in m.conditions and not m.disturbed][-RECENT:]
    if conditions.get(THROTTLED) and hot and 2 * hot.count(True) < len(hot):
        return "the GPU was slowed down by heat or its power supply, which is not usual"
    clock, clocks = conditions.get(CLOCK), _numbers(same_code, CLOCK)
    if isinstance(clock, float) and clocks and clock < SLOWER_CLOCK * statistics.median(clocks):
        return f"the GPU ran at {clock:.0f} MHz, {statistics.median(clocks):.0f} are usual with this script"
    steps = reading.numbers.get("num_steps")
    before = [n for m in same_code if (n := m.reading.numbers.get("num_steps")) is not None and not m.disturbed][
        -RECENT:
    ]
    if steps is not None and before and steps < FEWER_STEPS * statistics.median(before):
        return f"{steps:.0f} steps, {statistics.median(before):.0f} are usual with this script"
    return ""


def moved(history: History, fixed: Mapping[str, Scalar]) -> str:
    """Why the readings so far cannot be compared with new ones, in one line: made elsewhere. Empty when they can."""
    comparable = (
        r for r in history.rechecks if r.purpose is not Purpose.NEIGHBOURS
    )  # made before anything is compared
    made: list[Experiment | Recheck] = [*history.experiments, *comparable]
    last = max(made, key=lambda m: m.finished_at.timestamp() if m.finished_at else 0.0, default=None)
    if last is None or not last.measurements:
        return ""
    return differences(last.measurements[-1].conditions, fixed)


def differences(before: Mapping[str, Scalar], fixed: Mapping[str, Scalar]) -> str:
    """What is not as it was when a run was made, in one line; empty for a run that was made here."""
    changes = [
        f"{name} {before[name]} is now {fixed[name]}"
        for name in IDENTITY
        if before.get(name) is not None and fixed.get(name) is not None and before[name] != fixed[name]
    ]
    return ", ".join(changes)


def _numbers(measurements: Sequence[Measurement], name: str) -> list[float]:
    """What the last RECENT undisturbed measurements that have the number say."""
    found = [v for m in measurements if isinstance(v := m.conditions.get(name), float) and not m.disturbed]
    return found[-RECENT:]


def _busy_of(slot: Slot) -> float | None:
    """CPU seconds since the machine started in which the cores that a slot's run may use were not idle, of all processes.

    None where that says nothing of the run: it has neighbours on the same cores, or its cores are another machine's.
    """
    if slot.cpus:
        return _busy_on(slot.cpus)
    if not slot.alone:
        return None
    times = psutil.cpu_times()._asdict()
    # A guest's time is in `user` already.
    return float(sum(s for name, s in times.items() if name not in {"idle", "iowait", "guest", "guest_nice"}))


def _busy_on(cpus: Sequence[int]) -> float | None:
    """The same of some cores, by their numbers: psutil leaves those out that are switched off, and counts the others."""
    if sys.platform != "linux":
        return None
    lines = (line.split() for line in Path("/proc/stat").read_text(encoding="ascii").splitlines())
    ticks = {words[0]: list(map(int, words[1:9])) for words in lines if words[0].startswith("cpu")}
    if any(f"cpu{cpu}" not in ticks for cpu in cpus):
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal
    busy = sum(sum(ticks[f"cpu{cpu}"]) - sum(ticks[f"cpu{cpu}"][3:5]) for cpu in cpus)
    return busy / os.sysconf("SC_CLK_TCK")
