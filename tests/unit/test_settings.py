from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci import settings
from autoresearch_ci.errors import SettingsError
from autoresearch_ci.settings import load
from autoresearch_ci.units import format_duration, format_size, parse_duration, parse_size

REQUIRED = {"time-budget": "5m", "metric": "val_bpb", "direction": "minimize"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300", 300), (300, 300), ("300s", 300), ("5m", 300), ("1h30m", 5400), ("2.5s", 2.5), ("1H", 3600)],
)
def test_durations_of_the_contract(text: object, seconds: float) -> None:
    """All spellings that the contract lists are read."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-5", "5 minutes", "0", "m", True, None, "nan", "inf", "1d", "9999h"])
def test_other_durations_are_refused(text: object) -> None:
    """What is no time longer than zero is an error."""
    with pytest.raises(ValueError, match="write it|longer than"):
        parse_duration(text)


@given(st.integers(1, 31_000_000))
def test_durations_come_back(seconds: int) -> None:
    """Every duration is read back from its own spelling."""
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(1, 2**50))
def test_sizes_come_back(size: int) -> None:
    """Every size is read back from its own spelling."""
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "size"), [("512m", 2**29), ("8g", 2**33), ("8GB", 2**33), ("8GiB", 2**33), (1024, 1024)]
)
def test_sizes_as_docker_reads_them(text: object, size: int) -> None:
    """Powers of 1024, with or without the B."""
    assert parse_size(text) == size


def test_stronger_sources_win_and_are_named(tmp_path: Path) -> None:
    """Default, file, environment, flag: the strongest that was given counts, and its name is shown."""
    file = tmp_path / "autoresearch.toml"
    file.write_text('time-budget = "10m"\nmetric = "loss"\ndirection = "minimize"\npatience = 7\nlabels = ["a", "b"]\n')
    environ = {"AUTORESEARCH_METRIC": "val_loss", "AUTORESEARCH_PATIENCE": "8", "AUTORESEARCH_BASE": ""}
    loaded = load(file=file, environ=environ, flags={"patience": "9"})
    assert (loaded.settings.time_budget, loaded.settings.metric, loaded.settings.patience) == (600, "val_loss", 9)
    assert loaded.settings.labels == ("a", "b")
    assert loaded.settings.base is None
    assert {name: loaded.sources[name] for name in ("time-budget", "metric", "patience", "base")} == {
        "time-budget": "autoresearch.toml",
        "metric": "AUTORESEARCH_METRIC",
        "patience": "--patience",
        "base": "default",
    }


def test_what_must_be_asked_is_never_assumed() -> None:
    """Time budget, metric and direction have no default."""
    with pytest.raises(SettingsError) as caught:
        load(flags={"metric": "m"})
    assert caught.value.message == "`time-budget`, `direction` must be set"
    assert "init" in caught.value.hint


def test_unknown_names_suggest_the_nearest(tmp_path: Path) -> None:
    """A misspelt name is an error in the file and in the environment, never ignored."""
    file = tmp_path / "autoresearch.toml"
    file.write_text("time_budget = 300\n")
    with pytest.raises(SettingsError) as caught:
        load(file=file)
    assert caught.value.hint == "did you mean `time-budget`?"
    with pytest.raises(SettingsError) as caught:
        load(environ={"AUTORESEARCH_TIMEBUDGET": "5m"})
    assert caught.value.hint == "did you mean `AUTORESEARCH_TIME_BUDGET`?"
    with pytest.raises(SettingsError) as caught:
        load(environ={"AUTORESEARCH_XYZZY": "5m"})
    assert "--help" in caught.value.hint


def test_what_a_run_sees_is_no_setting() -> None:
    """A session started inside a run is not confused by the variables of the outer one."""
    assert (
        load(flags=REQUIRED, environ={"AUTORESEARCH_SEED": "1", "AUTORESEARCH_TOKEN": "x"}).settings.metric == "val_bpb"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("time-budget", "soon"), ("metric", "a b"), ("direction", "up"), ("max-iterations", "-1"), ("max-iterations", "many"),
        ("scope", "everything"), ("tag", "-x"), ("tag", "a..b"), ("tag", "a" * 65), ("tag", "x.lock"), ("training-script", "../x.py"),
        ("training-script", "/x.py"), ("metric-pattern", "("), ("metric-pattern", "x"), ("timeout", "1s"), ("memory", "lots"),
        ("cpus", "0"), ("cpus", "nan"), ("env", "A"), ("env", "1A=2"), ("env", "A B=2"), ("max-hours", "inf"), ("target", "nan"), ("patience", "0"),
        ("draft", "perhaps"), ("open-pr", "sometimes"), ("proposer", "magic"), ("report-every", "0"), ("results-file", ""),
    ],
)  # fmt: skip
def test_wrong_values_name_the_setting(name: str, value: str) -> None:
    """A value that cannot be is one line with the setting's name, and exit code 2."""
    with pytest.raises(SettingsError) as caught:
        load(flags={**REQUIRED, name: value})
    assert f"`{name}`" in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2


def test_long_wrong_values_are_cut() -> None:
    """An error message stays one readable line."""
    with pytest.raises(SettingsError) as caught:
        load(flags={**REQUIRED, "tag": "x" * 5000})
    assert len(caught.value.message) < 150


@given(st.binary(max_size=200))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Random bytes as a settings file are a SettingsError, or an empty table; never anything else."""
    file = tmp_path_factory.mktemp("config") / "autoresearch.toml"
    file.write_bytes(data)
    try:
        assert set(settings.read_file(file)) <= set(settings.NAMES)
    except SettingsError as error:
        assert error.message


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    """A file that cannot be read is one line."""
    with pytest.raises(SettingsError, match="cannot read"):
        settings.read_file(tmp_path / "no.toml")


def test_defaults_of_the_contract() -> None:
    """The derived values: twice the budget, and the command with the script's name."""
    loaded = load(flags={**REQUIRED, "training-script": "src/go.py"})
    assert loaded.settings.timeout_s == 600
    assert loaded.settings.command_line == "python src/go.py"
    assert loaded.settings.max_iterations is None
    assert load(flags={**REQUIRED, "timeout": "6m"}).settings.timeout_s == 360


def test_every_setting_has_a_text() -> None:
    """The Research Config shows every setting of the contract, readable."""
    rows = load(flags={**REQUIRED, "env": "A=1,B=2", "labels": "x, y", "memory": "8g"}).rows()
    shown = {name: value for name, value, _ in rows}
    assert tuple(shown) == settings.NAMES
    assert shown["env"] == "A=1, B=2"
    assert shown["labels"] == "x, y"
    assert shown["memory"] == "8g"
    assert shown["time-budget"] == "5m"
    assert shown["max-iterations"] == "unlimited"
    assert shown["draft"] == "false"


@pytest.mark.parametrize(("day", "tag"), [(dt.date(2026, 11, 22), "nov22"), (dt.date(2026, 3, 8), "mar8")])
def test_default_tag_is_the_date(day: dt.date, tag: str) -> None:
    """As in the skill: `mar8`."""
    assert settings.default_tag(day) == tag
