"""The base branch went on: what it brought to the session's branch is measured before anything else is tried."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from autoresearch_ci import results, source
from autoresearch_ci.errors import BaselineError, GitError
from autoresearch_ci.experiment import (
    Category,
    Ending,
    Experiment,
    History,
    Measurement,
    Purpose,
    Recheck,
    Session,
    Status,
    Verdict,
    mean,
)
from autoresearch_ci.noise import Readings, confirmed
from autoresearch_ci.report.trust import gain_text
from autoresearch_ci.runs import SEED, SEEDS_PER_EXPERIMENT, Runs


def take_in(
    runs: Runs,
    history: History,
    *,
    commit: str,
    session: Session,
    files: Mapping[str, bytes],
    wanted: int,
    hidden: str,
) -> History:
    """The history with the base's new commit merged: an experiment that nobody proposed, with runs of both.

    `commit` brings `session.base_commit` to the branch; `session` is what the session is from then on, and `files` go with its
    record. `wanted`: runs of each. `hidden`: a number of the log that no proposer may see. The history as it was when
    interrupted: nothing is recorded then, and the next process starts again from here. BaselineError when the new base fails,
    GitError when the branch fails on it.
    """
    base = session.base_commit
    runs.console.info(f"{_branch(session)} went on to {base[:7]}: measuring it, and what the branch is with it")
    started = runs.now()
    with runs.console.group(f"Base: {_branch(session)} at {base[:7]}"):
        measurements = _measured(runs, replace(history, session=session), commit, wanted, hidden)
    runs.journal.idle()
    if measurements is None:
        return history
    made = _as_experiment(runs, history, session, commit, measurements, started)
    history = runs.journal.append(history, made)  # by this line alone the session has another base
    history = runs.journal.begin(replace(history, session=session))
    made = history.experiments[-1]
    table = {"results.tsv": results.write(history).encode()}
    # All of them: the session's line may have filled the segment before the one that the merge is in.
    runs.workspace.record(history, {**runs.journal.all_files(), **runs.journal.files(made), **table, **files})
    runs.workspace.push_meanwhile()
    runs.console.notice(made.description, made.verdict.reason)
    return history


def _measured(runs: Runs, history: History, commit: str, wanted: int, hidden: str) -> list[Measurement] | None:
    """`wanted` runs of the base and of `commit`, in turn, each pair with a seed of its own; None when interrupted.

    Where `commit` leaves nothing of the session's own, it is the base, and runs for both.
    """
    base, number = history.session.base_commit, len(history.experiments)
    same = runs.workspace.script(base) == runs.workspace.script(commit)
    measurements: list[Measurement] = []
    for turn in range(wanted):
        for which in (commit,) if same else (base, commit):
            made = runs.measure(
                history.session,
                commit=which,
                log=partial(_log_name, runs, number, len(measurements) + 1),
                seed=SEED if wanted == 1 else SEED + SEEDS_PER_EXPERIMENT * number + turn,
                number=number,
                description=f"the base's {base[:7]}" if which == base else "the branch with the base merged",
            )
            measurements += [replace(m, reading=m.reading.without(hidden)) for m in made]
            if made[-1].run.ending is Ending.INTERRUPTED:
                return None
            if reason := runs.rules.crash_reason(measurements[-1], history.session.metric):
                log = runs.journal.log_path(made[-1].log)
                if which == base or same:
                    raise BaselineError(f"the base at {base[:7]} failed: {reason}", hint=f"its log is {log}")
                raise GitError(
                    f"what `{history.session.branch}` had kept fails on the base's {base[:7]}: {reason}",
                    hint=f"its log is {log}; start with another tag from the base, or turn `follow-base` off: nothing is lost",
                )
    return measurements


def _log_name(runs: Runs, number: int, first: int, again: int) -> str:
    return runs.journal.log_name(number, first + again)


def _as_experiment(
    runs: Runs, history: History, session: Session, commit: str, measurements: list[Measurement], started: dt.datetime
) -> Experiment:
    incumbent, script = history.incumbent, runs.workspace.script(commit)
    assert incumbent is not None  # a session without a baseline has nothing to merge into
    own = [m for m in measurements if m.commit == commit]
    values = [m.reading.metric for m in own if m.counts and m.reading.metric is not None]
    made = Experiment(
        number=len(history.experiments),
        commit=commit,
        parent=incumbent.commit,
        description=f"Merged {_branch(session)} at {session.base_commit[:7]}",
        category=Category.OTHER,
        verdict=Verdict(status=Status.KEEP, reason=""),
        metric=mean(values) if values else own[-1].reading.metric,
        memory_gb=max((m.memory_gb for m in own if m.memory_gb is not None), default=None),
        proposer="base",
        lines=source.code_lines(script),
        fingerprint=measurements[-1].fingerprint,
        base=session.base_commit,
        measurements=tuple(measurements),
        started_at=started,
        finished_at=runs.now(),
    )
    alone = made.as_baseline.metric
    if not made.is_base and alone is not None:  # a reader of results.tsv has nothing else to compare with
        made = replace(made, description=f"{made.description} ({_branch(session)} alone: {alone:.6g})")
    return replace(made, verdict=replace(made.verdict, reason=_reason(history, made)))


def _reason(history: History, merge: Experiment) -> str:
    """What the branch is still worth on the base as it is now, in one line."""
    if merge.is_base:
        return "the branch is the base now: it has nothing of its own"
    readings = Readings.of(history)
    readings.add(merge)
    pair = Recheck(
        purpose=Purpose.VERIFY,
        reference=merge.base,
        subject=merge.commit,
        wanted=0,
        measurements=merge.measurements,
    )
    gain = confirmed(pair, readings.noise, history.session.direction)
    if gain is None:
        return "no reading of both the base and the branch counts"
    if gain.gain > 0 and not gain.includes_zero:
        return f"still better than the base: gain {gain_text(gain, readings.noise)}"
    return f"not better than the base as it is now, as far as these runs tell: gain {gain_text(gain, readings.noise)}"


def _branch(session: Session) -> str:
    return session.base_branch or "the base"
