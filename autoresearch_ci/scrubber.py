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
from typing import Any, Final
from urllib.parse import quote, unquote

REPLACEMENT: Final = "***"
LEAST: Final = 8  # characters: a shorter value is a word that occurs anywhere
LEAST_DIGITS: Final = 16  # and a shorter number a part of some metric
NAMES: Final = re.compile(r"(?:.*_)?(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD)", re.IGNORECASE)
# In a git configuration: a password in an address, a token in place of a user's name, and the header of actions/checkout.
_IN_CONFIG: Final = re.compile(
    r"://[^\s/:@]*:(?P<password>[^\s/@]+)@|://(?P<token>(?:gh[a-z]|github_pat)_\w+)@"
    r"|extraheader\s*=\s*\"?[\w-]+:\s*\w+\s+(?P<header>[\w+/=.-]+)",
    re.IGNORECASE,
)


def in_git_config(text: str) -> list[str]:
    """The secrets that a git configuration holds: in the addresses of remotes, and in headers."""
    found = [match[match.lastgroup or 0] for match in _IN_CONFIG.finditer(text)]
    return list(dict.fromkeys([*found, *map(unquote, found)]))


@dataclass(slots=True, repr=False)
class Scrubber:
    """What replaces secrets. `forms`: every text that is one, the longest first; one without any leaves all as it is."""

    forms: tuple[str, ...] = ()
    _encoded: tuple[bytes, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._encoded = tuple(form.encode("utf-8", "surrogateescape") for form in self.forms)

    @classmethod
    def of(cls, environ: Mapping[str, str], *more: str) -> Scrubber:
        """For the variables of `environ` whose name says that they are secret, and for the values in `more`."""
        scrubber = cls()
        scrubber.learn(*(value for name, value in environ.items() if NAMES.fullmatch(name)), *more)
        return scrubber

    def learn(self, *values: str) -> None:
        """These are secrets, too: a token that was renewed."""
        parts = {part.strip() for value in values for part in (value, *value.splitlines())}
        secret = {part for part in parts if len(part) >= (LEAST_DIGITS if part.isdecimal() else LEAST)}
        new = {form for part in secret for form in _forms(part)}
        if not new.issubset(self.forms):
            self.forms = tuple(sorted(new.union(self.forms), key=lambda form: (-len(form), form)))
            self.__post_init__()

    @property
    def longest(self) -> int:
        """Bytes of the longest form: so much more must be read for a cut not to leave a piece of a secret."""
        return max(map(len, self._encoded), default=0)

    def scrub(self, text: str) -> str:
        """The text with every secret as `***`, also one that goes over several lines, as `base64` breaks its output."""
        for form in self.forms:
            if form in text:
                text = text.replace(form, REPLACEMENT)
        joined = text.replace("\n", "").replace("\r", "")
        if len(joined) != len(text):
            for form in self.forms:
                if form in joined:
                    text = re.sub(r"[\r\n]*".join(map(re.escape, form)), REPLACEMENT, text)
        return text

    def scrub_bytes(self, data: bytes) -> bytes:
        """The same, of bytes."""
        for form in self._encoded:
            if form in data:
                data = data.replace(form, REPLACEMENT.encode())
        joined = data.replace(b"\n", b"").replace(b"\r", b"")
        if len(joined) != len(data):
            for form in self._encoded:
                if form in joined:
                    broken = rb"[\r\n]*".join(re.escape(form[at : at + 1]) for at in range(len(form)))
                    data = re.sub(broken, REPLACEMENT.encode(), data)
        return data

    def scrub_json(self, value: Any) -> Any:
        """The same, of every text in a JSON value; what it is made of stays, which a replacement in its JSON may break."""
        match value:
            case str():
                return self.scrub(value)
            case dict():
                return {self.scrub(key): self.scrub_json(item) for key, item in value.items()}
            case list():
                return [self.scrub_json(item) for item in value]
            case _:
                return value


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
