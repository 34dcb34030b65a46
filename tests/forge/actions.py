"""GitHub Actions in the test forge: workflows are the repository's own files; a dispatch is recorded and makes a run."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from tests.forge import objects
from tests.forge.answers import Answer, Handler, NotFoundError, Request
from tests.forge.git import git
from tests.forge.objects import Json, refusal, validation_failed

if TYPE_CHECKING:
    from tests.forge.api import Api


@dataclass(frozen=True)
class Dispatch:
    """A workflow that was started by hand or by program."""

    workflow: str
    ref: str
    inputs: Mapping[str, Any]


class Actions:
    """`dispatches`: in order. `runs`: by ID."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._ids = itertools.count(9001)
        self.dispatches: list[Dispatch] = []
        self.runs: dict[int, Json] = {}
        self.handlers: Mapping[tuple[str, str], Handler] = {
            ("POST", "/repos/{owner}/{repo}/actions/workflows/{workflow_id}/dispatches"): self._dispatch,
            ("GET", "/repos/{owner}/{repo}/actions/workflows/{workflow_id}/runs"): self._list_runs,
            ("GET", "/repos/{owner}/{repo}/actions/runs/{run_id}"): self._get_run,
            ("POST", "/repos/{owner}/{repo}/actions/runs/{run_id}/cancel"): self._cancel,
        }

    def start_run(self, workflow: str = "autoresearch.yml", ref: str = "main", *, event: str = "schedule") -> int:
        """A run that is queued; its ID. `runs[ID]["status"]` is what it is at."""
        run: Json = {"id": next(self._ids), "workflow": workflow, "ref": ref, "event": event}
        self.runs[run["id"]] = run | {"status": "queued", "conclusion": None, "sha": self._api.sha(ref)}
        return int(run["id"])

    def _dispatch(self, request: Request) -> Answer:
        name, ref = request.operation.parameters["workflow_id"], request.body["ref"]
        inputs = request.body.get("inputs", {})
        self._read("HEAD", name)  # GitHub knows the workflows of the default branch
        try:
            self._api.sha(ref)
        except NotFoundError:
            return Answer(422, validation_failed(message=f"No ref found for: {ref}"))
        triggers = self._read(ref, name).get("on", {})
        if "workflow_dispatch" not in triggers:
            return Answer(422, validation_failed(message="Workflow does not have 'workflow_dispatch' trigger"))
        taken = ((triggers["workflow_dispatch"] if isinstance(triggers, dict) else None) or {}).get("inputs") or {}
        if problem := _problem(taken, inputs):
            return Answer(422, validation_failed(message=problem))
        self.dispatches.append(Dispatch(name, ref, inputs))
        self.start_run(name, ref, event="workflow_dispatch")
        return Answer(204, None)

    def _list_runs(self, request: Request) -> Answer:
        name = request.operation.parameters["workflow_id"]
        self._read("HEAD", name)
        event, branch, size = request.first("event"), request.first("branch"), int(request.first("per_page", "30"))
        found = [
            self._shown(request, run)
            for run in reversed(self.runs.values())
            if run["workflow"] == name and event in ("", run["event"]) and branch in ("", run["ref"])
        ]
        return Answer(200, {"total_count": len(found), "workflow_runs": found[:size]})

    def _get_run(self, request: Request) -> Answer:
        return Answer(200, self._shown(request, self._named(request)))

    def _cancel(self, request: Request) -> Answer:
        run = self._named(request)
        if run["status"] == "completed":
            return Answer(409, refusal(409, "Cannot cancel a workflow run that is completed."))
        run.update(status="completed", conclusion="cancelled")
        return Answer(202, {})

    def _named(self, request: Request) -> Json:
        found = request.operation.parameters["run_id"]
        if not found.isdigit() or int(found) not in self.runs:
            raise NotFoundError
        return self.runs[int(found)]

    def _read(self, ref: str, name: str) -> Any:
        try:
            text = git(self._api.path, "show", f"{self._api.sha(ref)}:.github/workflows/{name}")
        except subprocess.CalledProcessError as error:
            raise NotFoundError from error
        return yaml.load(text, Loader=yaml.BaseLoader)  # the safe one makes `on` a truth value

    def _shown(self, request: Request, run: Json) -> Json:
        return objects.workflow_run(request.base, self._api.repository(request), run)


def _problem(taken: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What GitHub has against the inputs, in its words."""
    if unexpected := sorted(set(given) - set(taken)):
        return f"Unexpected inputs provided: {objects.as_json(unexpected)}"
    for name, described in taken.items():
        details = described or {}
        if details.get("required") == "true" and name not in given and "default" not in details:
            return f"Required input '{name}' not provided"
        if name in given and details.get("type") == "choice" and given[name] not in details["options"]:
            return f"Provided value '{given[name]}' for input '{name}' not in the list of allowed values"
    return ""
