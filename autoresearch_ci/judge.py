"""Pure: readings → verdict. The skill's rules, exactly.

Better by any amount is kept. Equal with fewer lines of code is kept. Equal or worse is discarded. No metric, a value that is
not finite, a non-zero exit or the timeout is a crash, with its reason.
"""

from __future__ import annotations

from autoresearch_ci.experiment import Direction, Ending, Measurement, Status, Verdict


def crash_reason(measurement: Measurement, metric: str, *, last_reading_counts: bool = False) -> str:
    """Why this run is a crash, in one line; empty when it is not.

    `last_reading_counts` is `at-timeout: last-reading`: a script that never stops by itself is then judged by what it last said.
    """
    run, reading = measurement.run, measurement.reading
    said = f": {reading.last_line}" if reading.last_line else ""
    if out_of_memory(measurement):
        return "out of memory" + (said if reading.out_of_memory else ": killed by the memory limit")
    if run.ending is Ending.TIMEOUT and not last_reading_counts:
        return f"killed after {run.wall_s:.0f} s: it did not stop by itself"
    if run.ending is Ending.EXITED and run.exit_code != 0:
        return f"exit code {run.exit_code}{said}"
    if reading.metric is None:
        return f"no finite `{metric}` in the log{said}"
    return ""


def out_of_memory(measurement: Measurement) -> bool:
    """Whether the run died of memory: killed by the limit, or its own error from CUDA or MPS on a run that failed."""
    run = measurement.run
    return run.ending is Ending.OUT_OF_MEMORY or (
        measurement.reading.out_of_memory and run.ending is Ending.EXITED and run.exit_code != 0
    )


def judge(*, metric: float, incumbent: float, lines: int, incumbent_lines: int, direction: Direction) -> Verdict:
    """The verdict about a run that ended well: its metric against the incumbent's, then the lines of code."""
    if direction.better(metric, incumbent):
        return Verdict(status=Status.KEEP, reason=f"better by {direction.gain(incumbent, metric):.6g}")
    if metric == incumbent:
        if lines < incumbent_lines:
            return Verdict(status=Status.KEEP, reason=f"equal with {incumbent_lines - lines} fewer lines of code")
        return Verdict(status=Status.DISCARD, reason="no change")
    return Verdict(status=Status.DISCARD, reason=f"worse by {direction.gain(metric, incumbent):.6g}")
