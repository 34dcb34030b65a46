"""What crosses from a run's outputs folder into a folder of ours: regular files, few and small enough, under plain names.

The script filled the folder and may have meant to hurt whoever reads it: links to the machine's files, pipes that never
end, devices, sparse files that take a terabyte when copied, a hundred thousand names. Nothing that it wrote is followed,
waited for or believed: what is no plain file is left out and counted, and sizes are those of the bytes that came.
"""

from __future__ import annotations

import io
import os
import stat
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from autoresearch_ci.errors import MachineError

MAX_FILES: Final = 1000
MAX_BYTES: Final = 2**30  # of all files together
MAX_ENTRIES: Final = 10_000  # that are looked at, whatever they are
MAX_STREAM_BYTES: Final = 2 * MAX_BYTES  # that are read to get past what is too large; about 10 s of an engine
MAX_DEPTH: Final = 8  # folders in folders
MAX_NAME_BYTES: Final = 200
_BAD_CHARACTERS: Final = frozenset("\\\"'`")
_PORTION_BYTES: Final = 2**18


def from_tar(chunks: Iterable[bytes], folder: Path) -> str:
    """Takes over the files of the engine's tar of an outputs folder, while it comes; a note on what was left out.

    The engine wrote the tar's headers, the script what they say. Reads no further than the limits: what is left of
    `chunks` is the caller's to close. Raises MachineError when `folder` cannot be written.
    """
    taking, stream = _Taking(folder), io.BufferedReader(_Stream(chunks), _PORTION_BYTES)
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_PORTION_BYTES) as tar:
            for member in tar:
                names = member.name.split("/")[1:]  # the first is the outputs folder itself
                if not names:
                    continue
                if not taking.may_look():
                    break
                if member.isdir() and taking.fits(names):
                    continue
                if taking.accepts(names, regular=member.isreg() and not member.issparse(), size=member.size):
                    content = tar.extractfile(member)
                    assert content is not None
                    taking.take(names, content, member.size)
    except _EnoughError:
        taking.left_out["all after too many bytes"] += 1
    except (tarfile.TarError, ValueError, EOFError):
        taking.left_out["all after a break"] += 1
    return taking.note()


def from_folder(source: Path, folder: Path) -> str:
    """Takes over the files of an outputs folder on this machine; a note on what was left out.

    Nothing is reached through a link, not even one that a process which outlived its run puts there meanwhile, and nothing
    with a second name is taken: it may be a file of the user's. Raises MachineError when `folder` cannot be written.
    """
    taking = _Taking(folder)
    if sys.platform == "win32":
        taking.left_out["all: this system cannot open files safely"] += 1
    else:
        try:
            with _opened(str(source), os.O_DIRECTORY, folder=None) as descriptor:
                _take_folder(taking, descriptor, [])
        except OSError:
            taking.left_out["all: the folder is gone"] += 1
    return taking.note()


class _EnoughError(Exception):
    """More was streamed than anybody wants to read."""


class _Stream(io.RawIOBase):
    """Chunks as a file that is read forwards, up to MAX_STREAM_BYTES."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")
        self._came = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
            self._came += len(chunk)
            if self._came > MAX_STREAM_BYTES:
                raise _EnoughError
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


class _Taking:
    """Files on their way into `folder`, and what was left out, by reason."""

    def __init__(self, folder: Path) -> None:
        self.left_out: Counter[str] = Counter()
        self._folder = folder
        self._entries = self._files = self._bytes = 0

    def may_look(self) -> bool:
        """Whether another entry is looked at; once no, there is nothing more to be had."""
        if self._files >= MAX_FILES or self._entries >= MAX_ENTRIES:
            self.left_out["all after too many files"] = 1
            return False
        self._entries += 1
        return True

    def fits(self, names: list[str]) -> bool:
        return len(names) <= MAX_DEPTH and all(_is_plain(name) for name in names)

    def accepts(self, names: list[str], *, regular: bool, size: int) -> bool:
        if not regular:
            self.left_out["no regular file"] += 1
        elif not self.fits(names):
            self.left_out["no plain name"] += 1
        elif size > MAX_BYTES - self._bytes:
            self.left_out["too large"] += 1
        else:
            return True
        return False

    def take(self, names: list[str], content: IO[bytes], size: int) -> None:
        """Copies one file, `size` bytes of it at most: it may still grow. All of it, or nothing."""
        target, half = self._folder.joinpath(*names), False
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                half = True
                while size > 0 and (portion := content.read(min(size, _PORTION_BYTES))):
                    file.write(portion)
                    size -= len(portion)
                    self._bytes += len(portion)
                half = False
            self._files += 1
        except (FileExistsError, NotADirectoryError):  # names that only this file system takes for the same
            self.left_out["a name twice"] += 1
        except OSError as error:
            raise MachineError(
                f"the outputs of a run cannot be written: {error.strerror}", hint=f"make room at {self._folder}"
            ) from error
        finally:
            if half:
                target.unlink()

    def note(self) -> str:
        """What was left out, in one line without a name that the script chose; empty when all was taken."""
        if not self.left_out:
            return ""
        return "left out " + ", ".join(f"{count} × {why}" for why, count in sorted(self.left_out.items()))


def _is_plain(name: str) -> bool:
    """Whether a name means itself everywhere: to a shell, a terminal, a table and a program's options."""
    return (
        name not in ("", ".", "..")
        and not name.startswith("-")
        and name.isprintable()
        and _BAD_CHARACTERS.isdisjoint(name)
        and len(name.encode(errors="replace")) <= MAX_NAME_BYTES
    )


if sys.platform != "win32":

    def _take_folder(taking: _Taking, descriptor: int, names: list[str]) -> None:
        with os.scandir(descriptor) as entries:
            found = sorted(entry.name for entry in islice(entries, MAX_ENTRIES))
        for name in found:
            if not taking.may_look():
                return
            inner = [*names, name]
            try:
                mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode) and taking.fits(inner):
                    with _opened(name, os.O_DIRECTORY, folder=descriptor) as folder:
                        _take_folder(taking, folder, inner)
                elif stat.S_ISREG(mode):
                    with _opened(name, 0, folder=descriptor) as file:
                        _take_file(taking, file, inner)
                else:
                    taking.accepts(inner, regular=False, size=0)
            except OSError:  # gone, replaced or without rights
                taking.left_out["not readable"] += 1

    def _take_file(taking: _Taking, descriptor: int, names: list[str]) -> None:
        status = os.fstat(descriptor)
        regular = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
        if taking.accepts(names, regular=regular, size=status.st_size):
            with os.fdopen(os.dup(descriptor), "rb") as content:
                taking.take(names, content, status.st_size)

    @contextmanager
    def _opened(name: str, flags: int, *, folder: int | None) -> Iterator[int]:
        """A file or folder by its own name: no link is followed, no pipe or device waited for."""
        flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=folder)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
