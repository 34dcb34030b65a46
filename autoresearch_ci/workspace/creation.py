"""Makes a folder a repository with one commit: for `demo`, which has no repository to start from."""

from __future__ import annotations

from pathlib import Path

from autoresearch_ci.workspace.commands import NO_HOOKS, Git, storage

# Not the user's own identity: nobody has agreed to be the author of a demo.
_IDENTITY = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in (("NAME", "autoresearch-ci demo"), ("EMAIL", "demo@autoresearch-ci.invalid"))
}


def new_repository(folder: Path, message: str) -> None:
    """Commits everything in `folder` as the first commit of `main`. GitError or MachineError when that is not possible."""
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    git = Git(folder, {**NO_HOOKS, **_IDENTITY, "GIT_TEMPLATE_DIR": ""})
    git.read("init", "--quiet", "--initial-branch=main", ".")
    git.read("add", "--all")
    git.read("commit", "--quiet", "--no-gpg-sign", "-m", message)
