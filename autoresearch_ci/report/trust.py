"""How far a session's result can be believed, from its own readings: plain text, with words of others in it.

Whoever shows one of these texts makes it safe. A history without measurements (a bare results.tsv) says nothing here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

from autoresearch_ci.experiment import Direction, Evidence, Experiment, History, Purpose, Recheck, Status
from autoresearch_ci.noise import Interval, Noise, Readings, confirmed, verification
from autoresearch_ci.report.again import Spent, spent
from autoresearch_ci.report.markdown import NO_VALUE, clean, number, rounded

MAX_TEXT: Final = 100  # of a description or a note inside a sentence
MAX_NAMED: Final = 5
SAME_FOR: Final = 3  # different scripts that all read the same: the metric is saturated
COARSE: Final = 3  # different values
COARSE_FROM: Final = 10  # different scripts, before so few values mean anything
BEST_POSSIBLE: Final = {Direction.MINIMIZE: (0.0,), Direction.MAXIMIZE: (1.0, 100.0)}  # no error; all right, or 100 %
DOUBT: Final = "it is not certain that this is an improvement at all"
KEEP_HEADINGS: Final = ("#", "Commit", "Gain", "Enough was", "Runs", "Runs of the incumbent", "Kept")


@dataclass(frozen=True, slots=True)
class Trust:
    """What the readings say about the result.

    `noise`: of one reading, from the whole session. `verified`: the last verification of the best commit, None when there is
    none; `gain`: what it found, None when it has no reading of both commits.
    """

    noise: Noise
    verified: Recheck | None
    gain: Interval | None
    spent: Spent

    @property
    def unconfirmed(self) -> bool:
        """Whether a verification was made that does not show an improvement: its interval includes zero, or there is none."""
        shown = self.gain is not None and self.noise.degrees > 0 and not self.gain.includes_zero
        return self.verified is not None and not shown


@dataclass(frozen=True, slots=True)
class Ablation:
    """What the best commit loses without one kept commit; `loss` is None where no reading says it, and `note` why."""

    experiment: Experiment
    loss: Interval | None
    note: str

    @property
    def matters(self) -> bool:
        return self.loss is None or not self.loss.includes_zero

    @property
    def answer(self) -> str:
        """Whether it matters, in a few words."""
        if self.loss is None:
            return clean(self.note, MAX_TEXT) or "could not be measured"
        return ("yes" if self.matters else "no longer") + (f"; {clean(self.note, MAX_TEXT)}" if self.note else "")


def trust(history: History) -> Trust | None:
    """None where nothing was measured: a bare results.tsv."""
    baseline = history.baseline
    if baseline is None or not baseline.measurements:
        return None
    readings, verified = Readings.of(history), verification(history)
    gain = confirmed(verified, readings.fresh_noise, history.session.direction) if verified else None
    return Trust(readings.noise, verified, gain, spent(history))


def facts(history: History, found: Trust) -> list[tuple[str, str]]:
    """All that is to be said, as (topic, sentence)."""
    said = [
        ("Noise of one reading", noise_text(history, found.noise)),
        ("The metric", metric_doubt(history)),
        ("Not confirmed" if found.unconfirmed else "Confirmed gain", confirmed_text(history, found)),
        ("While searching", _claimed(history, found)),
        ("Holdout", holdout_text(history)),
        ("Without one kept commit", ablation_text(history, found)),
        ("Runs", found.spent.text),
        ("The base", merge_text(history)),
        ("Another machine", _moved(history)),
        ("Near misses", near_miss_text(history)),
    ]
    return [(topic, sentence) for topic, sentence in said if sentence]


def noise_text(history: History, noise: Noise) -> str:
    """How much readings of one script differ."""
    if noise.degrees == 0:
        once = history.baseline is not None and len(history.baseline.measurements) == 1
        return f"not measured: {'the baseline was run once' if once else 'no script has two readings that count'}"
    if noise.exact:
        more = f"{noise.degrees} repeated run{'s' if noise.degrees > 1 else ''}"
        return f"none, the script always gave the same reading ({more}), so one reading decides"
    (shown,) = rounded(noise.sd, noise.sd)
    return (
        f"standard deviation {shown}, {noise.degrees} degrees of freedom, from every script that was run more than once"
    )


def gain_text(gain: Interval, noise: Noise) -> str:
    """A gain with its interval and the number of runs, such as `0.0123 (95 % CI 0.0101 to 0.0145, 3 runs of each)`."""
    runs = f"{gain.runs} run{'s' if gain.runs > 1 else ''} of each"
    if noise.degrees == 0:
        return f"{number(gain.gain)} ({runs}, how much readings differ is not known)"
    if noise.exact:
        return f"{number(gain.gain)} (exactly: readings do not differ, {runs})"
    middle, low, high = rounded((gain.high - gain.low) / 2, gain.gain, gain.low, gain.high)
    return f"{middle} (95 % CI {low} to {high}, {runs})"


def evidence_text(evidence: Evidence) -> str:
    """The gain that decided, with its standard error: `+0.0123 ± 0.0011`."""
    gain, error = rounded(evidence.standard_error, evidence.gain, evidence.standard_error)
    return f"{gain if gain.startswith('-') else f'+{gain}'} ± {error}"


def confirmed_text(history: History, found: Trust) -> str:
    """What base and best differ by when both are measured afresh; said plainly where that is less than was asked for."""
    verified, gain = found.verified, found.gain
    if not history.kept:
        return "nothing was kept, so there is nothing to confirm"
    if verified is None:
        best = history.best
        notes = (
            r.note
            for r in reversed(history.rechecks)
            if r.purpose is Purpose.VERIFY and best and r.subject == best.commit
        )
        why = next(notes, "")
        missing = "none: the base and the best commit were not measured again at the end"
        return f"{missing}; {clean(why, MAX_TEXT)}" if why else missing
    note = f"; {clean(verified.note, MAX_TEXT)}" if verified.note else ""
    if gain is None:
        return f"none: the fresh runs gave no reading of both the base and the best commit{note}"
    if not note and gain.runs < verified.wanted:
        note = f"; only {gain.runs} of the {verified.wanted} runs of each that were asked for count"
    doubt = f"; {DOUBT}" if found.unconfirmed else ""
    return f"{gain_text(gain, found.noise)}, from fresh runs of the base and the best commit{doubt}{note}"


def best_single(history: History) -> float | None:
    """The best reading of any one run by which a kept commit was chosen: what believing every reading would claim.

    Of those on the base as it is now, with which alone it can be compared; None where nothing was kept on it.
    """
    return _best(
        history,
        [
            m.reading.metric
            for e in history.chain[1:]
            for m in e.measurements
            if m.commit == e.commit and m.counts and m.reading.metric is not None
        ],
    )


def metric_doubt(history: History) -> str:
    """One line where the metric can hardly tell scripts apart, because it is saturated or has two or three values."""
    scripts = {e.fingerprint or e.commit: e.metric for e in history.experiments if e.metric is not None}
    readings = {m.reading.metric for e in history.experiments for m in e.measurements if m.counts}
    if not scripts:
        return ""
    top = _best(history, list(scripts.values()))
    at_top = sum(metric == top for metric in scripts.values())
    if len(readings) == 1 and len(scripts) >= SAME_FOR:
        return f"saturated: all {len(scripts)} different scripts read {number(top)}, so it cannot tell them apart"
    if at_top > 1 and top in BEST_POSSIBLE[history.session.direction]:
        return f"saturated: {at_top} different scripts read {number(top)}, and there may be nothing better"
    if len(readings) <= COARSE and len(scripts) >= COARSE_FROM:
        few = f"only {len(readings)} different values in {len(scripts)} different scripts"
        return f"coarse: {few}, so it cannot show a small gain"
    return ""


def keep_rows(history: History, found: Trust) -> list[tuple[str, ...]]:
    """The kept commits with the numbers that decided, one row for each, under `KEEP_HEADINGS`."""
    rows: list[tuple[str, ...]] = []
    before = history.on_branch[0].metric if history.on_branch else None
    alone = "exact: readings do not differ" if found.noise.exact and found.noise.degrees else "by one reading"
    for kept in history.on_branch[1:]:
        if kept.base:
            before = kept.metric
            continue
        evidence, gain, others, enough, why = kept.verdict.evidence, NO_VALUE, NO_VALUE, NO_VALUE, alone
        runs = str(sum(m.commit == kept.commit and m.counts for m in kept.measurements))
        if evidence is None and before is not None and kept.metric is not None:
            gain = f"{history.session.direction.gain(before, kept.metric):+.4g}"
        if evidence is not None:
            gain, runs, others = evidence_text(evidence), str(evidence.runs), str(evidence.incumbent_runs)
            (enough,) = rounded(evidence.standard_error, evidence.needed)
            why = "better" if evidence.gain > evidence.needed else "simpler, and not worse"
        rows.append((str(kept.number), kept.label, gain, enough, runs, others, why))
        before = kept.metric if kept.metric is not None else before
    return rows


def near_misses(history: History) -> list[Experiment]:
    """Discards that looked better by more than their standard error, the clearest first; not those that were settled later."""
    last = {e.fingerprint or e.commit: e for e in history.experiments}
    missed = [
        (evidence.gain / evidence.standard_error, e)
        for e in last.values()
        if e.status is Status.DISCARD
        and (evidence := e.verdict.evidence)
        and evidence.gain > evidence.standard_error > 0
    ]
    return [e for _, e in sorted(missed, key=lambda pair: (-pair[0], pair[1].number))]


def near_miss_text(history: History) -> str:
    """The clearest near misses with their gains; empty when there are none."""
    missed = near_misses(history)
    named = [
        f"{clean(e.description, MAX_TEXT)} ({evidence_text(e.verdict.evidence)})"
        for e in missed[:MAX_NAMED]
        if e.verdict.evidence is not None
    ]
    more = f"; and {len(missed) - MAX_NAMED} more" if len(missed) > MAX_NAMED else ""
    return f"discarded, and worth another look: {'; '.join(named)}{more}" if named else ""


def ablations(history: History, found: Trust) -> list[Ablation]:
    """What the best commit loses without each kept one, in the order they were kept, as far as it was measured."""
    best = history.best
    made = {r.reverted: r for r in history.rechecks if r.purpose is Purpose.ABLATE}  # the last one of each
    losses = []
    for kept in history.kept:
        recheck = made.get(kept.commit)
        if recheck is None or best is None or recheck.reference != best.commit:
            continue
        turned = replace(
            recheck, reference=recheck.subject, subject=recheck.reference
        )  # a loss is the best's gain on it
        losses.append(Ablation(kept, confirmed(turned, found.noise, history.session.direction), recheck.note))
    return losses


def ablation_text(history: History, found: Trust) -> str:
    """Which kept commits no longer matter; empty when it was not looked at."""
    made = ablations(history, found)
    if not made:
        return ""
    idle = [a.experiment for a in made if not a.matters]
    measured = sum(a.loss is not None for a in made)
    if not idle:
        return (
            f"each of the {measured} that could be measured still matters" if measured else "nothing could be measured"
        )
    named = "; ".join(f"{e.label} ({clean(e.description, MAX_TEXT)})" for e in idle[:MAX_NAMED])
    more = f"; and {len(idle) - MAX_NAMED} more" if len(idle) > MAX_NAMED else ""
    matter = "matters" if len(idle) == 1 else "matter"
    return f"{len(idle)} of {measured} no longer {matter}, as far as these runs can tell: {named}{more}"


def holdout_text(history: History) -> str:
    """Base against best on the metric that no proposer sees, by its own readings alone; empty when it was not looked at."""
    best = history.best
    found = (r for r in reversed(history.rechecks) if r.purpose is Purpose.HOLDOUT)
    recheck = next((r for r in found if best is not None and r.subject == best.commit), None)
    if recheck is None:
        return ""
    note = f"; {clean(recheck.note, MAX_TEXT)}" if recheck.note else ""
    groups = [recheck.readings(recheck.reference), recheck.readings(recheck.subject)]
    noise = _pooled(groups)
    gain = confirmed(recheck, noise, history.session.direction)
    if gain is None:
        return f"no reading of both the base and the best commit{note}"
    before, after = (number(fmean(group)) for group in groups)
    doubt = f"; {DOUBT} on the holdout" if gain.includes_zero else ""
    return f"{before} → {after}, gain {gain_text(gain, noise)}{doubt}{note}"


def _pooled(groups: list[tuple[float, ...]]) -> Noise:
    """The noise within groups of readings of one script each."""
    degrees = sum(max(0, len(group) - 1) for group in groups)
    if not degrees or all(len(set(group)) <= 1 for group in groups):
        return Noise(0.0, degrees)
    squares = (math.dist(group, [fmean(group)] * len(group)) for group in groups if group)
    return Noise(math.hypot(*squares) / math.sqrt(degrees), degrees)


def _claimed(history: History, found: Trust) -> str:
    """What the search itself would claim, which is too good by construction; empty where readings do not differ."""
    baseline, single = history.baseline, best_single(history)
    running = _best(history, [e.metric for e in history.chain[1:] if e.metric is not None])
    if found.noise.exact or baseline is None or baseline.metric is None or single is None or running is None:
        return ""
    gains = [f"{history.session.direction.gain(baseline.metric, value):.4g}" for value in (single, running)]
    return f"the best single reading is {gains[0]} better than the baseline, the running best {gains[1]}"


def _moved(history: History) -> str:
    """That readings of two machines are not compared; empty when there was one."""
    moved = [r for r in history.rechecks if r.purpose is Purpose.MACHINE]
    if not moved:
        return ""
    times = "" if len(moved) == 1 else f" {len(moved)} times, the last time"
    return f"the baseline and the incumbent were measured again{times}: {clean(moved[-1].note, MAX_TEXT)}"


def merge_text(history: History) -> str:
    """That the base went on and was merged, and what it left of the gain; empty when it was not."""
    if not history.merges:
        return ""
    last = history.merges[-1]
    times = "" if len(history.merges) == 1 else f" {len(history.merges)} times, the last time"
    compared = "the baseline is the base as it is since then, and nothing is compared with what was read before"
    return f"it went on{times} to {last.base[:7]}, as experiment {last.number}: {clean(last.verdict.reason, MAX_TEXT)}; {compared}"


def _best(history: History, values: list[float]) -> float | None:
    best_of = max if history.session.direction is Direction.MAXIMIZE else min
    return best_of(values, default=None)
