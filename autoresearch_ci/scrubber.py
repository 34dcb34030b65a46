"""Keeps secrets out of everything that is said, written or pushed: their values, and what they become on the way.

A secret lives in the orchestrator's environment only. What was printed, quoted or proposed may still hold it: plain, inside a
base64 header, in hexadecimal, in a URL, in JSON. All of these are replaced.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

REPLACEMENT: Final = "***"
LEAST: Final = 8  # characters: a shorter value is a word that occurs anywhere
NAMES: Final = re.compile(r"(?:.*_)?(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, repr=False)
class Scrubber:
    """What replaces secrets. `forms`: every text that is one, the longest first; one without any leaves all as it is."""

    forms: tuple[str, ...] = ()
    _encoded: tuple[bytes, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_encoded", tuple(form.encode("utf-8", "surrogateescape") for form in self.forms))

    @classmethod
    def of(cls, environ: Mapping[str, str], *more: str) -> Scrubber:
        """For the variables of `environ` whose name says that they are secret, and for the values in `more`."""
        values = [value for name, value in environ.items() if NAMES.fullmatch(name)]
        parts = {part.strip() for value in (*values, *more) for part in (value, *value.splitlines())}
        forms = {form for part in parts if len(part) >= LEAST for form in _forms(part)}
        return cls(tuple(sorted(forms, key=lambda form: (-len(form), form))))

    def scrub(self, text: str) -> str:
        """The text with every secret as `***`."""
        for form in self.forms:
            if form in text:
                text = text.replace(form, REPLACEMENT)
        return text

    def scrub_bytes(self, data: bytes) -> bytes:
        """The same, of bytes."""
        for form in self._encoded:
            if form in data:
                data = data.replace(form, REPLACEMENT.encode())
        return data


def _forms(secret: str) -> set[str]:
    data = secret.encode("utf-8", "surrogateescape")
    forms = {secret, quote(secret, safe="", errors="surrogateescape"), json.dumps(secret)[1:-1]}
    forms |= {json.dumps(secret, ensure_ascii=False)[1:-1], data.hex(), data.hex().upper(), secret[::-1]}
    for before in range(3):  # where in a group of three bytes the secret begins
        encoded = base64.b64encode(bytes(before) + data).decode()
        # Without the characters that hold bits of what stands before and after it.
        inside = encoded[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        forms |= {inside, inside.replace("+", "-").replace("/", "_")}
    return {form for form in forms if len(form) >= LEAST}
