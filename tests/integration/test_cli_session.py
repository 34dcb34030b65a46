"""A whole local session, as a person at a shell sees it."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.forge.fixtures import TRAIN
from tests.project import Project, wait_for

assert sys.platform != "win32", "these tests send POSIX signals"

SLOW = TRAIN.replace("import math\n", "import math\nimport time\n") + "time.sleep(0.6)\n"


def rows(project: Project, ref: str) -> list[list[str]]:
    return [line.split("\t") for line in project.git("show", ref).splitlines()]


def test_from_a_script_to_a_pull_request(project: Project) -> None:
    """One command: the branch with one commit for each keep and the report, every other experiment's commit, the journal, and
    the pull request as a page; the user's checkout is as it was."""
    head, status = project.git("rev-parse", "HEAD"), project.git("status", "--porcelain")
    done = project.run("run", "--tag", "night", "--max-iterations", "8")
    assert done.returncode == 0, done.stderr
    assert "Parameter" in done.stderr
    assert "--max-iterations" in done.stderr
    assert "autoresearch.toml" in done.stderr

    table = rows(project, "autoresearch/night:results.tsv")
    assert table[0] == ["commit", "val_bpb", "mem_gb", "status", "description"]
    assert table[1][0] == "baseline"
    assert table[1][3:] == ["keep", "Baseline — no modifications"]
    assert len(table) == 10
    kept = [row for row in table[2:] if row[3] == "keep"]
    assert kept, "a bowl must be descended"
    log = project.git("log", "--format=%h %s", "main..autoresearch/night").splitlines()
    assert "report" in log[0]
    assert [line.split()[0][:7] for line in reversed(log[1:])] == [row[0] for row in kept]
    others = project.git("for-each-ref", "--format=%(refname)", "refs/autoresearch/night/experiments").splitlines()
    assert len(others) == 8 - len(kept)
    assert "# AutoResearch Summary" in project.git("show", "autoresearch/night:autoresearch-summary.md")
    changed = project.git("diff", "--name-only", "main", "autoresearch/night").splitlines()
    assert sorted(changed) == ["autoresearch-chart.svg", "autoresearch-summary.md", "results.tsv", "train.py"]

    page = next((project.home / "state").rglob("pull-request.html"))
    assert str(page) in done.stderr
    assert "val_bpb" in page.read_text()
    assert "http://" not in re.sub(
        r"http://www\.w3\.org/[^\"' ]*|http://purl\.org/[^\"' ]*|http://creativecommons\.org/[^\"' ]*",
        "",
        page.read_text(),
    )
    assert project.git("rev-parse", "HEAD") == head
    assert project.git("status", "--porcelain") == status


def test_a_session_goes_on(project: Project) -> None:
    """The same tag again: no second baseline, more experiments, the same pull request updated."""
    assert project.run("run", "--tag", "night", "--max-iterations", "3").returncode == 0
    again = project.run("run", "--tag", "night", "--max-iterations", "5")
    assert again.returncode == 0, again.stderr
    assert "going on with `night` after 3 experiments" in again.stderr
    assert "Pull request updated" in again.stderr
    assert len(rows(project, "autoresearch/night:results.tsv")) == 7
    assert project.git("merge-base", "--is-ancestor", "main", "autoresearch/night") == ""


def test_another_machine_goes_on_from_the_refs_alone(project: Project) -> None:
    """Without the state folder, the journal on the remote is enough."""
    assert project.run("run", "--tag", "night", "--max-iterations", "3").returncode == 0
    looked = project.run("status", "--tag", "night", XDG_STATE_HOME=str(project.home / "third"))
    assert looked.stdout.startswith("## AutoResearch Progress — Iteration 3"), looked.stderr
    again = project.run("run", "--tag", "night", "--max-iterations", "4", XDG_STATE_HOME=str(project.home / "other"))
    assert again.returncode == 0, again.stderr
    assert "after 3 experiments" in again.stderr
    assert len(rows(project, "autoresearch/night:results.tsv")) == 6


def test_a_failed_baseline_can_be_mended(project: Project) -> None:
    """The same tag again after the script or the settings were put right: nothing of the failed try stands in the way."""
    project.commit({"train.py": "print('val_loss: 1')\n"})
    assert project.run("run", "--tag", "night", "--max-iterations", "1").returncode == 3
    project.commit({"train.py": TRAIN.replace("val_bpb", "val_acc")})
    mended = project.run("run", "--tag", "night", "--max-iterations", "1", "--metric", "val_acc", "--resume", "never")
    assert mended.returncode == 0, mended.stderr
    assert rows(project, "autoresearch/night:results.tsv")[0][1] == "val_acc"


