"""The note about what a session does at this moment."""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
from pathlib import Path

import pytest

from autoresearch_ci.journal import Journal
from autoresearch_ci.live import Live
from autoresearch_ci.scrubber import Scrubber

from .histories import START


class Clock:
    """A time that is set by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> dt.datetime:
        return self.now

    def later(self, seconds: float) -> dt.datetime:
        self.now += dt.timedelta(seconds=seconds)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def record(tmp_path: Path, clock: Clock) -> Journal:
    return Journal(tmp_path, Scrubber(), clock)


def told(record: Journal) -> Live:
    note = record.now_running()
    assert note is not None
    return note


def test_each_slot_is_told_by_itself(record: Journal, clock: Clock) -> None:
    """How many there are, whose device each has, what runs in one and not in the other, what waits, and by which process."""
    record.slots(("GPU-1", "GPU-2"))
    record.running(7, "LR 0.1 → 0.2", clock.later(10), slot=2)
    record.waiting(("WD 0 → 0.1",))
    note = told(record)
    assert [(s.slot, s.device, s.number, s.started_at) for s in note.slots] == [
        (1, "GPU-1", None, None),
        (2, "GPU-2", 7, clock.now),
    ]
    assert (note.waiting, note.pid, note.since, note.several) == (("WD 0 → 0.1",), os.getpid(), START, True)
    record.idle(slot=2)
    assert told(record).running == ()
    record.idle()
    assert record.now_running() is None


def test_the_share_of_time_in_which_a_slot_is_busy(record: Journal, clock: Clock) -> None:
    """Of runs that are over and of the one that goes on; a pause counts, and so does what was before it."""
    record.slots(("", ""))
    record.running(1, "one", clock.later(10))
    assert told(record).slots[0].busy_share(clock.later(10)) == 0.5
    record.idle(slot=1)
    assert told(record).slots[0].busy_share(clock.later(20)) == 0.25
    record.running(2, "two", clock.now)
    record.running(2, "two, again", clock.later(20))  # the second run of the same experiment
    assert told(record).slots[0].busy_share(clock.later(20)) == pytest.approx(50 / 80)
    assert told(record).slots[1].busy_share(clock.now) == 0.0
    record.idle()
    record.running(3, "three", clock.later(20))
    assert told(record).slots[0].busy_s == pytest.approx(50)


def test_a_clock_that_is_set_back_spoils_no_share(record: Journal, clock: Clock) -> None:
    """A share is between none and all."""
    record.slots(("",))
    record.running(1, "one", clock.later(10))
    assert told(record).slots[0].busy_share(START - dt.timedelta(hours=1)) == 0.0
    clock.later(-5)
    record.idle(slot=1)
    assert told(record).slots[0].busy_share(START + dt.timedelta(seconds=60)) == 0.0


@pytest.mark.parametrize(
    "note",
    [
        json.dumps({"number": 3, "description": "x", "started_at": START.isoformat(), "pid": 1}),  # of version 0.6
        "",
        "{",
        "[]",
        '{"pid": 1, "slots": 2}',
    ],
)
def test_another_form_is_nothing_running(tmp_path: Path, note: str) -> None:
    """A file of an earlier version, or a damaged one, is no crash."""
    (tmp_path / "running.json").write_text(note)
    assert Journal(tmp_path).now_running() is None


def test_several_threads_and_a_reader(record: Journal) -> None:
    """Whoever reads while eight threads write sees a whole note, and at the end the last word of each of them."""
    record.slots([""] * 8)
    broken: list[int] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            note = record.now_running()
            if note is None or len(note.slots) != 8:
                broken.append(1)

    def write(slot: int) -> None:
        for number in range(50):
            record.running(100 * slot + number, "x" * 500, START, slot=slot)
            record.waiting([f"{slot}"])
            if number < 49:
                record.idle(slot=slot)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(slot,)) for slot in range(1, 9)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join(30)
    over.set()
    reader.join(30)
    assert broken == []
    assert [slot.number for slot in told(record).slots] == [100 * slot + 49 for slot in range(1, 9)]
