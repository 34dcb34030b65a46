"""Pure: the log of a run → what it says.

The protocol is karpathy/autoresearch's: `name: number` lines, `\\r` progress allowed, and the last finite value of a name
counts. Everything else in the log is noise, however much of it there is.
"""

from __future__ import annotations

import math
import re
from typing import Final

from autoresearch_ci.experiment import Reading

MEMORY_NAME: Final = "peak_vram_mb"
MAX_NUMBERS: Final = 64  # other numbers remembered per run; a script may print any amount of lines
LARGEST: Final = 1e100  # a metric beyond it has diverged, and the squares of such numbers do not fit a float any more
MAX_LINE: Final = 300  # characters of the last line that are quoted as the reason of a crash

# ASCII digits only: float() would also read full-width digits, underscores and hexadecimal, which no log means.
_NUMBER: Final = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?"
_LINE: Final = re.compile(rf"^[ \t]*([A-Za-z_][A-Za-z0-9_./@-]{{0,63}})[ \t]*:[ \t]*({_NUMBER})[ \t]*$", re.MULTILINE)
_OUT_OF_MEMORY: Final = re.compile(
    r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|MPS backend out of memory|CUBLAS_STATUS_ALLOC_FAILED"
)
_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def read(log: str, metric: str, pattern: str | None = None) -> Reading:
    """The reading of a log.

    `pattern` replaces the `name: number` form for the metric alone; its one group holds the number. A value that is not
    finite (`nan`, `inf`, `1e999`) or beyond 1e100 is passed over. `out_of_memory` is judged by the messages of CUDA and MPS.
    """
    text = log.replace("\r", "\n")
    numbers: dict[str, float] = {}
    for match in _LINE.finditer(text):
        value = float(match[2])
        if math.isfinite(value) and (match[1] in numbers or len(numbers) < MAX_NUMBERS):
            numbers[match[1]] = value
    own_line = rf"(?m)^[ \t]*{re.escape(metric)}[ \t]*:[ \t]*({_NUMBER})[ \t]*$"
    last, lines = _last(text, pattern or own_line)
    return Reading(
        metric=last,
        metric_lines=lines,
        memory_mb=numbers.get(MEMORY_NAME) or None,  # 0.0 is what scripts print where CUDA cannot tell
        numbers={name: value for name, value in numbers.items() if name != metric},
        out_of_memory=_OUT_OF_MEMORY.search(text) is not None,
        last_line=last_line(text),
    )


def _last(text: str, pattern: str) -> tuple[float | None, int]:
    """The last value that counts, and how many there were."""
    last: float | None = None
    count = 0
    for match in re.finditer(pattern, text):
        if match[1] is not None and re.fullmatch(_NUMBER, match[1].strip()):
            value = float(match[1])
            if abs(value) <= LARGEST:
                last, count = value, count + 1
    return last, count


def last_line(text: str) -> str:
    """The last line that holds something, without control characters and of bounded length: why a crash says it crashed."""
    for line in reversed(text[-65536:].replace("\r", "\n").split("\n")):
        shown = _CONTROL.sub("", line).strip()
        if shown:
            return shown[:MAX_LINE]
    return ""
