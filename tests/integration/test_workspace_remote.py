"""Pushing, resuming on another machine, and what a remote can say no to."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_ci.errors import AutoresearchError, GitError, MachineError
from autoresearch_ci.experiment import Status
from autoresearch_ci.workspace import Remote, Standing, Workspace
from autoresearch_ci.workspace.commands import Git, Output, failure
from autoresearch_ci.workspace.remote import scrub
from tests.forge.fixtures import TOKEN, Checkout
from tests.forge.server import Forge
from tests.integration.conftest import Clock, history_of, refs_on, two_experiments

KEEP, DISCARD = Status.KEEP, Status.DISCARD
HEAD, STATE = "refs/heads/autoresearch/nov22", "refs/autoresearch/nov22"
Open = Callable[..., Workspace]


def test_a_new_machine_resumes_from_the_remote_alone(forge: Forge, open_remote: Open) -> None:
    """Another machine takes over refs, scripts and journal from the remote, and goes on fast-forward."""
    first = open_remote("first")
    assert first.compare() is Standing.ABSENT
    kept, lost = two_experiments(first)
    assert first.compare() is Standing.AHEAD
    assert first.push()
    assert first.compare() is Standing.EQUAL
    second = open_remote("second")
    assert second.compare() is Standing.BEHIND
    assert second.journal_files() == {}
    second.adopt_remote()
    assert second.compare() is Standing.EQUAL
    assert second.tip == kept
    assert second.script(kept) == "LR = 2\n"
    assert second.journal_files() == {"journal.jsonl": b"LR = 2\n"}
    base = second.base_commit
    history = [(base, KEEP), (kept, KEEP), (lost, DISCARD)]
    before = refs_on(forge.repository)
    second.record(history_of(history, base=base), {"journal.jsonl": b"LR = 2\n"})
    assert second.push()
    assert refs_on(forge.repository) == before
    newest = second.commit(kept, "LR = 4\n", "four")
    second.record(history_of([*history, (newest, KEEP)], base=base), {"journal.jsonl": b"more"})
    second.adopt_report({"summary.md": b"fine\n"}, "Report")
    assert second.push()
    assert refs_on(forge.repository)[HEAD] == second.tip
    assert first.compare() is Standing.BEHIND
    first.adopt_remote()
    assert first.tip == second.tip


def test_two_machines_that_went_different_ways(open_remote: Open) -> None:
    """When both sides hold what the other lacks, nothing is overwritten: a git error with two ways out."""
    first, second = open_remote("first"), open_remote("second")
    two_experiments(first)
    assert first.push()
    two_experiments(second, "LR = 9\n")
    with pytest.raises(GitError, match="went on elsewhere"):
        second.compare()
    with pytest.raises(GitError, match="somebody else pushed") as caught:
        second.push()
    assert "another tag" in caught.value.hint


def test_a_branch_that_no_session_made(open_remote: Open, checkout: Checkout) -> None:
    """A branch of that name without a journal is not ours."""
    checkout.push_branch("autoresearch/nov22")
    with pytest.raises(GitError, match="no session made it"):
        open_remote().compare()


def test_the_token_goes_only_where_it_must(open_remote: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token reaches git by its environment alone: no argument, file, representation or error text holds it."""
    seen = tmp_path / "arguments"
    wrapper = tmp_path / "bin" / "git"
    wrapper.parent.mkdir()
    git = subprocess.run(["which", "git"], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {seen}\nexec {git} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    workspace = open_remote()
    two_experiments(workspace)
    assert workspace.push()
    arguments = seen.read_text()
    assert "push --porcelain --atomic" in arguments
    basic = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
    secrets = (TOKEN, basic)
    assert not any(secret in arguments for secret in secrets)
    for path in (tmp_path / "state").rglob("*"):
        assert not path.is_file() or not any(secret.encode() in path.read_bytes() for secret in secrets)
    echoed = scrub(Output(1, b"", f"fatal: {TOKEN} {basic}"), TOKEN)
    assert echoed.complaint == "fatal: *** ***"
    assert Remote(url="https://me:pass@host/x").url == "https://host/x"


def test_a_wrong_token(open_remote: Open) -> None:
    """A token that is not accepted is a git error at once, without asking anybody, and its text holds no token."""
    workspace = open_remote(token="ghs_wrong")
    two_experiments(workspace)
    with pytest.raises(GitError, match="no access") as caught:
        workspace.push()
    assert "contents: write" in caught.value.hint
    assert "ghs_wrong" not in f"{caught.value} {caught.value.hint}"
    with pytest.raises(GitError, match="no access"):
        open_remote("other", token="").compare()


def test_a_forbidden_push(open_remote: Open, forge: Forge) -> None:
    """403 and 404 are final."""
    workspace = open_remote()
    two_experiments(workspace)
    forge.fail_next("POST", "git-receive-pack", 403, "denied")
    with pytest.raises(GitError, match="no access"):
        workspace.push()
    with pytest.raises(GitError):
        open_remote("other", url=f"{forge.server_url}/octo/absent.git").compare()


def test_a_network_that_comes_back(open_remote: Open, forge: Forge) -> None:
    """A push that the network breaks is tried again later, less and less often, and then brings everything."""
    clock = Clock()
    workspace = open_remote(clock=clock)
    two_experiments(workspace)
    forge.fail_next("GET", "info/refs", 503, times=3)
    assert not workspace.push()
    assert not workspace.push()  # not even tried: the two faults left are still there
    clock.now += 16
    assert not workspace.push()
    clock.now += 16
    assert not workspace.push()  # the second pause is longer
    assert not workspace.push(now=True)
    assert workspace.push(now=True)
    assert refs_on(forge.repository)[HEAD] == workspace.tip


def test_a_push_whose_answer_was_lost(open_remote: Open, forge: Forge) -> None:
    """A push that took effect although its answer was lost is found again, not mistaken for somebody else's."""
    workspace = open_remote()
    kept, lost = two_experiments(workspace)
    forge.fail_next("POST", "git-receive-pack", None, after=True, times=2)
    assert not workspace.push(now=True)
    base = workspace.base_commit
    better = workspace.commit(kept, "LR = 5\n", "five")
    commits = [(base, KEEP), (kept, KEEP), (lost, DISCARD), (better, KEEP)]
    workspace.record(history_of(commits, base=base), {"journal.jsonl": b"more"})
    while not workspace.push(now=True):
        pass
    assert refs_on(forge.repository)[HEAD] == better


def test_an_unreachable_remote(open_remote: Open) -> None:
    """An unreachable remote is no reason to stop: its standing is unknown, the push waits."""
    workspace = open_remote(url="http://127.0.0.1:9/o/r.git")
    assert workspace.compare() is Standing.UNKNOWN
    two_experiments(workspace)
    assert not workspace.push()


def test_a_fetch_that_breaks_off(open_workspace: Open, repository: Checkout) -> None:
    """When the listing comes but the objects do not, the standing is unknown, and a later look finds out."""
    first = open_workspace("first")
    two_experiments(first)
    assert first.push()
    journal = repository.git("rev-parse", f"{STATE}/journal")
    lost = repository.path / ".git" / "objects" / journal[:2] / journal[2:]
    lost.rename(lost.with_suffix(".away"))
    second = open_workspace("second")
    assert second.compare() is Standing.UNKNOWN
    lost.with_suffix(".away").rename(lost)
    assert second.compare() is Standing.BEHIND


def test_a_machine_that_is_ahead(open_workspace: Open) -> None:
    """What was recorded and not pushed makes this machine ahead of the remote, not at odds with it."""
    workspace = open_workspace()
    base = workspace.base_commit
    workspace.record(history_of([(base, KEEP)], base=base), {"journal.jsonl": b"0"})
    assert workspace.push()
    two_experiments(workspace)
    reopened = open_workspace()
    assert reopened.compare() is Standing.AHEAD
    assert reopened.push()
    assert reopened.compare() is Standing.EQUAL


def test_a_remote_that_hangs(open_remote: Open, forge: Forge) -> None:
    """A remote that accepts and then says nothing is given up after the time limit, with git's helpers."""
    workspace = open_remote(timeout_s=1.0)
    two_experiments(workspace)
    forge.fail_next("GET", "info/refs", 200, delay_s=60.0)
    assert not workspace.push()


def test_a_checked_out_research_branch(open_workspace: Open, repository: Checkout) -> None:
    """When the user has the research branch checked out, it does not move under their feet."""
    workspace = open_workspace()
    base = workspace.base_commit
    workspace.record(history_of([(base, KEEP)], base=base), {})
    assert workspace.push()
    repository.git("checkout", "--quiet", "autoresearch/nov22")
    two_experiments(workspace)
    with pytest.raises(GitError, match="is checked out") as caught:
        workspace.push()
    assert "git switch" in caught.value.hint
    repository.git("checkout", "--quiet", "main")
    assert workspace.push()


def test_a_protected_branch(open_remote: Open, forge: Forge) -> None:
    """A branch that the remote protects is a git error that quotes the remote."""
    hook = forge.repository / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'GH006: Protected branch update failed' >&2\nexit 1\n")
    hook.chmod(0o755)
    workspace = open_remote()
    two_experiments(workspace)
    with pytest.raises(GitError, match=r"refuses .* hook declined") as caught:
        workspace.push()
    assert "GH006" in caught.value.message


def test_hooks_in_the_users_repository_do_not_run(open_workspace: Open, repository: Checkout, tmp_path: Path) -> None:
    """A hook that a training script planted in the checkout is never run by a push."""
    for name in ("pre-receive", "update", "post-receive", "post-update", "reference-transaction", "proc-receive"):
        hook = repository.path / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/planted\n")
        hook.chmod(0o755)
    workspace = open_workspace()
    two_experiments(workspace)
    assert workspace.push()
    assert workspace.compare() is Standing.EQUAL
    assert not (tmp_path / "planted").exists()


def test_a_folder_that_is_no_repository(open_workspace: Open, tmp_path: Path) -> None:
    """A remote that is no repository is a git error."""
    workspace = open_workspace(remote=Remote(url=str(tmp_path)))
    with pytest.raises(GitError, match="no repository at"):
        workspace.compare()


def test_a_user_branch_in_the_way(open_workspace: Open, repository: Checkout) -> None:
    """A branch called `autoresearch` leaves no room for ours; the error names it."""
    repository.git("branch", "autoresearch")
    workspace = open_workspace()
    two_experiments(workspace)
    with pytest.raises(GitError, match="because `autoresearch` exists"):
        workspace.push()


@pytest.mark.parametrize(
    ("out", "err", "kind"),
    [
        ("!\ta:refs/heads/autoresearch/t\t[rejected] (fetch first)", "", GitError),
        ("!\ta:refs/y\t[remote rejected] (failed to update ref)", "error: '/x/y.lock': File exists.", type(None)),
        ("!\ta:refs/y\t[remote rejected] (Internal Server Error)", "", type(None)),
        ("!\ta:r\t[remote rejected] (unpacker error)", "fatal: No space left on device", MachineError),
        ("", "fatal: write error: No space left on device", MachineError),
        ("", "fatal: unable to access 'https://h/': Could not resolve host: h", type(None)),
        ("", "fatal: unable to access 'https://h/': The requested URL returned error: 429", type(None)),
        ("", "git@github.com: Permission denied (publickey).", GitError),
    ],
)  # fmt: skip
def test_what_a_refusal_means(tmp_path: Path, out: str, err: str, kind: type[AutoresearchError] | type[None]) -> None:
    """What git prints tells a refusal for good from one that may pass."""
    assert isinstance(Remote(url=str(tmp_path)).refusal(Output(1, out.encode(), err), "autoresearch/t"), kind)


def test_a_full_disk_here(tmp_path: Path) -> None:
    """git's word that the disk is full becomes a machine error."""
    fake = Git(tmp_path, {})
    with pytest.raises(GitError, match="git status failed: fatal: not a git repository"):
        fake.read("status", variables={"GIT_DIR": str(tmp_path)})
    full = failure(Output(128, b"", "error: file write error: No space left on device\n"), "x", tmp_path)
    assert isinstance(full, MachineError)
    assert "free some disk space" in full.hint
    assert Output(3, b"", "").complaint == "git ended with exit code 3"


@pytest.mark.skipif(sys.platform == "win32", reason="no read-only folders")
def test_git_that_goes_away(open_workspace: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """When git disappears from PATH in the middle, the error says so."""
    workspace = open_workspace()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitError, match="git is not installed"):
        workspace.script("0" * 40)
