from __future__ import annotations

import json
import os
import shlex
import signal
import site
import sys
from pathlib import Path

import pytest

from autoresearch_ci.settings import NAMES, load, variable
from autoresearch_ci.workflow_template import PROJECT, render
from tests.runner import KILL, ActionRunner, Cancellation, Event, machine_environment, start

ROOT = Path(__file__).parents[2]
ACTION = ROOT / "action"
HOSTILE = "a b'c\"d $(touch planted) `touch planted` ${{ github.token }} ; touch planted # \\ é"

# Stands for the program: notes how it was called, says what the test wants said, and waits for a signal when told to.
RECORDER = """
import json, os, pathlib, signal, sys, time
folder, command = pathlib.Path(os.environ["RECORDS"]), sys.argv[3]
assert sys.argv[1:3] == ["-m", "autoresearch_ci"], sys.argv
plan = json.loads((folder / "plan.json").read_text()).get(command, {})
note = {"argv": sys.argv, "environment": dict(os.environ), "directory": os.getcwd()}
with open(os.environ["GITHUB_OUTPUT"], "a", encoding="utf-8") as file:
    file.write(plan.get("early", ""))
if plan.get("wait"):
    def stop(number, frame):
        (folder / "signals").open("a").write(f"{number}\\n")
        if number not in plan.get("deaf", []):
            note["signal"] = number
            (folder / f"{command}.json").write_text(json.dumps(note))
            sys.exit(128 + number)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    (folder / "waiting").touch()
    time.sleep(120)
(folder / f"{command}.json").write_text(json.dumps(note))
with open(os.environ["GITHUB_OUTPUT"], "a", encoding="utf-8") as file:
    file.write(plan.get("outputs", ""))
print(f"{command} was here")
sys.exit(plan.get("exit", 0))
"""


class Machine:
    """A checkout, a temporary folder, and the recorder in place of the installed program."""

    def __init__(self, folder: Path) -> None:
        self.records = folder / "records"
        self.workspace = folder / "checkout"
        (self.workspace / "project").mkdir(parents=True)
        self.records.mkdir()
        script = folder / "recorder.py"
        script.write_text(RECORDER, encoding="utf-8")
        python = folder / "python"
        python.write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(script))} "$@"\n', encoding="utf-8"
        )
        python.chmod(0o755)
        self.runner = ActionRunner(
            action=ACTION,
            workspace=self.workspace,
            temp=folder / "runner temp",
            github={"token": "token-of-the-job", "repository": "owner/name"},
            environ=machine_environment(os.environ) | {"RECORDS": str(self.records)},
            stand_ins={"install": {"python": str(python)}},
            step_timeout_s=60,
        )
        self.plan({})

    def plan(self, plan: dict[str, object]) -> None:
        (self.records / "plan.json").write_text(json.dumps(plan), encoding="utf-8")

    def recorded(self, command: str) -> dict[str, object]:
        note: dict[str, object] = json.loads((self.records / f"{command}.json").read_text(encoding="utf-8"))
        return note

    def environment(self, command: str) -> dict[str, str]:
        environment = self.recorded(command)["environment"]
        assert isinstance(environment, dict)
        return environment


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_every_input_reaches_the_program(machine: Machine) -> None:
    """Every setting arrives as its variable, letter by letter, and no shell looks at it."""
    result = machine.runner.run({name: f"{name}: {HOSTILE}" for name in NAMES})
    assert result.conclusion == "success"
    environment = machine.environment("run")
    assert {name: environment[variable(name)] for name in NAMES} == {name: f"{name}: {HOSTILE}" for name in NAMES}
    assert not (machine.workspace / "planted").exists()


