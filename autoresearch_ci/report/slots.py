"""What every slot of a session does now, and which proposals wait for one."""

from __future__ import annotations

import datetime as dt
from typing import Final

from autoresearch_ci.live import Live, LiveSlot
from autoresearch_ci.report.markdown import NO_VALUE, cell, table

HEADINGS: Final = ("Slot", "Device", "Running", "Since", "Busy")
SLOTS_CHARACTERS: Final = 8_000
MAX_WAITING: Final = 8  # proposals that are named
MAX_DEVICE: Final = 60
MAX_DESCRIPTION: Final = 120


def slots_now(live: Live, now: dt.datetime) -> list[str]:
    """Markdown: a row for each slot, then the proposals that wait."""
    rows = (_row(slot, now) for slot in live.slots)
    return [*table(HEADINGS, rows, SLOTS_CHARACTERS, "`autoresearch-ci status --json`"), "", *_waiting(live)]


def running_text(slot: LiveSlot, now: dt.datetime) -> str:
    """What runs in a slot and for how long, in one line."""
    return f"experiment {slot.number} for {_seconds(slot, now):.0f} s: {cell(slot.description, MAX_DESCRIPTION)}"


def _row(slot: LiveSlot, now: dt.datetime) -> tuple[str, ...]:
    running, since = NO_VALUE, NO_VALUE
    if slot.number is not None and slot.started_at is not None:
        running = f"{slot.number}: {cell(slot.description, MAX_DESCRIPTION)}"
        since = f"{slot.started_at.astimezone(dt.UTC):%H:%M} UTC ({_seconds(slot, now):.0f} s)"
    return (
        str(slot.slot),
        cell(slot.device, MAX_DEVICE) or NO_VALUE,
        running,
        since,
        f"{100 * slot.busy_share(now):.0f} %",
    )


def _seconds(slot: LiveSlot, now: dt.datetime) -> float:
    return max(0.0, (now - slot.started_at).total_seconds()) if slot.started_at else 0.0


def _waiting(live: Live) -> list[str]:
    if not live.waiting:
        return []
    count = len(live.waiting)
    named = "; ".join(cell(text, MAX_DESCRIPTION) for text in live.waiting[:MAX_WAITING])
    more = f"; and {count - MAX_WAITING} more" if count > MAX_WAITING else ""
    return [f"**Waiting for a slot:** {named}{more}", ""]
