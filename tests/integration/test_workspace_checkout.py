"""The user's repository is understood, or refused with a reason and a way out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_ci.errors import AutoresearchError, GitError, SettingsError
from autoresearch_ci.workspace import Author, find_author, inspect_repository
from autoresearch_ci.workspace.checkout import without_credentials
from tests.forge.fixtures import Checkout


def refused(path: Path, script: str = "train.py") -> AutoresearchError:
    with pytest.raises(AutoresearchError) as caught:
        inspect_repository(path, script)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


def test_a_clean_repository(repository: Checkout) -> None:
    """A clean repository gives its base commit, branch and script."""
    repository.git("remote", "add", "origin", "https://me:secret@example.invalid/o/r.git")
    found = inspect_repository(repository.path, "train.py")
    assert found.root == repository.path.resolve()
    assert found.git_dir == repository.path.resolve() / ".git"
    assert found.base_commit == repository.git("rev-parse", "HEAD")
    assert (found.base_branch, found.script, found.object_format) == ("main", "train.py", "sha1")
    assert found.origin == "https://example.invalid/o/r.git"
    assert not found.dirty_script


def test_from_a_folder_inside(repository: Checkout) -> None:
    """The script is relative to the given folder, and stored relative to the repository."""
    assert inspect_repository(repository.path / "data", "prepare.py").script == "data/prepare.py"
    assert inspect_repository(repository.path / "data", "../train.py").script == "train.py"
    assert inspect_repository(repository.path, str(repository.path / "train.py")).script == "train.py"


def test_a_dirty_script(repository: Checkout) -> None:
    """A training script that was edited but not committed is noticed."""
    (repository.path / "train.py").write_text("LR = 9\n")
    assert inspect_repository(repository.path, "train.py").dirty_script


@pytest.mark.skipif(sys.platform == "win32", reason="the planted programs are shell scripts")
def test_what_the_repositorys_configuration_starts_is_not_started(repository: Checkout, tmp_path: Path) -> None:
    """A native script could have planted a filter, a monitor or a hook there: none runs when the next session looks."""
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\necho $0 $@ >> {tmp_path}/sprung\ncat\n")
    trap.chmod(0o755)
    (repository.path / "train.py").write_text("print('another text')\n")
    (repository.path / ".gitattributes").write_text("train.py filter=trap diff=trap\n")
    for key in ("core.fsmonitor", "filter.trap.clean", "filter.trap.smudge", "diff.trap.textconv", "diff.external"):
        repository.git("config", key, str(trap))
    assert inspect_repository(repository.path, "train.py").dirty_script
    assert not (tmp_path / "sprung").exists()


def test_a_detached_head_uses_the_default_branch(repository: Checkout, tmp_path: Path) -> None:
    """On a detached HEAD, as in Actions, the base branch is the default branch of origin."""
    repository.git("clone", "--quiet", str(repository.path), str(tmp_path / "clone"))
    clone = Checkout(tmp_path / "clone", repository.environment)
    clone.git("checkout", "--quiet", "--detach")
    assert inspect_repository(clone.path, "train.py").base_branch == "main"
    repository.git("checkout", "--quiet", "--detach")
    assert inspect_repository(repository.path, "train.py").base_branch == ""


def test_a_linked_worktree(repository: Checkout, tmp_path: Path) -> None:
    """In a linked worktree the git folder is the common one."""
    repository.git("worktree", "add", "--quiet", str(tmp_path / "linked"))
    found = inspect_repository(tmp_path / "linked", "train.py")
    assert found.git_dir == repository.path.resolve() / ".git"
    assert found.root == (tmp_path / "linked").resolve()


@pytest.mark.usefixtures("repository")
def test_no_repository(tmp_path: Path) -> None:
    """A folder outside of any repository, and no folder at all, are git errors."""
    (tmp_path / "empty").mkdir()
    assert "not in a git repository" in refused(tmp_path / "empty").message
    assert isinstance(refused(tmp_path / "missing"), GitError)


def test_an_unborn_branch(repository: Checkout, tmp_path: Path) -> None:
    """A repository without a commit is a git error."""
    repository.git("init", "--quiet", str(tmp_path / "unborn"))
    error = refused(tmp_path / "unborn")
    assert isinstance(error, GitError)
    assert "no commit" in error.message


def test_shallow_and_partial_clones(repository: Checkout, tmp_path: Path) -> None:
    """Clones that lack history or files are refused, and the hint says how to get the rest."""
    repository.git("config", "uploadpack.allowFilter", "true")
    source = f"file://{repository.path}"
    repository.git("clone", "--quiet", "--depth=1", source, str(tmp_path / "shallow"))
    repository.git("clone", "--quiet", "--filter=blob:none", source, str(tmp_path / "partial"))
    assert "fetch-depth: 0" in refused(tmp_path / "shallow").hint
    assert "--filter" in refused(tmp_path / "partial").hint


def test_a_bare_repository(repository: Checkout, tmp_path: Path) -> None:
    """A bare repository is refused: a session starts from a checkout."""
    repository.git("clone", "--quiet", "--bare", str(repository.path), str(tmp_path / "bare"))
    assert "bare" in refused(tmp_path / "bare").message


def test_a_broken_repository(repository: Checkout) -> None:
    """A repository that git cannot read is a git error with git's own words."""
    (repository.path / ".git" / "config").write_text("[core\n")
    assert isinstance(refused(repository.path), GitError)