def test_an_input_left_out_is_empty(machine: Machine) -> None:
    """What the workflow does not say is empty, which to the program means not set; the token is the job's."""
    machine.runner.run()
    environment = machine.environment("run")
    assert {environment[variable(name)] for name in NAMES} == {""}
    assert environment["AUTORESEARCH_TOKEN"] == "token-of-the-job"
    argv = machine.recorded("run")["argv"]
    assert isinstance(argv, list)
    assert argv[1:] == ["-m", "autoresearch_ci", "run"]


def test_folder_and_settings_file(machine: Machine) -> None:
    """The program starts in the working directory, with the settings file as one argument."""
    machine.runner.run({"working-directory": "project", "config": "--odd name; exit.toml"})
    note = machine.recorded("run")
    assert note["directory"] == str((machine.workspace / "project").resolve())
    argv = note["argv"]
    assert isinstance(argv, list)
    assert argv[1:] == ["-m", "autoresearch_ci", "run", "--config=--odd name; exit.toml"]


def test_secrets_go_only_where_they_are_needed(machine: Machine) -> None:
    """What may write to the repository is in the environment of both steps, keys of models in that of `run`; nowhere else."""
    forge = {
        "AUTORESEARCH_TOKEN": "secret-t",
        "AUTORESEARCH_APP_ID": "7",
        "AUTORESEARCH_APP_PRIVATE_KEY": "secret-p\nq",
    }
    models = {"OPENAI_API_KEY": "secret-o", "ANTHROPIC_API_KEY": "secret-a"}
    machine.plan({"run": {"exit": 1, "outputs": "tag=t\n"}})
    result = machine.runner.run(
        {
            "token": "secret-t",
            "app-id": "7",
            "app-private-key": "secret-p\nq",
            "openai-api-key": "secret-o",
            "anthropic-api-key": "secret-a",
        }
    )
    run, finalize = machine.environment("run"), machine.environment("finalize")
    assert (forge | models).items() <= run.items()
    assert forge.items() <= finalize.items()
    assert not models.keys() & finalize.keys()
    for command in ("run", "finalize"):
        assert "secret-" not in str(machine.recorded(command)["argv"])
    assert "secret-" not in result.log
    for name in ("find", "install"):
        assert not any("secret-" in value for value in result.steps[name].environment.values())


@pytest.mark.parametrize("task", ["comment", "report", "drop abc1234", "continue 20", HOSTILE])
def test_a_request_is_a_task(machine: Machine, task: str) -> None:
    """Anything but a session is the command `task`, which finds the request in its environment, letter by letter."""
    assert machine.runner.run({"task": task}).conclusion == "success"
    argv = machine.recorded("task")["argv"]
    assert isinstance(argv, list)
    assert argv[1:] == ["-m", "autoresearch_ci", "task"]
    assert machine.environment("task")["AUTORESEARCH_TASK"] == task
    assert not (machine.records / "run.json").exists()
    assert not (machine.workspace / "planted").exists()


@pytest.mark.parametrize(
    ("task", "reported"),
    [
        ("", True),
        ("continue 20", True),
        ("comment", False),
        ("report", False),
        ("verify 5", False),
        ("continued", False),
    ],
)
def test_only_sessions_are_reported(machine: Machine, task: str, reported: bool) -> None:
    """What failed is finished by the report where it was a session, also one that went on by request."""
    machine.plan({name: {"exit": 1, "outputs": "tag=t\n"} for name in ("run", "task")})
    result = machine.runner.run({"task": task})
    assert result.conclusion == "failure"
    assert result.steps["finalize"].outcome == ("success" if reported else "skipped")


