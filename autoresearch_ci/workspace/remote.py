"""The place pushed to: how git gets in without the token showing, and what a refused push means."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch_ci.errors import AutoresearchError, GitError, MachineError
from autoresearch_ci.workspace.checkout import without_credentials
from autoresearch_ci.workspace.commands import Output

# Below 1000 bytes a second for 30 s the transfer counts as dead:
# https://git-scm.com/docs/git-config#Documentation/git-config.txt-httplowSpeedLimit
_SLOW_BYTES_PER_S, _SLOW_S = 1000, 30
# A repository on this machine is the user's own: our push runs none of its hooks (a training script may have planted
# one), starts no `git gc` there in the middle of a session, spends no time on the refs of alternates, and little on
# compressing what the next `git gc` packs anyway. Its objects are as durable as git makes them by default: our own clone
# and journal are what a dying machine must not lose.
_LOCAL_GIT = f"git -c core.hooksPath={os.devnull} -c core.alternateRefsCommand=true"
_LOCAL_RECEIVE = f"{_LOCAL_GIT} -c receive.autogc=false -c core.looseCompression=1"


_NO_ENTRY = re.compile(
    r"Authentication failed|could not read (Username|Password)|returned error: 40[134]|Repository not found"
    r"|Permission denied|Host key verification failed|Permission to .* denied",
    re.IGNORECASE,
)
_NO_REPOSITORY = re.compile(
    r"does not appear to be a git repository|not a git repository|repository .* not found|does not exist"
)
_IN_THE_WAY = re.compile(r"'refs/heads/(\S+)' exists; cannot create")
# What git says when its credentials are not taken: a token's hour may have ended between asking for it and its use.
_UNAUTHORIZED = re.compile(
    r"Authentication failed|could not read (Username|Password)|returned error: 401", re.IGNORECASE
)
# Refusals of single refs that may pass the next time: somebody else held the lock, the server had a bad moment (GitHub's
# word for that is `failure`, under `fatal error in commit_refs`).
_PASSING = re.compile(
    r"unable to lock|cannot lock ref|File exists|Internal Server Error|unpacker error|remote failure|timed? ?out"
    r"|fatal error in commit_refs",
    re.IGNORECASE,
)
_MAX_QUOTE = 200
_REFUSED = re.compile(r"^!\t[^\t]*:(?P<ref>[^\t]+)\t\[(?P<kind>[^\]]+)\] ?\(?(?P<reason>.*?)\)?$", re.MULTILINE)


class RefusedError(GitError):
    """The remote will never take some refs as they are. `moved`: those that somebody else pushed to. `declined`: those that a
    rule of the remote's is against; where it says no to a push as a whole, every ref of the push. `why`: a few words."""

    def __init__(self, message: str, *, hint: str, why: str, moved: frozenset[str], declined: frozenset[str]) -> None:
        super().__init__(message, hint=hint)
        self.why = why
        self.moved = moved
        self.declined = declined


