"""How a session was run: on what, behind what wall, for how long, with which versions; Markdown, a topic and its sentence each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from autoresearch_ci import __version__
from autoresearch_ci.experiment import Experiment, History, Purpose, Recheck, Scalar, Session
from autoresearch_ci.report.commands import MAX_NAME
from autoresearch_ci.report.links import job_link
from autoresearch_ci.report.markdown import cell
from autoresearch_ci.report.review import wall
from autoresearch_ci.report.standing import busy_s, per_hour

MAX_VERSION: Final = 40
MAX_WALL: Final = 300
MAX_NEIGHBOURS: Final = 300


def how_it_was_run(history: History) -> list[tuple[str, str]]:
    """What there is to say; of a bare table only what wrote the report."""
    session = history.session
    machine = ", ".join(cell(part, MAX_NAME) for part in (session.platform, session.device, session.executor) if part)
    said = [
        ("Machine", machine),
        ("Slots", slots(history)),
        ("Wall", _wall(session)),
        ("Each run", "" if session.time_budget_s is None else f"{session.time_budget_s:g} s of training"),
        ("Experiments", _time(history)),
        ("From", _base(session)),
        ("Proposer", cell(session.settings.get("proposer", ""), MAX_NAME)),
        ("Job", job_link(session)),
        ("Versions", _versions(history)),
    ]
    return [(topic, sentence) for topic, sentence in said if sentence]


def slots(history: History) -> str:
    """How many runs were made at the same time, and what neighbours cost; empty where it was one after the other."""
    measured = next((r for r in reversed(history.rechecks) if r.purpose is Purpose.NEIGHBOURS), None)
    if measured is None:
        return ""
    cost = f"; {cell(measured.note, MAX_NEIGHBOURS)}" if measured.note else ""
    return f"{measured.wanted} runs at the same time{cost}"


def when(moment: dt.datetime | None) -> str:
    """To the minute: `2026-11-22 22:00 UTC`; empty for none."""
    return "" if moment is None else f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"


def _wall(session: Session) -> str:
    if session.executor == "container":
        return "a fresh container for every run"
    return cell(wall(session), MAX_WALL)


def _time(history: History) -> str:
    """When, how many hours, and how many experiments in one."""
    made: tuple[Experiment | Recheck, ...] = (*history.experiments, *history.rechecks)
    times = [t for each in made for t in (each.started_at, each.finished_at) if t is not None]
    if not times:
        return ""
    first, last = min(times), max(times)
    tried = len(history.tried)
    rate = per_hour(history.experiments)
    hours = f", {busy_s(made) / 3600:.1f} h of runs, {rate} experiments an hour" if rate else ""
    return f"{tried} and the baseline, {when(first)} to {when(last)}{hours}"


def _base(session: Session) -> str:
    if not session.base_commit:
        return ""
    short = cell(session.base_commit[:7])
    link = f"[{short}]({session.repository}/commit/{quote(session.base_commit)})" if session.repository else short
    return f"{link} of {cell(session.base_branch, MAX_NAME)}" if session.base_branch else link


def _versions(history: History) -> str:
    """Of this program, and of what the last run was made with."""
    runs = (m.conditions for e in reversed(history.experiments) for m in e.measurements)
    conditions: Mapping[str, Scalar] = next((known for known in runs if "torch" in known), {})
    named = [("torch", conditions.get("torch")), ("driver", conditions.get("driver"))]
    known = [f"{name} {cell(str(value), MAX_VERSION)}" for name, value in named if value]
    return ", ".join([f"autoresearch-ci {__version__}", *known])
