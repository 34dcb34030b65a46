"""Builds the parts of a session from its settings: what makes runs, what proposes, and the loop that uses both."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from autoresearch_ci.cli.conclusion import in_repository
from autoresearch_ci.cli.environment import Place
from autoresearch_ci.cli.proposing import Proposing
from autoresearch_ci.cli.wiring import Opened
from autoresearch_ci.conditions import Cards, Conditions
from autoresearch_ci.console import Console
from autoresearch_ci.experiment import History, Scalar
from autoresearch_ci.judge import Rule
from autoresearch_ci.knobs import halve_batch
from autoresearch_ci.platforms import Platform
from autoresearch_ci.runs import Interrupt, Rules, Runs
from autoresearch_ci.session import Loop
from autoresearch_ci.slots import Slot
from autoresearch_ci.stopping import Limits
from autoresearch_ci.workspace import merged_script

MAX_AUTHORS: Final = 8  # agents on this machine, or questions to one endpoint, at the same time


def make_runs(console: Console, opened: Opened, place: Place, interrupt: Interrupt, files: Mapping[str, str]) -> Runs:
    """What makes the session's runs. `files`: the digests of the base commit's files."""
    settings = opened.settings
    rules = Rules(
        command=settings.command_line,
        directory=opened.directory,
        variables={
            **place.adjustments.variables(),
            "AUTORESEARCH_TIME_BUDGET": f"{settings.time_budget:g}",
            **settings.env,
        },
        timeout_s=settings.timeout_s,
        last_reading_counts=settings.at_timeout == "last-reading",
        metric_pattern=settings.metric_pattern,
        early_stop=settings.early_stop,
        evaluate=(settings.evaluate or "").replace("{training-script}", settings.training_script),
        evaluate_only=tuple(in_repository(opened, pattern) for pattern in settings.evaluate_only),
        metric_min=settings.metric_min,
        metric_max=settings.metric_max,
        files=files,
    )
    return Runs(
        rules=rules,
        workspace=opened.workspace,
        executor=place.executor,
        journal=opened.journal,
        console=console,
        interrupt=interrupt,
        now=lambda: dt.datetime.now(dt.UTC),
        conditions=_conditions(place),
        slot=place.slots[0],
    )


def _conditions(place: Place) -> Conditions:
    """What every run is described by; the fixed part must be the same for two readings to be compared."""
    detected = place.detection
    here = place.kind != "ray"
    cards = Cards.of_this_machine() if place.platform is Platform.CUDA and here else None
    fixed: dict[str, Scalar] = {
        "device": place.device,
        "executor": place.kind,
        "torch": detected.torch,
        "python": detected.python,
    }
    return Conditions(fixed | ({"driver": cards.driver} if cards else {}), cards, here)


def make_limits(opened: Opened) -> Limits:
    """The session's reasons to stop."""
    settings = opened.settings
    return Limits(
        max_iterations=settings.max_iterations,
        max_hours=opened.hours.limit,
        hours_because=opened.hours.because,
        target=settings.target,
        patience=settings.patience,
        max_crashes=settings.max_crashes,
    )


def make_loop(
    opened: Opened,
    runs: Runs,
    proposing: Proposing,
    slots: Sequence[Slot],
    began: dt.datetime,
    tell: Callable[[History], str],
) -> Loop:
    settings = opened.settings
    return Loop(
        runs=runs,
        proposer=proposing.proposer,
        gate=proposing.gate,
        floor=proposing.floor,
        repair=proposing.repair,
        repair_attempts=settings.repair_attempts,
        rule=Rule(confidence=settings.confidence, max_runs=settings.max_runs, min_delta=settings.min_delta),
        limits=make_limits(opened),
        baseline_runs=settings.baseline_runs,
        reserved_runs=2 * (settings.verify_runs + (max(1, settings.verify_runs) if settings.holdout_command else 0)),
        hidden=settings.holdout_metric,
        max_jump=settings.max_jump,
        report_every=settings.report_every,
        relieve=halve_batch,
        merge=merged_script,
        patience=proposing.patience,
        slots=slots,
        prefetch=settings.prefetch if proposing.takes_time else 0,
        authors=min(len(slots), MAX_AUTHORS) if proposing.takes_time else 1,
        began=began,
        tell=tell,
    )
