"""What every command that works on a session begins with: the session, held, and where it can be measured."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from autoresearch_ci import digests, results
from autoresearch_ci.cli import wiring
from autoresearch_ci.cli.conclusion import in_repository
from autoresearch_ci.cli.environment import Place, environment
from autoresearch_ci.cli.options import Call
from autoresearch_ci.cli.parts import make_runs
from autoresearch_ci.cli.signals import Signals
from autoresearch_ci.cli.trigger import check_event, check_trigger
from autoresearch_ci.cli.wiring import Opened
from autoresearch_ci.console import Console
from autoresearch_ci.errors import GitError, SettingsError
from autoresearch_ci.experiment import History
from autoresearch_ci.runs import Runs


@contextmanager
def opening(call: Call, signals: Signals, *, starting: bool = False) -> Iterator[Opened]:
    """The session that the settings name, held by this process alone. Nobody else may have started the job, no secret is said,
    and in a job a signal is quick. `starting`: as for `open_session`."""
    call.console.mask()
    check_event(call.environ)
    loaded, today = call.load(), now().date()
    with wiring.open_session(call.environ, call.directory, loaded, today=today, starting=starting) as opened:
        call.console.mask(opened.scrubber)
        check_trigger(call.console, call.environ, opened.forge, opened.checkout.git_dir / "config")
        if call.environ.get("GITHUB_ACTIONS") == "true":
            signals.hurry = opened.workspace.hurry
        yield opened


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@contextmanager
def measuring(call: Call, opened: Opened, signals: Signals) -> Iterator[Runs]:
    """What makes runs of the session's commits, here and now. MachineError when nothing can be run here."""
    with place_for(call, opened) as place:
        describe(call.console, place)
        yield make_runs(call.console, opened, place, signals, files_of(opened))


def place_for(call: Call, opened: Opened, *, native_when_no_container: bool = False) -> AbstractContextManager[Place]:
    return environment(
        call.console,
        call.environ,
        opened.settings,
        state=opened.folder,
        session=opened.tag,
        requirements=_requirements(opened),
        native_when_no_container=native_when_no_container,
        ask_native=not native_when_no_container,  # the demo's script is our own
    )


def describe(console: Console, place: Place) -> None:
    detected = place.detection
    console.info(f"platform: {place.platform.value} ({detected.name}), executor: {place.kind} ({place.why})")
    if len(place.slots) > 1:
        console.info(f"  {len(place.slots)} runs at the same time, each on {place.device}")
    for line in place.adjustments.lines():
        console.info(f"  {line}")
    if place.wall:
        console.warning(f"runs are native, no container walls them in; what does: {place.wall}")


def _requirements(opened: Opened) -> bytes | None:
    """The repository's own requirements, as the base commit has them."""
    name = opened.settings.requirements
    if name is None:
        return None
    path = in_repository(opened, name)
    data = opened.workspace.read_base(path)
    if data is None:
        raise SettingsError(f"the base commit has no `{path}`", hint="commit it, or change `requirements`")
    return data


def files_of(opened: Opened) -> dict[str, str]:
    """The digest of every file of the base commit but the training script; GitError when they are not the journal's."""
    with opened.workspace.export(opened.workspace.base_commit) as tree:
        files = digests.take(tree, opened.checkout.script)
    session = opened.history.session if opened.history else None
    recorded = session.files_digest if session and session.base_commit == opened.workspace.base_commit else ""
    if recorded and recorded != digest(files):
        raise GitError(
            "the base commit's files are not those that the session began with",
            hint="the session's clone may be damaged: look at it with `git fsck`, or start with another tag",
        )
    return files


def digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(digests.write(files)).hexdigest()


def reconcile(opened: Opened, history: History, files: Mapping[str, bytes]) -> None:
    """Refs as the journal says, whatever instant the last process died at; `files` go with it."""
    recorded = opened.journal.all_files() | {"results.tsv": results.write(history).encode()}
    opened.workspace.record(history, recorded | dict(files))
    opened.workspace.push()
