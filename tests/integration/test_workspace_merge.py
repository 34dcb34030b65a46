"""Merging a research branch into the user's branch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_ci.errors import GitError
from autoresearch_ci.experiment import Status
from autoresearch_ci.workspace import Checkout as Found
from autoresearch_ci.workspace import MergeMethod, Workspace, inspect_repository, merge_branch
from tests.forge.fixtures import Checkout
from tests.integration.conftest import BOT, history_of

KEEP = Status.KEEP


@pytest.fixture
def researched(repository: Checkout, open_workspace: Callable[..., Workspace]) -> Found:
    """The user's repository with a pushed session: two keeps and a report."""
    workspace = open_workspace()
    base = workspace.base_commit
    one = workspace.commit(base, "LR = 0.2\nprint('loss: 1.0')\n", "LR 0.1 → 0.2")
    two = workspace.commit(one, "LR = 0.3\nprint('loss: 1.0')\n", "LR 0.2 → 0.3")
    workspace.record(history_of([(base, KEEP), (one, KEEP), (two, KEEP)], base=base), {})
    workspace.adopt_report({"summary.md": b"good\n"}, "Report")
    assert workspace.push()
    return inspect_repository(repository.path, "train.py")


def merge(found: Found, method: MergeMethod, into: str = "main", tag: str = "nov22") -> str:
    return merge_branch(found, tag=tag, method=method, into=into, message="Merge the research", author=BOT)


@pytest.mark.parametrize("method", list(MergeMethod))
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("checked_out", [False, True])
def test_every_method(
    researched: Found, repository: Checkout, method: MergeMethod, moved: bool, checked_out: bool
) -> None:
    """Every method brings script and report, also onto a branch that moved on; a second time changes nothing."""
    if moved:
        repository.commit("data/prepare.py", "READY = 2\n", "meanwhile")
    before = repository.git("rev-parse", "main")
    if not checked_out:
        repository.git("checkout", "--quiet", "--detach")
    tip = merge(researched, method)
    assert repository.git("rev-parse", "main") == tip
    assert repository.git("merge-base", before, tip) == before
    assert repository.git("show", "main:train.py").startswith("LR = 0.3")
    assert repository.git("show", "main:summary.md") == "good"
    assert repository.git("show", "main:data/prepare.py") == ("READY = 2" if moved else "READY = True")
    assert repository.git("status", "--porcelain") == ""
    assert (repository.path / "summary.md").exists() == checked_out
    parents = repository.git("log", "-1", "--format=%P", "main").split()
    new = int(repository.git("rev-list", "--count", "--first-parent", f"{before}..main"))
    assert (len(parents), new) == {"squash": (1, 1), "rebase": (1, 3), "merge": (2, 1)}[method]
    assert merge(researched, method) == tip


def test_a_rebase_keeps_messages(researched: Found, repository: Checkout) -> None:
    """Rebased commits keep their messages, in order."""
    repository.commit("data/prepare.py", "READY = 2\n", "meanwhile")
    merge(researched, MergeMethod.REBASE)
    assert repository.git("log", "-3", "--format=%s", "main").splitlines() == ["Report", "LR 0.2 → 0.3", "LR 0.1 → 0.2"]


@pytest.mark.parametrize("method", list(MergeMethod))
def test_conflicts(researched: Found, repository: Checkout, method: MergeMethod) -> None:
    """Conflicts are a git error that names the files, and nothing moves."""
    before = repository.commit("train.py", "LR = 9\n", "meanwhile")
    with pytest.raises(GitError, match=r"conflicts in `train\.py`"):
        merge(researched, method)
    assert repository.git("rev-parse", "main") == before
    assert repository.git("status", "--porcelain") == ""


def test_a_dirty_checkout(researched: Found, repository: Checkout) -> None:
    """A checkout of the target branch with uncommitted changes, or files in the way, is left alone."""
    before = repository.git("rev-parse", "main")
    (repository.path / "train.py").write_text("LR = 7\n")
    with pytest.raises(GitError, match="not committed"):
        merge(researched, MergeMethod.SQUASH)
    repository.git("checkout", "--quiet", "train.py")
    (repository.path / "summary.md").write_text("mine\n")
    with pytest.raises(GitError, match="cannot move"):
        merge(researched, MergeMethod.SQUASH)
    assert repository.git("rev-parse", "main") == before
    assert (repository.path / "summary.md").read_text() == "mine\n"


def test_missing_branches(researched: Found) -> None:
    """A missing research branch or target is a git error."""
    with pytest.raises(GitError, match="no branch `autoresearch/other`"):
        merge(researched, MergeMethod.MERGE, tag="other")
    with pytest.raises(GitError, match="no branch `absent`"):
        merge(researched, MergeMethod.MERGE, into="absent")


@pytest.mark.usefixtures("researched")
def test_a_fetched_branch(repository: Checkout, tmp_path: Path) -> None:
    """A research branch that is only known from origin can be merged too."""
    repository.git("clone", "--quiet", str(repository.path), str(tmp_path / "clone"))
    tip = merge(inspect_repository(tmp_path / "clone", "train.py"), MergeMethod.REBASE)
    assert tip == repository.git("rev-parse", "autoresearch/nov22")
    assert (tmp_path / "clone" / "summary.md").exists()
