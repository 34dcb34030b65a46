"""The picture of a session: every experiment, and how the best metric moved."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeVar

from autoresearch_ci.experiment import Direction, History, Status
from autoresearch_ci.report.markdown import clean, number
from autoresearch_ci.report.trust import best_single, gain_text, trust

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Item = TypeVar("Item")

CHART_FILE: Final = "autoresearch-chart.svg"  # its name on the branch and beside a summary
SIZE: Final = (10.0, 5.2)  # inches
MAX_POINTS: Final = 1000  # of each kind: more cannot be told apart, and every point costs about 100 bytes of SVG
MAX_LABELS: Final = 8
MAX_TITLE: Final = 150
WIDE_TITLE, MIDDLE_TITLE = 90, 130  # characters of large and of middle type that fit above the axes
INK, FAINT, KEEP, CRASH, GRID = "#24292f", "#8c959f", "#1a7f37", "#cf222e", "#d8dee4"


def chart(history: History) -> str:
    """An SVG of the metric over the experiments, the same bytes for the same history.

    A discard far outside what was kept is drawn at the edge, so that it does not flatten the curve.
    """
    from matplotlib import rc_context, rcParams
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Text stays text: small, selectable, and the same bytes on a machine with other fonts.
    with rc_context(), warnings.catch_warnings():
        # Text is drawn with the reader's fonts, so what ours lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph ")
        rcParams.update({"svg.hashsalt": "autoresearch-ci", "svg.fonttype": "none", "text.parse_math": False})
        rcParams.update({"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"]})
        figure = Figure(figsize=SIZE, facecolor="white")
        figure.subplots_adjust(left=0.1, right=0.98, top=0.9, bottom=0.18)
        FigureCanvasSVG(figure)
        _draw(figure.add_subplot(), history)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue().decode()


def headline(history: History) -> str:
    """The session in one plain line: the gain that fresh runs confirmed, else from where to where; and how many were kept."""
    session, baseline, best = history.session, history.baseline, history.best
    tried = len(history.tried)
    if baseline is None or baseline.metric is None or best is None or best.metric is None:
        return f"{session.branch}: no baseline of {session.metric} yet"
    if not history.kept:
        return f"{session.branch}: {session.metric} {number(baseline.metric)}, nothing kept of {tried} tried"
    share = percent(baseline.metric, best.metric)
    moved = f"{number(baseline.metric)} → {number(best.metric)}" + (f" ({share})" if share else "")
    kept, found = f"{len(history.kept)} of {tried} kept", trust(history)
    if found is None or found.verified is None:
        return f"{session.branch}: {session.metric} {moved}, {kept}"
    doubt = "not confirmed: " if found.unconfirmed else ""
    if found.gain is None:
        return f"{doubt}{session.branch}: {session.metric} {moved}, {kept}"
    single = best_single(history)
    claimed = "" if single is None else f", best single reading {number(baseline.metric)} → {number(single)}"
    return f"{doubt}{session.branch}: {session.metric} gain {gain_text(found.gain, found.noise)}{claimed}, {kept}"


def percent(before: float, after: float) -> str:
    """The change as a signed share of `before`, such as `-2.8 %`; empty where `before` is zero."""
    if not before:
        return ""
    share = 100 * (after - before) / abs(before)
    return f"{share:+.3g} %" if abs(share) < 1000 else f"{share:+.0f} %"


def thinned(experiments: Sequence[Item], limit: int = MAX_POINTS) -> list[Item]:
    """At most `limit` of them, evenly spread, always the same ones, the first and the last among them."""
    if len(experiments) <= limit:
        return list(experiments)
    return [experiments[index * (len(experiments) - 1) // (limit - 1)] for index in range(limit)]


def limits(history: History) -> tuple[float, float]:
    """The range of the metric that is shown: all that was kept, and as much of the discards again on the worse side."""
    bases = [merge.as_baseline for merge in history.merges]
    kept = [e.metric for e in (*history.of(Status.KEEP), *bases) if e.metric is not None]
    rest = sorted(e.metric for e in history.of(Status.DISCARD) if e.metric is not None)
    low, high = (min(kept), max(kept)) if kept else (rest[0], rest[-1]) if rest else (0.0, 1.0)
    reach = (high - low) or abs(high) * 0.02 or 1.0
    if rest:
        # Three quarters of the discards are shown where they are, when they are not absurdly far away.
        near, far = rest[len(rest) // 8], rest[len(rest) - 1 - len(rest) // 8]
        low, high = min(low, max(near, low - reach)), max(high, min(far, high + reach))
    margin = 0.08 * (high - low) or reach
    return low - margin, high + margin


def _draw(axes: Axes, history: History) -> None:
    from matplotlib.ticker import MaxNLocator

    session = history.session
    last = history.experiments[-1].number if history.experiments else 1
    left, right = -0.02 * last - 0.5, last * 1.02 + 0.5
    low, high = limits(history)
    axes.set_ylim(low, high)
    _draw_failures(axes, history, low, high)
    _draw_baselines(axes, history, left, right)
    _draw_keeps(axes, history)
    better = "lower" if session.direction is Direction.MINIMIZE else "higher"
    title = clean(headline(history), MAX_TITLE)
    size = 11.0 if len(title) <= WIDE_TITLE else 8.0 if len(title) <= MIDDLE_TITLE else 7.0
    axes.set_title(title, loc="left", fontsize=size, color=INK, fontweight="bold", pad=12)
    axes.set_xlabel("experiment", color=INK)
    axes.set_ylabel(f"{clean(session.metric, 40)} ({better} is better)", color=INK)
    axes.set_xlim(left, right)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_color(GRID)
        spine.set_visible(side in {"left", "bottom"})
    if history.experiments:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=5, fontsize=8, frameon=False, labelcolor=INK)


def _draw_baselines(axes: Axes, history: History, left: float, right: float) -> None:
    """The untouched script as a line, up to where the base was merged and another one takes its place."""
    baseline = history.baseline
    starts = [*history.experiments[:1], *history.merges]
    ends = [*(float(merge.number) for merge in history.merges), right]
    for start, end in zip(starts, ends, strict=False):  # an empty session has no start
        metric = start.as_baseline.metric
        if metric is not None:
            x = [start.number if start.base else left, end]
            axes.plot(x, [metric, metric], color=FAINT, linewidth=1, linestyle="--", zorder=2)
    for merge in history.merges:
        axes.axvline(merge.number, color=FAINT, linewidth=1, linestyle=":", zorder=2)
        axes.annotate(
            f"base {merge.base[:7]}", (merge.number, 1), xycoords=("data", "axes fraction"), xytext=(3, -9),
            textcoords="offset points", color=FAINT, fontsize=8,
        )  # fmt: skip
    if baseline is not None and baseline.metric is not None:
        axes.annotate(
            f"baseline {number(baseline.metric)}", (1, baseline.metric), xycoords=("axes fraction", "data"),
            xytext=(-4, 3), textcoords="offset points", ha="right", color=FAINT, fontsize=8,
        )  # fmt: skip


def _draw_failures(axes: Axes, history: History, low: float, high: float) -> None:
    """Discards where they are or as arrows at the edge they are beyond, crashes as crosses on the worse edge."""
    minimize = history.session.direction is Direction.MINIMIZE
    discards = [e for e in history.of(Status.DISCARD) if e.metric is not None]
    inside = thinned([e for e in discards if low <= (e.metric or 0.0) <= high])
    above = thinned([e for e in discards if (e.metric or 0.0) > high])
    below = thinned([e for e in discards if (e.metric or 0.0) < low])
    crashes = thinned(history.of(Status.CRASH))
    alpha = 0.55 if len(inside) < 300 else 0.25
    if inside:
        axes.plot([e.number for e in inside], [e.metric or 0.0 for e in inside], "o", color=FAINT, markersize=4,
                  markeredgewidth=0, alpha=alpha, label=f"discarded ({len(discards)})")  # fmt: skip
    for beyond, edge, marker in ((above, high, "^"), (below, low, "v")):
        if beyond:
            axes.plot([e.number for e in beyond], [edge] * len(beyond), marker, color=FAINT, markersize=5, alpha=alpha,
                      markeredgewidth=0, clip_on=False, label="beyond the scale")  # fmt: skip
    if crashes:
        edge = high if minimize else low
        axes.plot([e.number for e in crashes], [edge] * len(crashes), "x", color=CRASH, markersize=5, clip_on=False,
                 alpha=0.8, label=f"crashed ({len(history.of(Status.CRASH))})")  # fmt: skip


def _draw_keeps(axes: Axes, history: History) -> None:
    """The running best as a step line to the last experiment, its points, and the numbers of the largest gains."""
    direction = history.session.direction
    kept = [e for e in history.of(Status.KEEP) if e.metric is not None]
    if not kept:
        return
    best_of = max if direction is Direction.MAXIMIZE else min
    best: list[float] = []
    for e in kept:  # a merge of the base starts anew
        best.append(e.metric or 0.0 if e.base or not best else best_of(best[-1], e.metric or 0.0))
    steps = list(zip(kept, best, strict=True))
    drawn = thinned(steps)
    x, y = [e.number for e, _ in drawn], [metric for _, metric in drawn]
    axes.step([*x, history.experiments[-1].number], [*y, y[-1]], where="post", color=KEEP, linewidth=1.8, zorder=3,
              label="best so far")  # fmt: skip
    shown = thinned(kept)
    label = f"kept ({len(history.kept)})" if history.kept else "baseline"
    rim = 0.8 if len(shown) < 200 else 0.0
    axes.plot([e.number for e in shown], [e.metric or 0.0 for e in shown], "o", color=KEEP, markersize=6, zorder=4,
              markeredgecolor="white", markeredgewidth=rim, label=label)  # fmt: skip
    gains = [
        (direction.gain(before, after), e.number, after) for (_, before), (e, after) in pairwise(steps) if not e.base
    ]
    for gain, at, metric in sorted(gains, reverse=True)[:MAX_LABELS]:
        if gain > 0:
            axes.annotate(str(at), (at, metric), xytext=(5, 5), textcoords="offset points", color=KEEP, fontsize=8)
