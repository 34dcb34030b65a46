from __future__ import annotations

import json
import os
import shlex
import signal
import site
import sys
from pathlib import Path

import pytest

from autoresearch_ci.settings import NAMES, variable
from tests.runner import KILL, ActionRunner, Cancellation, machine_environment

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
    """Keys are in the environment of `run` alone; no secret is an argument or in the log."""
    secrets = {"token": "secret-t", "openai-api-key": "secret-o", "anthropic-api-key": "secret-a"}
    machine.plan({"run": {"exit": 1}})
    result = machine.runner.run(secrets)
    run, finalize = machine.environment("run"), machine.environment("finalize")
    assert (run["AUTORESEARCH_TOKEN"], run["OPENAI_API_KEY"], run["ANTHROPIC_API_KEY"]) == (
        "secret-t",
        "secret-o",
        "secret-a",
    )
    assert finalize["AUTORESEARCH_TOKEN"] == "secret-t"
    assert not {"OPENAI_API_KEY", "ANTHROPIC_API_KEY"} & set(finalize)
    assert "secret-" not in result.log + str(machine.recorded("run")["argv"])
    for name in ("find", "install"):
        assert not any("secret-" in value for value in result.steps[name].environment.values())


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
            "run": {"exit": code, "outputs": "branch=b\nstatus=interrupted\n"},
            "finalize": {"outputs": "status=improved\n"},
        }
    )
    result = machine.runner.run()
    assert result.steps["run"].exit_code == code
    assert result.steps["finalize"].outcome == "success"
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
    machine.plan({"run": {"wait": True}})
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
