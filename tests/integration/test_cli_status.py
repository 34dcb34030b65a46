"""Watching a session with several slots from another terminal."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from autoresearch_ci.cli.wiring import state_folder
from autoresearch_ci.experiment import History, Status
from autoresearch_ci.journal import Journal
from autoresearch_ci.workspace import inspect_repository
from tests.project import Project
from tests.unit.histories import experiment, history


@pytest.fixture
def record(project: Project) -> Journal:
    """The record of a session that goes on: a baseline and three experiments, one every ten minutes; ten are wanted."""
    now = dt.datetime.now(dt.UTC)
    folder = state_folder(
        project.path, inspect_repository(project.path, "train.py").git_dir, str(project.home / "kept")
    )
    record = Journal(folder / "night")
    session = dataclasses.replace(history().session, tag="night", max_iterations=10, started_at=now)
    told = record.begin(History(session=session))
    for number in range(4):
        end = now - dt.timedelta(minutes=10 * (3 - number))
        status = Status.KEEP if number == 0 else Status.DISCARD
        begin = end - dt.timedelta(minutes=10)
        told = record.append(told, experiment(number, 1.0 + number, status, started_at=begin, finished_at=end))
    return record


def status(project: Project, *arguments: str) -> str:
    done = project.run("status", "--tag", "night", "--state-dir", str(project.home / "kept"), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def two_slots(record: Journal) -> Iterator[None]:
    """Two threads that run something all the time, the first with pauses as long as its runs."""
    over = threading.Event()

    def work(slot: int, pause_s: float) -> None:
        number = slot
        while not over.is_set():
            record.running(number, f"KNOB {number} → {number + 1}", dt.datetime.now(dt.UTC), slot=slot)
            time.sleep(0.05)
            if pause_s:
                record.idle(slot=slot)
                time.sleep(pause_s)
            number += 2

    record.slots(("GPU-1", "GPU-2"))
    record.waiting(("WD 0 → 0.1",))
    threads = [threading.Thread(target=work, args=each) for each in ((1, 0.05), (2, 0.0))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(30)


def test_status_of_two_slots(project: Project, record: Journal) -> None:
    """While two threads run experiments: what each slot does, on what, how busy it is; what waits, the pace and the forecast."""
    with two_slots(record):
        text = status(project)
        told = json.loads(status(project, "--json"))
    assert text.startswith("## AutoResearch Progress — Iteration 3")
    assert "| Slot | Device | Running | Since | Busy |" in text
    assert re.search(r"^\| 2 \| GPU-2 \| \d+: KNOB \d+ → \d+ \| \d\d:\d\d UTC \(\d+ s\) \| (9\d|100) % \|$", text, re.M)
    assert "**Waiting for a slot:** WD 0 → 0.1" in text
    assert "**Forecast:** 6 experiments an hour; 7 more until `max-iterations` is reached, about 20" in text
    first, second = told["slots"]
    assert (first["device"], second["device"]) == ("GPU-1", "GPU-2")
    assert 0.3 < first["busy_share"] < 0.7
    assert second["busy_share"] > 0.9
    assert second["number"] % 2 == 0
    assert told["waiting"] == ["WD 0 → 0.1"]
    assert told["per_hour"] == pytest.approx(6)
    assert (told["forecast"]["experiments"], told["forecast"]["because"]) == (7, "max-iterations")


def test_status_of_one_slot(project: Project, record: Journal) -> None:
    """It reads as it always did, with the forecast below; and says nothing of either once nothing runs."""
    record.running(4, "KNOB 4 → 5", dt.datetime.now(dt.UTC))
    text = status(project)
    assert re.search(r"^\*\*Running:\*\* experiment 4 for \d+ s: KNOB 4 → 5\n\*\*Forecast:\*\* 6 exp", text, re.M)
    assert "| Slot |" not in text
    running = json.loads(status(project, "--json"))["running"]
    assert (running["number"], running["description"]) == (4, "KNOB 4 → 5")
    record.idle()
    text = status(project)
    assert "**Running:**" not in text
    assert "**Forecast:**" not in text


def test_status_of_a_process_that_is_gone(project: Project, record: Journal) -> None:
    """What was killed does not run any more, whatever its note says."""
    record.running(4, "KNOB 4 → 5", dt.datetime.now(dt.UTC))
    note = record.folder / "running.json"
    with subprocess.Popen(["true"]) as gone:
        gone.wait(10)
    note.write_text(json.dumps(json.loads(note.read_text()) | {"pid": gone.pid}))
    text = status(project)
    assert "**Running:**" not in text
    assert "**Stopped:** its process ended without a word; `autoresearch-ci run` goes on" in text
    assert json.loads(status(project, "--json"))["running"] is None