def test_a_repository_of_another_user(repository: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository that git does not trust comes with the command that makes it trusted."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert "safe.directory" in refused(repository.path).hint


@pytest.mark.parametrize("script", ["../train.py", "/etc/passwd", "", "."])
def test_a_script_outside(repository: Checkout, script: str) -> None:
    """A training script outside the repository is a wrong setting."""
    error = refused(repository.path, script)
    assert isinstance(error, SettingsError)
    assert "inside the repository" in error.message


def test_a_script_that_is_no_plain_text_file(repository: Checkout) -> None:
    """Symlinks, folders, submodules, missing, uncommitted and binary scripts are wrong settings."""
    (repository.path / "link.py").symlink_to("train.py")
    (repository.path / "binary.py").write_bytes(b"\xff\xfe\x00")
    repository.git("add", "--all")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{repository.git('rev-parse', 'HEAD')},module")
    repository.git("commit", "--quiet", "-m", "odd files")
    (repository.path / "new.py").write_text("LR = 1\n")
    expected = {
        "link.py": "symlink",
        "binary.py": "UTF-8",
        "data": "a folder",
        "module": "a submodule",
        "absent.py": "no training script",
        "new.py": "not committed",
    }
    for script, words in expected.items():
        error = refused(repository.path, script)
        assert isinstance(error, SettingsError)
        assert words in error.message


def test_the_author(repository: Checkout) -> None:
    """Commits are by GitHub's bot in Actions, else by the user, else by the program."""
    found = inspect_repository(repository.path, "train.py")
    assert find_author(found, {"GITHUB_ACTIONS": "true"}).name == "github-actions[bot]"
    assert find_author(found, {}) == Author("autoresearch", "autoresearch@localhost")
    repository.git("config", "user.name", "Ada <L>")
    repository.git("config", "user.email", "ada@example.invalid")
    author = find_author(found, {})
    assert "Ada" in author.name
    assert author.email == "ada@example.invalid"


def test_credentials_in_addresses() -> None:
    """User and password never stay in an address."""
    assert without_credentials("https://a:b@host:8443/x?y") == "https://host:8443/x?y"
    assert without_credentials("git@github.com:o/r.git") == "git@github.com:o/r.git"


def test_no_git(tmp_path: Path) -> None:
    """Without git on the machine the import itself says so, as a git error."""
    code = (
        "from autoresearch_ci.errors import GitError\n"
        "try:\n    import autoresearch_ci.workspace\n"
        "except GitError as error:\n    print(error.message, '|', error.hint)\n"
    )
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("git is not installed | install git")
