"""A branch that can no longer be pushed: the work is on the remote in any case, and nobody's commits are overwritten."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from autoresearch_ci.errors import GitError
from autoresearch_ci.experiment import Status
from autoresearch_ci.workspace import Standing, Workspace
from autoresearch_ci.workspace.commands import Output
from autoresearch_ci.workspace.remote import RefusedError, Remote
from tests.forge.fixtures import TOKEN, Checkout
from tests.forge.git import bare_environment
from tests.forge.server import Forge
from tests.integration.conftest import Clock, history_of, refs_on

HEAD, STATE = "refs/heads/autoresearch/nov22", "refs/autoresearch/nov22"
LINE, JOURNAL = f"{STATE}/branch", f"{STATE}/journal"
Open = Callable[..., Workspace]


@dataclass
class Place:
    """A remote: how a machine opens a workspace on it, and what a person does in it."""

    open: Open
    path: Path

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments],
            env=bare_environment(self.path),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout.strip()

    @property
    def refs(self) -> dict[str, str]:
        return refs_on(self.path)

    def somebody_pushes(self) -> str:
        """A person's commit on the branch; its hash."""
        commit = self.git("commit-tree", f"{HEAD}^{{tree}}", "-p", HEAD, "-m", "a person's")
        self.git("update-ref", HEAD, commit)
        return commit

    def rule(self, text: str, *, hook: str = "update") -> Path:
        """A hook that decides about pushes; the file."""
        path = self.path / "hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path


PROTECTED = f"""
[ "$1" = {HEAD} ] || exit 0
echo 'error: GH006: Protected branch update failed for {HEAD}.' >&2
echo 'error: Changes must be made through a pull request.' >&2
exit 1
"""


@pytest.fixture
def local(open_workspace: Open, repository: Checkout) -> Place:
    """The user's own repository on this machine."""
    return Place(open_workspace, repository.path)


@pytest.fixture
def http(open_remote: Open, forge: Forge) -> Place:
    """The forge, over HTTP."""
    return Place(open_remote, forge.repository)


@pytest.fixture(params=["local", "http"])
def place(request: pytest.FixtureRequest) -> Place:
    """Either of them."""
    found: Place = request.getfixturevalue(request.param)
    return found


