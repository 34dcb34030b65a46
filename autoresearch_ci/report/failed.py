"""What was not kept, by category, with the most common reasons."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from autoresearch_ci.experiment import Category, History, Status
from autoresearch_ci.report.markdown import clean

TOP_REASONS: Final = 3
MAX_REASON: Final = 400
NUMBERS: Final = re.compile(r"^[-+.\de]+|(?: \([-+.\de]+ is\))?, after \d+ runs? against \d+$")


def failures(history: History) -> list[tuple[Category, int, int, str]]:
    """By category, where anything failed: discarded, crashed, and the most common reasons in one line of plain text."""
    found = []
    for category in Category:
        failed = [e for e in history.experiments if e.category is category and e.status is not Status.KEEP]
        if not failed:
            continue
        crashed = sum(e.status is Status.CRASH for e in failed)
        reasons = Counter(clean(_without_numbers(e.verdict.reason), 80) or e.status.value for e in failed)
        top = ", ".join(f"{reason} ({count}×)" for reason, count in reasons.most_common(TOP_REASONS))
        found.append((category, len(failed) - crashed, crashed, top))
    return found


def _without_numbers(reason: str) -> str:
    """A discard's reason holds its numbers (`worse by 0.0012, after 1 run against 3`), which would make each one its own."""
    kind, by, rest = reason[:MAX_REASON].partition(" by ")
    if not by or not NUMBERS.match(rest):
        return reason
    return f"{kind}{NUMBERS.sub('', rest)}".replace("better only", "better, but too little")
