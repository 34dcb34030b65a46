"""How long this process may go on: the person's hours, the job's time limit, and the life of the token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from autoresearch_ci.settings import Settings

# Of the job: before us the checkout and the installation, after us the report and the pull request.
SLACK_HOURS: Final = 0.5
SLACK_SHARE: Final = 0.25  # of a job so short that the half hour would be most of it
TOKEN_SLACK_HOURS: Final = 1.0  # the token's life begins with the job, and the last push comes after the last run


@dataclass(frozen=True, slots=True)
class Hours:
    """`limit`: hours from the start of this process to the end of its last run, None for as long as it likes; `because`: whose
    limit it is, in words that follow "within 11 hours"."""

    limit: float | None = None
    because: str = ""


def hours(settings: Settings, token_hours: float | None) -> Hours:
    """The shortest of what limits this process. `token_hours`: how long the forge's token lives in all; None: it is renewed."""
    limits: list[Hours] = []
    if settings.max_hours is not None:
        limits.append(Hours(settings.max_hours))
    if settings.job_timeout is not None:
        job = settings.job_timeout / 3600
        limits.append(Hours(job - min(SLACK_HOURS, SLACK_SHARE * job), f", since the job ends after {job:g}"))
    if token_hours is not None:
        limits.append(Hours(token_hours - TOKEN_SLACK_HOURS, f", since the job's token lives {token_hours:g}"))
    return min(limits, key=lambda each: each.limit or 0.0, default=Hours())
