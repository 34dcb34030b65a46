"""What is measured beside the experiments: two commits against each other, in turn, by fresh runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from autoresearch_ci import source
from autoresearch_ci.experiment import Ending, Experiment, History, Measurement, Purpose, Recheck
from autoresearch_ci.noise import Readings, verification
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
    pair was complete. A verification that did not fit the time is the note that says so.

    `seconds`: what is left; no pair is begun that cannot end in time, and the note says so. `command` replaces the session's.
    """
    started, measurements, longest, interrupted = runs.now(), list[Measurement](), _longest(history), False
    number, commits = len(history.rechecks), list(dict.fromkeys((reference, subject)))
    with runs.console.group(f"{purpose.value.capitalize()}: {subject[:7]} against {reference[:7]}"):
        for pair in range(wanted):
            spent = (runs.now() - started).total_seconds()
            if seconds is not None and spent + len(commits) * longest > seconds:
                note = f"only {pair} of {wanted} runs of each fitted the time that was left"
                break
            made: list[Measurement] = []
            for commit in commits:
                before = len(measurements) + len(made) + 1
                again = runs.measure(
                    history.session,
                    commit=commit,
                    log=partial(_log_name, runs, number, before),
                    seed=FIRST_SEED + SEEDS_PER_EXPERIMENT * number + pair,
                    number=len(history.experiments),
                    description=f"{purpose.value} {commit[:7]}, run {pair + 1} of {wanted}",
                    command=command,
                )
                interrupted = again[-1].run.ending is Ending.INTERRUPTED
                if interrupted:
                    break
                made += [_counted(runs, history, measurement) for measurement in again]
                longest = max(longest, again[-1].run.wall_s)
            if interrupted:
                note = f"interrupted after {pair} of {wanted} runs of each"
                break
            measurements += made
    runs.journal.idle()
    if note and not measurements:
        runs.console.warning(note)
    if not measurements and (interrupted or purpose is not Purpose.VERIFY):  # the report must say why there is none
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


def _log_name(runs: Runs, number: int, first: int, again: int) -> str:
    return runs.journal.recheck_log_name(number, first + again)


def verify(
    runs: Runs, history: History, *, wanted: int, seconds: float | None, table: str, again: bool = False
) -> History:
    """The history with a verification of the best commit against the base, made now unless there is one already.

    Where readings never varied, one run of each is enough, as long as it gives what was recorded. `again`: a person asked for it,
    so it is made whatever there is, with as many runs as were asked for.
    """
    if not again:
        wanted = _enough(history, wanted)
    return _base_against_best(
        runs, history, purpose=Purpose.VERIFY, wanted=wanted, seconds=seconds, table=table, again=again
    )


def without(
    runs: Runs,
    history: History,
    *,
    commit: str,
    dropped: Sequence[str],
    wanted: int,
    seconds: float | None,
    table: str,
) -> History:
    """The history with `commit`, the best without the keeps `dropped`, against the base; made now unless it was already.

    What was measured of the same script for another reason does not replace it: those runs were not made in turn with the base's.
    """
    base = history.baseline
    if base is None or wanted == 0 or any(_complete(r) for r in history.rechecks if _is_drop(r, commit)):
        return history
    made = recheck(
        runs,
        history,
        purpose=Purpose.DROP,
        reference=base.commit,
        subject=commit,
        wanted=_enough(history, wanted),
        seconds=seconds,
        reverted=" ".join(dropped),
    )
    return history if made is None else runs.save(runs.journal.append_recheck(history, made), made, table)


def dropping(history: History, commit: str) -> Recheck | None:
    """The last measurement of `commit` as a branch without some keeps; None when there is none."""
    return next((r for r in reversed(history.rechecks) if _is_drop(r, commit)), None)


def _is_drop(recheck: Recheck, commit: str) -> bool:
    return recheck.purpose is Purpose.DROP and recheck.subject == commit


def holdout(runs: Runs, history: History, *, command: str, wanted: int, seconds: float | None, table: str) -> History:
    """The history with the best commit against the base by `command`, made now unless it was already.

    Always `wanted` runs of each: how much the session's own readings vary says nothing about another command's.
    """
    return _base_against_best(
        runs, history, purpose=Purpose.HOLDOUT, wanted=wanted, seconds=seconds, table=table, command=command
    )


def holdout_metric(runs: Runs, history: History, *, name: str, table: str) -> History:
    """The history with what the verification's own runs printed as `name`: a second metric costs no further run."""
    best, verified = history.best, verification(history)
    if best is None or verified is None or _made(history, Purpose.HOLDOUT, best):
        return history
    measurements = tuple(
        replace(m, reading=replace(m.reading, metric=m.reading.numbers.get(name))) for m in verified.measurements
    )
    if all(m.reading.metric is None for m in measurements):
        runs.console.warning(f"no run printed `{name}`, the holdout")
    made = replace(verified, purpose=Purpose.HOLDOUT, measurements=measurements)
    return runs.save(runs.journal.append_recheck(history, made), made, table)


