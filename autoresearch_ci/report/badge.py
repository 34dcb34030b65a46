"""A badge for a README: what the session reached, as a small SVG that needs nothing from anywhere."""

from __future__ import annotations

import unicodedata
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from autoresearch_ci.experiment import History
from autoresearch_ci.report.markdown import clean, number
from autoresearch_ci.report.standing import reached

BADGE_FILE: Final = "autoresearch-badge.svg"  # its name on the branch
LABEL: Final = "autoresearch"
MAX_METRIC: Final = 30
HEIGHT: Final = 20
PADDING: Final = 6
# White on each of them has a contrast of 4.5 or more (WCAG 2.2, 1.4.3).
LABEL_COLOUR, NOTHING, DOUBT, SURE = "#3d444d", "#656d76", "#bc4c00", "#1a7f37"
# Widths of Verdana's letters at 11 pixels, by kind: `textLength` makes what is drawn fit them in any font.
NARROW, USUAL, BROAD, WIDE = 4.0, 7.0, 9.5, 11.5
NARROW_LETTERS: Final = frozenset("fijlrtI.,:;'|!()[]/ 1")
BROAD_LETTERS: Final = frozenset("mwMWGOQ%@−+")


def badge(history: History) -> str:
    """Valid XML, the same for the same history: `autoresearch | val_bpb 0.9612 −3.1 % ✓`.

    Grey when nothing was kept, orange while the gain is not confirmed, green with a tick when it is.
    """
    now, metric = reached(history), clean(history.session.metric, MAX_METRIC)
    if now.after is None:
        value, said, colour = "no baseline yet", "no baseline yet", NOTHING
    elif not now.kept:
        value, said, colour = f"{metric} {number(now.after)}", "nothing kept", NOTHING
    elif now.confirmed:
        value, said, colour = (
            f"{metric} {number(now.after)} {now.share}".rstrip() + " ✓",
            "confirmed by fresh runs",
            SURE,
        )
    else:
        value, said, colour = f"{metric} {number(now.after)} {now.share}".rstrip(), "not confirmed", DOUBT
    return _drawn(
        value, f"{LABEL}: {value}" if value == said else f"{LABEL}: {value.removesuffix(' ✓')}, {said}", colour
    )


def _drawn(value: str, title: str, colour: str) -> str:
    left, right = _width(LABEL) + 2 * PADDING, _width(value) + 2 * PADDING
    width = left + right
    texts = "".join(
        f'<text x="{x}" y="14" textLength="{_width(text)}">{escape(text)}</text>'
        for x, text in ((PADDING, LABEL), (left + PADDING, value))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" role="img" aria-label={quoteattr(title)}>'
        f"<title>{escape(title)}</title>"
        f'<clipPath id="r"><rect width="{width}" height="{HEIGHT}" rx="3"/></clipPath>'
        f'<g clip-path="url(#r)"><rect width="{left}" height="{HEIGHT}" fill="{LABEL_COLOUR}"/>'
        f'<rect x="{left}" width="{right}" height="{HEIGHT}" fill="{colour}"/></g>'
        f'<g fill="#fff" font-family="Verdana,Geneva,DejaVu Sans,sans-serif" font-size="11">{texts}</g></svg>\n'
    )


def _width(text: str) -> int:
    """Pixels of a line."""
    return round(sum(map(_letter, text)))


def _letter(letter: str) -> float:
    if letter in NARROW_LETTERS:
        return NARROW
    if letter in BROAD_LETTERS:
        return BROAD
    return WIDE if unicodedata.east_asian_width(letter) in "WF" else 0.0 if unicodedata.combining(letter) else USUAL
