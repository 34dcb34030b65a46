"""Runs the steps of a composite action, one after another, and collects what they leave."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from tests.runner.cancellation import Cancellation, wait
from tests.runner.expressions import Scope

Outcome = Literal["success", "failure", "cancelled", "skipped"]

_RUNNERS_OWN = re.compile(r"GITHUB_|RUNNER_|INPUT_|ACTIONS_|AUTORESEARCH_|OPENAI_|ANTHROPIC_")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """How one step ended. `log`: its standard output and error, in order; `summary`: its part of the job's summary.

    `stand_in`: the step was not run, its outputs were given to the runner. `exit_code` is None where no process ran.
    `ended_after_s`: from the first signal of a cancellation to the end of the step's process; None where there was none.
    """

    name: str
    outcome: Outcome
    exit_code: int | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    log: str = ""
    summary: str = ""
    stand_in: bool = False
    ended_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionResult:
    """What the workflow sees of the action: `conclusion` and `outputs`; and every step, by its id, for the tests."""

    conclusion: Outcome
    outputs: Mapping[str, str]
    steps: Mapping[str, StepResult]

    @property
    def log(self) -> str:
        return "".join(step.log for step in self.steps.values())


@dataclass(frozen=True, kw_only=True)
class ActionRunner:
    """One machine with one checkout, on which an action can be run, also several times.

    `action`: the folder with action.yml. `workspace`: the checkout. `temp`: the runner's temporary folder. `github`:
    the `github` context (`repository`, `api_url`, `token`, …); all but the token is in the steps' environment too, as
    `GITHUB_…`. `environ`: the machine's environment. `stand_ins`: outputs of steps, by id, that are not to be run;
    every `uses:` step that would run needs one.
    """

    action: Path
    workspace: Path
    temp: Path
    github: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=lambda: machine_environment(os.environ))
    stand_ins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    step_timeout_s: float = 300

    def run(self, inputs: Mapping[str, str] | None = None, *, cancellation: Cancellation | None = None) -> ActionResult:
        """The whole action with these inputs. KeyError for an input it does not have."""
        definition = yaml.safe_load((self.action / "action.yml").read_text(encoding="utf-8"))
        contexts: dict[str, Any] = {
            "github": {**self.github, "action_path": str(self.action), "workspace": str(self.workspace)},
            "runner": {"temp": str(self.temp), "os": _runner_os()},
            "steps": {},
        }
        contexts["inputs"] = _inputs(definition["inputs"], inputs or {}, Scope(contexts=contexts))
        results: dict[str, StepResult] = {}
        failed = cancelled = False
        for number, step in enumerate(definition["runs"]["steps"]):
            name = step.get("id", f"__{number}")
            scope = Scope(contexts=contexts, failed=failed, cancelled=cancelled)
            if scope.holds(step.get("if")):
                due = cancellation if cancellation is not None and cancellation.step == name else None
                result = self._step(name, number, step, scope, due)
            else:
                result = StepResult(name=name, outcome="skipped")
            results[name] = result
            failed = failed or result.outcome == "failure"
            cancelled = cancelled or result.outcome == "cancelled"
            contexts["steps"][name] = {
                "outcome": result.outcome,
                "conclusion": result.outcome,
                "outputs": dict(result.outputs),
            }
        scope = Scope(contexts=contexts, failed=failed, cancelled=cancelled)
        outputs = {name: scope.fill(output["value"]) for name, output in definition["outputs"].items()}
        conclusion: Outcome = "cancelled" if cancelled else "failure" if failed else "success"
        return ActionResult(conclusion=conclusion, outputs=outputs, steps=results)

    def _step(
        self, name: str, number: int, step: Mapping[str, Any], scope: Scope, cancellation: Cancellation | None
    ) -> StepResult:
        if name in self.stand_ins:
            return StepResult(name=name, outcome="success", outputs=self.stand_ins[name], stand_in=True)
        if "run" not in step:
            raise ValueError(f"the step `{name}` uses {step['uses']}: give its outputs in `stand_ins`")
        if step["shell"] != "bash":
            raise ValueError(f"the step `{name}` wants the shell `{step['shell']}`")
        folder = self.temp / "_runner_file_commands" / f"{number}-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        script, log = folder / "script.sh", folder / "log"
        script.write_text(scope.fill(step["run"]), encoding="utf-8")
        files = {
            name: folder / name.lower()
            for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")
        }
        for file in files.values():
            file.write_bytes(b"")
        environment = {
            **self._environment(),
            **{name: str(file) for name, file in files.items()},
            **{name: scope.fill(str(value)) for name, value in step.get("env", {}).items()},
        }
        with log.open("wb") as writer:
            process = subprocess.Popen(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
                cwd=self.workspace / scope.fill(step.get("working-directory", ".")),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            exit_code, ended_after_s = wait(process, cancellation, self.step_timeout_s)
        return StepResult(
            name=name,
            outcome="cancelled" if ended_after_s is not None else "success" if exit_code == 0 else "failure",
            exit_code=exit_code,
            outputs=_commands(files["GITHUB_OUTPUT"].read_text(encoding="utf-8")),
            environment=environment,
            log=log.read_text(encoding="utf-8", errors="replace"),
            summary=files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8"),
            ended_after_s=ended_after_s,
        )

    def _environment(self) -> dict[str, str]:
        return {
            **self.environ,
            **{f"GITHUB_{name.upper()}": value for name, value in self.github.items() if name != "token"},
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(self.action),
            "GITHUB_WORKSPACE": str(self.workspace),
            "RUNNER_OS": _runner_os(),
            "RUNNER_TEMP": str(self.temp),
        }


def machine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` as a machine would have it before a job: nothing of a job or session that these tests may run in."""
    return {name: value for name, value in environ.items() if not _RUNNERS_OWN.match(name)}


def _runner_os() -> str:
    return {"Darwin": "macOS"}.get(platform.system(), platform.system())


def _inputs(declared: Mapping[str, Any], given: Mapping[str, str], scope: Scope) -> dict[str, str]:
    """Every declared input: as given, or its default, or empty. The runner enforces no `required`."""
    for name in given:
        if name not in declared:
            raise KeyError(f"the action has no input `{name}`")
    return {
        name: given[name] if name in given else scope.fill(str((spec or {}).get("default", "")))
        for name, spec in declared.items()
    }


def _commands(text: str) -> dict[str, str]:
    """The pairs of a command file: `name=value`, or `name<<DELIMITER` and the value on the lines up to DELIMITER."""
    values: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        heredoc = re.fullmatch(r"([^=]+?)<<(.+)", line)
        if heredoc is None:
            name, sign, value = line.partition("=")
            if not sign:
                raise ValueError(f"neither `name=value` nor `name<<DELIMITER`: {line!r}")
            values[name] = value
            continue
        block: list[str] = []
        for inner in lines:
            if inner == heredoc[2]:
                break
            block.append(inner)
        else:
            raise ValueError(f"`{heredoc[2]}` is missing")
        values[heredoc[1]] = "\n".join(block)
    return values
