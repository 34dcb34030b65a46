"""The program's own bare clone: made whole or not at all, sharing objects with the user's repository."""

from __future__ import annotations

import os
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path

from autoresearch_ci.errors import GitError
from autoresearch_ci.workspace.checkout import Checkout
from autoresearch_ci.workspace.commands import Git, storage
from autoresearch_ci.workspace.objects import TEMPORARY_PREFIX
from autoresearch_ci.workspace.refs import Refs

# Nothing of the user's or of the training repository's configuration may run here or change what a file contains.
_CONFIG = f"""
	hooksPath = {os.devnull}
	attributesFile = {os.devnull}
	fsmonitor = false
	fsync = committed,loose-object,reference
	logAllRefUpdates = false
[gc]
	auto = 0
[maintenance]
	auto = false
[push]
	followTags = false
	gpgSign = false
	recurseSubmodules = no
"""
_LAST_BREATH_S = 2.0
# The strongest place for attributes: exports are byte for byte what the commit holds, Git LFS pointers included.
_ATTRIBUTES = "* -text -eol -filter -ident -working-tree-encoding\n"


def open_clone(state: Path, checkout: Checkout, refs: Refs) -> Path:
    """The bare clone in `state`, made now when there is none or when an old one was cut off half-made.

    Objects are shared through `objects/info/alternates`, not copied. The base commit and what leads to it must thus
    stay in the user's repository: they do as long as a branch there holds them (git deletes unreachable objects after
    two weeks).
    """
    clone = state / "repository.git"
    with storage(state):
        state.mkdir(parents=True, exist_ok=True)
        if not (clone / "HEAD").exists():
            remove_tree(clone)
            _make(clone, checkout)
        _check(clone, checkout)
        (clone / "objects" / "info" / "alternates").write_text(f"{checkout.git_dir.as_posix()}/objects\n", "utf-8")
        _remove_left_overs(clone, checkout.git_dir, refs)
    return clone


def controlled(clone: Path) -> dict[str, str]:
    """The environment of a child that works only in the clone: no configuration from outside reaches it."""
    return {
        **_inherited_off(clone),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "0",
    }


def connected(clone: Path) -> dict[str, str]:
    """The environment of a child that talks to a remote: the user's own proxies and credential helpers count."""
    return {**_inherited_off(clone), "GIT_CONFIG_COUNT": "0"}


def remove_tree(folder: Path) -> None:
    """Deletes a folder, whatever permissions were set inside; what cannot be deleted stays."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        return
    folder.chmod(stat.S_IRWXU)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *(files if os.name == "nt" else ())):
            path = Path(parent, name)
            if not path.is_symlink():  # chmod would reach what it points to
                path.chmod(stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)


def _inherited_off(clone: Path) -> dict[str, str]:
    # A process started from a git hook or alias inherits variables that point at another repository.
    return {
        "GIT_DIR": str(clone),
        "GIT_OBJECT_DIRECTORY": str(clone / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": "",
        "GIT_NAMESPACE": "",
        "GIT_CONFIG_PARAMETERS": "",
        "GIT_NO_LAZY_FETCH": "1",
    }


def _remove_left_overs(clone: Path, user: Path, refs: Refs) -> None:
    """Clears what a killed process left: sessions do not share a state folder, nor a tag in the user's repository."""
    for half_written in clone.glob(f"objects/??/{TEMPORARY_PREFIX}*"):
        half_written.unlink()
    ours = (*clone.glob("*.lock"), *clone.glob("refs/**/*.lock"))
    for lock in (*ours, *user.glob(f"{refs.state}/**/*.lock"), *user.glob(f"{refs.head}.lock")):
        # A git child outlives its killed parent by a moment, and then takes its lock away itself.
        with suppress(FileNotFoundError):
            time.sleep(min(max(lock.stat().st_mtime + _LAST_BREATH_S - time.time(), 0.0), _LAST_BREATH_S))
            lock.unlink()


def _check(clone: Path, checkout: Checkout) -> None:
    answer = Git(clone, controlled(clone)).run("rev-parse", "--is-bare-repository", "--show-object-format")
    if answer.code or answer.text.split() != ["true", checkout.object_format]:
        # Never thrown away by us: it may hold experiments that were not pushed yet.
        raise GitError(
            f"the session's own clone {clone} is damaged",
            hint="move it away and run again: the session goes on from what was pushed",
        )


def new_bare(folder: Path, object_format: str) -> None:
    """Makes the empty `folder` a bare repository in which nothing of anybody's configuration runs."""
    outside = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    Git(folder, outside).read(
        "init",
        "--quiet",
        "--bare",
        "--template=",
        f"--object-format={object_format}",
        "--initial-branch=none",
        str(folder),
    )
    with (folder / "config").open("a", encoding="utf-8") as config:
        config.write(f"[core]{_CONFIG}")


def _make(clone: Path, checkout: Checkout) -> None:
    half_made = clone.with_suffix(".new")
    remove_tree(half_made)
    half_made.mkdir()
    new_bare(half_made, checkout.object_format)
    for name, text in (("info/attributes", _ATTRIBUTES), ("objects/info/alternates", "")):
        (half_made / name).parent.mkdir(parents=True, exist_ok=True)
        (half_made / name).write_text(text, "utf-8")
    half_made.rename(clone)
