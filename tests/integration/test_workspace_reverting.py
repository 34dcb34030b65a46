"""Kept changes taken out again: of one script, of the best commit, and of the branch."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from autoresearch_ci.console import Console
from autoresearch_ci.errors import GitError
from autoresearch_ci.experiment import Ending, Experiment, History, Run, Status
from autoresearch_ci.journal import Journal
from autoresearch_ci.runs import Interrupt, Rules, RunRequest, Runs
from autoresearch_ci.verification import ablate
from autoresearch_ci.workspace import Reduced, Remote, Workspace, inspect_repository, merged_script, push_without
from autoresearch_ci.workspace.commands import Git
from tests.forge.fixtures import Checkout
from tests.integration.conftest import BOT, SCRIPT, history_of
from tests.interrupts import Never

Open = Callable[..., Workspace]
LINE = st.sampled_from(["A = 1", "B = 2", "if True: pass", "# note", "", "print('é')"])
LINES = st.lists(LINE, max_size=8)


def script(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize(
    ("ours", "theirs", "merged"),
    [
        (script("A = 2", "B = 1", "C = 1"), script("A = 1", "B = 2", "C = 1"), script("A = 2", "B = 2", "C = 1")),
        (script("A = 2", "B = 1", "C = 1"), script("A = 3", "B = 1", "C = 1"), None),
        (script("A = 1", "C = 1"), script("A = 2", "B = 1", "C = 1"), script("A = 2", "C = 1")),
        (script("A = 1", "C = 1"), script("A = 1", "B = 2", "C = 1"), None),
        (script("A = 1", "B = 1", "C = (1,", ")"), script("A = 1", "B = 1)", "C = 1"), None),
    ],
    ids=["neighbours", "the same line", "a removed line", "a removed and a changed line", "not Python"],
)
def test_two_changes_of_one_script(ours: str, theirs: str, merged: str | None) -> None:
    """Changes of neighbouring lines go together; changes of the same line, and what is not Python, do not."""
    assert merged_script(script("A = 1", "B = 1", "C = 1"), ours, theirs) == merged


@given(LINES, LINES, st.booleans())
@example(["A = 1"], [], False)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_a_change_on_one_side_is_taken_as_it_is(base: list[str], other: list[str], ends: bool) -> None:
    """Where only one side changed, the merge is that side, byte for byte, whichever it is."""
    old, new = "\n".join(base) + "\n" * ends, "\r\n".join(other) + "\n" * ends
    assert merged_script(old, new, old) == new
    assert merged_script(old, old, new) == new


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["", "ours", "theirs"])), min_size=1, max_size=12))
@settings(max_examples=40)
def test_changes_of_different_lines_go_together(rows: list[tuple[int, str]]) -> None:
    """Whatever lines each side changed: as long as no line was changed by both, both changes are in the result."""

    def side(*names: str) -> str:
        return script(*(f"K{n} = {value + 10 if by in names and by else value}" for n, (value, by) in enumerate(rows)))

    assert merged_script(side(), side("ours"), side("theirs")) == side("ours", "theirs")


def test_a_merge_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary files go away; variables that point git at some repository do not matter."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert merged_script("A = 1\n", "A = 2\n", "A = 1\n") == "A = 2\n"
    assert list(tmp_path.iterdir()) == []


def test_what_git_cannot_merge_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text with NUL is not merged by git, and no script: an error of ours, not a wrong merge."""
    with pytest.raises(GitError, match="cannot be merged"):
        merged_script("A = 1\n", "A = 1\n\0", "A = 2\n")


# --- ablations on the real workspace


class Exporting:
    """Reads the exported script: the sum of its constants."""

    def run(self, request: RunRequest, interrupt: Interrupt) -> Run:
        lines = (request.tree / request.script).read_text().splitlines()
        total = sum(float(line.split(" = ")[1]) for line in lines if " = " in line)
        request.log.write_text(f"loss: {total}\n")
        return Run(ending=Ending.EXITED, exit_code=0, wall_s=1.0)


