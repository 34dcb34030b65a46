"""Looks at sessions from anywhere: what the remote has of them, without a checkout and without taking part."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Final

from autoresearch_ci.errors import AutoresearchError, GitError, SettingsError
from autoresearch_ci.workspace.clone import connected, controlled, new_bare
from autoresearch_ci.workspace.commands import Git, Output, storage
from autoresearch_ci.workspace.objects import files_of
from autoresearch_ci.workspace.refs import Refs
from autoresearch_ci.workspace.remote import Remote, scrub

# 2,000 experiments with two runs each leave 250 MiB of logs, and a tenth of it packed: whoever has more is no session.
MOST_BYTES: Final = 512 * 1024 * 1024
_SEEN: Final = "refs/seen"
_NO_ACCESS_HINT: Final = "check the repository's address; one that is private needs a token that may read it"


def read_session(remote: Remote, tag: str, folder: Path) -> dict[str, bytes]:
    """The files of the newest journal commit of the session `tag` by path; none when the remote has no such session.

    `folder`, an empty one, becomes a bare repository. SettingsError for a bad tag; GitError when the remote cannot be reached,
    cannot be read, or has more there than a session writes.
    """
    refs, git = Refs(tag), _bare(folder)
    if not _fetch(git, remote, refs.branch, f"+{refs.journal}:{_SEEN}/{tag}"):
        return {}
    rows = git.read("ls-tree", "-r", "-l", "-z", f"{_SEEN}/{tag}").out.split(b"\0")[:-1]
    if sum(int(row.partition(b"\t")[0].split()[3]) for row in rows if b" blob " in row) > MOST_BYTES:
        raise _absurd(remote)
    return files_of(git, f"{_SEEN}/{tag}")


def list_sessions(remote: Remote, folder: Path) -> list[tuple[str, dt.datetime]]:
    """Every tag that has a journal on the remote, with the time of its newest commit (UTC), the latest last.

    `folder`, an empty one, becomes a bare repository. GitError as `read_session`.
    """
    git = _bare(folder)
    # Commits alone, where the server can: their times are all that is read.
    if not _fetch(git, remote, "autoresearch", f"+refs/autoresearch/*/journal:{_SEEN}/*", commits_only=True):
        return []
    rows = git.read("for-each-ref", "--format=%(committerdate:unix) %(refname)", f"{_SEEN}/").text.splitlines()
    found = []
    for row in rows:
        seconds, _, ref = row.partition(" ")
        tag = ref.removeprefix(f"{_SEEN}/")
        if _is_tag(tag):
            found.append((tag, dt.datetime.fromtimestamp(int(seconds), dt.UTC)))
    return sorted(found, key=lambda session: (session[1], session[0]))


def _bare(folder: Path) -> Git:
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
        new_bare(folder, "sha1")
    return Git(folder, controlled(folder))


def _fetch(git: Git, remote: Remote, branch: str, spec: str, *, commits_only: bool = False) -> bool:
    """Brings the newest commits here; False when the remote has no such ref."""
    output = _run(git, remote, spec, commits_only=commits_only)
    if "server sha256" in output.err:  # which git says only when ours are not
        with storage(git.folder):
            (git.folder / "config").unlink()
            new_bare(git.folder, "sha256")
        output = _run(git, remote, spec, commits_only=commits_only)
    if output.code == 0:
        return True
    # Where a pattern finds nothing, git fails without a word.
    if "couldn't find remote ref" in output.err or (output.code == 1 and not output.err.strip()):
        return False
    raise _failure(output, remote, branch)


def _run(git: Git, remote: Remote, spec: str, *, commits_only: bool) -> Output:
    options = ["--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance"]
    source = remote.url
    if commits_only:  # git takes this of a remote with a name only
        source = "origin"
        options.append("--filter=tree:0")
        for key, value in (("url", remote.url), ("promisor", "true"), ("partialCloneFilter", "tree:0")):
            git.read("config", f"remote.origin.{key}", value)
    token = remote.token()
    output = Git(git.folder, connected(git.folder)).run(
        "fetch",
        *options,
        *remote.upload_options,
        source,
        spec,
        variables=remote.variables(token),
        timeout_s=remote.timeout_s,
        give_up=_too_much(git.folder),
    )
    return scrub(output, token)


def _too_much(folder: Path) -> Callable[[], str]:
    def asked() -> str:
        arrived = sum(_size(path) for path in (folder / "objects").rglob("*"))
        return "too much" if arrived > MOST_BYTES else ""

    return asked


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # git renames what is complete
        return 0


def _failure(output: Output, remote: Remote, branch: str) -> AutoresearchError:
    if output.complaint == "fatal: too much":
        return _absurd(remote)
    error = remote.refusal(output, branch)
    if error is None:
        return GitError(
            f"{remote.url} cannot be reached: {output.complaint}",
            hint="check the network and the address, and try again",
        )
    return GitError(error.message, hint=_NO_ACCESS_HINT) if isinstance(error, GitError) else error


def _absurd(remote: Remote) -> GitError:
    return GitError(
        f"{remote.url} has more than {MOST_BYTES // 1024**2} MiB under `refs/autoresearch`, which no session writes",
        hint="look at it with `git ls-remote`, and delete what is no session's",
    )


def _is_tag(text: str) -> bool:
    try:
        Refs(text)
    except SettingsError:
        return False
    return True