def test_finalize_is_safe_to_repeat(project: Project) -> None:
    """The second time nothing changes."""
    assert project.run("run", "--tag", "night", "--max-iterations", "2", "--no-finalize").returncode == 0
    assert project.run("finalize").returncode == 0
    tip = project.git("rev-parse", "autoresearch/night")
    again = project.run("finalize")
    assert again.returncode == 0, again.stderr
    assert project.git("rev-parse", "autoresearch/night") == tip


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


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_loses_nothing(project: Project, signal_number: int, code: int) -> None:
    """The run in flight is dropped, everything else is on the remote, and the session goes on afterwards."""
    project.commit({"train.py": SLOW})
    process = project.start("run", "--tag", "night", "--max-iterations", "50")
    wait_for(lambda: "refs/heads/autoresearch/night" in project.git("for-each-ref"))  # the baseline is decided
    os.kill(process.pid, signal_number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    if signal_number == signal.SIGINT:
        assert "Pull request created" in err or "no pull request" in err
    again = project.run("run", "--tag", "night", "--max-iterations", "2")
    assert again.returncode == 0, again.stderr
    table = rows(project, "autoresearch/night:results.tsv")
    assert len(table) >= 4
    assert len({row[0] for row in table}) == len(table)


def test_status_sees_a_running_session_and_a_second_one_is_refused(project: Project) -> None:
    """From another terminal: what runs now; and the tag is taken while it runs."""
    project.commit({"train.py": SLOW})
    process = project.start("run", "--tag", "night", "--max-iterations", "50")
    wait_for(lambda: "**Running:** experiment" in project.run("status").stdout)
    second = project.run("run", "--tag", "night")
    assert second.returncode == 6
    assert "running already" in second.stderr
    process.terminate()
    process.communicate(timeout=30)


def test_a_script_in_a_subfolder(project: Project) -> None:
    """A project inside a larger repository: paths are relative to where the command is started."""
    project.commit({"ml/train.py": TRAIN, "ml/autoresearch.toml": (project.path / "autoresearch.toml").read_text()})
    inner = Project(project.path / "ml", project.home, project.environment)
    done = inner.run("run", "--tag", "sub", "--max-iterations", "2")
    assert done.returncode == 0, done.stderr
    changed = project.git("diff", "--name-only", "main", "autoresearch/sub").splitlines()
    assert set(changed) <= {"ml/autoresearch-chart.svg", "ml/autoresearch-summary.md", "ml/results.tsv", "ml/train.py"}


def test_a_hypothesis_and_a_plan_come_first(project: Project) -> None:
    """The skill's quick start: my hypothesis first, then keep going."""
    project.commit({"plan.txt": "# widths\nWIDTH=128\nWIDTH=256  # wider\n"})
    done = project.run(
        "run", "--tag", "h", "--max-iterations", "4", "--hypothesis", "LEARNING_RATE=0.08", "--plan", "plan.txt"
    )
    assert done.returncode == 0, done.stderr
    table = rows(project, "autoresearch/h:results.tsv")
    assert [row[4] for row in table[2:5]] == ["LEARNING_RATE 0.04 → 0.08", "WIDTH 64 → 128", "WIDTH 128 → 256"]


def test_prepare_fills_the_cache_once(project: Project) -> None:
    """`prepare` runs before the baseline, and the runs see what it left."""
    project.commit(
        {
            "fill.py": "import os, pathlib\np = pathlib.Path(os.environ['AUTORESEARCH_CACHE']) / 'data'\np.write_text(p.read_text() + 'x' if p.exists() else 'x')\n",
            "train.py": TRAIN
            + "from pathlib import Path\nassert (Path(os.environ['AUTORESEARCH_CACHE']) / 'data').read_text() == 'x'\n",
        }
    )
    for count in ("1", "2"):
        done = project.run("run", "--tag", "p", "--max-iterations", count, "--prepare", "python fill.py")
        assert done.returncode == 0, done.stderr
    assert (project.home / "cache" / "data").read_text() == "x"


def test_nothing_kept_is_a_success(project: Project) -> None:
    """No pull request, exit code 0, and the results are on the branch all the same."""
    project.commit({"train.py": "LEARNING_RATE = 0.1\nprint(f'val_bpb: {1.0 if LEARNING_RATE == 0.1 else 2.0}')\n"})
    done = project.run("run", "--tag", "flat", "--max-iterations", "3")
    assert done.returncode == 0, done.stderr
    assert "nothing was kept: no pull request" in done.stderr
    assert len(rows(project, "autoresearch/flat:results.tsv")) == 5
    assert not list((project.home / "state").rglob("pull-request.md"))


def test_the_programs_folder_says_where_it_is(project: Project) -> None:
    """`detect` and `doctor` say what they see, as a table and as JSON."""
    found = json.loads(project.run("detect", "--json").stdout)
    assert found["platform"] in {"cpu", "cuda", "mps"}
    assert found["executor"] == "native"
    assert found["adjustments"]["AUTORESEARCH_PLATFORM"] == found["platform"]
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
