"""Folders on their way to a node and back, as tars whose bytes depend on their content alone."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from autoresearch_ci.errors import MachineError


def pack(folder: Path) -> bytes:
    """The folder's files, links and folders below `content/`; no link is followed, what is neither is left out."""
    buffer = io.BytesIO()
    try:
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in _entries(folder):
                info = tar.gettarinfo(str(path), arcname=f"content/{path.relative_to(folder).as_posix()}")
                if info is None or not (info.isreg() or info.issym() or info.isdir() or info.islnk()):
                    continue
                if info.islnk():  # a second name here is a file of its own there
                    info.type, info.linkname, info.size = tarfile.REGTYPE, "", path.lstat().st_size
                info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
                info.mode = 0o755 if info.isdir() or info.mode & stat.S_IXUSR else 0o644
                if info.isreg():
                    with path.open("rb") as content:
                        tar.addfile(info, content)
                else:
                    tar.addfile(info)
    except OSError as error:
        raise MachineError(f"an export cannot be read: {error.strerror or error}", hint="is its disk sound?") from error
    return buffer.getvalue()


def _entries(folder: Path) -> Iterator[Path]:
    for path, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(path, name) for name in sorted([*folders, *names]))


def unpack(packed: bytes, folder: Path) -> None:
    """Makes `folder` with what was packed in it. For exports: what comes from a run is taken over by `outputs.from_tar`."""
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r") as tar:
            members = tar.getmembers()
            for member in members:
                member.name = member.name.removeprefix("content/")
            folder.mkdir(parents=True)
            tar.extractall(folder, members=members, filter="tar")
    except (OSError, tarfile.TarError) as error:
        raise MachineError(f"an export cannot be written: {error}", hint="make room on the disk") from error


def changed(packed: bytes, folder: Path) -> tuple[str, ...]:
    """The files and links in `folder` that are not as they were packed, or are gone."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r") as tar:
        for member in tar:
            path = folder / member.name.removeprefix("content/")
            if member.issym():
                same = path.is_symlink() and os.readlink(path) == member.linkname  # noqa: PTH115 - as it stands there
            elif member.isreg():
                content = tar.extractfile(member)
                assert content is not None
                same = not path.is_symlink() and path.is_file() and _digest(path) == _of(content)
            else:
                continue
            if not same:
                found.append(member.name.removeprefix("content/"))
    return tuple(found)


def content_hash(packed: bytes) -> str:
    return hashlib.sha256(packed).hexdigest()


def _of(content: object) -> str:
    return hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return _of(file)
    except OSError:
        return "unreadable"
