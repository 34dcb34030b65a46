"""The place pushed to: how git gets in without the token showing, and what a refused push means."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
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
# Refusals of single refs that may pass the next time: somebody else held the lock, the server had a bad moment.
_PASSING = re.compile(
    r"unable to lock|File exists|Internal Server Error|unpacker error|remote failure|timed? ?out", re.IGNORECASE
)
_MAX_QUOTE = 200
_REFUSED = re.compile(r"^!\t[^\t]*:(?P<ref>[^\t]+)\t\[(?P<kind>[^\]]+)\] ?\(?(?P<reason>.*?)\)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """Where the session's refs go: a URL, or the path of a repository on this machine.

    `token` travels in the environment of the one git child that needs it: never in its arguments, in a file or in a
    text. `timeout_s`: after that long a transfer is given up.
    """

    url: str
    token: str = field(default="", repr=False)
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", without_credentials(self.url))

    @property
    def is_local(self) -> bool:
        return Path(self.url).is_dir()

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
        return (f"--upload-pack={_LOCAL_GIT} upload-pack",) if self.is_local else ()

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a child that talks to the remote: nothing is ever asked, nothing hangs for ever.

        ssh needs no setting: a child in its own session has no terminal to ask on.
        """
        config = [
            ("http.lowSpeedLimit", str(_SLOW_BYTES_PER_S)),
            ("http.lowSpeedTime", str(_SLOW_S)),
            ("core.askPass", ""),
        ]
        if self.token:
            # The empty value first: it drops headers of the user's own configuration, since GitHub refuses two.
            header = f"http.{self.url}.extraheader"
            config += [("credential.helper", ""), (header, ""), (header, f"Authorization: basic {self._basic}")]
        numbered = {f"GIT_CONFIG_KEY_{n}": key for n, (key, _) in enumerate(config)}
        numbered |= {f"GIT_CONFIG_VALUE_{n}": value for n, (_, value) in enumerate(config)}
        return {
            "GIT_CONFIG_COUNT": str(len(config)),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "SSH_ASKPASS": "",
            **numbered,
        }

    def scrub(self, output: Output) -> Output:
        """The output without the token, in either spelling."""
        err = output.err
        for secret in (self.token, self._basic) if self.token else ():
            err = err.replace(secret, "***")
        return Output(output.code, output.out, err)

    def refusal(self, output: Output, branch: str) -> AutoresearchError | None:
        """Why the remote will never take this, as an error; None when it may the next time (network, server, lock)."""
        refused = [match for match in _REFUSED.finditer(output.text) if "atomic" not in match["reason"]]
        if refused:
            return self._refused_ref(refused[0]["ref"], refused[0]["kind"], refused[0]["reason"], output, branch)
        if in_the_way := _IN_THE_WAY.search(output.err):
            return GitError(
                f"`{branch}` cannot be made in {self.url}, because `{in_the_way[1]}` exists",
                hint="rename that branch: `git branch -m autoresearch another-name`",
            )
        if self.is_local and "No space left on device" in output.err:
            return MachineError(f"cannot write to {self.url}: the disk is full", hint="free some disk space")
        if _NO_ENTRY.search(output.err):
            return GitError(
                f"no access to {self.url}: {output.complaint}",
                hint="give the job `contents: write`, or check that the token is valid and may push here",
            )
        if _NO_REPOSITORY.search(output.err):
            return GitError(f"there is no repository at {self.url}", hint="check the address of the remote")
        return None

    def _refused_ref(self, ref: str, kind: str, reason: str, output: Output, branch: str) -> AutoresearchError | None:
        if kind == "rejected":
            return GitError(
                f"somebody else pushed to `{ref}`, and it is never overwritten ({reason})",
                hint=f"go on with another tag, or move `{branch}` on the remote back to the session's last commit",
            )
        if "checked out" in reason:
            return GitError(
                f"`{branch}` is checked out in {self.url}, so it cannot move",
                hint="switch that checkout to another branch: `git switch -`",
            )
        if self.is_local and "No space left on device" in output.err:
            return MachineError(f"cannot write to {self.url}: the disk is full", hint="free some disk space")
        if _PASSING.search(f"{kind} {reason} {output.err}"):
            return None
        said = " ".join(re.findall(r"^remote: *(.+)$", output.err, re.MULTILINE))[:_MAX_QUOTE]
        return GitError(
            f"the remote refuses `{ref}`: {reason or kind}" + (f" ({said})" if said else ""),
            hint="allow pushes to `autoresearch/**` in the branch protection or ruleset",
        )

    @property
    def _basic(self) -> str:
        return base64.b64encode(f"x-access-token:{self.token}".encode()).decode()
