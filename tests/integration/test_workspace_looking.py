"""Sessions seen from anywhere: nothing but the remote is needed."""

from __future__ import annotations

import datetime as dt
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_ci.cli.record import recorded
from autoresearch_ci.errors import GitError, SettingsError
from autoresearch_ci.experiment import Status
from autoresearch_ci.journal import Journal
from autoresearch_ci.workspace import Remote, Workspace, inspect_repository, list_sessions, looking, read_session
from tests.forge.fixtures import TOKEN, Checkout, git_environment
from tests.forge.git import bare_environment
from tests.forge.server import Forge
from tests.integration.conftest import BOT, SCRIPT, history_of, two_experiments

Open = Callable[..., Workspace]


def token() -> str:
    return TOKEN


def three_sessions(open_workspace: Open, remote: Remote) -> None:
    """`b` is older than `c`, `a` the latest."""
    for tag, now in (("c", 2e9), ("b", 1e9), ("a", 2.1e9)):
        workspace = open_workspace(f"state-{tag}", tag=tag, remote=remote, clock=lambda now=now: now)
        base = workspace.base_commit
        files = {"journal/0000.jsonl": tag.encode(), "results.tsv": b"", "logs/00/0-1.log": b"line\n\0"}
        workspace.record(history_of([(base, Status.KEEP)], base=base, tag=tag), files)
        assert workspace.push()


@pytest.fixture(params=["local", "http"])
def remote(request: pytest.FixtureRequest, repository: Checkout) -> Remote:
    """A repository on this machine, and the forge."""
    if request.param == "local":
        return Remote(url=str(repository.path))
    forge = request.getfixturevalue("forge")
    pushing = git_environment(forge.server_url, TOKEN, home=repository.path)
    repository.git("push", "--quiet", forge.clone_url, "main", environment=pushing)
    return Remote(url=forge.clone_url, token=token)


def test_looking_from_anywhere(remote: Remote, open_workspace: Open, tmp_path: Path) -> None:
    """The files of a session's newest journal commit, and all sessions by time, come without a checkout."""
    assert list_sessions(remote, tmp_path / "before") == []
    three_sessions(open_workspace, remote)
    assert read_session(remote, "b", tmp_path / "one") == {
        "journal/0000.jsonl": b"b",
        "results.tsv": b"",
        "logs/00/0-1.log": b"line\n\0",
    }
    assert list_sessions(remote, tmp_path / "all") == [
        (tag, dt.datetime.fromtimestamp(seconds, dt.UTC)) for tag, seconds in (("b", 1e9), ("c", 2e9), ("a", 2.1e9))
    ]
    assert read_session(remote, "absent", tmp_path / "none") == {}
    with pytest.raises(SettingsError, match="cannot be a tag"):
        read_session(remote, "../x", tmp_path / "bad")


def test_only_what_is_needed_comes(open_remote: Open, forge: Forge, tmp_path: Path) -> None:
    """One commit of the journal and nothing of the branch; for the list not even a file, where the server can leave them out."""
    workspace = open_remote()
    two_experiments(workspace)
    assert workspace.push()
    workspace.adopt_report({"summary.md": b"fine\n"}, "Report")
    assert workspace.push()
    remote = Remote(url=forge.clone_url, token=token)
    git = ["git", "-C", str(forge.repository), "config", "uploadpack.allowFilter", "true"]
    subprocess.run(git, check=True, timeout=60)
    for folder, kinds in (("one", ["blob", "commit", "tree"]), ("all", ["commit"])):
        if folder == "one":
            assert read_session(remote, "nov22", tmp_path / folder) == {"journal.jsonl": b"LR = 2\n"}
        else:
            assert [tag for tag, _ in list_sessions(remote, tmp_path / folder)] == ["nov22"]
        command = ["git", "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)"]
        environment = bare_environment(tmp_path) | {"GIT_DIR": str(tmp_path / folder)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
        assert sorted(done.stdout.split()) == kinds


def test_what_cannot_be_looked_at(forge: Forge, tmp_path: Path) -> None:
    """No repository, no access and no network are git errors that say which, with something to do; none holds the token."""
    cases = [
        (Remote(url=f"{forge.server_url}/octo/absent.git", token=token), "no access|no repository", "address"),
        (Remote(url=forge.clone_url), "no access", "needs a token"),
        (Remote(url=forge.clone_url, token=lambda: "ghs_wrong"), "no access", "needs a token"),
        (Remote(url="http://127.0.0.1:9/o/r.git", token=token), "cannot be reached", "network"),
        (Remote(url=str(tmp_path)), "no repository", "address"),
    ]
    for number, (remote, message, hint) in enumerate(cases):
        for look in (lambda remote, to: read_session(remote, "nov22", to), list_sessions):
            with pytest.raises(GitError, match=message) as caught:
                look(remote, tmp_path / f"{number}-{look.__name__.strip('<>')}")
            assert hint in caught.value.hint
            assert TOKEN not in f"{caught.value} {caught.value.hint}"


def test_a_forge_that_hangs(forge: Forge, tmp_path: Path) -> None:
    """A remote that says nothing is given up."""
    forge.fail_next("GET", "info/refs", 200, delay_s=60.0)
    with pytest.raises(GitError, match="timed out after 1 s"):
        read_session(Remote(url=forge.clone_url, token=token, timeout_s=1.0), "nov22", tmp_path / "x")


def test_absurd_sizes(remote: Remote, open_workspace: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is far larger than any session is not read into memory, nor fetched to its end."""
    three_sessions(open_workspace, remote)
    monkeypatch.setattr(looking, "MOST_BYTES", 6)
    with pytest.raises(GitError, match="which no session writes"):
        read_session(remote, "a", tmp_path / "one")


def test_sha256(tmp_path: Path, repository: Checkout) -> None:
    """A repository with SHA-256 names can be looked at as any other."""
    modern = Checkout(tmp_path / "modern", repository.environment)
    modern.path.mkdir()
    modern.git("init", "--quiet", "--object-format=sha256", "--initial-branch=main")
    modern.commit("train.py", SCRIPT, "train")
    remote = Remote(url=str(modern.path))
    found = inspect_repository(modern.path, "train.py")
    workspace = Workspace.open(tmp_path / "s", found, tag="nov22", remote=remote, author=BOT, clock=lambda: 1e9)
    two_experiments(workspace)
    assert workspace.push()
    assert read_session(remote, "nov22", tmp_path / "one") == {"journal.jsonl": b"LR = 2\n"}
    assert [tag for tag, _ in list_sessions(remote, tmp_path / "all")] == ["nov22"]


def test_status_from_another_machine(open_workspace: Open, repository: Checkout, tmp_path: Path) -> None:
    """What another machine recorded is read from the remote's refs alone; a tag that is nowhere is nothing."""
    workspace = open_workspace()
    record = Journal(tmp_path / "record")
    workspace.record(record.begin(history_of([], base=workspace.base_commit)), record.all_files())
    assert workspace.push()
    values = {"tag": "nov22", "state-dir": str(tmp_path / "elsewhere")}
    found = recorded({}, repository.path, values)
    assert found is not None
    assert found[0].session.base_commit == workspace.base_commit
    assert recorded({}, repository.path, values | {"tag": "absent"}) is None
