"""Git processes of the tests: no configuration of this machine or its user has a say."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

_PERSON = {"NAME": "octo", "EMAIL": "octo@example.invalid"}

_HOOK = """#!/bin/sh
grep -qxF "$1" "$GIT_DIR/protected" || exit 0
echo "error: GH006: Protected branch update failed for $1." >&2
echo "error: Changes must be made through a pull request." >&2
exit 1
"""


def git(repository: Path, *arguments: str, text: str = "") -> str:
    """What git prints; raises CalledProcessError."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=repository,
        env=bare_environment(repository),
        input=text,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def bare_environment(home: Path) -> dict[str, str]:
    """The variables for a git process that must not see this machine's configuration."""
    people = {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in _PERSON.items()}
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        **people,
    }


def merged(
    repository: Path, base: str, head: str, *, method: Literal["squash", "rebase", "merge"], message: str
) -> str | None:
    """The commit that the commit `base` becomes when `head` is merged as the button does it; None at a conflict."""
    with tempfile.TemporaryDirectory(dir=repository.parent, prefix="merge-") as name:
        folder = Path(name)
        git(folder, "clone", "--quiet", "--shared", "--no-checkout", str(repository), ".")
        try:
            match method:
                case "merge":
                    git(folder, "checkout", "--quiet", "--detach", base)
                    git(folder, "merge", "--quiet", "--no-ff", "-m", message, head)
                case "squash":
                    git(folder, "checkout", "--quiet", "--detach", base)
                    git(folder, "merge", "--quiet", "--squash", head)
                    git(folder, "commit", "--quiet", "-m", message)
                case "rebase":
                    git(folder, "checkout", "--quiet", "--detach", head)
                    git(folder, "rebase", "--quiet", "--force-rebase", base)
        except subprocess.CalledProcessError:
            return None
        git(repository, "fetch", "--quiet", str(folder), "HEAD")
        return git(folder, "rev-parse", "HEAD")


def protect(repository: Path, refs: set[str]) -> None:
    """From now on pushes to exactly these refs are refused, as GitHub refuses them to a protected branch."""
    (repository / "protected").write_text("".join(f"{ref}\n" for ref in sorted(refs)), encoding="utf-8")
    hook = repository / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(_HOOK, encoding="utf-8")
    hook.chmod(0o755)


def as_github_words_it(answer: bytes) -> bytes:
    """The answer to a push, with GitHub's reason where git only says that a hook declined."""
    said, rest = b"", answer
    while len(rest) >= 4:
        size = max(int(rest[:4], 16), 4)
        content, rest = rest[4:size], rest[size:]
        if content.startswith(b"\x01"):  # the band that carries git's own report
            content = b"\x01" + re.sub(rb"[0-9a-f]{4}(ng \S+) hook declined\n", _reworded, content[1:])
        said += b"%04x" % (len(content) + 4) + content if content else b"0000"
    return said


def _reworded(match: re.Match[bytes]) -> bytes:
    line = match[1] + b" protected branch hook declined\n"
    return b"%04x" % (len(line) + 4) + line
