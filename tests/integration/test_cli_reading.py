"""Looking at a session and deciding about it, as a person at a shell does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.project import Project


def test_looking_at_a_session(project: Project) -> None:
    """`status`, `export` and `report` show it; their data is on stdout."""
    assert project.run("run", "--tag", "night", "--max-iterations", "3").returncode == 0
    status = project.run("status")
    assert status.stdout.startswith("## AutoResearch Progress — Iteration 3")
    assert "**Ended:** the maximum of 3 experiments is reached" in status.stdout
    assert json.loads(project.run("status", "--json").stdout)["experiments"] == 3
    assert len(json.loads(project.run("export", "--format", "json").stdout)) == 4
    assert project.run("export", "--format", "latex").stdout.count("\\\\") >= 4
    assert project.run("export", "--format", "csv").stdout.count("\n") == 5
    report = project.run("report", "--output", "-")
    assert report.stdout.startswith("# AutoResearch Summary")


def test_report_of_a_bare_table(project: Project) -> None:
    """A results.tsv that karpathy/autoresearch wrote, and nothing else."""
    table = project.path / "theirs.tsv"
    table.write_text(
        "commit\tval_bpb\tmemory_gb\tstatus\tdescription\nbaseline\t0.9979\t44.0\tkeep\tbaseline\n"
        "a1b2c3d\t0.000000\t0.0\tcrash\tOOM\nb2c3d4e\t0.9821\t44.2\tkeep\tReLU²\n"
    )
    done = project.run("report", "theirs.tsv")
    assert done.returncode == 0, done.stderr
    text = (project.path / "autoresearch-summary.md").read_text()
    assert "| 0.9979 | 0.9821 | -0.0158 (-1.58%) | b2c3d4e |" in text
    assert (project.path / "autoresearch-chart.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("method", ["squash", "rebase", "merge"])
def test_merge(project: Project, method: str) -> None:
    """The reviewer's decision from a shell; the checkout of the base branch moves along when it is clean."""
    assert project.run("run", "--tag", "night", "--max-iterations", "4").returncode == 0
    done = project.run("merge", "--method", method)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == project.git("rev-parse", "main")
    assert project.git("diff", "--name-only", "main", "autoresearch/night") == ""
    assert project.git("status", "--porcelain") == ""


def test_merge_into_a_dirty_checkout_is_refused(project: Project) -> None:
    """A person's changes are never overwritten."""
    assert project.run("run", "--tag", "night", "--max-iterations", "4").returncode == 0
    (project.path / "train.py").write_text("mine\n")
    done = project.run("merge")
    assert done.returncode == 6
    assert "hint: commit or stash them" in done.stderr
    assert (project.path / "train.py").read_text() == "mine\n"


def test_the_programs_folder_says_where_it_is(project: Project) -> None:
    """`detect` and `doctor` say what they see, as a table and as JSON."""
    found = json.loads(project.run("detect", "--json").stdout)
    assert found["platform"] in {"cpu", "cuda", "mps"}
    assert found["executor"] == "native"
    assert found["adjustments"]["AUTORESEARCH_PLATFORM"] == found["platform"]
    assert found["platform"] == "cuda" or found["slots"] == [
        {"number": 1, "device": "", "cpus": [], "memory": None, "threads": None}
    ]
    if found["cores"] > 1:
        shared = json.loads(project.run("detect", "--json", "--platform", "cpu", AUTORESEARCH_PARALLEL="2").stdout)
        assert [slot["threads"] for slot in shared["slots"]] == [found["cores"] // 2] * 2
    assert "AUTORESEARCH_BATCH_SCALE" in project.run("detect").stderr
    healthy = project.run("doctor", "--json")
    assert healthy.returncode == 0, healthy.stdout
    assert {row["check"] for row in json.loads(healthy.stdout)} >= {
        "settings",
        "repository",
        "executor",
        "state folder",
        "forge",
    }
    ill = project.run("doctor", "--training-script", "missing.py")
    assert ill.returncode == 2
    assert "FAILED" in ill.stderr


def test_version_and_module(project: Project) -> None:
    """`--version` answers at once."""
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", project.run("--version").stdout)
    assert Path(project.path).exists()