@pytest.mark.parametrize(
    ("inputs", "command", "variables"),
    [
        ({}, "run", {}),
        ({"hypothesis": "LEARNING_RATE=3e-4"}, "run", {"HYPOTHESIS": "LEARNING_RATE=3e-4"}),
        ({"max-iterations": "20"}, "run", {"MAX_ITERATIONS": "20"}),
        ({"tag": "nov22", "resume": "require"}, "run", {"TAG": "nov22", "RESUME": "require"}),
        ({"task": "report"}, "task", {"TASK": "report"}),
    ],
)
def test_the_quick_starts(machine: Machine, inputs: dict[str, str], command: str, variables: dict[str, str]) -> None:
    """A dispatch of the workflow that `init` writes reaches the program as what was asked for, and the rest is as configured."""
    settings = load(flags={"time-budget": "5m", "metric": "val_bpb", "direction": "minimize"}).settings
    job = start(render(settings), Event(trigger="workflow_dispatch", inputs=inputs)).jobs["research"]
    assert machine.runner.run(job.arguments[f"{PROJECT}/action"]).conclusion == "success"
    told = {
        name.removeprefix("AUTORESEARCH_"): value
        for name, value in machine.environment(command).items()
        if name.startswith("AUTORESEARCH_") and value
    }
    assert told == {"TOKEN": "token-of-the-job", "JOB_TIMEOUT": "720m"} | variables


def test_the_report_is_of_the_session_that_ran(machine: Machine) -> None:
    """The tag that the session chose wins over the input, whose date may have changed at midnight."""
    machine.plan({"run": {"exit": 1, "outputs": "tag=nightly-2026-11-22\n"}})
    machine.runner.run({"tag": "nightly-{date}"})
    assert machine.environment("run")["AUTORESEARCH_TAG"] == "nightly-{date}"
    assert machine.environment("finalize")["AUTORESEARCH_TAG"] == "nightly-2026-11-22"


def test_no_session_is_reported_that_did_not_run(machine: Machine) -> None:
    """A run that failed before it had a session leaves the one of that tag alone, and the one of last night."""
    machine.plan({"run": {"exit": 2}})
    assert machine.runner.run({"tag": "nov22"}).steps["finalize"].outcome == "skipped"


def test_outputs_travel(machine: Machine) -> None:
    """What `run` says becomes the action's outputs; what has an end is not ended twice."""
    machine.plan({"run": {"outputs": "branch=autoresearch/nov22\nstatus<<EOF\nimproved\nEOF\n"}})
    result = machine.runner.run()
    assert result.outputs["branch"] == "autoresearch/nov22"
    assert result.outputs["status"] == "improved"
    assert result.outputs["pull-request-url"] == ""
    assert result.steps["finalize"].outcome == "skipped"
    assert result.log.strip().endswith("run was here")


@pytest.mark.parametrize("code", [1, 2, 3, 5, 7])
def test_a_failure_stays_a_failure(machine: Machine, code: int) -> None:
    """After a failed run the report is made, its outputs win, and the job fails all the same, with the run's code."""
    machine.plan(
        {
            "run": {"exit": code, "outputs": "tag=b\nbranch=b\nstatus=interrupted\n"},
            "finalize": {"outputs": "status=improved\n"},
        }
    )
    result = machine.runner.run()
    assert result.steps["run"].exit_code == code
    assert result.steps["finalize"].outcome == "success"
    argv = machine.recorded("finalize")["argv"]
    assert isinstance(argv, list)
    assert argv[3:] == ["finalize", "--no-measure"]  # five minutes are left: nothing is trained in them
    assert result.conclusion == "failure"
    assert (result.outputs["branch"], result.outputs["status"]) == ("b", "improved")


def test_no_report_without_a_program(machine: Machine) -> None:
    """When the installation failed there is nothing to report with, and nothing else is tried."""
    runner = ActionRunner(
        action=ACTION,
        workspace=machine.workspace,
        temp=machine.runner.temp,
        stand_ins={"find": {"python-path": "/bin/false"}},
    )
    result = runner.run()
    outcomes = [result.steps[name].outcome for name in ("setup", "install", "run", "finalize")]
    assert outcomes == ["skipped", "failure", "skipped", "skipped"]
    assert result.conclusion == "failure"


