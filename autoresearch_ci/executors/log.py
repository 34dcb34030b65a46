"""The log of a run, as a file that cannot grow beyond its cap: the end is kept, for the numbers stand there."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from autoresearch_ci.errors import MachineError

DEFAULT_CAP_BYTES: Final = 16 * 2**20
_LINE_SEARCH_BYTES: Final = 4096  # how far to look for the end of the line that a cut went through


class CappedLog:
    """A log file for one run, readable while it is written.

    Up to twice `cap_bytes` lie on disk while it is open, at most `cap_bytes` and one line after `close`. Where bytes
    were dropped, the first line says how many. Memory stays below about twice `cap_bytes` however much is written, and
    however long its lines. For one writing thread. Raises MachineError when the file cannot be written.
    """

    def __init__(self, path: Path, cap_bytes: int = DEFAULT_CAP_BYTES) -> None:
        self._path = path
        self._cap_bytes = cap_bytes
        self._dropped_bytes = 0
        self._notice_bytes = 0
        self._size_bytes = 0  # of what was written and kept, the notice not counted
        try:
            # Unbuffered: a person who follows the file sees each line at once, and SIGKILL of us loses none.
            self._file = path.open("w+b", buffering=0)
        except OSError as error:
            raise self._refused(error) from error

    def write(self, data: bytes) -> None:
        """Appends `data`; drops from the front what goes beyond the cap."""
        for start in range(0, len(data), self._cap_bytes):
            chunk = memoryview(data)[start : start + self._cap_bytes]
            try:
                self._append(chunk)
                if self._size_bytes >= 2 * self._cap_bytes:
                    self._trim()
            except OSError as error:
                raise self._refused(error) from error

    def close(self) -> None:
        """Cuts the file to its cap. Safe to repeat."""
        if self._file.closed:
            return
        try:
            if self._size_bytes > self._cap_bytes:
                self._trim()
        except OSError as error:
            raise self._refused(error) from error
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, chunk: memoryview | bytes) -> None:
        rest = memoryview(chunk)
        while rest:  # an unbuffered write may take less than it was given
            rest = rest[self._file.write(rest) :]
        self._size_bytes += len(chunk)

    def _trim(self) -> None:
        """Rewrites the file as the notice and the last `cap_bytes`, from the start of a line where one is near."""
        self._file.seek(self._notice_bytes + self._size_bytes - self._cap_bytes)
        kept = memoryview(self._file.read(self._cap_bytes))
        # Half a line could read as another name than the script printed: `val_loss: 1` cut from `best_val_loss: 1`.
        line_end = bytes(kept[:_LINE_SEARCH_BYTES]).find(b"\n") + 1
        kept = kept[line_end:]
        self._dropped_bytes += self._size_bytes - len(kept)
        notice = f"[{self._dropped_bytes} bytes of this log were dropped here, its end is kept]\n".encode()
        self._file.seek(0, os.SEEK_SET)
        self._file.truncate()
        self._append(notice)
        self._notice_bytes, self._size_bytes = len(notice), 0
        self._append(kept)

    def _refused(self, error: OSError) -> MachineError:
        return MachineError(
            f"the log `{self._path.name}` cannot be written: {error.strerror}",
            hint=f"make room on the disk, and `{self._path.parent}` writable",
        )
