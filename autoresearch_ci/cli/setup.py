"""`init` and `detect`: what a person does before the first session."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import typer

from autoresearch_ci import settings, workflow_template
from autoresearch_ci.cli import wiring
from autoresearch_ci.cli.environment import environment
from autoresearch_ci.cli.options import Call
from autoresearch_ci.console import Console
from autoresearch_ci.errors import SettingsError
from autoresearch_ci.settings import CONFIG_NAME, Loaded
from autoresearch_ci.workflow_template import Answers

WORKFLOW = Path(".github/workflows/autoresearch.yml")
STARTER = Path(__file__).parents[1] / "starter"

# What `init` asks for, in the skill's order, and what is offered. None: there is no default, it must be answered.
QUESTIONS: Mapping[str, str | None] = {
    "training-script": "train.py",
    "read-only": "prepare.py",
    "time-budget": None,
    "metric": None,
    "direction": None,
    "max-iterations": "unlimited",
    "scope": "all",
    "results-file": "results.tsv",
}

NONE: Final = "none"
# And about the workflow, what only a person can say, by the names of the flags.
WORKFLOW_QUESTIONS: Mapping[str, tuple[str, str]] = {
    "runs-on": ("Labels of the runner that trains", "self-hosted"),
    "environment": (f"Environment on GitHub whose reviewers confirm the config of a session, or {NONE}", NONE),
    "comments": ("Answer `/autoresearch …` of people with write access on pull requests, yes or no", "yes"),
    "cron": (f"When nightly sessions start, or {NONE}", workflow_template.NIGHTLY),
    "timezone": ("The time zone of that", workflow_template.TIMEZONE),
    "nights": ("new: each night a branch of its own; one: a branch that goes on", "new"),
}
OF_NIGHTS: Final = frozenset({"timezone", "nights"})


def initialize(call: Call, workflow: Mapping[str, Any], *, yes: bool, starter: bool, force: bool) -> None:
    """Asks for what must be asked, shows the Research Config, asks for confirmation, writes the files.

    `workflow`: what flags say about the workflow, by their names.
    """
    given = call.given()
    if starter:
        given = {"time-budget": "10s", "timeout": "2m", "metric": "val_bpb", "direction": "minimize"} | given
    target = call.config or Path(CONFIG_NAME)
    outputs = [call.directory / target, call.directory / WORKFLOW]
    if starter:
        outputs += [call.directory / file.name for file in starter_files()]
    existing = [str(path.relative_to(call.directory)) for path in outputs if path.exists()]
    if existing and not force:
        raise SettingsError(f"{', '.join(existing)} is there already", hint="`--force` replaces it")
    answers = _answers(workflow)
    loaded = settings.load(environ=call.environ, flags=given) if yes else _ask(call.console, call.environ, given)
    if not yes:
        answers = _ask_workflow(call.console, workflow)
    call.console.table("AutoResearch Config", ("Parameter", "Value", "From"), loaded.rows())
    call.console.table("Workflow", ("", "Answer"), answers.rows())
    if not yes and not typer.confirm("Write these files?", default=True, err=True):
        raise typer.Abort
    if starter:
        for file in starter_files():
            shutil.copyfile(file, call.directory / file.name)
    _write(call.directory / target, _toml(loaded))
    _write(call.directory / WORKFLOW, workflow_template.render(loaded.settings, answers))
    written = ", ".join(str(path.relative_to(call.directory)) for path in outputs)
    call.console.info(f"wrote {written}")
    if answers.environment:
        call.console.info(
            f"next: make the environment `{answers.environment}` on GitHub (*Settings → Environments*) and require reviewers: "
            "without them nobody is asked"
        )
    call.console.info("next: commit these files, then `autoresearch-ci doctor`, then `autoresearch-ci run`")


def starter_files() -> list[Path]:
    return sorted(
        p for p in STARTER.iterdir() if p.is_file() and p.suffix in {".py", ".md"} and p.name != "__init__.py"
    )


def _ask(console: Console, environ: Mapping[str, str], given: dict[str, Any]) -> Loaded:
    """Every question that no flag and no variable answered, each checked as soon as it is answered."""
    answers = dict(given)
    known = {**settings.read_environment(environ), **given}
    # Stand-ins let one answer be checked before the others are there.
    stand_ins = {"time-budget": "5m", "metric": "metric", "direction": "minimize"}
    for name, default in QUESTIONS.items():
        if name in known:
            continue
        field = next(f for f in settings.Settings.model_fields.values() if f.alias == name)
        question = f"{field.description} ({name})"
        answers[name] = _ask_until(
            console, question, default, name, lambda answer: settings.load(flags=stand_ins | answers | answer)
        )
    return settings.load(environ=environ, flags=answers)


def _ask_workflow(console: Console, given: Mapping[str, Any]) -> Answers:
    """Every question about the workflow that no flag answered."""
    answers = dict(given)
    for name, (question, default) in WORKFLOW_QUESTIONS.items():
        if name in given or (name in OF_NIGHTS and answers["cron"] == NONE):
            continue
        answers[name] = _ask_until(
            console, f"{question} ({name})", default, name, lambda answer: _answers(answers | answer)
        )
    return _answers(answers)


def _ask_until(
    console: Console, question: str, default: str | None, name: str, check: Callable[[dict[str, str]], object]
) -> str:
    """The first answer to which, under its name, `check` raises no SettingsError; what is wrong with others is said."""
    while True:
        answer: str = typer.prompt(question, default=default, err=True)
        try:
            check({name: answer})
        except SettingsError as error:
            console.error(error.message, error.hint)
            continue
        return answer


def _answers(given: Mapping[str, Any]) -> Answers:
    """The answers about the workflow from texts; what is not given is as `init` offers it. SettingsError for what cannot be."""
    values = dict(given)
    for name in ("runs-on", "small-runs-on"):
        if name in values:
            values[name] = tuple(label.strip() for label in values[name].split(",") if label.strip())
    if values.get("cron") == NONE:
        values["cron"] = None
    if values.get("environment") == NONE:
        values["environment"] = ""
    if isinstance(comments := values.get("comments"), str):
        if comments.lower() not in ("yes", "y", "no", "n"):
            raise SettingsError(f"`comments` cannot be {comments!r}", hint="yes or no")
        values["comments"] = comments.lower().startswith("y")
    return dataclasses.replace(Answers(), **{name.replace("-", "_"): value for name, value in values.items()})


def _toml(loaded: Loaded) -> str:
    """The settings file: every setting that is not a default, under the line that gives editors the schema."""
    lines = [f"#:schema {workflow_template.SCHEMA_URL}", ""]
    values = loaded.settings.model_dump(by_alias=True, mode="json", exclude_defaults=True)
    lines += [f"{name} = {_toml_value(values[name])}" for name in settings.NAMES if name in values]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml_value(item)}" for key, item in value.items()) + " }"
    # JSON's strings, numbers, booleans and arrays are TOML's too.
    return json.dumps(value, ensure_ascii=False)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"cannot write {path.name}: {error.strerror}", hint="check the folder's permissions"
        ) from error


def show_detection(call: Call, *, as_json: bool) -> None:
    """What the environment that would train can see, and the adjustments that follow."""
    # Detection needs no metric: what must be set for a session is filled in, never shown.
    stand_ins = {"time-budget": "5m", "metric": "metric", "direction": "minimize"}
    file = call.config_file()
    in_file = settings.read_file(file) if file else {}
    missing = {name: value for name, value in stand_ins.items() if name not in in_file}
    loaded = settings.load(file=file, environ=call.environ, flags={**missing, **call.given()})
    with environment(
        call.console,
        call.environ,
        loaded.settings,
        state=wiring.state_root(call.directory, loaded.settings.state_dir) / "detect",
        session="detect",
        requirements=_requirements(call.directory, loaded.settings.requirements),
        native_when_no_container=True,
    ) as place:
        detection, adjustments = place.detection, place.adjustments
        if as_json:
            data = {
                **detection.as_dict(),
                "executor": place.kind,
                "adjustments": adjustments.variables(),
                "slots": [dataclasses.asdict(slot) for slot in place.slots],
            }
            call.console.data(json.dumps(data, indent=2))
            return
        rows = [(name, "" if value is None else str(value)) for name, value in detection.as_dict().items()]
        slots = ("slots", f"{len(place.slots)} × {place.device}" if len(place.slots) > 1 else "1")
        call.console.table("Platform", ("", "Found"), [("executor", f"{place.kind} ({place.why})"), slots, *rows])
        call.console.table("Adjustments", ("Variable", "Value"), list(adjustments.variables().items()))
        for line in adjustments.lines():
            call.console.info(line)


def _requirements(directory: Path, name: str | None) -> bytes | None:
    """The requirements file as it lies in the folder: detection needs no commit."""
    try:
        return None if name is None else (directory / name).read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {name}: {error.strerror}", hint="change `requirements`") from error
