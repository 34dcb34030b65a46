"""`follow-base`: one tag that goes on while the base branch does, as a person at a shell sees it."""

from __future__ import annotations

import os
import shutil
import signal
import sys

import pytest

from autoresearch_ci import journal
from autoresearch_ci.experiment import History, Status
from autoresearch_ci.forges.local import TEXT_NAME
from tests.forge.fixtures import TRAIN
from tests.forge.server import Forge
from tests.project import Project, wait_for

assert sys.platform != "win32", "these tests send POSIX signals"

PLAN = "LEARNING_RATE=0.08\nWIDTH=128\nDROPOUT=0.05\nWIDTH=256\nLEARNING_RATE=0.1\n"
SCALED = TRAIN.replace("budget = float", "from prepare import SCALE\n\nbudget = float").replace(
    '{loss:.6f}"', '{SCALE * loss:.6f}"'
)
FOLLOW = ("run", "--tag", "nightly", "--proposer", "queue", "--plan", "plan.txt", "--then", "none", "--follow-base")


def recorded(project: Project) -> History:
    return journal.parse(next((project.home / "state").rglob("journal.jsonl")).read_bytes())


def night(project: Project, experiments: int, *more: str, code: int = 0) -> str:
    """Another night, until the session has so many experiments in all; what it said."""
    done = project.run(*FOLLOW, "--max-iterations", str(experiments), *more)
    assert done.returncode == code, done.stderr
    return done.stderr


def branch(project: Project) -> str:
    return project.git("rev-parse", "autoresearch/nightly")


def check_invariants(project: Project, history: History) -> None:
    """Rows, branch and base agree; the branch changes nothing of the base but the script and the report."""
    table = [line.split("\t") for line in project.git("show", "autoresearch/nightly:results.tsv").splitlines()]
    assert table[0] == ["commit", "val_bpb", "mem_gb", "status", "description"]
    assert table[1][0] == "baseline"
    assert [row[0] for row in table[1:]] == [e.label for e in history.experiments]
    assert {row[3] for row in table[1:]} <= {"keep", "discard", "crash"}
    moved = [e.commit for e in history.experiments if e.status is Status.KEEP]
    first_parents = project.git("rev-list", "--first-parent", "--reverse", "autoresearch/nightly").split()
    if any(
        e.commit == e.base for e in history.merges
    ):  # then the way to the base's start leads through the base branch
        assert set(moved) <= set(project.git("rev-list", "autoresearch/nightly").split())
    else:
        subjects = {c: project.git("log", "-1", "--format=%s", c) for c in first_parents}
        after = first_parents[first_parents.index(moved[0]) + 1 :]
        assert [c for c in after if not subjects[c].startswith("docs: report")] == moved[1:]
    base = history.session.base_commit
    project.git("merge-base", "--is-ancestor", base, "autoresearch/nightly")
    changed = project.git("diff", "--name-only", base, "autoresearch/nightly").splitlines()
    assert set(changed) <= {
        "train.py",
        "results.tsv",
        "autoresearch-summary.md",
        "autoresearch-chart.svg",
        "autoresearch-badge.svg",
    }
    for experiment in history.experiments[history.chain[0].number :]:
        assert project.git("diff", "--name-only", base, experiment.commit).splitlines() in ([], ["train.py"])
    parent = ""
    for experiment in history.experiments:
        assert experiment.parent == parent
        parent = experiment.commit if experiment.status is Status.KEEP else parent


@pytest.fixture
def nightly(project: Project) -> Project:
    """A first night that kept two changes: of the learning rate and of the width."""
    project.commit({"train.py": SCALED, "prepare.py": "SCALE = 1\n", "plan.txt": PLAN})
    night(project, 2)
    assert [e.number for e in recorded(project).kept] == [1, 2]
    return project