def keeps(workspace: Workspace, scripts: Sequence[str], *, report: bool = False) -> History:
    """A session that kept these scripts one after another, recorded; `report`: with a report commit after the first."""
    history = history_of([(workspace.base_commit, Status.KEEP)], base=workspace.base_commit)
    for number, text in enumerate(scripts, start=1):
        parent = history.experiments[-1].commit
        commit = workspace.commit(
            parent, text, f"exp: change {number}\n\nwhy {number}\n\nAutoresearch-Experiment: {number}"
        )
        more = history_of([(commit, Status.KEEP)], base=workspace.base_commit).experiments[0]
        kept = dataclasses.replace(
            more, number=number, parent=parent, metric=1 / (1 + number), description=f"change {number}"
        )
        history = dataclasses.replace(history, experiments=(*history.experiments, kept))
        workspace.record(history, {})
        if report and number == 1:
            workspace.adopt_report({"results.tsv": b"one\n"}, "docs: report")
    return history


def test_the_best_without_one_change_is_a_real_commit(
    repository: Checkout, open_workspace: Open, tmp_path: Path
) -> None:
    """Its tree is the base's with the script that lacks the change; no ref moves, here or in the repository."""
    repository.commit("train.py", script("A = 1", "B = 1"), "two constants")
    workspace = open_workspace()
    history = keeps(workspace, [script("A = 2", "B = 1"), script("A = 2", "B = 3")], report=True)
    assert workspace.push()
    refs = repository.git("for-each-ref"), repository.git("-C", str(workspace.clone), "for-each-ref")
    journal, err = Journal(tmp_path / "state"), io.StringIO()
    runs = Runs(
        rules=Rules(
            command="python train.py", directory=".", variables={}, timeout_s=60.0, last_reading_counts=False,
            metric_pattern=None,
        ),
        workspace=workspace,
        executor=Exporting(),
        journal=journal,
        console=Console(io.StringIO(), err),
        interrupt=Never(),
        now=lambda: dt.datetime(2026, 11, 22, tzinfo=dt.UTC),
    )  # fmt: skip
    after = ablate(runs, journal.begin(history), wanted=1, seconds=None, table="", merge=merged_script)
    assert workspace.push()
    assert [r.readings(r.subject) for r in after.rechecks] == [(4.0,), (3.0,)]
    assert [r.readings(r.reference) for r in after.rechecks] == [(5.0,)] * 2
    for recheck, kept in zip(after.rechecks, history.kept, strict=True):
        changed = workspace.diff(workspace.base_commit, recheck.subject)
        assert changed.count("\n-") == changed.count("\n+")
        shown = repository.git("-C", str(workspace.clone), "log", "-1", "--format=%s", recheck.subject)
        assert shown == f"ablation: without {kept.commit[:7]} {kept.description}"
    now = repository.git("for-each-ref"), repository.git("-C", str(workspace.clone), "for-each-ref")
    for before, since in zip(refs, now, strict=True):
        assert [r for r in before.splitlines() if "journal" not in r] == [
            r for r in since.splitlines() if "journal" not in r
        ]
    repository.git("-C", str(workspace.clone), "fsck", "--strict", "--no-dangling")


# --- the branch without some keeps

FOUR = [
    script("A = 2", "B = 1", "C = 1"),
    script("A = 2", "B = 2", "C = 1"),
    script("A = 2", "B = 2", "C = 2"),
    script("A = 2", "B = 3", "C = 2"),
]


@pytest.fixture
def three_constants(repository: Checkout) -> Checkout:
    repository.commit("train.py", script("A = 1", "B = 1", "C = 1"), "three constants")
    return repository


