"""The workflow that `init` writes into a repository: started by hand with typed inputs, and every night."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, get_args

import jinja2

from autoresearch_ci.settings import Settings

PROJECT: Final = "autoresearch-ci/autoresearch_ci"
VERSION: Final = "v1"
SCHEMA_URL: Final = f"https://raw.githubusercontent.com/{PROJECT}/{VERSION}/autoresearch_ci/autoresearch.schema.json"

CHECKOUT: Final = "actions/checkout@df4cb1c069e1874edd31b4311f1884172cec0e10 # v6.0.3"
# An odd minute: GitHub drops scheduled runs at busy times, above all at the start of an hour.
NIGHTLY: Final = "37 1 * * *"
NIGHT_HOURS: Final = 11.0
# What a session needs beside its loop: the checkout, the installation, the report.
SLACK_MINUTES: Final = 60

_TEMPLATE = Path(__file__).with_suffix(".yml")
_UNCHANGED = "as configured"


def render(settings: Settings, *, cron: str | None = NIGHTLY, runs_on: Sequence[str] = ("self-hosted",)) -> str:
    """The text of `.github/workflows/autoresearch.yml`.

    `cron` is in UTC, None for no schedule; `runs_on` are the runner's labels. The settings themselves stay in
    autoresearch.toml; only the hours are here, since the job's own time limit follows from them.
    """
    # GitHub's expressions are Jinja's `{{ }}`, so that the template has brackets instead.
    environment = jinja2.Environment(
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # YAML, not HTML; the filter `yaml` quotes what comes from outside
    )
    environment.filters["yaml"] = _yaml
    hours = settings.max_hours or NIGHT_HOURS
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        action=f"{PROJECT}/action@{VERSION}",
        checkout=CHECKOUT,
        choices={name: list(get_args(Settings.model_fields[name].annotation)) for name in ("scope", "platform")},
        cron=cron,
        descriptions={name: field.description for name, field in Settings.model_fields.items()},
        max_hours=f"{hours:g}",
        runs_on=runs_on[0] if len(runs_on) == 1 else list(runs_on),
        timeout_minutes=math.ceil(hours * 60) + SLACK_MINUTES,
        unchanged=_UNCHANGED,
    )


def _yaml(value: str | list[str]) -> str:
    """JSON is YAML, whatever is in the text."""
    return json.dumps(value, ensure_ascii=False)
