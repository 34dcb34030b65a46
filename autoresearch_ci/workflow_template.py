"""The workflow that `init` writes into a repository: started by hand with typed inputs, every night, and by comments."""

from __future__ import annotations

import json
import math
import re
import zoneinfo
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import jinja2

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.settings import DATE, Settings

PROJECT: Final = "autoresearch-ci/autoresearch_ci"
VERSION: Final = "v1"
SCHEMA_URL: Final = f"https://raw.githubusercontent.com/{PROJECT}/{VERSION}/autoresearch_ci/autoresearch.schema.json"

CHECKOUT: Final = "actions/checkout@df4cb1c069e1874edd31b4311f1884172cec0e10 # v6.0.3"
# An odd minute: GitHub drops scheduled runs at busy times, above all at the start of an hour.
NIGHTLY: Final = "37 1 * * *"
TIMEZONE: Final = "Etc/UTC"
NIGHT_HOURS: Final = 11.0
# What a session needs beside its loop: the checkout, the installation, the report.
SLACK_MINUTES: Final = 60
NIGHTLY_TAG: Final = "nightly"
# Whose answers come from a model, and so need its key.
ASKING: Final = frozenset({"llm", "agent", "hybrid"})

Nights = Literal["new", "one"]

_TEMPLATE = Path(__file__).with_suffix(".yml")
_UNCHANGED = "as configured"
_CHOICES = ("scope", "platform", "proposer", "progress", "resume")

