"""How durations, sizes and lists are written in a setting: each form is read, and written back in the same form."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)


def parse_duration(value: object) -> float:
    """Seconds from `300`, `300s`, `5m` or `1h30m`; ValueError for anything else, and for what is not above zero."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        match = _DURATION.fullmatch(str(value).strip().lower())
        if match is None or not any(match.groups()):
            raise ValueError("write it as `300`, `300s`, `5m` or `1h30m`")
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = hours * 3600 + minutes * 60 + rest
    if not 0 < seconds < 31_536_000:
        raise ValueError("it must be longer than zero and shorter than a year")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest spelling that `parse_duration` reads back: `5m`, `1h30m`, `90s` as `1m30s`, `2.5s`."""
    whole, fraction = divmod(seconds, 1)
    if fraction:
        return f"{seconds:g}s"
    minutes, rest = divmod(int(whole), 60)
    hours, minutes = divmod(minutes, 60)
    return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if n) or "0s"


def parse_size(value: object) -> int:
    """Bytes from `512m`, `8g`, `8GB` or a plain number of bytes; powers of 1024, as Docker reads them."""
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("write it as `512m` or `8g`")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))


def format_size(size: int) -> str:
    """`8g` for 8589934592: the largest unit that divides it."""
    for power, unit in ((4, "t"), (3, "g"), (2, "m"), (1, "k")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(size)


def _split_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in re.split(r"[,\n]", value) if part.strip())
    return value


def _split_mapping(value: object) -> object:
    if isinstance(value, str):
        pairs = [part.strip() for part in re.split(r"[,\n]", value) if part.strip()]
        if any("=" not in pair for pair in pairs):
            raise ValueError("write it as `NAME=value,NAME=value`")
        return dict(pair.split("=", 1) for pair in pairs)
    return value


def automatic(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "auto" else value


def unlimited(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "unlimited" else value


Duration = Annotated[float, BeforeValidator(parse_duration), PlainSerializer(format_duration)]
Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(format_size)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split_list)]
Variables = Annotated[dict[str, str], BeforeValidator(_split_mapping)]