def no_token() -> str:
    """For a remote that needs none: a repository on this machine, or a public one that is only read."""
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """Where the session's refs go: a URL, or the path of a repository on this machine.

    `token` is asked for at every transfer, since a GitHub App's lives an hour. What it answers travels in the environment of
    the one git child that needs it: never in its arguments, in a file or in a text. `timeout_s`: after that long a transfer
    is given up.
    """

    url: str
    token: Callable[[], str] = no_token
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", without_credentials(self.url))

    @property
    def is_local(self) -> bool:
        return Path(self.url).is_dir()

    @property
    def is_http(self) -> bool:
        return self.url.startswith(("http://", "https://"))

    def receive_options(self, refs: Sequence[str], *, known: bool) -> tuple[str, ...]:
        """Options for a push of `refs` (names or prefixes). `known`: the remote has the session's branch already.

        A repository on this machine shows the push no other refs of the session, and when `known` no other refs at all:
        with 2,000 experiments on it, a push that looks at all of them takes twice as long (60 ms instead of 30 ms).
        """
        if not self.is_local:
            return ()
        hidden = ["refs/" if known else "refs/autoresearch/", *(f"!{ref}" for ref in refs)]
        shown = " ".join(f"-c receive.hideRefs='{pattern}'" for pattern in hidden)
        return (f"--receive-pack={_LOCAL_RECEIVE} {shown} receive-pack",)

    @property
    def upload_options(self) -> tuple[str, ...]:
        return (f"--upload-pack={_LOCAL_GIT} -c uploadpack.allowFilter=true upload-pack",) if self.is_local else ()

    def variables(self, token: str) -> dict[str, str]:
        """The environment of a child that talks to the remote: nothing is ever asked, nothing hangs for ever.

        ssh needs no setting: a child in its own session has no terminal to ask on.
        """
        config = [
            ("http.lowSpeedLimit", str(_SLOW_BYTES_PER_S)),
            ("http.lowSpeedTime", str(_SLOW_S)),
            ("core.askPass", ""),
        ]
        if token:
            # The empty value first: it drops headers of the user's own configuration, since GitHub refuses two.
            header = f"http.{self.url}.extraheader"
            config += [("credential.helper", ""), (header, ""), (header, f"Authorization: basic {_basic(token)}")]
        numbered = {f"GIT_CONFIG_KEY_{n}": key for n, (key, _) in enumerate(config)}
        numbered |= {f"GIT_CONFIG_VALUE_{n}": value for n, (_, value) in enumerate(config)}
        return {
            "GIT_CONFIG_COUNT": str(len(config)),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "SSH_ASKPASS": "",
            "SSH_ASKPASS_REQUIRE": "force",  # never the terminal, which is still there
            **numbered,
        }

    def refusal(self, output: Output, branch: str) -> AutoresearchError | None:
        """Why the remote will never take this, as an error; None when it may the next time (network, server, lock)."""
        refused = [match for match in _REFUSED.finditer(output.text) if "atomic" not in match["reason"]]
        if refused:
            return self._refused(refused, output, branch)
        if in_the_way := _IN_THE_WAY.search(output.err):
            return GitError(
                f"`{branch}` cannot be made in {self.url}, because `{in_the_way[1]}` exists",
                hint="rename that branch: `git branch -m autoresearch another-name`",
            )
        if self.is_local and "No space left on device" in output.err:
            return MachineError(f"cannot write to {self.url}: the disk is full", hint="free some disk space")
        if is_no_entry(output):
            return GitError(
                f"no access to {self.url}: {output.complaint}",
                hint="give the job `contents: write`, or check that the token is valid and may push here",
            )
        if _NO_REPOSITORY.search(output.err):
            return GitError(f"there is no repository at {self.url}", hint="check the address of the remote")
        return None

    def _refused(self, refused: Sequence[re.Match[str]], output: Output, branch: str) -> AutoresearchError | None:
        first = next((match for match in refused if match["kind"] == "rejected"), refused[0])
        ref, kind, reason = first["ref"], first["kind"], first["reason"][:_MAX_QUOTE]
        moved = frozenset(match["ref"] for match in refused if match["kind"] == "rejected")
        if moved:
            return RefusedError(
                f"somebody else pushed to `{ref}`, and it is never overwritten ({reason})",
                hint=f"go on with another tag, or move `{branch}` on the remote back to the session's last commit",
                why="somebody else pushed to it",
                moved=moved,
                declined=frozenset(),
            )
        if "checked out" in reason:
            return GitError(
                f"`{branch}` is checked out in {self.url}, so it cannot move",
                hint="switch that checkout to another branch: `git switch -`",
            )
        if self.is_local and "No space left on device" in output.err:
            return MachineError(f"cannot write to {self.url}: the disk is full", hint="free some disk space")
        if reason == "failure" or _PASSING.search(f"{kind} {reason} {output.err}"):
            return None
        said = " ".join(re.findall(r"^remote: *(.+)$", output.err, re.MULTILINE))[:_MAX_QUOTE]
        why = (reason or kind) + (f" ({said})" if said else "")
        return RefusedError(
            f"the remote refuses `{ref}`: {why}",
            hint="allow pushes to `autoresearch/**` in the branch protection or ruleset",
            why=f"the remote refuses it: {why}",
            moved=frozenset(),
            declined=frozenset(match["ref"] for match in refused),
        )


def is_no_entry(output: Output) -> bool:
    """Whether the remote does not let us in, with no word about a single ref."""
    return _NO_ENTRY.search(output.err) is not None and _REFUSED.search(output.text) is None


def is_unauthorized(output: Output) -> bool:
    """Whether the token was not taken: another one may be."""
    return output.code != 0 and bool(_UNAUTHORIZED.search(output.err))


def scrub(output: Output, token: str) -> Output:
    """The output without the token it was made with, in either spelling."""
    err = output.err
    for secret in (token, _basic(token)) if token else ():
        err = err.replace(secret, "***")
    return Output(output.code, output.out, err)


def _basic(token: str) -> str:
    return base64.b64encode(f"x-access-token:{token}".encode()).decode()
