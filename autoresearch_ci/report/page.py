"""The pull request of a local session as one self-contained HTML page."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from autoresearch_ci.experiment import History, Status
from autoresearch_ci.report.chart import chart, percent
from autoresearch_ci.report.commands import merge_commands, reproduce_commands, show_command
from autoresearch_ci.report.failed import failures
from autoresearch_ci.report.kept import diff_lines, steps
from autoresearch_ci.report.markdown import clean, duration, number
from autoresearch_ci.report.proposers import HEADINGS, by_category, by_proposer, spending
from autoresearch_ci.report.review import (
    INTRODUCTION,
    LOOK_FIRST,
    NO_TRIPWIRES,
    WARNING,
    flagged_elsewhere,
    measured_by,
    suspects,
    wall,
)
from autoresearch_ci.report.standing import elapsed_s
from autoresearch_ci.report.trust import Trust, facts, gain_text, trust
from autoresearch_ci.tripwires import Tripwire

MAX_ROWS: Final = 500
MAX_KEPT: Final = 200
MAX_DIFF_LINES: Final = 400
MAX_TEXT: Final = 300
MAX_SENTENCE: Final = 1000  # of our own sentences, which bound what they quote
KINDS: Final = {"+": "added", "-": "removed", "@": "hunk", " ": "same", "": "header"}


def page(
    history: History,
    *,
    title: str,
    base: str,
    diffs: Mapping[str, str],
    tripwires: Mapping[str, Sequence[Tripwire]] = NO_TRIPWIRES,
) -> str:
    """The page: it loads nothing from anywhere, runs no script and follows the reader's light or dark scheme.

    `diffs`: the unified diff of every kept commit, `tripwires`: what its script has that the one before had not, both by its
    full hash. More than 500 experiments, 200 keeps, 200 commits to look at first or 400 lines of one diff are cut, and the page
    says so.
    """
    environment = Environment(
        loader=PackageLoader("autoresearch_ci.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, text=lambda value: clean(str(value), MAX_TEXT))
    session, picture, found = history.session, chart(history), trust(history)
    odd = suspects(history, tripwires)
    kept = steps(history, diffs)
    shown = kept[-MAX_KEPT:]
    experiments = history.experiments[-MAX_ROWS:]
    example = next((e.number for e in history.experiments if e.status is not Status.KEEP), None)
    return environment.get_template("page.html").render(
        title=title,
        base=base,
        session=session,
        ended=history.ended,
        figures=_figures(history, found),
        # Our own drawing: matplotlib escapes the texts in it.
        chart=Markup(picture[picture.index("<svg") :]),
        kept=[(step, _diff(diffs.get(step.experiment.commit, ""))) for step in shown],
        kept_cut=len(kept) - len(shown),
        experiments=experiments[::-1],
        experiments_cut=len(history.experiments) - len(experiments),
        failures=failures(history),
        proposers=[("Proposer", by_proposer(history)), ("Category", by_category(history))]
        if by_proposer(history)
        else [],
        proposer_headings=HEADINGS,
        spent=spending(history),
        warning=WARNING,
        look_first=LOOK_FIRST,
        introduction=INTRODUCTION,
        odd=odd[:MAX_KEPT],
        odd_cut=len(odd[MAX_KEPT:]),
        odd_commits={each.experiment.commit for each in odd},
        flagged_elsewhere=flagged_elsewhere(history),
        measured_by=clean(measured_by(session), MAX_SENTENCE),
        wall=wall(session),
        sure=[(topic, clean(sentence, MAX_SENTENCE)) for topic, sentence in facts(history, found)]
        if found is not None and found.spent.repeats
        else [],
        unconfirmed=found is not None and found.unconfirmed,
        settings=session.settings,
        adjustments=session.adjustments,
        reproduce=reproduce_commands(session),
        merge=merge_commands(session),
        show="" if example is None else show_command(session, example),
    )


def _figures(history: History, found: Trust | None) -> list[tuple[str, str, str]]:
    """The big numbers: name, value, and a remark."""
    baseline, best = history.baseline, history.best
    before = baseline.metric if baseline else None
    after = best.metric if best else None
    counts = Counter(e.status for e in history.tried)
    gain, share = number(None), ""
    if before is not None and after is not None:
        gain, share = f"{history.session.direction.gain(before, after):.4g}", percent(before, after)
    confirmed = []
    if found is not None and found.verified is not None:
        value, _, remark = gain_text(found.gain, found.noise).partition(" ") if found.gain else (number(None), "", "")
        confirmed = [("Not confirmed" if found.unconfirmed else "Confirmed gain", value, remark.strip("()"))]
    return [
        ("Baseline", number(before), clean(history.session.metric, 40)),
        ("Best", number(after), f"experiment {best.number}" if best else ""),
        ("Gain", gain, share if history.kept else "nothing kept"),
        *confirmed,
        ("Kept", str(counts[Status.KEEP]), f"of {len(history.tried)} tried"),
        ("Crashed", str(counts[Status.CRASH]), f"{counts[Status.DISCARD]} discarded"),
        ("Time", duration(elapsed_s(history)), "hours:minutes"),
    ]


def _diff(diff: str) -> list[tuple[str, str]]:
    lines = [(KINDS[kind], _visible(line)) for kind, line in diff_lines(diff)]
    cut = len(lines) - MAX_DIFF_LINES
    return [*lines[:MAX_DIFF_LINES], ("header", f"… and {cut} more lines")] if cut > 0 else lines


def _visible(line: str) -> str:
    """Code as it is, with control and direction characters spelled out: they could show another program than the
    one that ran (CVE-2021-42574)."""
    return "".join(
        f"\\u{ord(c):04x}" if c != "\t" and unicodedata.category(c).startswith("C") else c for c in line[:MAX_TEXT]
    )
