"""The Python environment of native runs, with real venv and pip, installing from a folder."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors.environment import ensure_environment, probe


def wheel(folder: Path, name: str) -> None:
    """The smallest package that pip installs."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "VALUE = 1\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def ensure(folder: Path, *, requirements: str | None, torch: str | None, lines: list[str]) -> Path:
    return ensure_environment(
        folder / "state",
        requirements=None if requirements is None else requirements.encode(),
        torch_requirement=torch,
        python=sys.executable,
        on_line=lines.append,
    )


def test_an_environment_is_made_once_and_holds_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's requirement and the repository's own are installed, line by line, and the next session does nothing."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wheel(tmp_path, "tinytorch")
    wheel(tmp_path, "tinyextra")
    lines: list[str] = []
    python = ensure(tmp_path, requirements="tinyextra\n", torch="tinytorch==1.0\n", lines=lines)
    code = "import tinytorch, tinyextra; print(tinyextra.VALUE)"
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
    assert any("Successfully installed tinytorch" in line for line in lines)
    lines.clear()
    assert ensure(tmp_path, requirements="tinyextra\n", torch="tinytorch==1.0\n", lines=lines) == python
    assert lines == []
    (python.parents[1] / "finished").unlink()  # as after a SIGKILL in the middle
    ensure(tmp_path, requirements="tinyextra\n", torch="tinytorch==1.0\n", lines=lines)
    assert lines != []


def test_other_requirements_are_another_environment(tmp_path: Path) -> None:
    """The folder depends on what is in it; without requirements nothing is installed."""
    lines: list[str] = []
    empty = ensure(tmp_path, requirements=None, torch=None, lines=lines)
    other = ensure(tmp_path, requirements="# nothing\n", torch=None, lines=lines)
    assert empty != other
    assert empty.exists()


def test_a_failed_installation_is_a_machine_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip said last is in the error, and the next session tries again."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for _ in range(2):
        with pytest.raises(MachineError, match="No matching distribution found for no-such-package") as caught:
            ensure(tmp_path, requirements="no-such-package==9\n", torch=None, lines=[])
        assert "\n" not in caught.value.message
        assert "requirements" in caught.value.hint


def test_an_interrupt_leaves_no_installation_behind(tmp_path: Path) -> None:
    """Whatever ends the caller while a line is shown ends the installer too, and the error is the caller's own."""

    def stop(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt):
        ensure_environment(
            tmp_path, requirements=b"--no-index\nnone\n", torch_requirement=None, python=sys.executable, on_line=stop
        )


def test_a_state_folder_that_cannot_be_used_is_a_machine_error(tmp_path: Path) -> None:
    """A file in the way is told with a hint."""
    (tmp_path / "state").touch()
    with pytest.raises(MachineError, match="cannot be made"):
        ensure(tmp_path, requirements=None, torch=None, lines=[])


def test_a_python_that_is_not_there_is_a_machine_error(tmp_path: Path) -> None:
    """Asking a missing interpreter names it."""
    with pytest.raises(MachineError, match="No such file"):
        probe(tmp_path / "python", "")


def test_a_probe_needs_no_executor() -> None:
    """Any interpreter can be asked."""
    assert probe(Path(sys.executable), "print(1 + 1)") == "2\n"
