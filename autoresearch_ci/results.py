"""results.tsv, the public extract of the journal: written in the contract's form, read leniently.

Header `commit⇥<metric>⇥mem_gb⇥status⇥description`. Read as well: karpathy/autoresearch's files and those that people and agents
edit (`memory_gb`, `0.000000` in a crash row, commits that are no hash, CRLF, a byte-order mark, columns in another order). A
crash never counts as a value.
"""

from __future__ import annotations

import math
import re
from typing import Final

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.experiment import Category, Direction, Experiment, History, Session, Status, Verdict

NONE: Final = "—"
MAX_DESCRIPTION: Final = 300

_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+"
)
_MEMORY: Final = ("mem_gb", "memory_gb")
_WORDS: Final = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])")
_LOWER_IS_BETTER: Final = re.compile(
    r"(?:\w*(?:loss|perplexity|error)|err|bpb|bpc|ppl|nll|wer|cer|r?mse|mae|mape|fid|latency|time)(?:e?s)?\d*"
)
_HIGHER_IS_BETTER: Final = re.compile(
    r"(?:\w*accuracy|acc|top|f1|auc|auroc|bleu|rouge|m?ap|m?iou|dice|r2|score|reward|recall|precision)s?\d*"
)
_STATUSES: Final = {status.value: status for status in Status}
_VERDICTS: Final = {status: Verdict(status=status, reason="") for status in Status}


def write(history: History) -> str:
    """The whole table."""
    return header(history.session.metric) + "".join(row(experiment) for experiment in history.experiments)


def header(metric: str) -> str:
    return f"commit\t{metric}\tmem_gb\tstatus\tdescription\n"


def row(experiment: Experiment) -> str:
    """One line: 7 characters of the hash, the metric exactly as it was read, memory with one decimal."""
    metric = NONE if experiment.metric is None else repr(experiment.metric)
    memory = NONE if experiment.memory_gb is None else f"{experiment.memory_gb:.1f}"
    return f"{experiment.label}\t{metric}\t{memory}\t{experiment.status.value}\t{_one_line(experiment.description)}\n"


def _one_line(text: str) -> str:
    """A description that stays in its cell, also in a spreadsheet, which would run one that begins as a formula."""
    text = _visible(text)[:MAX_DESCRIPTION]
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _visible(text: str) -> str:
    return (text if text.isprintable() else _UNPRINTABLE.sub(" ", text)).strip()


def read(text: str, *, metric: str | None = None, direction: Direction | None = None) -> History:
    """The history in a results.tsv, whoever wrote it; SettingsError, with the line, when it is none.

    `metric`: the column that counts, the second by default. `direction`: guessed from the metric's name by default.
    """
    # not splitlines: it would cut a cell at U+2028
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    first = next((number for number, line in enumerate(lines, start=1) if line.strip()), 1)
    columns = [name.strip() for name in lines[first - 1].split("\t")]
    if "commit" not in columns or "status" not in columns or len(columns) < 3:
        raise SettingsError(
            f"line {first} is not the header of a results.tsv",
            hint="it reads `commit`, the metric, `mem_gb`, `status`, `description`",
        )
    known = {"commit", "status", "description", *_MEMORY}
    name = metric or next((column for column in columns if column not in known), "")
    if name not in columns:
        raise SettingsError(
            f"there is no column `{name or 'of a metric'}`", hint=f"its columns are {', '.join(columns)}"
        )
    at = {column: index for index, column in enumerate(columns)}
    memory_at = next((at[column] for column in _MEMORY if column in at), -1)
    commit_at, metric_at, status_at, description_at = at["commit"], at[name], at["status"], at.get("description", -1)
    experiments: list[Experiment] = []
    crash, other = Status.CRASH, Category.OTHER  # looked up once: an enumeration's names cost more than a cell
    for number, line in enumerate(lines[first:], start=first + 1):
        if not line.strip():
            continue
        cells = line.split("\t")
        cells += [""] * (len(columns) - len(cells))
        status = _STATUSES.get(cells[status_at].strip().lower())
        if status is None:
            raise SettingsError(
                f"line {number}: `{cells[status_at].strip()[:40]}` is no status", hint="one of keep, discard, crash"
            )
        value = None if status is crash else _number(cells[metric_at])
        if status is not crash and value is None:
            raise SettingsError(
                f"line {number}: `{cells[metric_at].strip()[:40]}` is no value of {name}",
                hint="a crash has the status `crash`",
            )
        experiments.append(
            Experiment(
                number=len(experiments),
                commit=cells[commit_at].strip(),
                parent="",
                description=_visible(cells[description_at]) if description_at >= 0 else "",
                category=other,
                verdict=_VERDICTS[status],
                metric=value,
                memory_gb=None if status is crash or memory_at < 0 else _number(cells[memory_at]),
            )
        )
    return History(
        session=Session(tag="", metric=name, direction=direction or _guess(name), training_script=""),
        experiments=tuple(experiments),
    )


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _guess(metric: str) -> Direction:
    """From the words of the name: `val_bpb` goes down, `valAcc` up; a name that says neither, or both, is asked for."""
    words = [word.lower() for word in _WORDS.split(metric)]
    lower, higher = (any(map(rule.fullmatch, words)) for rule in (_LOWER_IS_BETTER, _HIGHER_IS_BETTER))
    if lower != higher:
        return Direction.MINIMIZE if lower else Direction.MAXIMIZE
    raise SettingsError(
        f"it is not known whether `{metric}` is better lower or higher", hint="say so with `--direction`"
    )