def test_another_file_of_the_base(nightly: Project) -> None:
    """The base is merged, it and the incumbent are measured on it before anything else, and every number is against it from then on."""
    before = branch(nightly)
    old = recorded(nightly)
    new = nightly.commit({"prepare.py": "SCALE = 3\n", "notes.md": "the data has another scale\n"}, "other data")
    said = night(nightly, 3)
    history = recorded(nightly)
    merge = history.experiments[3]
    assert (merge.base, merge.proposer, merge.status) == (new, "base", Status.KEEP)
    assert nightly.git("rev-list", "--parents", "-1", merge.commit).split()[1:] == [before, new]
    assert nightly.git("diff", "--name-only", new, merge.commit) == "train.py"
    assert nightly.git("show", f"{merge.commit}:train.py") == nightly.git("show", f"{old.kept[-1].commit}:train.py")
    assert history.session.base_commit == new
    assert merge.metric == pytest.approx(3 * (old.experiments[2].metric or 0), rel=1e-5)
    baseline = history.baseline
    assert baseline is not None
    assert baseline.commit == new
    assert baseline.metric == pytest.approx(3 * (old.experiments[0].metric or 0), rel=1e-5)
    assert [m.commit for m in merge.measurements] == [new, merge.commit] * 2
    assert [e.number for e in history.kept] == [1, 2, 4]
    assert history.experiments[4].parent == merge.commit
    verified = history.rechecks[-1]
    assert (verified.reference, verified.subject) == (new, history.experiments[4].commit)
    check_invariants(nightly, history)
    assert f"Merged main at {new[:7]} (main alone: {baseline.metric:.6g})" in said
    assert "still better than the base" in said
    text = next((nightly.home / "state").rglob(TEXT_NAME)).read_text()
    assert f"Merged main at {new[:7]}" in text
    assert "3 kept · 0 discarded · 0 crashed" in text
    assert f"{baseline.metric:.6g} → " in text

    again = night(nightly, 3)
    assert "Merged" not in again.partition("going on with")[2].partition("stopped:")[0]
    assert recorded(nightly).experiments == history.experiments, "no change in the base: no cost"
    later = nightly.commit({"prepare.py": "SCALE = 2\n"}, "other data again")
    night(nightly, 4)
    history = recorded(nightly)
    assert [e.base for e in history.merges] == [new, later]
    assert [e.number for e in history.kept] == [1, 2, 4, 6]
    check_invariants(nightly, history)
    for method in ("rebase", "squash"):
        nightly.git("checkout", "--quiet", "-B", "other", later)
        nightly.commit({"notes.md": "moved on once more\n"})
        done = nightly.run("merge", "--tag", "nightly", "--method", method, "--base", "other")
        assert done.returncode == 0, done.stderr
        assert nightly.git("diff", "--name-only", "other", "autoresearch/nightly") == "notes.md"


def test_the_script_of_the_base(nightly: Project) -> None:
    """Other lines of the script come in beside what was kept; the new script's knobs are what is proposed from."""
    new = nightly.commit({"train.py": SCALED.replace("DROPOUT = 0.1", "DROPOUT = 0.2")})
    night(nightly, 3)
    history = recorded(nightly)
    script = nightly.git("show", f"{history.merges[0].commit}:train.py")
    assert "LEARNING_RATE = 0.08\nWIDTH = 128\nDROPOUT = 0.2\n" in script
    assert history.session.base_commit == new
    assert "DROPOUT = 0.05" in nightly.git("show", "autoresearch/nightly:train.py")
    check_invariants(nightly, history)
    dropped = nightly.run("finalize", "--tag", "nightly", "--drop", history.merges[0].commit[:7])
    assert dropped.returncode == 2
    assert "a merge of the base, which stays" in dropped.stderr
    dropped = nightly.run("finalize", "--tag", "nightly", "--drop", history.experiments[1].commit[:7])
    assert dropped.returncode == 0, dropped.stderr
    reduced = nightly.git("show", f"{dropped.stdout.strip()}:train.py")
    assert "LEARNING_RATE = 0.04\nWIDTH = 128\nDROPOUT = 0.05\n" in reduced


