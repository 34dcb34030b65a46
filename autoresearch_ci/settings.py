"""Every setting, declared once: from here come the file reader, the environment, the flags, the JSON Schema, the action's
inputs and the tables in the documentation.

Weakest first: default, file (`autoresearch.toml`), environment (`AUTORESEARCH_…`), flag. An empty string from the
environment means not set. Unknown names are errors that suggest the nearest.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.experiment import Category, Direction
from autoresearch_ci.units import Duration, Names, Size, Variables, automatic, unlimited

CONFIG_NAME = "autoresearch.toml"
DATE = "{date}"  # in a tag: today's, as `2026-11-22`
ENVIRONMENT_PREFIX = "AUTORESEARCH_"
# Names with our prefix that are not settings: what a script sees (a session may run inside a run), and what the action hands on.
OTHER_VARIABLES = frozenset(
    {
        "DEVICE",
        "SEED",
        "BATCH_SCALE",
        "OUTPUT_DIR",
        "COMPILE",
        "ATTENTION",
        "PRECISION",
        "OPTIMIZER_STATE",
        "TOKEN",
        "APP_ID",
        "APP_PRIVATE_KEY",
        "TASK",
    }
)


def setting_name(field_name: str) -> str:
    """How a setting is spelled everywhere outside: `continue_` → `continue`, `time_budget` → `time-budget`."""
    return field_name.rstrip("_").replace("_", "-")


class Settings(BaseModel):
    """The settings of a session, complete and checked. Names, defaults and meanings are the contract's (DESIGN.md part 4)."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=setting_name,
        populate_by_name=True,
        defer_build=True,  # `--help` needs the declaration, not the validator
        title="autoresearch.toml",
    )

    training_script: str = Field("train.py", description="The one file that changes")
    read_only: Names = Field(
        ("prepare.py",),
        description="Paths or globs named in prompts and reports as untouchable (everything but the script is untouchable anyway)",
    )
    time_budget: Duration = Field(description="What the script is told it has, per run: `300`, `300s`, `5m`, `1h30m`")
    metric: str = Field(description="The name of the one number that counts, as the script prints it")
    direction: Direction = Field(description="`minimize` or `maximize`")
    max_iterations: Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(unlimited)] = Field(
        None, description="Experiments after the baseline, a number or `unlimited`"
    )
    scope: Literal["all", "architecture", "hyperparameters", "optimizer"] = Field(
        "all", description="What may be changed"
    )
    tag: str = Field(
        "",
        description="Names the session and its branch `autoresearch/<tag>`; `{date}` in it is today's; empty: the date, as `nov22`",
    )
    results_file: str = Field("results.tsv", description="The table of all experiments")
    summary_file: str = Field("autoresearch-summary.md", description="The final summary")
    command: str = Field("python {training-script}", description="What a run starts")
    metric_pattern: str | None = Field(
        None, description="A regular expression with one group, when the log is not `name: number`"
    )
    timeout: Duration | None = Field(
        None, description="When a run is killed (SIGTERM, 10 s, SIGKILL to the whole tree); default: twice the budget"
    )
    at_timeout: Literal["crash", "last-reading"] = Field(
        "crash", description="`last-reading` for scripts that never stop by themselves"
    )
    prepare: str | None = Field(
        None, description="A command run once before the baseline, with network, to fill the data cache"
    )
    cache: str = Field("~/.cache/autoresearch", description="The data cache, read-only during runs")
    platform: Literal["auto", "cuda", "cpu", "mps"] = Field("auto", description="What to train on")
    executor: Literal["auto", "container", "native", "ray"] = Field("auto", description="Where runs happen")
    parallel: Annotated[Annotated[int, Field(ge=1, le=1024)] | None, BeforeValidator(automatic)] = Field(
        None,
        description="Experiments at the same time; `auto`: one for each usable GPU, else one; on a cluster as many as fit",
    )
    prefetch: Annotated[int, Field(ge=0, le=16)] = Field(
        1, description="Proposals of a model or an agent that are made in advance, for each experiment at the same time"
    )
    device_sharing: Literal["refuse", "warn"] = Field(
        "refuse",
        description="More experiments at the same time than GPUs or cores: an error, or a warning, and they share",
    )
    ray_address: str = Field(
        "auto",
        description="With `executor: ray`, the cluster's address; `auto`: the one on this machine; `local`: start one",
    )
    device_class: str | None = Field(
        None, description="With `executor: ray`, the nodes to use, by their device's name; default: the largest class"
    )
    allow_native: bool = Field(
        False, description="Allow native runs, which no container walls in, where no person at a terminal can be asked"
    )
    base_image: str | None = Field(None, description="What the container image is built from")
    registry: str = Field(
        "ghcr.io/autoresearch-ci",
        description="Where a ready-made base environment is pulled from, if it has one that fits; `none`: always build",
    )
    requirements: str | None = Field(
        None, description="The repository's own requirements file, installed on top of the base environment"
    )
    build_args: Variables = Field({}, description="Build arguments of the image, `NAME=value,NAME=value`")
    memory: Size | None = Field(None, description="Memory limit of a run, as `8g`")
    cpus: Annotated[float, Field(gt=0)] | None = Field(None, description="CPU limit of a run, in cores")
    shm_size: Size | None = Field(None, description="Size of `/dev/shm` in a container, as `1g`")
    env: Variables = Field({}, description="Plain variables for the script, `NAME=value,NAME=value`; never secrets")
    proposer: Literal["search", "llm", "agent", "hybrid", "queue"] = Field(
        "search",
        description="What makes the proposals; `queue` tries `hypothesis` and `plan` only, then what `then` says",
    )
    then: Literal["none", "search", "llm", "agent", "hybrid"] = Field(
        "none", description="With `proposer: queue`, what goes on when the queue is empty"
    )
    hypothesis: str | None = Field(
        None, description="The first thing to try: `KNOB=value`, or in words where a model can read them"
    )
    plan: str | None = Field(
        None, description="A file of things to try first: one a line, or YAML with `vary`, `hold`, `try` and `then`"
    )
    classify: Variables = Field(
        {},
        description="What functions, classes and constants belong to, for `scope`: `NAME=optimizer,NAME=architecture`",
    )
    model: str | None = Field(
        None, description="The model that `llm`, `hybrid` and `agent` ask (`agent-command` names its own)"
    )
    provider: Literal["auto", "openai", "anthropic"] = Field(
        "auto",
        description="Whose protocol the model speaks; `auto`: Anthropic's for `claude…` without `base-url`, else OpenAI's",
    )
    base_url: str | None = Field(
        None, description="The address of the model's endpoint; default: the provider's own (not for `agent-command`)"
    )
    api_key_env: str | None = Field(
        None, description="The variable that holds the key; default: `OPENAI_API_KEY` or `ANTHROPIC_API_KEY`"
    )
    edit_format: Literal["auto", "blocks", "whole"] = Field(
        "auto", description="How a model answers: search/replace blocks or the whole file"
    )
    prompt_tokens: Annotated[int, Field(ge=2000)] = Field(32_000, description="How long a prompt may be, in tokens")
    answer_tokens: Annotated[int, Field(ge=256)] = Field(16_000, description="How long an answer may be, in tokens")
    model_timeout: Duration = Field(600.0, description="How long one request to a model may take, its retries included")
    price_input: Annotated[float, Field(ge=0)] | None = Field(
        None, description="US dollars for a million tokens of prompt"
    )
    price_output: Annotated[float, Field(ge=0)] | None = Field(
        None, description="US dollars for a million tokens of answer"
    )
    max_cost: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="US dollars that models may cost in a session; needs both prices. Afterwards `search` goes on alone",
    )
    max_tokens: Annotated[int, Field(gt=0)] | None = Field(
        None, description="Tokens that models may take in a session, prompts and answers together"
    )
    max_calls: Annotated[int, Field(gt=0)] | None = Field(None, description="Requests to models in a session")
    stuck_after: Annotated[int, Field(ge=1)] = Field(
        5, description="Experiments without a keep after which a model must go in a clearly different direction"
    )
    repair_attempts: Annotated[int, Field(ge=0, le=3)] = Field(
        0, description="How often a model may mend its own change that crashed, within the same experiment"
    )
    llm_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3, description="The share of experiments that `hybrid` asks the model for; the others are the search's"
    )
    agent: Literal["claude", "codex", "gemini", "copilot", "opencode", "aider"] | None = Field(
        None, description="The coding agent that `proposer: agent` starts"
    )
    agent_command: str | None = Field(
        None,
        description="Another agent's command line; `{prompt}` and `{prompt-file}` are filled in, without them it is on stdin",
    )
    agent_timeout: Duration = Field(900.0, description="When an agent and all that it started are killed")
    agent_image: str | None = Field(None, description="The image of a container in which the agent works")
    agent_env: Names = Field((), description="Variables that the agent sees besides its own key, by name")
    resume: Literal["auto", "never", "require"] = Field(
        "auto",
        description="`never`: the tag must be new; `require`: it must exist, and without a tag it is the latest session",
    )
    follow_base: bool = Field(
        False,
        description="On resume, merge what the base branch has gained since, and measure it and the incumbent again",
    )
    max_hours: Annotated[float, Field(gt=0)] | None = Field(None, description="Stop before this many hours have passed")
    job_timeout: Duration | None = Field(
        None, description="When the job is ended from outside, as `12h`; the session ends by itself in time before that"
    )
    continue_: bool = Field(
        False, description="When the hours are over, start this workflow again, to go on with the session"
    )
    target: float | None = Field(None, description="Stop when the metric is at least this good")
    patience: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Stop after this many experiments without a keep"
    )
    max_crashes: Annotated[int, Field(ge=1)] = Field(10, description="Stop after this many crashes in a row")
    baseline_runs: Annotated[int, Field(ge=1)] = Field(
        2, description="Runs of the baseline; `1`: nothing is run twice, and any better reading is kept"
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        0.95, description="How sure it must be that a change is better before it is kept, where readings vary"
    )
    max_runs: Annotated[int, Field(ge=2)] = Field(
        12, description="Runs that one experiment may take, those of the incumbent included, where readings vary"
    )
    min_delta: Annotated[float, Field(ge=0)] = Field(0.0, description="Gains up to this are none, in the metric's unit")
    verify_runs: Annotated[int, Field(ge=0)] = Field(
        3, description="Fresh runs of the base and of the best commit before the pull request; `0`: none"
    )
    holdout: str | None = Field(
        None,
        description="A command that prints the metric on other data; run for base and best, shown in the pull request only",
    )
    evaluate: str | None = Field(
        None,
        description="A command of the base commit that scores the output folder where the script never ran; only its reading counts",
    )
    evaluate_only: Names = Field((), description="Paths or globs that no run but `evaluate` sees, such as its answers")
    metric_min: float | None = Field(None, description="The lowest value that the metric can take")
    metric_max: float | None = Field(None, description="The highest value that the metric can take")
    max_jump: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="A gain above this is flagged and run again; default: ten times the best so far, or half the baseline",
    )
    ablate: bool = Field(False, description="Before the pull request, measure the best without each kept commit")
    early_stop: bool = Field(
        False, description="Stop a run whose metric, while it trains, stays hopelessly behind the incumbent's"
    )
    report_every: Annotated[int, Field(ge=1)] = Field(10, description="Experiments between two progress reports")
    forge: Literal["auto", "github", "local"] = Field(
        "auto", description="Where the branch and the pull request go: `github` inside Actions, else `local`"
    )
    base: str | None = Field(None, description="The branch to merge into; default: the default branch")
    open_pr: Literal["on-keep", "always", "never"] = Field("on-keep", description="When to open a pull request")
    draft: bool = Field(False, description="Open the pull request as a draft")
    progress: Literal["log", "pull-request"] = Field(
        "log",
        description="`pull-request`: a draft is opened at the first keep, and updated with every progress report",
    )
    labels: Names = Field(("autoresearch",), description="Labels of the pull request, separated by commas")
    reviewers: Names = Field((), description="Who is asked to review the pull request: users, and teams as `org/team`")
    assignees: Names = Field((), description="Who the pull request is assigned to")
    state_dir: str | None = Field(
        None, description="Where the program keeps its clone and journal; default: the user's state folder"
    )

    @field_validator("metric")
    @classmethod
    def _metric(cls, value: str) -> str:
        if not re.fullmatch(r"[^\s:]{1,64}", value):
            raise ValueError("up to 64 characters without blanks and colons")
        return value

    @field_validator("tag")
    @classmethod
    def _tag(cls, value: str) -> str:
        dated = value.replace(DATE, dt.date.max.isoformat())
        if value and (
            not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", dated)
            or ".." in dated
            or dated.endswith((".lock", "."))
        ):
            raise ValueError(
                "up to 64 letters, digits, `.`, `_` or `-`, beginning with a letter or digit, with no `..`"
            )
        return value

    @field_validator("training_script", "results_file", "summary_file", "requirements", "plan")
    @classmethod
    def _relative(cls, value: str | None) -> str | None:
        if value is None:
            return None
        path = PurePosixPath(value)
        if not value or path.is_absolute() or ".." in path.parts or any(ord(c) < 32 for c in value):
            raise ValueError("it must be a relative path inside the repository")
        return str(path)

    @field_validator("env")
    @classmethod
    def _env(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"`{name}` cannot be the name of a variable")
        return value

    @field_validator("metric_pattern")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                groups = re.compile(value).groups
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
            if groups != 1:
                raise ValueError("it needs exactly one group, around the number")
        return value

    @field_validator(
        "cpus", "max_hours", "target", "min_delta", "metric_min", "metric_max", "max_jump",
        "price_input", "price_output", "max_cost",
    )  # fmt: skip
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        if value is not None and value - value != 0:
            raise ValueError("it must be a finite number")
        return value

    @model_validator(mode="after")
    def _timeout_after_budget(self) -> Self:
        if self.timeout is not None and self.timeout < self.time_budget:
            raise ValueError("`timeout` is shorter than `time-budget`: every run would be killed")
        return self

    @model_validator(mode="after")
    def _range_of_metric(self) -> Self:
        if self.metric_min is not None and self.metric_max is not None and self.metric_min >= self.metric_max:
            raise ValueError("`metric-min` is not below `metric-max`: no value would be possible")
        return self

    @field_validator("classify")
    @classmethod
    def _classify(cls, value: dict[str, str]) -> dict[str, str]:
        for name, category in value.items():
            if category not in set(Category):
                raise ValueError(f"`{name}` cannot be `{category}`: one of {', '.join(Category)}")
        return value

    @model_validator(mode="after")
    def _prices(self) -> Self:
        priced = self.price_input is not None and self.price_output is not None
        if self.max_cost is not None and not priced and self.proposer != "agent":  # an agent may tell its cost itself
            raise ValueError(
                "`max-cost` needs `price-input` and `price-output`: without a price only tokens can be counted"
            )
        return self

    @property
    def speaks(self) -> Literal["openai", "anthropic"]:
        """The protocol of the model."""
        if self.provider != "auto":
            return self.provider
        return "anthropic" if self.base_url is None and (self.model or "").startswith("claude") else "openai"

    @property
    def key_variable(self) -> str:
        """The name of the variable that holds the model's key."""
        return self.api_key_env or ("ANTHROPIC_API_KEY" if self.speaks == "anthropic" else "OPENAI_API_KEY")

    @property
    def holdout_metric(self) -> str:
        """The holdout when it is the name of a number in the log; empty otherwise."""
        return self.holdout if self.holdout and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_@-]*", self.holdout) else ""

    @property
    def holdout_command(self) -> str:
        """The holdout when it is a command; empty otherwise."""
        return "" if self.holdout_metric else self.holdout or ""

    @property
    def timeout_s(self) -> float:
        """When a run is killed, in seconds: the setting, or twice the budget."""
        return self.timeout if self.timeout is not None else 2 * self.time_budget

    @property
    def command_line(self) -> str:
        """The command of a run, with the script's name filled in."""
        return self.command.replace("{training-script}", self.training_script)

    def texts(self) -> dict[str, str]:
        """Every setting as text by its kebab-case name: for the Research Config, the journal and the pull request."""
        return {name: _text(name, value) for name, value in self.model_dump(by_alias=True).items()}