def test_cancelling_reaches_the_program_at_once(machine: Machine) -> None:
    """The first signal of a cancelled job arrives in the program itself, not in a shell, and the report follows."""
    machine.plan({"run": {"wait": True, "early": "tag=t\n"}})
    cancellation = Cancellation(step="run", when=(machine.records / "waiting").exists)
    result = machine.runner.run(cancellation=cancellation)
    assert result.steps["run"].exit_code == 130
    assert machine.recorded("run")["signal"] == 2
    assert result.steps["finalize"].outcome == "success"
    assert result.conclusion == "cancelled"


def test_the_ladder_goes_on(machine: Machine) -> None:
    """A program that does not end at SIGINT gets SIGTERM, and one that does not end at all is killed."""
    when = (machine.records / "waiting").exists
    ladder = ((signal.SIGINT, 0.5), (signal.SIGTERM, 0.5))
    machine.plan({"run": {"wait": True, "deaf": [2]}})
    patient = machine.runner.run(cancellation=Cancellation(step="run", when=when, ladder=ladder))
    (machine.records / "waiting").unlink()
    machine.plan({"run": {"wait": True, "deaf": [2, 15]}})
    deaf = machine.runner.run(cancellation=Cancellation(step="run", when=when, ladder=ladder))
    (machine.records / "waiting").unlink()
    dead = machine.runner.run(cancellation=Cancellation(step="run", when=when, ladder=KILL))
    assert [r.steps["run"].exit_code for r in (patient, deaf, dead)] == [143, 137, 137]
    assert (machine.records / "signals").read_text().split() == ["2", "15", "2", "15"]


def test_a_python_is_found(machine: Machine) -> None:
    """A machine with a Python that is new enough needs no other."""
    step = machine.runner.run().steps["find"]
    assert step.outcome == "success"
    assert Path(step.outputs["python-path"]).name.startswith("python")


def test_an_old_python_is_passed_over(machine: Machine, tmp_path: Path) -> None:
    """Where every Python is too old, setup-python gets its turn."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("python3", "python"):
        (tools / name).write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    (tools / "bash").symlink_to("/bin/bash")
    (tools / "sh").symlink_to("/bin/sh")
    runner = ActionRunner(
        action=ACTION,
        workspace=machine.workspace,
        temp=machine.runner.temp,
        environ={"PATH": str(tools), "RECORDS": str(machine.records)},
        stand_ins={**machine.runner.stand_ins, "setup": {"python-path": sys.executable}},
    )
    result = runner.run()
    assert result.steps["setup"].stand_in
    assert result.conclusion == "success"


def test_it_installs_itself(machine: Machine) -> None:
    """The real steps: a virtual environment of its own, made anew, holds the program of the action's own checkout."""
    # No network: everything that the program needs is already importable, and so is what builds it.
    environ = machine_environment(os.environ) | {
        "PYTHONPATH": os.pathsep.join(site.getsitepackages()),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as `build-isolation = no`
    }
    temp = machine.runner.temp
    (temp / "autoresearch-ci/bin").mkdir(parents=True)
    (temp / "autoresearch-ci/bin/left-over").touch()
    runner = ActionRunner(
        action=ACTION,
        workspace=machine.workspace,
        temp=temp,
        environ=environ,
        stand_ins={"find": {"python-path": sys.executable}},
    )
    result = runner.run({"tag": "no good", "forge": "local"})
    assert result.steps["install"].outcome == "success", result.steps["install"].log
    python = Path(result.steps["install"].outputs["python"])
    assert python.is_relative_to(temp)
    assert not (temp / "autoresearch-ci/bin/left-over").exists()
    assert any(python.parents[1].glob("lib/python*/site-packages/autoresearch_ci/autoresearch.schema.json"))
    assert result.steps["run"].exit_code == 2, result.steps["run"].log
    assert "must be set" in result.steps["run"].log


def test_unknown_inputs_are_refused(machine: Machine) -> None:
    """A test cannot pass an input that the action does not have."""
    with pytest.raises(KeyError):
        machine.runner.run({"time_budget": "5m"})