def test_both_changed_the_same_line(nightly: Project) -> None:
    """Exit 6, the file and what to do are named, and nothing moved; without `follow-base` the session goes on as before."""
    before, old = branch(nightly), recorded(nightly)
    nightly.commit({"train.py": SCALED.replace("WIDTH = 64", "WIDTH = 96")})
    said = night(nightly, 3, code=6)
    assert "changed the same lines of `train.py`" in said
    assert "follow-base" in said
    assert branch(nightly) == before
    assert recorded(nightly).experiments == old.experiments
    night(nightly, 3, "--no-follow-base")
    assert recorded(nightly).session.base_commit == old.session.base_commit
    assert not recorded(nightly).merges


def test_what_was_kept_fails_on_the_new_base(nightly: Project) -> None:
    """A merge that crashes is not recorded, and says so; neither is a base that does."""
    before, old = branch(nightly), recorded(nightly)
    nightly.commit({"train.py": SCALED.replace('print("step', 'assert WIDTH == 64\nprint("step')})
    said = night(nightly, 3, code=6)
    assert "fails on the base's" in said
    nightly.commit({"train.py": SCALED.replace('print("step', 'assert WIDTH == 63\nprint("step')})
    assert "the base at" in night(nightly, 3, code=3)
    assert branch(nightly) == before
    assert recorded(nightly).experiments == old.experiments
    assert nightly.run("finalize", "--tag", "nightly").returncode == 0


def test_nothing_was_kept_yet(project: Project) -> None:
    """With nothing of its own the branch becomes the base, by a fast-forward or a merge over its report; nothing is claimed of it."""
    project.commit({"plan.txt": "DROPOUT=0.3\nDROPOUT=0.4\nDROPOUT=0.05\n"})
    night(project, 1, "--open-pr", "never")
    assert not recorded(project).kept
    new = project.commit({"prepare.py": "# another\n"})
    night(project, 2)
    history = recorded(project)
    (merge,) = history.merges
    assert project.git("diff", merge.commit, new) == ""
    assert merge.is_base
    assert not history.kept
    assert len(merge.measurements) == 2, "one program is not measured as two"
    check_invariants(project, history)
    night(project, 3)
    history = recorded(project)
    assert [e.number for e in history.kept] == [4]
    assert history.rechecks[-1].reference == new
    check_invariants(project, history)


def test_a_branch_that_is_only_the_base_is_moved_forward(project: Project) -> None:
    """Cut off before its first report, the branch is at the base, and goes forward with it without any commit of ours."""
    project.commit({"plan.txt": "DROPOUT=0.3\nDROPOUT=0.05\n"})
    night(project, 1)
    head = recorded(project).session.base_commit
    for clone in [project.path, *(project.home / "state").rglob("*.git")]:
        project.git("-C", str(clone), "update-ref", "refs/heads/autoresearch/nightly", head)
    new = project.commit({"prepare.py": "# another\n"})
    night(project, 2)
    history = recorded(project)
    (merge,) = history.merges
    assert merge.commit == merge.base == new
    assert history.kept[-1].parent == new
    check_invariants(project, history)


def test_the_base_took_what_was_kept(nightly: Project) -> None:
    """After the branch was merged into the base, what it had kept is the base's, and only what comes after is claimed."""
    for method in ("squash", "merge"):
        done = nightly.run("merge", "--tag", "nightly", "--method", method)
        assert done.returncode == 0, done.stderr
        count = len(recorded(nightly).tried)
        night(nightly, count + 1)
        history = recorded(nightly)
        assert history.merges[-1].is_base
        assert [e.number for e in history.kept] == [len(history.experiments) - 1]
        check_invariants(nightly, history)


