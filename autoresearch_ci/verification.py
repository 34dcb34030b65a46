"""What is measured beside the experiments: two commits against each other, in turn, by fresh runs."""

from __future__ import annotations

from typing import Final

from autoresearch_ci.experiment import Ending, Experiment, History, Measurement, Purpose, Recheck
from autoresearch_ci.judge import crash_reason
from autoresearch_ci.noise import Readings
from autoresearch_ci.runs import SEED, SEEDS_PER_EXPERIMENT, Runs

FIRST_SEED: Final = SEED + 900 * SEEDS_PER_EXPERIMENT  # away from those of the experiments that chose the commits


def recheck(
    runs: Runs,
    history: History,
    *,
    purpose: Purpose,
    reference: str,
    subject: str,
    wanted: int,
    seconds: float | None = None,
    reverted: str = "",
    note: str = "",
    command: str = "",
) -> Recheck | None:
    """`wanted` fresh runs of both commits, interleaved, each pair with a seed of its own; None when interrupted before the first
    pair was complete.

    `seconds`: what is left; no pair is begun that cannot end in time, and the note says so. `command` replaces the session's.
    """
    started, measurements, longest = runs.now(), list[Measurement](), _longest(history)
    number, commits = len(history.rechecks), list(dict.fromkeys((reference, subject)))
    with runs.console.group(f"{purpose.value.capitalize()}: {subject[:7]} against {reference[:7]}"):
        for pair in range(wanted):
            spent = (runs.now() - started).total_seconds()
            if seconds is not None and spent + len(commits) * longest > seconds:
                note = f"only {pair} of {wanted} runs of each fitted the time that was left"
                break
            made: list[Measurement] = []
            for commit in commits:
                measurement = runs.measure(
                    history.session,
                    commit=commit,
                    log=runs.journal.recheck_log_name(number, len(measurements) + len(made) + 1),
                    seed=FIRST_SEED + SEEDS_PER_EXPERIMENT * number + pair,
                    number=len(history.experiments),
                    description=f"{purpose.value} {commit[:7]}, run {pair + 1} of {wanted}",
                    command=command,
                )
                if measurement.run.ending is Ending.INTERRUPTED:
                    break
                made.append(measurement)
                longest = max(longest, measurement.run.wall_s)
            if len(made) < len(commits):
                note = f"interrupted after {pair} of {wanted} runs of each"
                break
            measurements += made
            for failed in (m for m in made if m.reading.metric is None):
                reason = crash_reason(failed, history.session.metric)
                runs.console.warning(f"a run of {failed.commit[:7]} failed: {reason}")
    if not measurements:
        if note:
            runs.console.warning(note)
        return None
    return Recheck(
        purpose=purpose,
        reference=reference,
        subject=subject,
        wanted=wanted,
        measurements=tuple(measurements),
        reverted=reverted,
        note=note,
        started_at=started,
        finished_at=runs.now(),
    )


def verify(runs: Runs, history: History, *, wanted: int, seconds: float | None, table: str) -> History:
    """The history with a verification of the best commit against the base, made now unless there is one already.

    Where readings never varied, one run of each is enough, as long as it gives what was recorded.
    """
    best, base = history.best, history.baseline
    if best is None or base is None or best.number == 0 or wanted == 0 or _verified(history, best):
        return history
    noise = Readings.of(history).noise
    exact = noise.exact and noise.degrees > 0
    made = recheck(
        runs,
        history,
        purpose=Purpose.VERIFY,
        reference=base.commit,
        subject=best.commit,
        wanted=1 if exact else wanted,
        seconds=seconds,
    )
    if made is None:
        return history
    return runs.save(runs.journal.append_recheck(history, made), made, table)


def _verified(history: History, best: Experiment) -> bool:
    return any(r.purpose is Purpose.VERIFY and r.subject == best.commit and not r.note for r in history.rechecks)


def _longest(history: History) -> float:
    """Seconds of the longest of the last runs."""
    return max((m.run.wall_s for e in history.experiments[-20:] for m in e.measurements), default=0.0)