def without(workspace: Workspace, repository: Checkout, history: History, *numbers: int, url: str = "") -> Reduced:
    return push_without(
        workspace,
        inspect_repository(repository.path, "train.py"),
        Remote(url=url or str(repository.path)),
        kept=history.kept,
        dropped={e.commit for e in history.kept if e.number in numbers},
    )


def test_a_branch_without_a_keep(three_constants: Checkout, open_workspace: Open) -> None:
    """From the base commit, the other keeps in order with their messages, authors and times; nothing of a report."""
    moments = iter(range(10**9, 2 * 10**9, 10**6))
    workspace = open_workspace(clock=lambda: next(moments))
    history = keeps(workspace, FOUR, report=True)
    workspace.push()
    session = three_constants.git("rev-parse", "autoresearch/nov22")
    reduced = without(workspace, three_constants, history, 1)
    short = history.kept[0].commit[:7]
    assert reduced.branch == f"autoresearch/nov22-without-{short}"
    assert three_constants.git("rev-parse", reduced.branch) == reduced.tip
    log = three_constants.git("log", "--reverse", "--format=%H %s", f"main..{reduced.branch}").splitlines()
    assert log == [f"{commit} exp: change {e.number}" for e, commit in reduced.commits]
    assert [e.number for e, _ in reduced.commits] == [2, 3, 4]
    for experiment, commit in reduced.commits:
        facts = ("log", "-1", "--format=%an %ae %at %cn %ce %ct%n%B")
        assert three_constants.git(*facts, commit) == three_constants.git(*facts, experiment.commit)
    assert three_constants.git("show", f"{reduced.branch}:train.py") + "\n" == script("A = 1", "B = 3", "C = 2")
    assert reduced.script == script("A = 1", "B = 3", "C = 2")
    assert three_constants.git("diff", "--name-only", "main", reduced.branch) == "train.py"
    assert three_constants.git("rev-parse", "autoresearch/nov22") == session
    assert workspace.tip == session
    three_constants.git("fsck", "--strict", "--no-dangling")


def test_the_same_drop_twice_is_the_same_branch(three_constants: Checkout, open_workspace: Open) -> None:
    """Also from another clone at another time: the same commits, so nothing is pushed; after a further keep it goes forward."""
    workspace = open_workspace()
    history = keeps(workspace, FOUR[:3])
    workspace.push()
    first = without(workspace, three_constants, history, 1)
    other = open_workspace("other", clock=lambda: 1.5e9)
    other.compare()
    other.adopt_remote()
    assert without(other, three_constants, history, 1) == first
    commit = workspace.commit(history.kept[-1].commit, FOUR[3], "exp: change 4")
    kept = dataclasses.replace(history.kept[-1], number=4, commit=commit, parent=history.kept[-1].commit)
    longer = dataclasses.replace(history, experiments=(*history.experiments, kept))
    second = without(workspace, three_constants, longer, 1)
    assert second.branch == first.branch
    assert three_constants.git("rev-parse", f"{second.tip}^") == first.tip
    assert three_constants.git("rev-parse", second.branch) == second.tip


def test_a_branch_of_somebody_else_is_never_overwritten(three_constants: Checkout, open_workspace: Open) -> None:
    """Other commits under the name, or more of them on top, are an error that says what to do; the branch stays."""
    workspace = open_workspace()
    history = keeps(workspace, FOUR)
    name = f"autoresearch/nov22-without-{history.kept[0].commit[:7]}"
    three_constants.git("branch", name, "main~1")
    assert without(workspace, three_constants, history, 1).tip == three_constants.git("rev-parse", name)
    three_constants.git("switch", "--quiet", name)
    top = three_constants.commit("README.md", "mine\n", "somebody's")
    three_constants.git("switch", "--quiet", "main")
    with pytest.raises(GitError, match="exists already, with other commits") as caught:
        without(workspace, three_constants, history, 1)
    assert caught.value.hint == "rename or delete that branch, then run it again"
    assert three_constants.git("rev-parse", name) == top