def ablate(
    runs: Runs,
    history: History,
    *,
    wanted: int,
    seconds: float | None,
    table: str,
    merge: Callable[[str, str, str], str | None],
) -> History:
    """The history with the best commit measured without each kept change in turn, except what was measured for it already.

    `merge(base, ours, theirs)`: `ours` with what `theirs` changed since `base`, None when that cannot be. A change that cannot be
    taken out alone is recorded without a run. Stops when the time is over or at an interrupt, and says what is missing.
    """
    best, started = history.best, runs.now()
    if best is None or len(history.kept) < 2 or wanted == 0:
        return history
    left = [kept for kept in history.kept if not _made(history, Purpose.ABLATE, best, kept.commit)]
    while left and not runs.interrupt.requested():
        spent = (runs.now() - started).total_seconds()
        made = _without(
            runs,
            history,
            best,
            left[0],
            wanted=wanted,
            seconds=None if seconds is None else seconds - spent,
            merge=merge,
        )
        if made is not None:
            history = runs.save(runs.journal.append_recheck(history, made), made, table)
        if made is None or not _complete(made):
            break
        left.pop(0)
    if left:
        runs.console.warning(f"{len(left)} of {len(history.kept)} ablations are not complete")
    return history


def _without(
    runs: Runs,
    history: History,
    best: Experiment,
    kept: Experiment,
    *,
    wanted: int,
    seconds: float | None,
    merge: Callable[[str, str, str], str | None],
) -> Recheck | None:
    """The best commit without one kept change against the best commit; None when there was no time for it."""
    whole, change = runs.workspace.script(best.commit), f"{kept.commit[:7]} {kept.description}"
    text = merge(runs.workspace.script(kept.commit), whole, runs.workspace.script(kept.parent))
    note = "it cannot be taken out alone: later keeps build on it" if text is None else ""
    if text is not None and source.fingerprint(text) == source.fingerprint(whole):
        note = "nothing of it is left in the best commit"
    if text is None or note:
        runs.console.info(f"not measured without {change}: {note}")
        now = runs.now()
        return Recheck(
            purpose=Purpose.ABLATE,
            reference=best.commit,
            subject=best.commit,
            wanted=0,
            reverted=kept.commit,
            note=note,
            started_at=now,
            finished_at=now,
        )
    message = f"ablation: without {change}\n\nAutoresearch-Session: {history.session.tag}\n"
    return recheck(
        runs,
        history,
        purpose=Purpose.ABLATE,
        reference=best.commit,
        subject=runs.workspace.commit(best.commit, text, message),
        wanted=_enough(history, wanted),
        seconds=seconds,
        reverted=kept.commit,
    )


def _base_against_best(
    runs: Runs,
    history: History,
    *,
    purpose: Purpose,
    wanted: int,
    seconds: float | None,
    table: str,
    command: str = "",
    again: bool = False,
) -> History:
    best, base = history.best, history.baseline
    if best is None or base is None or not history.kept or wanted == 0:
        return history
    if not again and _made(history, purpose, best):
        return history
    made = recheck(
        runs,
        history,
        purpose=purpose,
        reference=base.commit,
        subject=best.commit,
        wanted=wanted,
        seconds=seconds,
        command=command,
    )
    if made is None:
        return history
    return runs.save(runs.journal.append_recheck(history, made), made, table)


def complete(history: History, purpose: Purpose) -> bool:
    """Whether nothing is missing that could be measured for the best commit: no run, and in an ablation no kept commit."""
    best = history.best
    reverted = [kept.commit for kept in history.kept] if purpose is Purpose.ABLATE else [""]
    return best is None or all(_made(history, purpose, best, commit) for commit in reverted)


def _counted(runs: Runs, history: History, measurement: Measurement) -> Measurement:
    """The measurement as evidence: a crash is told, and whatever it printed before is no value."""
    reason = runs.rules.crash_reason(measurement, history.session.metric)
    if not reason:
        return measurement
    runs.console.warning(f"a run of {measurement.commit[:7]} failed: {reason}")
    return replace(measurement, reading=replace(measurement.reading, metric=None))


def _made(history: History, purpose: Purpose, best: Experiment, reverted: str = "") -> bool:
    """Whether the best commit was measured for this already, with every run that was asked for."""
    return any(
        r.purpose is purpose and best.commit in (r.subject, r.reference) and r.reverted == reverted and _complete(r)
        for r in history.rechecks
    )


def _complete(recheck: Recheck) -> bool:
    """Whether nothing is missing that could be measured later; of what cannot be measured no run is wanted."""
    return not recheck.note or recheck.wanted == 0


def _enough(history: History, wanted: int) -> int:
    """How many runs of each tell what is to be told: one, where readings never varied."""
    noise = Readings.of(history).noise
    return min(wanted, 1) if noise.exact and noise.degrees > 0 else wanted


def _longest(history: History) -> float:
    """Seconds of the longest of the last runs."""
    return max((m.run.wall_s for e in history.experiments[-20:] for m in e.measurements), default=0.0)
