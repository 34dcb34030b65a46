"""Looks at the user's repository, and says early and clearly why a session cannot start from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from autoresearch_ci.errors import AutoresearchError, GitError, SettingsError
from autoresearch_ci.workspace.commands import Git, Output, failure

# GitHub's own bot: https://github.com/actions/checkout#push-a-commit-using-the-built-in-token
_BOT = ("github-actions[bot]", "41898282+github-actions[bot]@users.noreply.github.com")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """The user's repository, as a session needs to know it.

    `script` is relative to `root`, with `/`. `git_dir` is the common one, also in a linked worktree. `base_branch` is
    the current branch, else the default branch of `origin`, else empty. `origin` carries no credentials.
    `dirty_script`: the working tree's training script differs from the commit's, which is the one that is used.
    """

    root: Path
    git_dir: Path
    script: str
    base_commit: str
    base_branch: str
    origin: str
    object_format: str
    dirty_script: bool


@dataclass(frozen=True, slots=True)
class Author:
    """Who the commits are by."""

    name: str
    email: str


def inspect_repository(path: Path, script: str) -> Checkout:
    """The repository around the folder `path`; `script` is the training script, relative to `path`.

    SettingsError when `script` cannot be a training script, GitError when the repository cannot carry a session.
    """
    git = _user_git(path)
    root, git_dir, object_format = _repository(git, path)
    git = _user_git(root)
    base = git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if base.code:
        raise GitError(
            "the repository has no commit yet", hint="commit the training script: `git add -A && git commit`"
        )
    relative = _relative_script(path, root, script)
    committed = _committed_script(git, root, base.text, relative, script)
    return Checkout(
        root=root,
        git_dir=git_dir,
        script=relative,
        base_commit=base.text,
        base_branch=_base_branch(git),
        origin=without_credentials(git.run("config", "--get", "remote.origin.url").text),
        object_format=object_format,
        dirty_script=_differs(root / relative, committed),
    )


def find_author(checkout: Checkout, environ: Mapping[str, str]) -> Author:
    """GitHub's bot inside Actions, otherwise who git says the user is, otherwise `autoresearch`."""
    if environ.get("GITHUB_ACTIONS") == "true":
        return Author(*_BOT)
    identity = _user_git(checkout.root).run("-c", "user.useConfigOnly=true", "var", "GIT_AUTHOR_IDENT")
    if identity.code:
        return Author("autoresearch", "autoresearch@localhost")
    name, _, rest = identity.text.rpartition(" <")
    return Author(name, rest.partition(">")[0])


def without_credentials(url: str) -> str:
    """The URL without `user:password@`; scp-like addresses and paths stay as they are."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _user_git(folder: Path) -> Git:
    if not folder.is_dir():
        raise GitError(f"there is no folder {folder}", hint="name the folder of a git repository")
    return Git(folder, {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1"})


def _repository(git: Git, path: Path) -> tuple[Path, Path, str]:
    facts = git.run(
        "rev-parse", "--is-inside-work-tree", "--is-shallow-repository", "--show-object-format", "--git-common-dir"
    )
    if facts.code:
        raise _no_repository(facts, path)
    inside, shallow, object_format, common = facts.text.split("\n", 3)
    if inside != "true":
        raise GitError(f"{path} is a bare repository or a .git folder", hint="run it inside a clone that has files")
    if shallow == "true":
        raise GitError(
            "the clone is shallow, so its history cannot be pushed",
            hint="set `fetch-depth: 0` on actions/checkout, or run `git fetch --unshallow`",
        )
    if git.run("config", "--get-regexp", r"^remote\..*\.promisor$").text:
        raise GitError(
            "the clone is partial, so its files may be missing",
            hint="leave out `filter:` on actions/checkout, or clone again without `--filter`",
        )
    root = Path(os.path.realpath(git.read("rev-parse", "--show-toplevel").text))
    return root, Path(os.path.realpath(path / common)), object_format


def _no_repository(output: Output, path: Path) -> AutoresearchError:
    if "dubious ownership" in output.err:
        return GitError(
            f"git does not trust {path}, because it belongs to another user",
            hint=f"run `git config --global --add safe.directory {path}`",
        )
    if "not a git repository" in output.err:
        return GitError(
            f"{path} is not in a git repository",
            hint="run `git init`, and commit the training script, or go to a clone",
        )
    return failure(output, f"git cannot read the repository at {path}", path)


def _relative_script(path: Path, root: Path, script: str) -> str:
    # Only the folder is resolved, never the script itself: a symlink must be seen as one.
    absolute = os.path.normpath(Path(os.path.realpath(path)) / script)
    if script and Path(absolute).is_relative_to(root) and absolute != str(root):
        return Path(absolute).relative_to(root).as_posix()
    raise SettingsError(
        f"the training script `{script}` is not a file inside the repository {root}",
        hint="set training-script to a path inside the repository",
    )


def _committed_script(git: Git, root: Path, base: str, relative: str, script: str) -> bytes:
    listed = git.read("ls-tree", "-z", "--full-tree", base, "--", relative).out.rstrip(b"\0").decode("utf-8", "replace")
    if not listed:
        if (root / relative).exists():
            raise SettingsError(
                f"the training script `{script}` is not committed",
                hint=f"run `git add -f {relative} && git commit`: sessions start from a commit",
            )
        raise SettingsError(f"there is no training script `{script}`", hint="set training-script to a committed file")
    mode, kind, name = listed.partition("\t")[0].split(" ")
    if mode == "120000":
        raise SettingsError(
            f"the training script `{script}` is a symlink", hint="set training-script to the file it points to"
        )
    if kind != "blob":
        what = "a folder" if kind == "tree" else "a submodule"
        raise SettingsError(f"the training script `{script}` is {what}", hint="set training-script to one file")
    committed = git.read("cat-file", "blob", name).out
    try:
        committed.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"the training script `{script}` is not UTF-8 text", hint="save it as UTF-8") from error
    return committed


def _differs(file: Path, committed: bytes) -> bool:
    """Whether the working tree has another text, its line ends apart.

    Not asked of `git diff`: that starts the filters and the file system monitor of the repository's own configuration, where
    a native training script may have planted one, and with our environment, which holds the token.
    """
    try:
        return file.read_bytes().replace(b"\r\n", b"\n") != committed.replace(b"\r\n", b"\n")
    except OSError:
        return True


def _base_branch(git: Git) -> str:
    current = git.run("symbolic-ref", "--quiet", "--short", "HEAD").text
    return current or git.run("symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD").text.removeprefix(
        "origin/"
    )
