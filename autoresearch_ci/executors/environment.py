"""What a native run sees of the machine: its variables and folders, and the Python that trains."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors.process_tree import MARKER

PROBE_TIMEOUT_S: Final = 300.0  # a first `import torch` from a cold disk takes minutes
INSTALL_TIMEOUT_S: Final = 3600.0  # torch with CUDA is several gigabytes
LAST_LINES: Final = 5  # of a failed installation, in its message

# Without these Windows starts no program properly.
WINDOWS_VARIABLES: Final = (
    "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "PATHEXT", "COMSPEC", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE",
)  # fmt: skip
# How this user reaches the network; `prepare` and installations get them, runs do not.
NETWORK_VARIABLES: Final = (
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip
USER_VARIABLES: Final = (
    "PATH",
    "HOME",
    "USERPROFILE",
    "APPDATA",
    "LOCALAPPDATA",
    "TMPDIR",
    "TEMP",
    "TMP",
    "LANG",
    "CC",
    "CXX",
)


def run_variables(folder: Path, python: Path, cache: Path | None) -> dict[str, str]:
    """What a run sees besides its request's variables: nothing but this comes from our own environment.

    HOME, the temporary folder and the output folder are made in `folder`; `python`'s folder comes first on the PATH.
    """
    home, temporary, outputs = folder / "home", folder / "tmp", folder / "outputs"
    for path in (home, temporary, outputs):
        path.mkdir()
    variables = {
        "PATH": os.pathsep.join((str(python.parent), os.environ.get("PATH", os.defpath))),
        "HOME": str(home),
        "TMPDIR": str(temporary),
        MARKER: str(outputs),
    }
    if cache is not None:
        variables["AUTORESEARCH_CACHE"] = str(cache.absolute())
        (home / ".cache").mkdir()
        with suppress(OSError):  # Windows gives the right to make links to few
            # Where upstream's scripts look for it.
            (home / ".cache" / "autoresearch").symlink_to(cache.absolute(), target_is_directory=True)
    if sys.platform == "win32":
        own = {"USERPROFILE": str(home), "TEMP": str(temporary), "TMP": str(temporary)}
        return {**taken_from_here(WINDOWS_VARIABLES), **own, **variables}
    return variables


def taken_from_here(names: tuple[str, ...]) -> dict[str, str]:
    """Those of our own variables that have one of these names."""
    return {name: os.environ[name] for name in names if name in os.environ}


def probe(python: Path, script: str) -> str:
    """What the program `script` prints when `python` runs it in an empty folder; MachineError when it fails."""
    with tempfile.TemporaryDirectory(prefix="autoresearch-", ignore_cleanup_errors=True) as folder:
        return ask(python, script, run_variables(Path(folder), python, None))


def ask(python: Path, script: str, variables: Mapping[str, str], *, behind: Sequence[str] = ()) -> str:
    """The same with exactly these variables, in their HOME where they have one; `behind` these words."""
    try:
        done = subprocess.run(
            [*behind, str(python), "-c", script],
            cwd=variables.get("HOME"), env=dict(variables), stdin=subprocess.DEVNULL, capture_output=True,
            encoding="utf-8", errors="replace", timeout=PROBE_TIMEOUT_S, check=True,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        last = next((line for line in reversed(error.stderr.splitlines()) if line.strip()), "")
        raise MachineError(
            f"the probe of {python} failed with exit code {error.returncode}: {last[:300]}",
            hint=f'try `{python} -c "import torch"`',
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or f"no answer in {PROBE_TIMEOUT_S:.0f} s"
        raise MachineError(
            f"{python} cannot be asked what it sees: {reason}", hint="install that Python again"
        ) from error
    return done.stdout


def ensure_environment(
    state: Path,
    *,
    requirements: bytes | None,
    torch_requirement: str | None,
    python: str,
    on_line: Callable[[str], None],
) -> Path:
    """The interpreter of an environment with these requirements; made in `state` when it is not there yet.

    `requirements`: the content of the repository's requirements file, installed on top of `torch_requirement`, the
    text of another. `python`: the interpreter to make it from. `on_line` gets each line of the output. The folder's
    name is a hash of all inputs: a second session installs nothing. Raises MachineError with the last lines when it fails.
    """
    texts = [text for text in ((torch_requirement or "").encode(), requirements or b"") if text.strip()]
    variables = taken_from_here(USER_VARIABLES + NETWORK_VARIABLES + WINDOWS_VARIABLES)
    version = ask(Path(python), "import sys; print(sys.version)", variables)
    inputs = [str(Path(python).absolute()), version, *(text.hex() for text in texts)]
    folder = state / "environments" / hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]
    interpreter = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    finished = folder / "finished"  # written last: an interrupted installation begins again
    variables |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock", timeout=INSTALL_TIMEOUT_S):
            if finished.exists():
                return interpreter
            _run([python, "-m", "venv", "--clear", str(folder)], variables, on_line)
            for number, text in enumerate(texts):
                file = folder / f"requirements-{number}.txt"
                file.write_bytes(text)
                pip = ["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
                _run([str(interpreter), *pip, "-r", str(file)], variables, on_line)
            finished.touch()
    except (OSError, Timeout) as error:
        raise MachineError(
            f"the native environment cannot be made: {error}", hint=f"look at {folder.parent}"
        ) from error
    return interpreter


def _run(command: list[str], variables: Mapping[str, str], on_line: Callable[[str], None]) -> None:
    """Runs one step of an installation; MachineError with its last lines when it fails."""
    last: deque[str] = deque(maxlen=LAST_LINES)
    with subprocess.Popen(
        command, env=dict(variables), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8", errors="replace",
    ) as process:  # fmt: skip
        timer = threading.Timer(INSTALL_TIMEOUT_S, process.kill)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip():
                    last.append(line.strip()[:300])
                    on_line(line.rstrip())
        except BaseException:  # an interrupt must not leave pip behind
            process.kill()
            raise
        finally:
            timer.cancel()
    if process.returncode != 0:
        raise MachineError(
            f"the native environment cannot be made: {' / '.join(last)}",
            hint="check `requirements`; the whole output is above",
        )
