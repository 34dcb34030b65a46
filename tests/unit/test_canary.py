"""The log of the canary, and what `doctor --sandbox` makes of it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.canary import MARK, PROGRAM, Attempt, parse
from autoresearch_ci.cli.doctor import report_attempts, run_canary
from autoresearch_ci.cli.environment import Environment, Place
from autoresearch_ci.console import Console
from autoresearch_ci.errors import MachineError
from autoresearch_ci.experiment import Ending, Run
from autoresearch_ci.platforms import Detection, Platform, adjustments
from autoresearch_ci.runs import Interrupt, RunRequest
from autoresearch_ci.settings import Settings
from tests.interrupts import Never

LOG = (
    'noise\n\nCANARY {"attempts": ["a", "b", "c"]}\n\nCANARY {"attempt": "a", "managed": false, "detail": "no"}\n'
    'half a line CANARY {"attempt": "b", "managed": false}\nCANARY {"attempt": "b", "managed": true, "detail": "yes"}\n'
    'CANARY {"attempt": "other", "managed": true, "detail": ""}\nCANARY [1]\nCANARY {"attempt": "c", "manag'
)
ATTEMPTS = [Attempt("a", False, "no"), Attempt("b", True, "yes"), Attempt("c", None, "the canary did not live to tell")]


def test_what_was_announced_and_not_told_is_not_refused() -> None:
    """Every attempt that was announced has a result; one that the canary did not live to tell has none."""
    assert parse(LOG) == ATTEMPTS
    assert parse("nothing") == []


@given(st.lists(st.one_of(st.text(), st.text().map(lambda text: MARK + text), st.just(LOG))))
def test_no_log_breaks_the_parser(lines: list[str]) -> None:
    """Whatever stands in a log, attempts come out of it, and none without a result is taken for refused."""
    for attempt in parse("\n".join(lines)):
        assert attempt.managed in (True, False, None)
        assert len(attempt.name) + len(attempt.detail) <= 600


def test_the_program_stands_alone() -> None:
    """The canary is one text that imports only the standard library, and marks its lines as the parser expects."""
    compile(PROGRAM, "train.py", "exec", dont_inherit=True)
    assert re.search(rf'^MARK = "{MARK}"', PROGRAM, re.MULTILINE)
    assert "autoresearch_ci" not in re.findall(r"^(?:from|import) (\w+)", PROGRAM, re.MULTILINE)
    names = re.findall(r"@attempt\(\"(.*)\"\)", PROGRAM)
    assert len(names) == len(set(names)) > 40


def test_python_3_8_reads_the_program() -> None:
    """An image may bring an old Python."""
    import ast

    ast.parse(PROGRAM, feature_version=(3, 8))


class Scripted:
    """An executor whose runs have a log that somebody else wrote."""

    def __init__(self, log: str, ending: Ending = Ending.EXITED) -> None:
        self.log, self.ending = log, ending
        self.request: RunRequest | None = None

    def run(self, request: RunRequest, interrupt: Interrupt) -> Run:
        self.request = request
        assert (request.tree / "train.py").read_text() == PROGRAM
        assert (request.tree / "prepare.py").is_file()
        request.log.write_text(self.log)
        return Run(ending=self.ending, exit_code=127, wall_s=1.0)

    def prepare(self, request: RunRequest, interrupt: Interrupt) -> Run:
        raise NotImplementedError

    def probe(self, script: str) -> str:
        raise NotImplementedError


def place(executor: Environment) -> Place:
    detection = Detection(
        source="os", platform=Platform.CPU, devices=(), device_memory_mb=None, torch=None, cuda=None, bf16=False,
        flash_attention=False, can_compile=False, mig=False, unused_devices=(), python="3.11", system="Linux", chip="",
        cores=1, memory_mb=None,
    )  # fmt: skip
    return Place(executor, "container", "asked for", Platform.CPU, detection, adjustments(Platform.CPU, detection))


def made_settings() -> Settings:
    return Settings.model_validate(
        {"time-budget": "5m", "metric": "loss", "direction": "minimize", "env": {"WANDB_MODE": "offline"}}
    )


def test_the_canary_runs_as_the_sessions_runs_do(tmp_path: Path) -> None:
    """It gets the variables of the settings and a tree of its own, of which nothing stays."""
    executor = Scripted(LOG)
    assert run_canary(place(executor), made_settings(), tmp_path / "state", Never()) == ATTEMPTS
    assert executor.request is not None
    assert executor.request.variables["WANDB_MODE"] == "offline"
    assert executor.request.variables["AUTORESEARCH_PLATFORM"] == "cpu"
    assert list((tmp_path / "state").iterdir()) == []


def test_a_canary_that_does_not_speak_is_a_machine_error(tmp_path: Path) -> None:
    """Silence is not taken for a wall."""
    with pytest.raises(MachineError, match="exited with exit code 127"):
        run_canary(place(Scripted("python: not found\n")), made_settings(), tmp_path, Never())
    assert run_canary(place(Scripted("", Ending.INTERRUPTED)), made_settings(), tmp_path, Never()) == []


def test_what_got_through_is_shown() -> None:
    """The table names each attempt and its result, JSON has the same, and the last line counts."""
    out, err = io.StringIO(), io.StringIO()
    console = Console.detect({}, out, err)
    report_attempts(console, ATTEMPTS, as_json=False)
    assert re.search(r"a +refused +no", err.getvalue())
    assert re.search(r"b +GOT THROUGH +yes", err.getvalue())
    assert re.search(r"c +unknown", err.getvalue())
    assert "2 of 3 attempts were not refused" in err.getvalue()
    report_attempts(console, ATTEMPTS[:1], as_json=True)
    assert json.loads(out.getvalue()) == [{"attempt": "a", "got_through": False, "detail": "no"}]
    assert "all 1 attempts were refused" in err.getvalue()
