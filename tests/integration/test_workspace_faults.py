"""A forge that answers badly for a while: training goes on, and the pushes come through later."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autoresearch_ci.errors import GitError
from autoresearch_ci.workspace import Standing, Workspace
from autoresearch_ci.workspace.commands import Output
from autoresearch_ci.workspace.remote import Remote
from tests.forge.fixtures import TOKEN
from tests.forge.server import Forge
from tests.integration.conftest import Clock, refs_on, two_experiments

HEAD = "refs/heads/autoresearch/nov22"
Open = Callable[..., Workspace]
HTML = "<!DOCTYPE html><html><body><h1>Unicorn!</h1>We had issues producing the response to your request.</body></html>"


@pytest.mark.parametrize(
    ("method", "path", "status", "after", "times"),
    [
        ("POST", "git-receive-pack", 500, False, 1),
        ("POST", "git-receive-pack", 502, False, 1),
        ("POST", "git-receive-pack", 502, True, 1),
        ("POST", "git-receive-pack", 200, False, 1),
        ("POST", "git-receive-pack", None, False, 2),  # git itself tries once more on a new connection
        ("POST", "git-receive-pack", None, True, 2),
        ("GET", "info/refs", 500, False, 1),
        ("GET", "info/refs", 502, False, 1),
        ("GET", "info/refs", 429, False, 1),
        ("GET", "info/refs", None, False, 1),
    ],
)
def test_a_bad_moment(
    open_remote: Open, forge: Forge, method: str, path: str, status: int | None, after: bool, times: int
) -> None:
    """An error of the server, a page of HTML, or a connection that breaks is no reason to stop: the push is not done, says why,
    is tried again after a while, and then everything is there."""
    clock = Clock()
    workspace = open_remote(clock=clock)
    kept, _ = two_experiments(workspace)
    forge.fail_next(method, path, status, HTML, after=after, times=times)
    workspace.push_meanwhile()
    assert not workspace.push()
    assert workspace.trouble
    assert workspace.on_remote == ""
    clock.now += 16
    assert workspace.push()
    assert refs_on(forge.repository) == refs_on(workspace.clone)
    assert workspace.on_remote == kept
    assert workspace.detached == ""


def test_a_page_in_the_remotes_place(open_remote: Open, forge: Forge) -> None:
    """A proxy's page of one line, which git takes for an empty repository, is no new session: it is a remote that cannot be
    reached."""
    workspace = open_remote()
    two_experiments(workspace)
    assert workspace.push()
    new = open_remote("new")
    forge.fail_next("GET", "info/refs", 200, HTML)
    assert new.compare() is Standing.UNKNOWN
    assert "proxy" in new.trouble
    assert new.compare() is Standing.BEHIND
    asked_in_vain = [said for said in forge.violations if f"/{forge.full_name}.git/HEAD" in said]
    forge.violations[:] = [
        said for said in forge.violations if said not in asked_in_vain
    ]  # git's old protocol, not REST


def test_nobody_listens(open_remote: Open, forge: Forge) -> None:
    """A refused connection is tried again, however often, and the pauses stop growing at ten minutes."""
    clock = Clock()
    workspace = open_remote(url="http://127.0.0.1:9/octo/research.git", clock=clock)
    two_experiments(workspace)
    for _ in range(8):
        assert not workspace.push()
        clock.now += 600
    assert not workspace.push()
    assert "127.0.0.1" in workspace.trouble
    assert open_remote().push()


def test_a_token_that_changes(open_remote: Open, forge: Forge) -> None:
    """The token is asked for at every transfer: one that was minted anew is used from then on, and one that ends between being
    asked for and its use costs nothing."""
    tokens = [TOKEN]

    def token() -> str:
        return tokens.pop(0) if len(tokens) > 1 else tokens[0]

    workspace = open_remote(token=token)
    two_experiments(workspace)
    assert workspace.push()
    forge.tokens.clear()
    forge.tokens.add("ghs_TheNextHoursToken0123456789")
    tokens[:] = [TOKEN, "ghs_TheNextHoursToken0123456789"]
    report = workspace.adopt_report({"summary.md": b"fine\n"}, "Report")
    assert workspace.push()
    assert refs_on(forge.repository)[HEAD] == report


def test_a_401_that_passes(open_remote: Open, forge: Forge) -> None:
    """A single 401 is asked about again. One that stays costs a session nothing that was let in before, for the token may be renewed;
    it ends one that never was. No text holds the token."""
    workspace = open_remote()
    two_experiments(workspace)
    forge.fail_next("GET", "info/refs", 401, "Bad credentials")
    assert workspace.push()
    forge.tokens.clear()
    workspace.adopt_report({"summary.md": b"fine\n"}, "Report")
    assert not workspace.push()
    assert workspace.trouble
    with pytest.raises(GitError, match="no access") as caught:
        open_remote().push()
    assert TOKEN not in f"{caught.value} {caught.value.hint} {workspace.trouble}"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("failure", "remote: fatal error in commit_refs"),
        ("Internal Server Error", "remote: Internal Server Error"),
        ("cannot lock ref 'refs/heads/x': is at 1 but expected 2", ""),
        ("remote failed to report status", "fatal: the remote end hung up unexpectedly"),
    ],
)
def test_what_github_says_in_a_bad_moment(reason: str, said: str) -> None:
    """These words about a ref are no refusal: the next push may come through."""
    kind = "remote failure" if "report status" in reason else "remote rejected"
    out = f"!\t{HEAD}:{HEAD}\t[{kind}] ({reason})\nDone\n"
    assert Remote(url="x").refusal(Output(1, out.encode(), said), "autoresearch/nov22") is None
