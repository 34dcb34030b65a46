"""What GitHub makes of a workflow for one event: which jobs run, where, for how long, and what they hand to the action.

Inputs are checked as GitHub checks those of a dispatch, and have the types that it gives them (boolean; numbers and the rest are
texts). Steps are not run: `tests.runner.action` does that, with the inputs found here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from tests.runner.expressions import Scope, Value, text_of

Trigger = Literal["workflow_dispatch", "workflow_call", "schedule", "issue_comment"]
Result = Literal["success", "failure", "cancelled", "skipped"]

MOST_INPUTS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Why a workflow is started. `inputs`: as a person or a calling workflow gives them; `payload`: `github.event`.

    `caller`: for `workflow_call`, the event that the calling workflow was started by, which `github.event_name` then is.
    """

    trigger: Trigger
    inputs: Mapping[str, str] = field(default_factory=dict)
    payload: Mapping[str, Any] = field(default_factory=dict)
    caller: str = "push"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job as GitHub sees it before its first step. What is left out of the workflow is empty; `timeout_minutes` None.

    `arguments`: the `with:` of every step by its action, without the version.
    """

    runs: bool
    runs_on: Value
    environment: str
    group: str
    timeout_minutes: float | None
    permissions: Mapping[str, str]
    arguments: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A workflow that was started: its name in the list of runs, and its jobs."""

    run_name: str
    jobs: Mapping[str, Job]

    @property
    def running(self) -> list[str]:
        return [name for name, job in self.jobs.items() if job.runs]


def start(text: str, event: Event, results: Mapping[str, Result] | None = None) -> Started:
    """The workflow `text`, started by `event`. `results`: how its jobs end, by name, where that is not `success`.

    Raises ValueError where GitHub would refuse the event: a trigger that the workflow has not, an input that it does not know or
    of another type, more inputs than are allowed.
    """
    workflow = yaml.load(text, yaml.BaseLoader)  # every value a text, and `on` a key rather than a boolean
    if event.trigger not in workflow["on"]:
        raise ValueError(f"the workflow is not started by `{event.trigger}`")
    declared = (workflow["on"][event.trigger] or {}) if event.trigger.startswith("workflow_") else {}
    name = event.caller if event.trigger == "workflow_call" else event.trigger
    contexts: dict[str, Any] = {
        "inputs": _inputs(declared.get("inputs") or {}, event),
        "github": {"event_name": name, "event": event.payload},
        "vars": {},
        "secrets": {},
        "needs": {},
        "steps": {},
    }
    ends: dict[str, Result] = {}
    jobs: dict[str, Job] = {}
    for job_name, job in workflow["jobs"].items():
        needed = job.get("needs", [])
        before = [ends[each] for each in ([needed] if isinstance(needed, str) else needed)]
        scope = Scope(
            contexts=contexts,
            failed="failure" in before,
            cancelled="cancelled" in before,
            skipped="skipped" in before,
        )
        jobs[job_name] = read = _job(job, scope)
        ends[job_name] = (results or {}).get(job_name, "success") if read.runs else "skipped"
        contexts["needs"][job_name] = {"result": ends[job_name]}
    return Started(run_name=Scope(contexts=contexts).fill(workflow.get("run-name", "")).strip(), jobs=jobs)


def _job(job: Mapping[str, Any], scope: Scope) -> Job:
    environment = job.get("environment", "")
    minutes = job.get("timeout-minutes")
    return Job(
        runs=scope.holds(job.get("if")),
        runs_on=scope.value(job["runs-on"]) if isinstance(job["runs-on"], str) else job["runs-on"],
        environment=scope.fill(environment if isinstance(environment, str) else environment["name"]),
        group=scope.fill(job.get("concurrency", {}).get("group", "")),
        timeout_minutes=None if minutes is None else float(text_of(scope.value(minutes))),
        permissions=job.get("permissions", {}),
        arguments={
            step["uses"].partition("@")[0]: {name: scope.fill(value) for name, value in step.get("with", {}).items()}
            for step in job["steps"]
            if "uses" in step
        },
    )


def _inputs(declared: Mapping[str, Any], event: Event) -> dict[str, Value]:
    """Every declared input, with the type that GitHub gives it."""
    if event.trigger == "workflow_dispatch" and len(declared) > MOST_INPUTS:
        raise ValueError(f"{len(declared)} inputs: GitHub takes {MOST_INPUTS}")
    unknown = event.inputs.keys() - declared.keys()
    if unknown:
        raise ValueError(f"unexpected inputs: {', '.join(sorted(unknown))}")
    return {name: _input(name, spec, event) for name, spec in declared.items()}


def _input(name: str, spec: Mapping[str, Any], event: Event) -> Value:
    text = event.inputs.get(name, spec.get("default"))
    if text is None and spec["type"] == "choice":
        text = spec["options"][0]
    match spec["type"]:
        case "boolean":
            if text not in (None, "true", "false"):
                raise ValueError(f"`{name}` is a boolean, not {text!r}")
            return text == "true"
        case "number":
            if text and not re.fullmatch(r"-?\d+(\.\d+)?", text):
                raise ValueError(f"`{name}` is a number, not {text!r}")
            if event.trigger == "workflow_call":
                return float(text or 0)
        case "choice":
            if text not in spec["options"]:
                raise ValueError(f"`{name}` is one of {spec['options']}, not {text!r}")
        case "string" | "environment":
            pass
        case other:
            raise ValueError(f"`{name}` has the type {other!r}")
    return text or ""
