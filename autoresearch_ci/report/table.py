"""All experiments as one table: Markdown, LaTeX (booktabs), CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from typing import Final

from autoresearch_ci.experiment import Experiment, History, Scalar
from autoresearch_ci.report.markdown import cell, clean, number

FORMATS: Final[tuple[str, ...]] = ("markdown", "latex", "csv", "json")
TEXTS: Final = ("commit", "description")  # the columns with words of others: a bare results.tsv may hold any commit
COLUMNS: Final = ("number", "commit", "metric", "gain", "memory_gb", "status", "category", "description")
HEADINGS: Final = ("#", "Commit", "{metric}", "Gain", "Memory GB", "Status", "Category", "Description")
MAX_TEXT: Final = 500
LATEX: Final = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "→": r"$\rightarrow$", "×": r"$\times$", "−": "$-$", "—": "---", "…": r"\ldots{}",
    "[": "{[}", "]": "{]}",
}  # fmt: skip


def table(history: History, format: str) -> str:
    """The experiments in one of `FORMATS`, the baseline first; `gain` is against the baseline of its time, positive is better.

    Numbers have full precision in CSV and JSON and six digits for readers. Texts are exact in JSON and one visible line
    elsewhere. Raises ValueError for another format.
    """
    match format:
        case "markdown":
            return _markdown(history)
        case "latex":
            return _latex(history)
        case "csv":
            return _csv(history)
        case "json":
            rows = [_row(history, experiment) for experiment in history.experiments]
            return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    raise ValueError(f"unknown table format {format!r}")


def _row(history: History, experiment: Experiment) -> dict[str, Scalar]:
    baseline = history.baseline_of(experiment)
    before = baseline.metric if baseline else None
    metric = experiment.metric
    return {
        "number": experiment.number,
        "commit": experiment.label,
        "metric": metric,
        "gain": None if metric is None or before is None else history.session.direction.gain(before, metric),
        "memory_gb": experiment.memory_gb,
        "status": experiment.status.value,
        "category": experiment.category.value,
        "description": experiment.description,
    }


def _shown(row: Mapping[str, Scalar], escape: Callable[[str], str]) -> list[str]:
    """The cells for a reader: texts escaped, numbers with six digits."""
    return [escape(str(value)) if name in TEXTS else _plain(value) for name, value in row.items()]


def _plain(value: Scalar) -> str:
    return number(value) if value is None or isinstance(value, float) else str(value)


def _markdown(history: History) -> str:
    headings = [heading.format(metric=cell(history.session.metric)) for heading in HEADINGS]
    lines = [f"| {' | '.join(headings)} |", "|--:|---|--:|--:|--:|---|---|---|"]
    lines += [f"| {' | '.join(_shown(_row(history, experiment), cell))} |" for experiment in history.experiments]
    return "\n".join(lines) + "\n"


def _latex(history: History) -> str:
    headings = [_escape(h.format(metric=history.session.metric)) for h in HEADINGS]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{rlrrrlll}",
        r"\toprule",
        f"{' & '.join(headings)} \\\\",
        r"\midrule",
    ]
    for experiment in history.experiments:
        shown = (LATEX.get(text, text) for text in _shown(_row(history, experiment), _escape))
        lines.append(f"{' & '.join(shown)} \\\\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _escape(text: str) -> str:
    """`text` on one line that TeX sets as it stands."""
    return "".join(LATEX.get(c, c) for c in clean(text, MAX_TEXT))


def _csv(history: History) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")  # no text holds a line end of any kind
    writer.writeheader()
    for experiment in history.experiments:
        row = _row(history, experiment)
        writer.writerow(row | {name: _spreadsheet(str(row[name])) for name in TEXTS})
    return out.getvalue()


def _spreadsheet(text: str) -> str:
    """`text` on one line, which no spreadsheet runs as a formula (OWASP, CSV injection)."""
    line = clean(text, MAX_TEXT)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line
