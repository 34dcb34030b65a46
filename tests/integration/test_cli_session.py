"""A whole local session, as a person at a shell sees it."""

from __future__ import annotations

import re

from tests.forge.fixtures import TRAIN
from tests.project import Project


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
    assert sorted(changed) == [
        "autoresearch-badge.svg",
        "autoresearch-chart.svg",
        "autoresearch-summary.md",
        "results.tsv",
        "train.py",
    ]

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


def test_a_script_in_a_subfolder(project: Project) -> None:
    """A project inside a larger repository: paths are relative to where the command is started."""
    project.commit({"ml/train.py": TRAIN, "ml/autoresearch.toml": (project.path / "autoresearch.toml").read_text()})
    inner = Project(project.path / "ml", project.home, project.environment)
    done = inner.run("run", "--tag", "sub", "--max-iterations", "2")
    assert done.returncode == 0, done.stderr
    changed = project.git("diff", "--name-only", "main", "autoresearch/sub").splitlines()
    assert set(changed) <= {
        f"ml/{name}"
        for name in (
            "autoresearch-badge.svg",
            "autoresearch-chart.svg",
            "autoresearch-summary.md",
            "results.tsv",
            "train.py",
        )
    }


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