def test_a_base_that_is_no_continuation(nightly: Project) -> None:
    """A rewritten base branch, and a checkout of another branch, are not followed: a warning, and the session goes on from its own."""
    old = recorded(nightly)
    nightly.git("commit", "--quiet", "--amend", "-m", "rewritten")
    nightly.commit({"prepare.py": "SCALE = 5\n"})
    assert "does not descend from" in night(nightly, 3)
    nightly.git("checkout", "--quiet", "-B", "feature", old.session.base_commit)
    nightly.commit({"prepare.py": "SCALE = 5\n"})
    assert "the checkout is on `feature`" in night(nightly, 4)
    history = recorded(nightly)
    assert history.session.base_commit == old.session.base_commit
    assert not history.merges
    assert len(history.tried) == 4


@pytest.mark.parametrize("moment", ["measuring", "recorded"])
@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_killed_while_it_merges(nightly: Project, moment: str, place: str) -> None:
    """Killed while the merge is measured, or right after it is recorded: the next process, here or on an empty machine, repeats
    at most this step and ends as any other."""
    slow = "import time\nSCALE = 3\ntime.sleep(0.3)\n"
    new = nightly.commit({"prepare.py": slow}, "other data")
    process = nightly.start(*FOLLOW, "--max-iterations", "3")
    (file,) = (nightly.home / "state").rglob("journal.jsonl")
    needle = f'"base": "{new}"'.encode()
    logs = file.parent / "logs" / "00"
    if moment == "measuring":
        wait_for(lambda: (logs / "0003-2.log").exists())
    else:
        wait_for(lambda: needle in file.read_bytes())
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert (needle in file.read_bytes()) is (moment == "recorded")
    if place == "elsewhere":
        shutil.rmtree(nightly.home / "state")
    night(nightly, 3)
    history = recorded(nightly)
    assert [e.base for e in history.merges] == [new]
    assert [e.number for e in history.experiments] == list(range(5))
    assert [e.number for e in history.kept] == [1, 2, 4]
    assert history.session.base_commit == new
    assert history.session.files_digest
    check_invariants(nightly, history)


def test_goes_on_from_the_remote_alone(nightly: Project) -> None:
    """A merged session resumes on an empty machine, whose base moved once more."""
    nightly.commit({"prepare.py": "SCALE = 3\n"})
    night(nightly, 3)
    shutil.rmtree(nightly.home / "state")
    later = nightly.commit({"prepare.py": "SCALE = 2\n"})
    night(nightly, 4)
    history = recorded(nightly)
    assert len(history.merges) == 2
    assert history.session.base_commit == later
    assert [e.number for e in history.kept] == [1, 2, 4, 6]
    check_invariants(nightly, history)


def test_on_a_forge(hosted: Project, forge: Forge) -> None:
    """On GitHub the merge reaches the branch by a plain push, from a fresh machine too, and the one pull request tells it."""
    hosted.commit({"train.py": SCALED, "prepare.py": "SCALE = 1\n", "plan.txt": PLAN})
    hosted.push()
    night(hosted, 2)
    shutil.rmtree(hosted.home / "state")
    new = hosted.commit({"prepare.py": "SCALE = 3\n"})
    hosted.push()
    night(hosted, 3)
    hosted.git("fetch", "--quiet", "origin", "+refs/heads/autoresearch/*:refs/heads/autoresearch/*")
    history = recorded(hosted)
    assert [e.base for e in history.merges] == [new]
    check_invariants(hosted, history)
    (pull,) = forge.api.pulls.values()
    assert f"Merged main at {new[:7]}" in pull["body"]


def test_after_a_full_segment_of_the_journal(project: Project) -> None:
    """After twenty experiments the journal travels in another file; the night after the one that merged still finds both the same."""
    flags = (
        "run",
        "--tag",
        "nightly",
        "--follow-base",
        "--baseline-runs",
        "1",
        "--verify-runs",
        "0",
        "--max-iterations",
    )
    assert project.run(*flags, "19").returncode == 0
    new = project.commit({"prepare.py": "# another\n"})
    for experiments in ("20", "21"):
        done = project.run(*flags, experiments)
        assert done.returncode == 0, done.stderr
    assert [e.base for e in recorded(project).merges] == [new]
