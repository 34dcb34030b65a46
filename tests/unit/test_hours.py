from __future__ import annotations

import pytest

from autoresearch_ci import settings
from autoresearch_ci.cli.hours import Hours, hours
from autoresearch_ci.settings import Settings

BASICS = {"time-budget": "5m", "metric": "val_bpb", "direction": "minimize"}


def made(**flags: str) -> Settings:
    return settings.load(flags=BASICS | {name.replace("_", "-"): value for name, value in flags.items()}).settings


def test_nothing_limits_a_session_at_a_shell() -> None:
    """Without hours, a job or a token that ends it goes on."""
    assert hours(made(), None) == Hours(None, "")


@pytest.mark.parametrize(
    ("flags", "token_hours", "limit", "because"),
    [
        ({"max_hours": "11"}, None, 11.0, ""),
        ({"max_hours": "11", "job_timeout": "12h"}, 24.0, 11.0, ""),
        ({"max_hours": "11", "job_timeout": "6h"}, 24.0, 5.5, "the job ends after 6"),
        ({"job_timeout": "1h"}, None, 0.75, "the job ends after 1"),
        ({"max_hours": "100", "job_timeout": "120h"}, 24.0, 23.0, "the job's token lives 24"),
        ({"max_hours": "100", "job_timeout": "120h"}, None, 100.0, ""),
    ],
)
def test_the_shortest_counts(flags: dict[str, str], token_hours: float | None, limit: float, because: str) -> None:
    """A person's hours, the job's time and the token's life: the first to be over, with its name where a person did not choose it."""
    found = hours(made(**flags), token_hours)
    assert found.limit == limit
    assert because in found.because
    assert bool(because) == bool(found.because)
