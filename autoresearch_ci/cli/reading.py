"""`report`, `status` and `export`: look at a session, or at a bare results.tsv, without running anything."""

from __future__ import annotations

import datetime as dt
import gc
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from autoresearch_ci import journal, results
from autoresearch_ci.cli.options import Call
from autoresearch_ci.errors import GitError, SettingsError
from autoresearch_ci.experiment import Direction, History, Usage
from autoresearch_ci.live import Live, LiveSlot
from autoresearch_ci.report.chart import CHART_FILE, chart
from autoresearch_ci.report.forecast import forecast, forecast_text, max_hours, pace
from autoresearch_ci.report.progress import progress_report
from autoresearch_ci.report.proposers import by_category, by_proposer
from autoresearch_ci.report.slots import running_text, slots_now
from autoresearch_ci.report.summary import summary
from autoresearch_ci.report.table import FORMATS, table

if TYPE_CHECKING:
    from autoresearch_ci.workspace import Remote

GITHUB: Final = "https://github.com"


def read_history(path: Path, values: Mapping[str, Any]) -> History:
    """The history in a journal (`.jsonl`) or a results.tsv; SettingsError when the file is neither."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"cannot read {path}: {error.strerror}", hint="name a results.tsv or a journal.jsonl"
        ) from error
    if path.suffix == ".jsonl":
        try:
            return journal.parse(data)
        except ValueError as error:
            raise SettingsError(f"{path.name} is no journal: {error}", hint="was it cut off or edited?") from error
    direction = values.get("direction")
    try:
        wanted = Direction(direction) if direction else None
    except ValueError as error:
        raise SettingsError(f"`direction` cannot be {direction!r}", hint="`minimize` or `maximize`") from error
    history = results.read(data.decode("utf-8", errors="replace"), metric=values.get("metric"), direction=wanted)
    return replace(history, session=replace(history.session, tag=str(values.get("tag") or path.parent.resolve().name)))


def find_history(
    results_file: Path | None, environ: Mapping[str, str], directory: Path, values: Mapping[str, Any]
) -> History:
    """The named file's history, else that of this repository's session, else that of `results.tsv` in the folder."""
    if results_file is not None:
        return read_history(results_file if results_file.is_absolute() else directory / results_file, values)
    from autoresearch_ci.cli.record import recorded  # git and its library: a table that was named needs neither

    found = recorded(environ, directory, values)
    if found is not None:
        return found[0]
    default = directory / str(values.get("results-file") or "results.tsv")
    if default.is_file():
        return read_history(default, values)
    raise SettingsError(
        "there is no session here and no results.tsv", hint="name a file: `autoresearch-ci report FILE`"
    )


def write_report(call: Call, *, results: Path | None, output: Path | None, as_json: bool) -> None:
    """The summary and the chart of what there is, written beside each other; with `--output -` the summary on stdout."""
    gc.disable()  # all that is read lives to the end; looking for garbage among 100,000 rows costs a tenth of the time
    values = call.values()
    history = find_history(results, call.environ, call.directory, values)
    if as_json:
        call.console.data(table(history, "json"))
        return
    text = summary(history)
    if output is not None and str(output) == "-":
        call.console.data(text)
        return
    target = call.directory / (output or str(values.get("summary-file") or "autoresearch-summary.md"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        (target.parent / CHART_FILE).write_text(chart(history), encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"cannot write {target}: {error.strerror}", hint="name another place with `--output`"
        ) from error
    call.console.info(f"wrote {target} and {target.parent / CHART_FILE}")


def export_table(call: Call, *, results: Path | None, table_format: str) -> None:
    """All experiments as a table on stdout."""
    if table_format not in FORMATS:
        raise SettingsError(f"`--format` cannot be {table_format!r}", hint=f"one of {', '.join(FORMATS)}")
    history = find_history(results, call.environ, call.directory, call.values())
    call.console.data(table(history, table_format))


def show_status(call: Call, *, as_json: bool, repository: str | None = None) -> None:
    """The progress report of a session on stdout, and what is running now when it runs on this machine.

    `repository`: `owner/name` on the server, whose session is read from its refs alone; nothing of this machine counts then.
    """
    live: Live | None = None
    gone = False
    if repository is not None:
        history = _history_on_the_server(call, repository)
    else:
        from autoresearch_ci.cli.record import recorded

        found = recorded(call.environ, call.directory, call.values())
        if found is None:
            raise SettingsError(
                "there is no session here", hint="`autoresearch-ci run` starts one; `--tag` names another"
            )
        history, live = found[0], found[1].now_running()
        if live is not None and live.is_gone:
            live, gone = None, not history.ended
    now = dt.datetime.now(dt.UTC)
    if as_json:
        call.console.data(json.dumps(_facts(history, live, now), indent=2, ensure_ascii=False))
        return
    call.console.data(progress_report(history, now=now))
    call.console.data("")
    for line in _right_now(history, live, now):
        call.console.data(line)
    if gone:
        call.console.data("**Stopped:** its process ended without a word; `autoresearch-ci run` goes on")
    if repository is not None and history.session.run_url:
        call.console.data(f"**Last run:** {history.session.run_url}")


def _right_now(history: History, live: Live | None, now: dt.datetime) -> list[str]:
    """What runs, in every slot where there are several, or why nothing does; and what is left."""
    lines = []
    if live is not None and live.several:
        lines = slots_now(live, now)
    elif live is not None and live.running:
        lines = [f"**Running:** {running_text(slot, now)}" for slot in live.running]
    elif history.ended:
        lines = [f"**Ended:** {history.ended}"]
    if live is not None and not history.ended:
        left = forecast(history, now=now, since=live.since, hours=max_hours(history))
        lines.append(f"**Forecast:** {forecast_text(history, left, since=live.since)}")
    return lines


def _facts(history: History, live: Live | None, now: dt.datetime) -> dict[str, Any]:
    best, since = history.best, live.since if live else None
    left = forecast(history, now=now, since=since, hours=max_hours(history))
    used = sum((e.usage for e in history.experiments), Usage())
    return {
        "tag": history.session.tag,
        "branch": history.session.branch,
        "metric": history.session.metric,
        "experiments": len(history.tried),
        "kept": len(history.kept),
        "baseline": history.baseline.metric if history.baseline else None,
        "best": best.metric if best else None,
        "usage": {"calls": used.calls, "tokens": used.tokens, "cost": used.cost},
        "proposers": {name: {"experiments": int(n), "kept": int(kept)} for name, n, kept, *_ in by_proposer(history)},
        "categories": {name: {"experiments": int(n), "kept": int(kept)} for name, n, kept, *_ in by_category(history)},
        "ended": history.ended,
        "running": _running(live),
        "slots": [_slot(slot, now) for slot in live.slots] if live else [],
        "waiting": list(live.waiting) if live else [],
        "per_hour": pace(history, since),
        "forecast": {
            "experiments": left.experiments,
            "at": left.at.isoformat() if left.at else None,
            "because": left.because or "unlimited",
        }
        if left
        else None,
        "run_url": history.session.run_url,
    }


def _running(live: Live | None) -> dict[str, Any] | None:
    """What runs in the first slot that is in use."""
    slot = live.running[0] if live and live.running else None
    if live is None or slot is None or slot.started_at is None:
        return None
    return {
        "number": slot.number,
        "description": slot.description,
        "started_at": slot.started_at.isoformat(),
        "pid": live.pid,
    }


def _slot(slot: LiveSlot, now: dt.datetime) -> dict[str, Any]:
    return {
        "slot": slot.slot,
        "device": slot.device,
        "number": slot.number,
        "description": slot.description,
        "started_at": slot.started_at.isoformat() if slot.started_at else None,
        "busy_share": round(slot.busy_share(now), 4),
    }


def _history_on_the_server(call: Call, repository: str) -> History:
    """A session of any repository that can be read: without a checkout, and without a token when it is public."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}", repository):
        raise SettingsError("`--repo` is not a repository", hint="write it as `owner/name`")
    from autoresearch_ci.forges.tokens import TOKEN_VARIABLES
    from autoresearch_ci.workspace import Remote, list_sessions

    server = (call.environ.get("GITHUB_SERVER_URL") or GITHUB).rstrip("/")
    token = next((call.environ[name].strip() for name in TOKEN_VARIABLES if call.environ.get(name)), "")
    remote = Remote(url=f"{server}/{repository}.git", token=lambda: token)
    tag = str(call.flags.get("tag") or "")
    if not tag:
        with tempfile.TemporaryDirectory(prefix="autoresearch-status-") as folder:
            there = list_sessions(remote, Path(folder))
        if not there:
            raise SettingsError(f"{repository} has no session", hint="is it the right repository?")
        tag = there[-1][0]
    history = read_remote(remote, tag)
    if history is None:
        raise SettingsError(f"{repository} has no session `{tag}`", hint="without `--tag`, its latest session is shown")
    return history


def read_remote(remote: Remote, tag: str) -> History | None:
    """The session of this tag as its refs on the remote tell it, without a checkout; None when there is none."""
    from autoresearch_ci.workspace import read_session

    with tempfile.TemporaryDirectory(prefix="autoresearch-session-") as folder:
        data = journal.join_segments(read_session(remote, tag, Path(folder)))
    if not data:
        return None
    try:
        return journal.parse(data)
    except ValueError as error:
        raise GitError(f"the session's journal cannot be read: {error}", hint="was it edited?") from error
