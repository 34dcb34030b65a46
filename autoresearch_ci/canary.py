"""The canary, `hostile.py`, as a text to run in the place of a training script, and what its log says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PROGRAM: Final = Path(__file__).with_name("hostile.py").read_text(encoding="utf-8")
MARK: Final = "CANARY "
MAX_ATTEMPTS: Final = 200
MAX_TEXT: Final = 300


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attack that the canary tried. `managed`: whether it got through, None when that was never told."""

    name: str
    managed: bool | None
    detail: str


def parse(log: str) -> list[Attempt]:
    """Every attempt that the canary announced, in its order; empty when it never began to speak.

    What it announced and did not tell, since it died, is not taken for refused.
    """
    told = [fields for line in log.splitlines() if (fields := _fields(line)) is not None]
    announced: list[Any] = next((fields["attempts"] for fields in told if isinstance(fields.get("attempts"), list)), [])
    results = {str(fields["attempt"]): fields for fields in told if "attempt" in fields}
    return [_attempt(str(name)[:MAX_TEXT], results.get(str(name), {})) for name in announced[:MAX_ATTEMPTS]]


def _fields(line: str) -> dict[str, Any] | None:
    if not line.startswith(MARK):
        return None
    try:
        fields = json.loads(line.removeprefix(MARK))
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _attempt(name: str, fields: dict[str, Any]) -> Attempt:
    managed = fields.get("managed")
    if not isinstance(managed, bool):
        return Attempt(name, None, "the canary did not live to tell")
    return Attempt(name, managed, str(fields.get("detail", ""))[:MAX_TEXT])