@dataclass
class Night:
    """A session that goes on: keeps and discards are recorded, and not pushed."""

    workspace: Workspace
    commits: list[tuple[str, Status]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.commits:
            self.commits = [(self.workspace.base_commit, Status.KEEP)]
        self.record()

    def record(self) -> None:
        history = history_of(self.commits, base=self.workspace.base_commit)
        self.workspace.record(history, {"journal.jsonl": b"%d\n" % len(self.commits)})

    def add(self, status: Status = Status.KEEP) -> str:
        incumbent = next(commit for commit, kept in reversed(self.commits) if kept is Status.KEEP)
        commit = self.workspace.commit(incumbent, f"LR = {len(self.commits)}\n", f"change {len(self.commits)}")
        self.commits.append((commit, status))
        self.record()
        return commit


def test_somebody_pushes_to_the_branch(place: Place) -> None:
    """The session goes on beside the branch: its commits and its journal are on the remote, the person's stay, and it says how
    to get them."""
    workspace = place.open()
    night = Night(workspace)
    night.add()
    assert workspace.push()
    assert workspace.detached == ""
    theirs = place.somebody_pushes()
    lost, kept = night.add(Status.DISCARD), night.add()
    workspace.push_meanwhile()
    assert workspace.push()
    assert place.refs[HEAD] == theirs
    assert place.refs[LINE] == kept == workspace.tip == workspace.on_remote
    assert place.refs[f"{STATE}/experiments/0002"] == lost
    assert place.git("show", f"{JOURNAL}:journal.jsonl") == "4"
    assert workspace.detached == (
        "`autoresearch/nov22` is not pushed any more: somebody else pushed to it. "
        f"Its commits are there: `git fetch origin {LINE}`"
    )
    report = workspace.adopt_report({"summary.md": b"fine\n"}, "Report")
    assert workspace.push()
    assert place.refs[LINE] == report
    assert place.git("show", f"{LINE}:summary.md") == "fine"
    assert set(place.refs) == {HEAD, LINE, JOURNAL, f"{STATE}/experiments/0002"}
    assert set(refs_on(workspace.clone)) == {HEAD, JOURNAL, f"{STATE}/experiments/0002"}


def test_another_machine_goes_on_beside_the_branch(place: Place) -> None:
    """A new machine takes up what the line holds, knows at once that the branch is somebody's, and goes on in the same way."""
    first = Night(place.open("first"))
    first.add()
    assert first.workspace.push()
    theirs = place.somebody_pushes()
    first.add()
    assert first.workspace.push()
    second = place.open("second")
    assert second.compare() is Standing.BEHIND
    assert "another way on the remote" in second.detached
    second.adopt_remote()
    assert second.tip == first.workspace.tip
    assert second.compare() is Standing.EQUAL
    night = Night(second, first.commits)
    kept = night.add()
    assert second.push()
    assert (place.refs[LINE], place.refs[HEAD]) == (kept, theirs)
    assert second.on_remote == kept
    back = place.open("first")
    assert back.compare() is Standing.BEHIND
    back.adopt_remote()
    assert back.tip == kept
    assert refs_on(back.clone).keys() == {HEAD, JOURNAL}


def test_the_branch_is_given_back(place: Place) -> None:
    """Once the person's push is undone, the next push takes the branch along again, and the line follows from then on."""
    night = Night(place.open())
    ours = night.add()
    assert night.workspace.push()
    place.somebody_pushes()
    night.add()
    assert night.workspace.push()
    assert night.workspace.detached
    place.git("update-ref", HEAD, ours)
    assert night.workspace.push()
    assert night.workspace.detached == ""
    assert place.refs[HEAD] == place.refs[LINE] == night.workspace.tip
    kept = night.add()
    assert night.workspace.push()
    assert place.refs[HEAD] == place.refs[LINE] == kept
    theirs = place.somebody_pushes()
    kept = night.add()
    assert night.workspace.push()
    assert (place.refs[HEAD], place.refs[LINE]) == (theirs, kept)
    place.git("update-ref", HEAD, kept)
    assert night.workspace.push()
    assert night.workspace.detached == ""
    assert place.open("other").compare() is Standing.BEHIND


def test_somebody_pushed_between_two_nights(place: Place) -> None:
    """A commit that a person put on the branch after the session's last push (such as GitHub's "Update branch") is no error for
    the next process, on this machine or a new one: it goes on beside it, from its own report."""
    first = Night(place.open("first"))
    first.add()
    report = first.workspace.adopt_report({"summary.md": b"fine\n"}, "Report")
    assert first.workspace.push()
    theirs = place.somebody_pushes()
    for state in ("first", "new"):
        workspace = place.open(state)
        assert workspace.compare() is Standing.BEHIND
        workspace.adopt_remote()
        assert workspace.tip == theirs
        night = Night(workspace, list(first.commits))
        assert "somebody else pushed to it" in workspace.detached
        assert workspace.tip == report
    kept = night.add()
    assert workspace.push()
    assert (place.refs[HEAD], place.refs[LINE]) == (theirs, kept)
    assert place.git("rev-parse", f"{LINE}^") == report


def test_somebody_pushed_while_this_machine_was_offline(place: Place) -> None:
    """What was recorded and not pushed is pushed beside the branch that a person moved meanwhile."""
    night = Night(place.open())
    night.add()
    assert night.workspace.push()
    kept = night.add()
    theirs = place.somebody_pushes()
    again = place.open()
    assert again.compare() is Standing.AHEAD
    assert again.detached
    assert again.push()
    assert (place.refs[HEAD], place.refs[LINE]) == (theirs, kept)
    assert again.compare() is Standing.EQUAL


def test_a_deleted_branch_is_made_again(place: Place) -> None:
    """A branch that a person deleted comes back with the next push, in this process and in a later one."""
    night = Night(place.open())
    night.add()
    assert night.workspace.push()
    place.git("update-ref", "-d", HEAD)
    kept = night.add()
    assert night.workspace.push()
    assert place.refs[HEAD] == kept
    place.git("update-ref", "-d", HEAD)
    later = place.open()
    assert later.compare() is Standing.AHEAD
    assert later.push()
    assert place.refs[HEAD] == kept
    assert later.detached == ""


def test_a_branch_deleted_with_its_commits(http: Place) -> None:
    """When a new machine finds the branch deleted and the kept commit nowhere, the error says how the branch comes back."""
    night = Night(http.open("first"))
    night.add()
    assert night.workspace.push()
    http.git("update-ref", "-d", HEAD)
    new = http.open("new")
    assert new.compare() is Standing.BEHIND
    new.adopt_remote()
    with pytest.raises(GitError, match="was deleted on the remote") as caught:
        Night(new, night.commits)
    assert "restore the branch" in caught.value.hint


def test_a_journal_of_somebody_elses(place: Place) -> None:
    """Whoever else writes the session's journal ends the session, whatever became of the branch: nothing is overwritten."""
    night = Night(place.open())
    night.add()
    assert night.workspace.push()
    place.somebody_pushes()
    stray = place.git("commit-tree", f"{JOURNAL}^{{tree}}", "-p", JOURNAL, "-m", "another's")
    place.git("update-ref", JOURNAL, stray)
    before = place.refs
    night.add()
    with pytest.raises(GitError, match=f"somebody else pushed to `{STATE}"):
        night.workspace.push()
    assert place.refs == before
    assert night.workspace.detached == ""


@pytest.mark.parametrize("hook", ["update", "pre-receive"])
def test_a_rule_protects_the_branch(http: Place, hook: str) -> None:
    """A rule against the branch alone, made while the session runs, detaches it; when the rule is gone, the branch comes
    along. Whether the remote says no to the one ref or to the whole push makes no difference."""
    clock = Clock()
    night = Night(http.open(clock=clock))
    first = night.add()
    assert night.workspace.push()
    whole = 'while read old new ref; do set -- "$ref"; [ "$1" = ' + HEAD + " ] && break; done\n"
    file = http.rule((whole if hook == "pre-receive" else "") + PROTECTED, hook=hook)
    kept = night.add()
    assert night.workspace.push()
    assert (http.refs[HEAD], http.refs[LINE]) == (first, kept)
    said = "pre-receive" if hook == "pre-receive" else "protected branch"
    assert f"the remote refuses it: {said} hook declined" in night.workspace.detached
    assert "GH006: Protected branch update failed" in night.workspace.detached
    assert "\n" not in night.workspace.detached
    file.unlink()
    night.add(Status.DISCARD)
    assert night.workspace.push()
    assert http.refs[HEAD] == first  # a rule is not tried again with every push
    clock.now += 601
    assert night.workspace.push()
    assert http.refs[HEAD] == http.refs[LINE] == kept
    assert night.workspace.detached == ""


def test_a_rule_that_stays(http: Place) -> None:
    """A protected branch is tried again now and then, and at the end; each time the work is on the remote all the same."""
    clock = Clock()
    night = Night(http.open(clock=clock))
    first = night.add()
    assert night.workspace.push()
    http.rule(PROTECTED)
    for _ in range(3):
        kept = night.add()
        clock.now += 601
        assert night.workspace.push(now=True)
        assert (http.refs[HEAD], http.refs[LINE]) == (first, kept)
        assert night.workspace.detached
    new = http.open("new")
    assert new.compare() is Standing.BEHIND
    new.adopt_remote()
    assert new.tip == kept


def test_a_rule_against_a_branch_that_is_not_there_yet(http: Place) -> None:
    """A rule that lets nobody make the branch costs the branch, not the night: the journal was there before."""
    http.rule(PROTECTED)
    workspace = http.open()
    workspace.record(history_of([], base=workspace.base_commit), {"journal.jsonl": b"0\n"})
    assert workspace.push()
    night = Night(workspace)
    kept = night.add()
    assert workspace.push()
    assert HEAD not in http.refs
    assert http.refs[LINE] == kept
    assert workspace.detached


def test_a_rule_against_everything(http: Place) -> None:
    """A rule against all that the session pushes is an error that quotes it, in a session that goes on as in a new one."""
    night = Night(http.open())
    night.add()
    file = http.rule("echo 'error: GH013: Repository rule violations found' >&2; exit 1", hook="pre-receive")
    with pytest.raises(GitError, match="GH013"):
        night.workspace.push()
    file.unlink()
    assert night.workspace.push()
    http.rule("echo 'error: GH013: Repository rule violations found' >&2; exit 1", hook="pre-receive")
    night.add()
    with pytest.raises(GitError, match="GH013"):
        night.workspace.push()
    assert night.workspace.detached == ""


@pytest.mark.parametrize("status", [502, None])
def test_the_network_goes_with_the_refusal(http: Place, forge: Forge, status: int | None) -> None:
    """A push beside the branch that does not come through detaches nothing; the next one finds out again."""
    asked: list[int] = []

    def token() -> str:
        asked.append(len(asked))
        if asked[-1] == 3:  # after a listing, a push, and the push that was refused
            forge.fail_next("GET", "info/refs", status, times=2 if status is None else 1)  # git itself tries twice
        return TOKEN

    night = Night(http.open(token=token))
    night.add()
    assert night.workspace.push()
    file = http.rule(PROTECTED)
    before = http.refs
    kept = night.add()
    assert not night.workspace.push(now=True)
    assert night.workspace.detached == ""
    assert http.refs == before
    file.unlink()
    assert any(night.workspace.push(now=True) for _ in range(3))
    assert http.refs[HEAD] == kept
    assert LINE not in http.refs


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("protected branch hook declined", "remote: error: GH006: Protected branch update failed for refs/heads/x."),
        ("push declined due to repository rule violations", "remote: error: GH013: Repository rule violations found"),
    ],
)
def test_githubs_words(reason: str, said: str) -> None:
    """GitHub's refusal of one ref of an atomic push names that ref, and not those that fell with it."""
    other = f"!\t{JOURNAL}:{JOURNAL}\t[remote rejected] (atomic transaction failed)"
    out = f"To x\n!\t{HEAD}:{HEAD}\t[remote rejected] ({reason})\n{other}\nDone\n"
    error = Remote(url="x").refusal(Output(1, out.encode(), f"{said}        \nerror: failed to push some refs"), "a/x")
    assert isinstance(error, RefusedError)
    assert error.declined == {HEAD}
    assert error.moved == frozenset()
    assert reason in error.message
    assert said.removeprefix("remote: ") in error.why