def test_a_keep_that_builds_on_a_dropped_one(three_constants: Checkout, open_workspace: Open) -> None:
    """It cannot be kept alone: an error that names both; dropped as well, the rest is a branch."""
    workspace = open_workspace()
    history = keeps(workspace, FOUR)
    second, fourth = history.kept[1].commit[:7], history.kept[3].commit[:7]
    with pytest.raises(GitError, match=f"{fourth} builds on {second}: the same lines") as caught:
        without(workspace, three_constants, history, 2)
    assert caught.value.hint == f"drop it as well: `--drop {fourth}`"
    assert "without" not in three_constants.git("for-each-ref")
    reduced = without(workspace, three_constants, history, 4, 2)
    assert reduced.branch == f"autoresearch/nov22-without-{second}-{fourth}"
    assert reduced.script == script("A = 2", "B = 1", "C = 2")


def test_a_keep_that_only_took_back_a_dropped_one(three_constants: Checkout, open_workspace: Open) -> None:
    """Nothing of it is left to commit."""
    workspace = open_workspace()
    base = script("A = 1", "B = 1", "C = 1")
    history = keeps(workspace, [FOUR[0], base, script("A = 1", "B = 1", "C = 2")])
    reduced = without(workspace, three_constants, history, 1)
    assert [e.number for e, _ in reduced.commits] == [3]


@pytest.mark.parametrize("count", [1, 5])
def test_names_stay_short(three_constants: Checkout, open_workspace: Open, count: int) -> None:
    """At most 64 characters after `autoresearch/`, a valid ref, and another one for other commits."""
    workspace = open_workspace(tag="n" * 64)
    scripts = [script(*("K = 2" if n < number else "K = 1" for n in range(8))) for number in range(1, 8)]
    three_constants.commit("train.py", script(*["K = 1"] * 8), "many constants")
    workspace = open_workspace(tag="n" * 64)
    history = keeps(workspace, scripts)
    reduced = without(workspace, three_constants, history, *range(1, count + 1))
    name = reduced.branch.removeprefix("autoresearch/")
    assert len(name) <= 64
    assert name.startswith("n" * 40 + "-without-")
    assert Git(three_constants.path, {}).run("check-ref-format", "--branch", reduced.branch).code == 0
    assert without(workspace, three_constants, history, 7).branch != reduced.branch


def test_a_remote_that_is_away(three_constants: Checkout, open_workspace: Open) -> None:
    """An error that says so; the same call goes on later."""
    workspace = open_workspace()
    history = keeps(workspace, FOUR)
    with pytest.raises(GitError, match="the remote cannot be reached"):
        without(workspace, three_constants, history, 1, url="http://127.0.0.1:9/x.git")


def test_the_script_of_a_nested_folder_keeps_its_mode(repository: Checkout, tmp_path: Path) -> None:
    """The replayed commits change one blob, where it is, and leave its mode and its neighbours."""
    repository.commit("src/train.py", SCRIPT, "nested")
    repository.git("update-index", "--chmod=+x", "src/train.py")
    repository.git("commit", "--quiet", "-m", "executable")
    checkout = inspect_repository(repository.path, "src/train.py")
    remote = Remote(url=str(repository.path))
    workspace = Workspace.open(tmp_path / "s", checkout, tag="t", remote=remote, author=BOT)
    history = keeps(workspace, [SCRIPT.replace("0.1", "0.2"), SCRIPT.replace("0.1", "0.2") + "X = 1\n"])
    kept: tuple[Experiment, ...] = history.kept
    reduced = push_without(workspace, checkout, remote, kept=kept, dropped={kept[0].commit})
    changed = repository.git("diff-tree", "-r", "main", reduced.tip).split()
    assert (changed[0], changed[1], changed[-1], len(changed)) == (":100755", "100755", "src/train.py", 6)
    assert repository.git("show", f"{reduced.tip}:src/train.py") + "\n" == SCRIPT + "X = 1\n"
