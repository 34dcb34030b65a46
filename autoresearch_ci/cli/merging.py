"""`merge`: the reviewer's decision, from a shell."""

from __future__ import annotations

from functools import partial

from autoresearch_ci.cli import tags, wiring
from autoresearch_ci.cli.options import Call
from autoresearch_ci.cli.record import recorded
from autoresearch_ci.errors import GitError, SettingsError
from autoresearch_ci.experiment import History
from autoresearch_ci.workspace import MergeMethod, find_author, inspect_repository, merge_branch


def merge(call: Call, *, method: str) -> None:
    """Merges the session's branch into the base branch of the user's repository; prints the new tip."""
    try:
        how = MergeMethod(method)
    except ValueError as error:
        names = ", ".join(m.value for m in MergeMethod)
        raise SettingsError(f"`--method` cannot be {method!r}", hint=f"one of {names}") from error
    values = call.values()
    checkout = inspect_repository(call.directory, str(values.get("training-script") or "train.py"))
    state = wiring.state_folder(call.directory, checkout.git_dir, values.get("state-dir"))
    tag = tags.recorded_tag(str(values.get("tag") or ""), partial(tags.latest_tag, state, None))
    found = recorded(call.environ, call.directory, {**values, "tag": tag})
    into = str(values.get("base") or (found[0].session.base_branch if found else "") or checkout.base_branch)
    if not into:
        raise GitError("it is not known which branch to merge into", hint="name it with `--base`")
    tip = merge_branch(
        checkout, tag=tag, method=how, into=into, message=_message(tag, found[0] if found else None),
        author=find_author(checkout, call.environ),
    )  # fmt: skip
    call.console.info(f"`{into}` holds `autoresearch/{tag}` now ({how.value})")
    call.console.data(tip)


def _message(tag: str, history: History | None) -> str:
    lines = [f"Merge autoresearch/{tag}", ""]
    if history is not None:
        lines += [
            f"- {experiment.description} ({history.session.metric} {experiment.metric:.6g})"
            for experiment in history.kept
        ]
    return "\n".join(lines).rstrip() + "\n"