def _text(name: str, value: Any) -> str:
    if value is None:
        return {"max-iterations": "unlimited", "parallel": "auto"}.get(name, "")
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


NAMES: tuple[str, ...] = tuple(field.alias or name for name, field in Settings.model_fields.items())
REQUIRED: tuple[str, ...] = tuple(
    field.alias or name for name, field in Settings.model_fields.items() if field.is_required()
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and where each value came from: `default`, the file's name, the variable's name, or the flag."""

    settings: Settings
    sources: Mapping[str, str]

    def rows(self) -> list[tuple[str, str, str]]:
        """(name, value, source) of every setting, in the order of the contract."""
        return [(name, value, self.sources[name]) for name, value in self.settings.texts().items()]


def variable(name: str) -> str:
    """The environment variable of a setting: `time-budget` → `AUTORESEARCH_TIME_BUDGET`."""
    return ENVIRONMENT_PREFIX + name.upper().replace("-", "_")


def default_tag(today: dt.date) -> str:
    """The skill's date-based tag, as `nov22` (in English whatever the locale)."""
    return f"{['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'][today.month - 1]}{today.day}"


def read_file(path: Path) -> dict[str, Any]:
    """The flat table in `path`; SettingsError when it is not readable, not TOML, or holds a name that is no setting."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"cannot read {path.name}: {getattr(error, 'strerror', None) or error}", hint="it must be a UTF-8 text file"
        ) from error
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, and lists in lists without end
        raise SettingsError(
            f"{path.name} is not valid TOML: {error}", hint='it holds lines such as `time-budget = "5m"`'
        ) from error
    for name in values:
        if name not in NAMES:
            raise _unknown(name, name, path.name)
    return values


def read_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings named by `AUTORESEARCH_…` variables; an empty one is not set, an unknown one a SettingsError."""
    by_variable = {variable(name): name for name in NAMES}
    values: dict[str, str] = {}
    for key, value in environ.items():
        if not key.startswith(ENVIRONMENT_PREFIX) or key.removeprefix(ENVIRONMENT_PREFIX) in OTHER_VARIABLES:
            continue
        if key not in by_variable:
            raise _unknown(key.removeprefix(ENVIRONMENT_PREFIX), key, "the environment", variable)
        if value.strip():
            values[by_variable[key]] = value.strip()
    return values


def _unknown(name: str, spelling: str, place: str, spell: Callable[[str], str] = str) -> SettingsError:
    """The error for a name that is no setting, with the nearest one that is."""
    nearest = difflib.get_close_matches(name.lower().replace("_", "-"), NAMES, n=1)
    hint = f"did you mean `{spell(nearest[0])}`?" if nearest else "`autoresearch-ci run --help` lists them"
    return SettingsError(f"unknown setting `{spelling}` in {place}", hint=hint)


def load(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Loaded:
    """The settings from all their sources, weakest first. `flags` holds only those that were given, by kebab-case name."""
    values: dict[str, Any] = {}
    sources = dict.fromkeys(NAMES, "default")
    layers: list[tuple[Mapping[str, Any], Any]] = []
    if file is not None:
        layers.append((read_file(file), lambda _: file.name))
    layers.append((read_environment(environ or {}), variable))
    layers.append((flags or {}, lambda name: f"--{name}"))
    for layer, source in layers:
        for name, value in layer.items():
            values[name] = value
            sources[name] = source(name)
    missing = [name for name in REQUIRED if name not in values]
    if missing:
        listed = ", ".join(f"`{name}`" for name in missing)
        raise SettingsError(
            f"{listed} must be set",
            hint="run `autoresearch-ci init`, or pass " + " ".join(f"--{name} …" for name in missing),
        )
    try:
        return Loaded(Settings.model_validate(values), sources)
    except ValidationError as error:
        message, hint = _first_problem(error, sources)
        raise SettingsError(message, hint=hint) from error


def _first_problem(error: ValidationError, sources: Mapping[str, str]) -> tuple[str, str]:
    """One line and one hint for the first of pydantic's findings."""
    first = error.errors(include_url=False)[0]
    reason = str(first["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if not first["loc"]:
        return reason, "see the table of settings in README.md"
    name = str(first["loc"][0])
    shown = repr(first["input"]) if len(repr(first["input"])) <= 60 else repr(first["input"])[:57] + "…"
    return f"`{name}` cannot be {shown} (from {sources.get(name, 'default')})", reason
