"""Writes git objects without starting git: a loose object is a zlib file named by the hash of its content.

Written here and not through gitdb because a commit must be on the disk before the experiment that runs it is journaled:
gitdb renames without fsync, so that a power cut can leave an empty file under a valid name.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from autoresearch_ci.workspace.commands import Git, storage

FILE, FOLDER = "100644", "40000"
TEMPORARY_PREFIX = "tmp_obj_"  # what `git prune` clears away by itself


class Objects:
    """The object store of a bare repository, with `git` to read and our own hands to write.

    `scrub`: what passes over everything that is about to be written; whatever it lets through may be pushed.
    """

    def __init__(self, git: Git, folder: Path, object_format: str, scrub: Callable[[bytes], bytes]) -> None:
        self.git = git
        self._folder = folder
        self._format = object_format
        self._scrub = scrub

    def write(self, kind: str, data: bytes) -> str:
        """The full hash of the object, which is on the disk when this returns. MachineError when the disk refuses."""
        if kind != "tree":  # which is names and binary hashes
            data = self._scrub(data)
        raw = b"%s %d\0" % (kind.encode(), len(data)) + data
        name = hashlib.new(self._format, raw, usedforsecurity=False).hexdigest()
        path = self._folder / name[:2] / name[2:]
        if path.exists():
            return name
        with storage(self._folder):
            path.parent.mkdir(exist_ok=True)
            handle, name_of_file = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
            temporary = Path(name_of_file)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(zlib.compress(raw, 1))
                    file.flush()
                    os.fsync(file.fileno())
                # No fsync of the folder: the ref that makes the object matter is moved, and fsynced, after this rename.
                temporary.chmod(0o444)
                temporary.replace(path)
            except OSError:
                temporary.unlink()
                raise
        return name

    def entries(self, tree: str) -> dict[str, tuple[str, str]]:
        """What is directly in a tree: name → (mode, hash)."""
        found: dict[str, tuple[str, str]] = {}
        for line in self.git.read("ls-tree", "-z", tree).out.split(b"\0")[:-1]:
            head, name = line.split(b"\t", 1)
            mode, _, object_name = head.decode().split(" ")
            found[os.fsdecode(name)] = (mode.lstrip("0"), object_name)
        return found


def files_of(git: Git, commit: str, *paths: str) -> dict[str, bytes]:
    """The files of a commit by path: all, or those of `paths` that are there."""
    rows = git.read("ls-tree", "-r", "-z", commit, "--", *paths).out.split(b"\0")[:-1]
    names = {os.fsdecode(row.partition(b"\t")[2]): row.partition(b"\t")[0].split(b" ")[2] for row in rows}
    stream = git.read("cat-file", "--batch", data=b"".join(name + b"\n" for name in names.values())).out
    files, at = {}, 0
    for path in names:
        start = stream.index(b"\n", at) + 1
        size = int(stream[at : start - 1].split(b" ")[2])
        files[path] = stream[start : start + size]
        at = start + size + 1
    return files


class Tree:
    """A tree that can be changed path by path; folders that did not change are neither read nor written again."""

    def __init__(self, objects: Objects, name: str = "") -> None:
        self._objects = objects
        self._name = name
        self._entries: dict[str, tuple[str, str]] | None = None if name else {}
        self._folders: dict[str, Tree] = {}

    def put(self, path: str, data: bytes, mode: str = FILE) -> None:
        """Sets the file at `path` (with `/`) to `data`."""
        head, _, rest = path.partition("/")
        entries = self._opened()
        if rest:
            if head not in self._folders:
                known_mode, known = entries.get(head, ("", ""))
                self._folders[head] = Tree(self._objects, known if known_mode == FOLDER else "")
            self._folders[head].put(rest, data, mode)
        else:
            self._folders.pop(head, None)
            entries[head] = (mode, self._objects.write("blob", data))
        self._name = ""

    def write(self) -> str:
        """The tree's hash, after everything that changed was written."""
        if not self._name:
            entries = self._opened()
            for folder, tree in self._folders.items():
                entries[folder] = (FOLDER, tree.write())
            self._name = self._objects.write("tree", _encode(entries))
        return self._name

    def _opened(self) -> dict[str, tuple[str, str]]:
        if self._entries is None:
            self._entries = self._objects.entries(self._name)
        return self._entries


def _encode(entries: dict[str, tuple[str, str]]) -> bytes:
    # git sorts a folder as if its name ended with a slash
    rows = sorted(
        (os.fsencode(name) + (b"/" if mode == FOLDER else b""), mode, sha) for name, (mode, sha) in entries.items()
    )
    return b"".join(b"%s %s\0%s" % (mode.encode(), name.rstrip(b"/"), bytes.fromhex(sha)) for name, mode, sha in rows)