# The five fields of a cron line, and what each may hold (POSIX cron, as GitHub reads it).
_FIELDS: Final = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")),
    ("day of the week", 0, 6, ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What `init` asks about the workflow itself, checked: SettingsError for what GitHub would not take.

    `cron` in `timezone`, None for no schedule. `nights`: `new`, each night a branch of its own from the base; `one`, a branch that
    goes on, into which the base is merged. `runs_on`: labels of the runner that trains; `small_runs_on`: of the one that answers
    comments. `environment`: the GitHub environment whose reviewers confirm the Research Config; nightly sessions wait for them only
    with `confirm_nights`.
    """

    cron: str | None = NIGHTLY
    timezone: str = TIMEZONE
    nights: Nights = "new"
    runs_on: tuple[str, ...] = ("self-hosted",)
    small_runs_on: tuple[str, ...] = ("ubuntu-latest",)
    environment: str = ""
    confirm_nights: bool = False
    comments: bool = True

    def __post_init__(self) -> None:
        if self.cron is not None:
            _check_cron(self.cron)
        _check_timezone(self.timezone)
        if self.nights not in get_args(Nights):
            raise SettingsError(
                f"`nights` cannot be {self.nights!r}",
                hint="`new`: each night a branch of its own; `one`: a branch that goes on",
            )
        for name, labels in (("runs-on", self.runs_on), ("small-runs-on", self.small_runs_on)):
            if not labels or not all(re.fullmatch(r"[^\s,'\"{}][^,'\"{}\x00-\x1f]{0,255}", label) for label in labels):
                raise SettingsError(
                    f"`{name}` cannot be {', '.join(labels)!r}", hint="a runner's labels, as `self-hosted,gpu`"
                )
        if self.environment and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}", self.environment):
            raise SettingsError(
                f"`environment` cannot be {self.environment!r}",
                hint="up to 100 letters, digits, blanks, `.`, `_` or `-`, as in *Settings → Environments*",
            )
        if self.confirm_nights and not (self.environment and self.cron):
            raise SettingsError(
                f"`confirm-nights` without {'a nightly' if self.environment else '`environment`'}: there is nothing to confirm",
                hint="name the environment whose reviewers confirm, as `--environment research`, and a time, as `--cron`",
            )

    def rows(self) -> list[tuple[str, str]]:
        """What was answered, for a person to confirm."""
        waits = "new sessions, also nightly ones" if self.confirm_nights else "new sessions that are started by hand"
        nights = {"new": "each on a branch of its own", "one": "all on one branch, with the base merged in"}
        return [
            ("nightly", f"{self.cron} {self.timezone}, {nights[self.nights]}" if self.cron else "none"),
            ("runner", ", ".join(self.runs_on)),
            (
                "confirmed by",
                f"reviewers of the environment {self.environment}: {waits}" if self.environment else "nobody",
            ),
            ("comments", f"answered on {', '.join(self.small_runs_on)}" if self.comments else "not answered"),
        ]


def render(settings: Settings, answers: Answers | None = None) -> str:
    """The text of `.github/workflows/autoresearch.yml`.

    The settings themselves stay in autoresearch.toml; only the hours are here, since the job's own time limit follows from them,
    and what the permissions follow from.
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
    environment.filters["labels"] = _labels
    environment.filters["place"] = lambda labels: _yaml(labels[0] if len(labels) == 1 else labels)
    answers = answers or Answers()
    hours = settings.max_hours or NIGHT_HOURS
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        action=f"{PROJECT}/action@{VERSION}",
        answers=answers,
        checkout=CHECKOUT,
        choices={name: list(get_args(Settings.model_fields[name].annotation)) for name in _CHOICES},
        continues=settings.continue_,
        descriptions={name: field.description for name, field in Settings.model_fields.items()},
        max_hours=f"{hours:g}",
        model_keys=bool({settings.proposer, settings.then} & ASKING),
        tags=_tags(settings.tag, answers.nights),
        timeout_minutes=math.ceil(hours * 60) + SLACK_MINUTES,
        unchanged=_UNCHANGED,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tags:
    """Tags as the workflow needs them: of the nights; how those begin, also a later one of the same; and what no tag means."""

    night: str
    night_group: str
    configured_group: str


def _tags(configured: str, nights: Nights) -> _Tags:
    """Sessions of one tag must be in one group, whoever starts them, so that one waits for the other."""
    wanted = DATE in configured if nights == "new" else bool(configured) and DATE not in configured
    night = configured if wanted else f"{NIGHTLY_TAG}-{DATE}" if nights == "new" else NIGHTLY_TAG
    group = night.partition(DATE)[0].rstrip("-._") or NIGHTLY_TAG
    if configured.startswith(group):
        return _Tags(night=night, night_group=group, configured_group=group)
    return _Tags(night=night, night_group=group, configured_group=configured or "configured")


def _yaml(value: str | Sequence[str]) -> str:
    """JSON is YAML, whatever is in the text."""
    return json.dumps(value, ensure_ascii=False)


def _labels(labels: Sequence[str]) -> str:
    """The labels of a runner within an expression. None holds a quote, so that none ends the text."""
    return f"'{labels[0]}'" if len(labels) == 1 else f"fromJSON('{_yaml(labels)}')"


def _check_cron(line: str) -> None:
    """Roughly: GitHub has the last word, but only once the file is on the default branch, where nobody looks."""
    hint = f'minute, hour, day, month and weekday, as "{NIGHTLY}"'
    fields = line.split()
    if len(fields) != len(_FIELDS) or not line.isprintable():
        raise SettingsError(f"`cron` cannot be {line!r}: it has five fields", hint=hint)
    for text, (name, least, most, words) in zip(fields, _FIELDS, strict=True):
        if not _is_field(text, least, most, words):
            raise SettingsError(f"`cron` cannot be {line!r}: `{text}` is no {name}", hint=hint)


def _is_field(text: str, least: int, most: int, words: Sequence[str]) -> bool:
    """Whether `text` is a list of `*`, values and ranges, each with an optional step."""

    def number(value: str) -> int:
        return words.index(value.upper()) + least if value.upper() in words else int(value)

    value = rf"(?:\d{{1,2}}{''.join(f'|{word}' for word in words)})"
    for part in text.split(","):
        match = re.fullmatch(rf"(?:\*|({value})(?:-({value}))?)(?:/(\d{{1,2}}))?", part, re.IGNORECASE)
        if match is None or match[3] == "0":
            return False
        first, last = (None if bound is None else number(bound) for bound in match.group(1, 2))
        if first is not None and not least <= first <= (most if last is None else last) <= most:
            return False
    return True


def _check_timezone(name: str, available: Callable[[], set[str]] = zoneinfo.available_timezones) -> None:
    """Against the names that this machine knows; Windows may know none, and then only the form is checked."""
    known = available()
    if name not in known if known else not re.fullmatch(r"UTC|[A-Za-z][A-Za-z_]*(/[A-Za-z0-9_+-]+){1,2}", name):
        raise SettingsError(f"`timezone` cannot be {name!r}", hint="a name of the IANA database, as `Europe/Berlin`")
