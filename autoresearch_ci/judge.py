"""Pure: readings → verdict, or "run it again".

The skill's rules where a script always gives the same reading: better by any amount is kept, equal with fewer lines of code is
kept, equal or worse is discarded. Where readings vary, the same by evidence. No metric, a value that is not finite, a non-zero
exit or the timeout is a crash, with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from autoresearch_ci.experiment import Direction, Ending, Evidence, Experiment, Measurement, Status, Verdict
from autoresearch_ci.noise import Noise, quantile

INCUMBENT_SHARE: Final = 1.5  # readings of the incumbent for one of the candidate, by `nox -s bench-judge`
MAX_HOPELESS: Final = 1.5  # standard errors: a gain above this much is never called hopeless


def crash_reason(
    measurement: Measurement,
    metric: str,
    *,
    last_reading_counts: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> str:
    """Why this run is a crash, in one line; empty when it is not.

    `last_reading_counts` is `at-timeout: last-reading`: a script that never stops by itself is then judged by what it last said.
    `low`, `high`: what the metric can be; a reading beyond is none.
    """
    run, reading = measurement.run, measurement.reading
    said = f": {reading.last_line}" if reading.last_line else ""
    if out_of_memory(measurement):
        return "out of memory" + (said if reading.out_of_memory else ": killed by the memory limit")
    if run.ending is Ending.TIMEOUT and not last_reading_counts:
        return f"killed after {run.wall_s:.0f} s: it did not stop by itself"
    if run.ending is Ending.STOPPED:
        return run.stopped_because
    if run.ending is Ending.EXITED and run.exit_code != 0:
        return f"exit code {run.exit_code}{said}"
    if reading.metric is None:
        return f"no finite `{metric}` in the log{said}"
    if low is not None and reading.metric < low:
        return f"`{metric}` is {reading.metric:g}, which it cannot be: `metric-min` is {low:g}"
    if high is not None and reading.metric > high:
        return f"`{metric}` is {reading.metric:g}, which it cannot be: `metric-max` is {high:g}"
    return ""


def out_of_memory(measurement: Measurement) -> bool:
    """Whether the run died of memory: killed by the limit, or its own error from CUDA or MPS on a run that failed."""
    run = measurement.run
    return run.ending is Ending.OUT_OF_MEMORY or (
        measurement.reading.out_of_memory and run.ending is Ending.EXITED and run.exit_code != 0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What it takes to keep a change, where readings vary.

    `confidence`: how sure it must be that a kept change is better. `max_runs`: runs that one experiment may take, those of the
    incumbent included. `min_delta`: gains up to it are none, in the metric's unit.
    """

    confidence: float = 0.95
    max_runs: int = 12
    min_delta: float = 0.0


@dataclass(frozen=True, slots=True)
class RunAgain:
    """Not clear yet: one more run, of the incumbent or of the candidate."""

    incumbent: bool
    reason: str


def judge(
    candidate: Sequence[float],
    incumbent: Sequence[float],
    *,
    noise: Noise,
    typical_gain: float,
    runs: int,
    lines: int,
    incumbent_lines: int,
    direction: Direction,
    rule: Rule,
) -> Verdict | RunAgain:
    """The verdict about a candidate that ended well, by its readings and the incumbent's; or that it takes another run.

    Where readings do not vary, the skill's rule: better by any amount is kept, equal with fewer lines is kept. Where they do, a
    sequential test on the difference of the means. A candidate is kept once the gain is larger than Student's quantile of
    `confidence` times the standard error, and discarded once it is hopeless: not better at all, or so little that a gain of the
    usual size has become unlikely. In between another run is asked for, of the incumbent as long as it has fewer than one and a
    half times the candidate's readings, since every later candidate is compared with it too. Measured by `nox -s bench-judge`.

    `runs`: made for this experiment so far. `typical_gain`: what keeps gained so far, in the metric's unit.
    """
    if noise.exact:
        return _plain(candidate[-1], incumbent[-1], lines, incumbent_lines, direction, rule)
    if not incumbent:
        if runs < rule.max_runs:
            return RunAgain(True, "it has no reading yet but the one that selected it")
        return Verdict(status=Status.DISCARD, reason=f"the incumbent gave no reading in {runs} runs")
    gain = direction.gain(fmean(incumbent), fmean(candidate))
    error = noise.standard_error(len(candidate), len(incumbent))
    sure = quantile(rule.confidence, noise.degrees) * error
    evidence = Evidence(
        gain=gain,
        standard_error=error,
        needed=max(rule.min_delta, sure),
        runs=len(candidate),
        incumbent_runs=len(incumbent),
        noise=noise.sd,
        degrees=noise.degrees,
    )
    simpler = lines < incumbent_lines
    if gain > evidence.needed:
        return Verdict(status=Status.KEEP, reason=f"better by {gain:.3g}, {_after(evidence)}", evidence=evidence)
    if simpler and gain + noise.sd > sure:
        fewer = f"not worse, with {incumbent_lines - lines} fewer lines of code, {_after(evidence)}"
        return Verdict(status=Status.KEEP, reason=fewer, evidence=evidence)
    # Fewer lines may cost up to the noise of one run; anything else has to gain something.
    ahead = gain + noise.sd if simpler else gain
    if not ahead > _hopeless(typical_gain, error):
        worse = f"worse by {-gain:.3g}" if gain < 0 else f"better by {gain:.3g} only"
        return Verdict(status=Status.DISCARD, reason=f"{worse}, {_after(evidence)}", evidence=evidence)
    if runs >= rule.max_runs:
        unclear = f"better by {gain:.3g}, which is not enough to be sure ({evidence.needed:.3g} is), {_after(evidence)}"
        return Verdict(status=Status.DISCARD, reason=unclear, evidence=evidence)
    unclear = f"better by {gain:.3g}, and {evidence.needed:.3g} would be sure"
    return RunAgain(len(incumbent) < INCUMBENT_SHARE * len(candidate), unclear)


def near_miss(experiment: Experiment) -> bool:
    """Whether a discard looked better but could not be told from noise: worth another look when there is time."""
    evidence = experiment.verdict.evidence
    return experiment.status is Status.DISCARD and evidence is not None and evidence.gain > evidence.standard_error


def _plain(
    metric: float, incumbent: float, lines: int, incumbent_lines: int, direction: Direction, rule: Rule
) -> Verdict:
    """The skill's rule, exactly; `min_delta` above zero raises the bar."""
    gain = direction.gain(incumbent, metric)
    if gain > rule.min_delta:
        return Verdict(status=Status.KEEP, reason=f"better by {gain:.6g}")
    if gain >= 0 and lines < incumbent_lines:
        return Verdict(status=Status.KEEP, reason=f"equal with {incumbent_lines - lines} fewer lines of code")
    if gain < 0:
        return Verdict(status=Status.DISCARD, reason=f"worse by {-gain:.6g}")
    return Verdict(status=Status.DISCARD, reason=f"better by {gain:.6g} only" if gain > 0 else "no change")


def _hopeless(typical_gain: float, error: float) -> float:
    """The gain below which another run is not worth it: where a change of no effect explains the readings about e^(1/2) times
    better than one of the typical size does (Wald's sequential ratio of likelihoods), never below zero."""
    if typical_gain <= 0.0 or error <= 0.0:
        return 0.0
    return min(max(typical_gain / 2 - error**2 / (2 * typical_gain), 0.0), MAX_HOPELESS * error)


def _after(evidence: Evidence) -> str:
    return f"after {evidence.runs} run{'s' if evidence.runs > 1 else ''} against {evidence.incumbent_runs}"
