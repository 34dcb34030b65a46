"""What a session measures before anything is tried: the untouched script, by itself and beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from autoresearch_ci import neighbours, source
from autoresearch_ci.crew import Crew
from autoresearch_ci.errors import BaselineError
from autoresearch_ci.experiment import (
    Category,
    Ending,
    Experiment,
    Measurement,
    Proposal,
    Purpose,
    Recheck,
    Status,
    Verdict,
)
from autoresearch_ci.slots import Slot
from autoresearch_ci.trials import Trials, as_experiment


def baseline(trials: Trials, slot: Slot) -> Experiment | None:
    """Experiment 0, the untouched script; None when interrupted. There is nothing to improve on a crash: BaselineError."""
    session, runs = trials.history.session, trials.runs
    script = runs.workspace.script(session.base_commit)
    try:
        source.fingerprint(script)
    except ValueError as error:
        raise BaselineError(f"{session.training_script} does not parse", hint=str(error)) from error
    proposal = Proposal(
        script=script, description="Baseline — no modifications", category=Category.OTHER, proposer="baseline"
    )
    started, measurements = runs.now(), list[Measurement]()
    with runs.console.group("Baseline"):
        for turn in range(trials.baseline_runs):
            run = trials.wanted(
                session.base_commit,
                number=0,
                seeds=0,
                turn=turn,
                description=proposal.description,
                log=partial(_log, trials, len(measurements)),
                slot=slot,
            )
            measurements += trials.seen(run())
            if measurements[-1].run.ending is Ending.INTERRUPTED:
                return None
            if reason := trials.crash_reason(measurements[-1]):
                log = runs.journal.log_path(measurements[-1].log)
                raise BaselineError(
                    f"the baseline failed: {reason}", hint=f"run the script by itself first; its log is {log}"
                )
    return as_experiment(
        0,
        proposal,
        measurements,
        commit=session.base_commit,
        parent="",
        verdict=Verdict(status=Status.KEEP, reason="the baseline"),
        started_at=started,
        finished_at=runs.now(),
    )


def beside_itself(trials: Trials, crew: Crew, slots: Sequence[Slot]) -> Recheck | None:
    """The untouched script in all slots at the same time, with what that costs as the note; None when interrupted."""
    untouched, runs = trials.history.baseline, trials.runs
    assert untouched is not None
    runs.console.info(f"the baseline in all {len(slots)} slots at the same time")
    started, number = runs.now(), len(trials.history.rechecks)
    wanted = [
        trials.wanted(
            untouched.commit,
            number=0,
            seeds=0,
            turn=0,
            description="the baseline, beside itself",
            log=partial(_log_beside, trials, number, slot.number, len(slots)),
            slot=slot,
        )
        for slot in slots
    ]
    made = [measurements[-1] for measurements in crew.together(wanted)]
    if any(m.run.ending is Ending.INTERRUPTED for m in made):
        return None
    moved = next((r for r in reversed(trials.history.rechecks) if r.purpose is Purpose.MACHINE), None)
    alone = [m for m in moved.measurements if m.commit == untouched.commit] if moved else untouched.measurements
    cost = neighbours.cost(alone, made)
    if failed := next((reason for m in made if (reason := trials.crash_reason(m))), ""):
        cost = f"beside {len(slots) - 1} other runs the untouched script failed: {failed}"
        runs.console.warning(f"{cost}; lower `parallel`")
    elif cost:
        runs.console.info(cost)
    return Recheck(
        purpose=Purpose.NEIGHBOURS,
        reference=untouched.commit,
        subject=untouched.commit,
        wanted=len(slots),
        measurements=tuple(trials.seen(made)),
        note=cost,
        started_at=started,
        finished_at=runs.now(),
    )


def _log(trials: Trials, before: int, again: int) -> str:
    return trials.runs.journal.log_name(0, before + 1 + again)


def _log_beside(trials: Trials, number: int, slot: int, slots: int, again: int) -> str:
    return trials.runs.journal.recheck_log_name(number, slot + again * slots)
