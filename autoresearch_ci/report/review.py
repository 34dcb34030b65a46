"""What a reviewer should look at first, who measured, and behind what wall. It judges no commit.

Plain text with words of others in it, which whoever shows it makes safe; but for `look_first`, which is Markdown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from autoresearch_ci.experiment import Experiment, History, Measurement, Session, Status
from autoresearch_ci.report.markdown import NO_VALUE, cell, clean, number
from autoresearch_ci.tripwires import Tripwire

WARNING: Final = "⚠"
LOOK_FIRST: Final = "Look at these first"
INTRODUCTION: Final = (
    "Nothing here proves that anything is wrong, and nothing was left out because of it: these are the places to read before "
    "merging."
)
NO_TRIPWIRES: Final[Mapping[str, Sequence[Tripwire]]] = MappingProxyType({})
MAX_COMMAND: Final = 200
MAX_READINGS: Final = 8
MAX_REASON: Final = 200
MAX_SENTENCE: Final = 800  # of our own, which bound what they quote
MAX_DESCRIPTION: Final = 100
MAX_TRIPWIRE: Final = 200


@dataclass(frozen=True, slots=True)
class Suspect:
    """A commit of the branch with what is odd about it: about its readings, and about its diff."""

    experiment: Experiment
    flags: tuple[str, ...]
    runs: str
    tripwires: tuple[Tripwire, ...]

    @property
    def reasons(self) -> list[tuple[str, str]]:
        """All of it, as (what, where or how): the second is code for a tripwire, empty where there is nothing more to say."""
        flagged = [(f"{clean(flag, MAX_REASON)} · {self.runs}", "") for flag in self.flags]
        return flagged + [(_where(each), clean(each.text, MAX_TRIPWIRE)) for each in self.tripwires]


def suspects(history: History, tripwires: Mapping[str, Sequence[Tripwire]]) -> list[Suspect]:
    """The baseline and the kept commits that are flagged or trip a wire, in order. `tripwires`: by full hash."""
    baseline = (history.baseline,) if history.baseline is not None else ()
    found = []
    for experiment in (*baseline, *history.kept):
        own = [m for m in _measurements(history, experiment) if m.commit == experiment.commit]
        flags = tuple(dict.fromkeys(flag for m in own for flag in m.flags))
        wires = tuple(tripwires.get(experiment.commit, ()))
        if flags or wires:
            found.append(Suspect(experiment, flags, _runs(own), wires))
    return found


def look_first(
    history: History,
    odd: Sequence[Suspect],
    commit: Callable[[Experiment], str],
    *,
    characters: int,
    most: int,
    where: str,
) -> list[str]:
    """The section of Markdown with all of them, nothing where there are none.

    `commit`: how a commit is shown. More than `most` reasons of one, and commits after so many characters, are counted and
    said to be in `where`.
    """
    if not odd:
        return []
    lines = [f"## {LOOK_FIRST}", "", INTRODUCTION, ""]
    commits = reasons = 0
    for each in odd:
        entry = [f"- {WARNING} {commit(each.experiment)} {cell(each.experiment.description, MAX_DESCRIPTION)}"]
        found = each.reasons
        for what, text in found[:most]:
            entry.append(f"  - {cell(what, MAX_SENTENCE)}{f': <code>{cell(text)}</code>' if text else ''}")
        if len(found) > most:
            entry.append(f"  - … and {len(found) - most} more in {where}")
        characters -= sum(len(line) + 1 for line in entry)
        if characters < 0:
            commits, reasons = commits + 1, reasons + len(found)
        else:
            lines += entry
    if commits:
        lines += ["", f"… and {commits} more commits with {reasons} reasons in {where}"]
    elsewhere = flagged_elsewhere(history)
    return [*lines, *(["", elsewhere] if elsewhere else []), ""]


def flagged_elsewhere(history: History) -> str:
    """How many experiments were flagged and not kept, in one sentence; empty where there are none."""
    kept = {experiment.number for experiment in (*history.of(Status.KEEP), *history.experiments[:1])}
    count = sum(bool(e.flags) for e in history.experiments if e.number not in kept)
    return f"{count} more {'was' if count == 1 else 'were'} flagged and not kept." if count else ""


def measured_by(session: Session) -> str:
    """Who says what the metric is, in one sentence."""
    command = clean(session.settings.get("evaluate", ""), MAX_COMMAND)
    if not command:
        return f"The training script prints {clean(session.metric, MAX_COMMAND)} itself."
    where = "process" if session.executor == "native" else "container"
    return f"The metric is scored by “{command}” from the base commit, in a {where} that the script never ran in."


def wall(session: Session) -> str:
    """That no container walled the runs in, where none did, and what did instead. Empty for a container."""
    if session.executor != "native":
        return ""
    instead = f" ({clean(session.wall, MAX_REASON)})" if session.wall else ""
    return f"Runs were native: no container walled them in{instead}; review what the script does."


def _measurements(history: History, experiment: Experiment) -> list[Measurement]:
    return [*experiment.measurements, *(m for recheck in history.rechecks for m in recheck.measurements)]


def _runs(own: Sequence[Measurement]) -> str:
    """How the runs of a commit went: `2 of 3 runs flagged: 0.9 (flagged), 0.91 (flagged), 1.2`."""
    flagged = sum(bool(m.flags) for m in own)
    readings = [f"{number(m.reading.metric)}{' (flagged)' if m.flags else ''}" for m in own[:MAX_READINGS]]
    more = f" and {len(own) - MAX_READINGS} more" if len(own) > MAX_READINGS else ""
    runs = "run" if len(own) == 1 else "runs"
    return f"{flagged} of {len(own)} {runs} flagged: {', '.join(readings) or NO_VALUE}{more}"


def _where(tripwire: Tripwire) -> str:
    return f"line {tripwire.line}, {tripwire.kind.value}" if tripwire.line else tripwire.kind.value
