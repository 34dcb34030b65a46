"""The kept commits, one by one: what each gained, how much it changed, and what a reviewer should look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from autoresearch_ci.experiment import Experiment, History
from autoresearch_ci.report.links import commit_link
from autoresearch_ci.report.markdown import NO_VALUE, cell, number, table
from autoresearch_ci.report.review import NO_TRIPWIRES, WARNING, Suspect
from autoresearch_ci.report.trust import evidence_text
from autoresearch_ci.tripwires import Kind, Tripwire

SMALL_GAIN: Final = 0.001  # of the metric: what two runs of the same script commonly differ by
MAX_KINDS: Final = 3  # of one commit, beside it in the table
MAX_DESCRIPTION: Final = 120  # the summary has all of it
HEADINGS: Final = ("#", "Commit", "Gain", "Lines", "Change", "Category")


@dataclass(frozen=True, slots=True)
class Step:
    """A kept experiment, what it gained on the keep before it (positive is better), and its changed lines.

    The gain is the one that decided where there is evidence, for those readings were made together.
    """

    experiment: Experiment
    gain: float | None
    share: str
    added: int
    removed: int

    @property
    def shown_gain(self) -> str:
        """The gain as text, with its standard error where it is known: `+0.0123 ± 0.0011 (1.2 %)`."""
        if self.gain is None:
            return NO_VALUE
        evidence = self.experiment.verdict.evidence
        gain = f"{self.gain:+.4g}" if evidence is None else evidence_text(evidence)
        return gain + (f" ({self.share})" if self.share else "")


def steps(history: History, diffs: Mapping[str, str], *, last: int | None = None) -> list[Step]:
    """The kept experiments in order, each compared with the keep before it; only the `last` ones when a number is given.

    Among them are merges of the base, which gain nothing.
    """
    found: list[Step] = []
    made = history.on_branch[1:]
    cut = 0 if last is None else max(0, len(made) - last)
    earlier = (e.metric for e in (*made[:cut][::-1], *history.on_branch[:1]))
    before = next((metric for metric in earlier if metric is not None), None)
    for experiment in made[cut:]:
        after = experiment.metric
        gain, share = None, ""
        if not experiment.base and before is not None and after is not None:
            evidence = experiment.verdict.evidence
            gain = history.session.direction.gain(before, after) if evidence is None else evidence.gain
            share = f"{100 * gain / abs(before):.3g} %" if before else ""
        signs = Counter(sign for sign, _ in diff_lines(diffs.get(experiment.commit, "")))
        found.append(Step(experiment, gain, share, signs["+"], signs["-"]))
        before = after if after is not None else before
    return found


def diff_lines(diff: str) -> Iterator[tuple[str, str]]:
    """The lines of a unified diff as (kind, text): kind is `+`, `-`, a space, `@` (a hunk's header) or empty."""
    inside = False
    for line in diff.splitlines():
        if line.startswith("diff --git "):
            inside = False
        elif line.startswith("@@"):
            inside = True
            yield "@", line
            continue
        yield (line[:1] if inside and line[:1] in {"+", "-", " "} else ""), line


def small(made: Sequence[Step]) -> int:
    """How many gains are not above what two runs of one script commonly differ by."""
    return sum(
        step.gain is not None
        and step.experiment.metric is not None
        and 0 < step.gain < SMALL_GAIN * abs(step.experiment.metric)
        for step in made
    )


def kept_table(
    history: History,
    diffs: Mapping[str, str],
    odd: Sequence[Suspect],
    *,
    tripwires: Mapping[str, Sequence[Tripwire]] = NO_TRIPWIRES,
    characters: int,
    where: str,
) -> list[str]:
    """The kept commits in order, each with a link where there is a repository; nothing where nothing was kept.

    `odd`: of `review.suspects`; what is odd stands beside its commit. More than `characters` are cut, and said to be in `where`.
    """
    if not history.kept:
        return []
    beside = {each.experiment.commit: _beside(each) for each in odd}
    marked = any(e.commit in beside for e in history.kept)
    rows = []
    for step in steps(history, diffs):
        commit = step.experiment.commit
        row = (
            str(step.experiment.number),
            f"{WARNING} " * (commit in beside) + commit_link(history.session, step.experiment),
            number(step.experiment.metric),
            step.shown_gain,
            f"+{step.added} −{step.removed}" if commit in diffs else NO_VALUE,
            cell(step.experiment.description, MAX_DESCRIPTION),
            step.experiment.category.value,
        )
        rows.append((*row, beside.get(commit, "")) if marked else row)
    headings = (*HEADINGS[:2], cell(history.session.metric, 40), *HEADINGS[2:], *(("Look at",) if marked else ()))
    lines = ["Each gain is on the keep before it.", "", *table(headings, rows, characters, where)]
    if not marked and all(e.commit in tripwires for e in history.kept):
        lines += ["", "No kept change trips a wire, and none of its readings is flagged."]
    return [*lines, ""]


def _beside(each: Suspect) -> str:
    """What is odd about a commit in a few words; the section above the table has the lines themselves."""
    kinds = list(dict.fromkeys(wire.kind.value for wire in each.tripwires if wire.kind is not Kind.MORE))
    if each.flags:
        kinds.insert(0, "a flagged reading")
    more = f", {len(kinds) - MAX_KINDS} more" if len(kinds) > MAX_KINDS else ""
    return cell(", ".join(kinds[:MAX_KINDS])) + more
