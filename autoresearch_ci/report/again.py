"""What a session ran more than once, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from autoresearch_ci.experiment import NEAR_MISS, Experiment, History, Measurement, Purpose, Recheck
from autoresearch_ci.report.markdown import clean

HEADINGS: Final = ("What", "Its runs", "Runs of what it is compared with", "Why")
MAX_NOTE: Final = 160
WHY: Final = {
    Purpose.VERIFY: "base against best, before the pull request",
    Purpose.ABLATE: "whether a kept commit still matters",
    Purpose.HOLDOUT: "base against best on the metric that no proposer sees",
    Purpose.DROP: "base against the best without what a person dropped",
    Purpose.MACHINE: "readings of two machines are not compared",
    Purpose.NEIGHBOURS: "what a second slot costs the first",
}


@dataclass(frozen=True, slots=True)
class Spent:
    """Runs of the session: all, and those that repeat a script that had a reading already, by what they were for."""

    runs: int
    candidates: int
    incumbents: int
    beside: int
    disturbed: int

    @property
    def repeats(self) -> int:
        return self.candidates + self.incumbents + self.beside

    @property
    def text(self) -> str:
        """In one line."""
        if not self.repeats:
            return f"{self.runs}, none of them a repeat"
        kinds = [
            (self.candidates, "of the candidate"),
            (self.incumbents, "of the incumbent"),
            (self.beside, "beside the experiments"),
        ]
        named = ", ".join(f"{count} {what}" for count, what in kinds if count)
        disturbed = f"; {self.disturbed} disturbed, which do not count" if self.disturbed else ""
        return f"{self.repeats} of {self.runs} were repeats: {named}{disturbed}"


def spent(history: History) -> Spent:
    """How the session's runs were used."""
    runs = candidates = incumbents = disturbed = 0
    merged = sum(len(merge.measurements) for merge in history.merges)
    for experiment in history.experiments:
        runs += len(experiment.measurements)
        if not experiment.base and (len(experiment.measurements) > 1 or NEAR_MISS in experiment.parameters):
            first = 0 if NEAR_MISS in experiment.parameters else 1  # a near miss had its first run before
            candidates += max(0, len(_own(experiment)) - first)
            incumbents += len(_of_the_incumbent(experiment))
        disturbed += sum(bool(m.disturbed) for m in experiment.measurements)
    rechecked = sum(len(recheck.measurements) for recheck in history.rechecks)
    disturbed += sum(bool(m.disturbed) for recheck in history.rechecks for m in recheck.measurements)
    return Spent(runs + rechecked, candidates, incumbents, merged + rechecked, disturbed)


def rows(history: History) -> list[tuple[str, ...]]:
    """Everything that was run more than once, one row for each, under `HEADINGS`: plain text."""
    found = []
    for experiment in history.experiments:
        own, others = _own(experiment), _of_the_incumbent(experiment)
        if len(own) > 1 or others or experiment.base or NEAR_MISS in experiment.parameters:
            name = "baseline" if experiment.number == 0 else f"experiment {experiment.number}"
            found.append((name, str(len(own)), str(len(others)), _why(experiment)))
    return found + [_recheck(recheck) for recheck in history.rechecks if recheck.measurements]


def _own(experiment: Experiment) -> list[Measurement]:
    """Runs of the commit itself: an attempt that ran out of memory was another script."""
    return [m for m in experiment.measurements if m.commit == experiment.commit]


def _of_the_incumbent(experiment: Experiment) -> list[Measurement]:
    other = experiment.base or experiment.parent  # of a merge, the base by itself
    return [m for m in experiment.measurements if m.commit == other and other not in ("", experiment.commit)]


def _why(experiment: Experiment) -> str:
    disturbed = next((m.disturbed for m in experiment.measurements if m.disturbed), "")
    verdict = f"{experiment.status.value}: {clean(experiment.verdict.reason, MAX_NOTE)}"
    if experiment.number == 0:
        why = "to know the noise"
    elif experiment.base:
        why = f"readings of two bases are not compared; {clean(experiment.verdict.reason, MAX_NOTE)}"
    elif NEAR_MISS in experiment.parameters:
        missed = clean(str(experiment.parameters[NEAR_MISS]), 20)
        why = f"experiment {missed} was a near miss; {verdict}"
    elif experiment.verdict.evidence is not None:
        why = f"one reading was not enough; {verdict}"
    else:
        why = verdict
    return f"disturbed: {clean(disturbed, MAX_NOTE)}; {why}" if disturbed else why


def _recheck(recheck: Recheck) -> tuple[str, ...]:
    subject = sum(m.commit == recheck.subject for m in recheck.measurements)
    reference = sum(m.commit == recheck.reference != recheck.subject for m in recheck.measurements)
    without = f", without {', '.join(commit[:7] for commit in recheck.reverted.split())}" if recheck.reverted else ""
    note = f": {clean(recheck.note, MAX_NOTE)}" if recheck.note else ""
    return f"{recheck.purpose.value}{without}", str(subject), str(reference), f"{WHY[recheck.purpose]}{note}"
