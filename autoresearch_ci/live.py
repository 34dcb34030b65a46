"""What a session does at this moment: the note that other terminals read, beside the record and no part of it.

`running.json` in the session's state folder, written whole at every change, so that a reader never sees half of one.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Final

import psutil
from pydantic import AwareDatetime, TypeAdapter

from autoresearch_ci.scrubber import Scrubber

FILE: Final = "running.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSlot:
    """One slot, numbered from 1, and what runs there: experiment `number` since `started_at`; None: nothing does.

    `device`: the identifier of its accelerator, empty for none of its own. `busy_s`: seconds of the runs that ended there since
    `since`, when the process took the slot up; the one that goes on is not among them.
    """

    slot: int
    since: AwareDatetime
    device: str = ""
    number: int | None = None
    description: str = ""
    started_at: AwareDatetime | None = None
    busy_s: float = 0.0

    def busy_share(self, now: dt.datetime) -> float:
        """The share of its time, 0 to 1, in which something ran there, with what runs now."""
        there_s = (now - self.since).total_seconds()
        return min(1.0, max(0.0, self._busy_s(now) / there_s)) if there_s > 0 else 0.0

    def emptied(self, now: dt.datetime) -> LiveSlot:
        """The slot with nothing in it, and what ran there until now added up."""
        return replace(self, number=None, description="", started_at=None, busy_s=self._busy_s(now))

    def _busy_s(self, now: dt.datetime) -> float:
        running_s = (now - self.started_at).total_seconds() if self.started_at else 0.0
        return self.busy_s + max(0.0, running_s)  # a clock may be set back


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What process `pid` does: every slot in order, and the descriptions of the proposals that wait for one, the next first."""

    pid: int
    slots: tuple[LiveSlot, ...]
    waiting: tuple[str, ...] = ()

    @property
    def is_gone(self) -> bool:
        """Whether the process died, so that nothing of this is so any more."""
        return not psutil.pid_exists(self.pid)

    @property
    def since(self) -> dt.datetime | None:
        """When its first slot was taken up."""
        return min((slot.since for slot in self.slots), default=None)

    @property
    def running(self) -> tuple[LiveSlot, ...]:
        """The slots in which something runs."""
        return tuple(slot for slot in self.slots if slot.number is not None)

    @property
    def several(self) -> bool:
        """Whether there is more to tell than what the only slot does."""
        return len(self.slots) > 1 or bool(self.waiting)


@cache
def _adapter() -> TypeAdapter[Live]:
    return TypeAdapter(Live)


def read(folder: Path) -> Live | None:
    """What the note in `folder` says; None where there is none, or one of another form, as an earlier version wrote it."""
    try:
        return _adapter().validate_json((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return None


@dataclass(slots=True)
class LiveNote:
    """Writes the note in `folder`; any number of threads may call it. Every method raises OSError when the disk does not take it."""

    folder: Path
    scrubber: Scrubber
    now: Callable[[], dt.datetime]
    _slots: dict[int, LiveSlot] = field(default_factory=dict)
    _waiting: tuple[str, ...] = ()
    _lock: threading.Lock = field(default_factory=threading.Lock)  # the newest state is also the last that is written

    def slots(self, devices: Sequence[str]) -> None:
        """The slots are these, one for each device, and their time begins."""
        with self._lock:
            now = self.now()
            self._slots = {
                number: LiveSlot(slot=number, device=device, since=now)
                for number, device in enumerate(devices, start=1)
            }
            self._write()

    def running(self, number: int, description: str, started_at: dt.datetime, slot: int) -> None:
        with self._lock:
            before = self._slots.get(slot) or LiveSlot(slot=slot, since=started_at)
            self._slots[slot] = replace(
                before.emptied(started_at), number=number, description=description, started_at=started_at
            )
            self._write()

    def idle(self, slot: int | None) -> None:
        with self._lock:
            for number, there in self._slots.items():
                if slot is None or number == slot:
                    self._slots[number] = there.emptied(self.now())
            if slot is not None:
                self._write()
                return
            self._waiting = ()
            (self.folder / FILE).unlink(missing_ok=True)

    def waiting(self, descriptions: Sequence[str]) -> None:
        with self._lock:
            if self._waiting != tuple(descriptions):
                self._waiting = tuple(descriptions)
                self._write()

    def _write(self) -> None:
        live = Live(pid=os.getpid(), slots=tuple(self._slots[n] for n in sorted(self._slots)), waiting=self._waiting)
        note = self.scrubber.scrub_json(_adapter().dump_python(live, mode="json"))
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / f"{FILE}.new"
        fresh.write_text(json.dumps(note), encoding="utf-8")
        fresh.replace(self.folder / FILE)
