"""Ten thousand byte strings as each kind of text that reaches us from outside: no crash, no injection, no traceback."""

from __future__ import annotations

import io
import json
import math
import re
import tempfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoresearch_ci import journal, metrics, results, source
from autoresearch_ci.console import Console
from autoresearch_ci.early_stop import Watch
from autoresearch_ci.errors import SettingsError
from autoresearch_ci.experiment import Direction, Experiment, History, Status
from autoresearch_ci.journal import Journal
from autoresearch_ci.knobs import find_knobs
from autoresearch_ci.report import pull_request
from autoresearch_ci.report.chart import chart
from autoresearch_ci.report.markdown import cell
from autoresearch_ci.report.page import page
from autoresearch_ci.report.summary import summary
from autoresearch_ci.settings import load, read_environment, read_file
from autoresearch_ci.tripwires import tripped
from tests.interrupts import Never
from tests.unit.histories import history

MANY = 10_000
SOME = 2_000  # beside those of the five kinds that are asked for
FEW = 300  # where one example costs milliseconds

NASTY = (
    b"::set-output name=a::b", b"::add-mask::x", b"::error file=a::b", b"##[error]x", b"##[group]", b"\x1b[31m", b"\x1b]0;title\x07",
    b"\x1b[2J", b"\r", b"\n", b"\r\n", b"\t", b"\0", b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\xed\xa0\x80", b"\xff\xfe", b"<script>",
    b"<!--", b"-->", b"</details>", b"|", b"`", b"```", b"@octocat", b"fixes #1", b"GH-1", b"[x](http://e.example)", b"![x](y)",
    b"=cmd()", b"+1", b"-1", b"@SUM(A1)", b"http://e.example", b"&#124;", b"'", b'"', b"{{ 7 * 7 }}", b"{% raw %}", b"${{ github.token }}",
    b"val_bpb: 0.1", b"val_bpb: nan", b"val_bpb: inf", b"val_bpb: 1e999", b"val_bpb: 0x1p3", "val_bpb: １２".encode(), b"val_bpb: -0.0",
    b"loss: nan", b"CUDA error: device-side assert triggered", b"CUDA out of memory", b'{"type": "experiment"', b"[" * 2000, b"{" * 200,
    b"1e400", b"9" * 5000, b"inf", b"NaN", b"true", b"= ", b"metric = ", b"time-budget = ", b"[table]", b"'''", b"def f(:", b"\\", b"%0A", b"%s",
    b"import prepare\n", b"lambda: (yield)", b"LR = 0.1\n",
)  # fmt: skip
HOSTILE = st.one_of(
    st.binary(max_size=300),
    st.lists(st.one_of(st.sampled_from(NASTY), st.binary(max_size=12)), max_size=10).map(b"".join),
)
quick = settings(max_examples=MANY, deadline=None, suppress_health_check=list(HealthCheck))
some = settings(max_examples=SOME, deadline=None, suppress_health_check=list(HealthCheck))
slow = settings(max_examples=FEW, deadline=None, suppress_health_check=list(HealthCheck))


def as_text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def obeyed(text: str) -> list[str]:
    """The lines that a runner takes for commands, as actions/runner reads them (ActionCommand.cs), outside `stop-commands`."""
    found, token = [], ""
    for line in re.split(r"\r\n|\r|\n", text):
        if token:
            token = "" if line.lstrip() == f"::{token}::" else token
        elif match := re.match(r"\s*::stop-commands::(.*)", line):
            token = match[1]
        elif re.match(r"\s*::[A-Za-z-]+.*?::", line) or re.search(r"##\[[A-Za-z-]+[^\]]*\]", line):
            found.append(line)
    return found


def described(description: str, *, reason: str = "because") -> History:
    """A session whose one keep and one crash have this text wherever a proposer or a script can put one."""
    made = history((1.0, Status.KEEP), (0.9, Status.KEEP), (None, Status.CRASH))

    def hostile(experiment: Experiment) -> Experiment:
        if experiment.number == 0:
            return experiment
        verdict = replace(experiment.verdict, reason=reason)
        return replace(experiment, description=description, rationale=description, verdict=verdict)

    return replace(made, experiments=tuple(hostile(e) for e in made.experiments))


class Skeleton(HTMLParser):
    """The elements of a page with their attributes' names, without any text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, ...]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attributes)))

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment",))


@quick
@given(HOSTILE)
def test_any_log_is_read(data: bytes) -> None:
    """As a log: a finite metric or none, one short printable last line, and a metric only where a line gives one."""
    text = as_text(data)
    reading = metrics.read(text, "val_bpb")
    assert reading.metric is None or math.isfinite(reading.metric)
    assert (reading.metric is None) == (reading.metric_lines == 0)
    assert reading.metric is None or "val_bpb" in text
    assert all(math.isfinite(value) for value in reading.numbers.values())
    assert len(reading.last_line) <= metrics.MAX_LINE
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]", reading.last_line)
    json.dumps(reading.metric, allow_nan=False)


@some
@given(HOSTILE)
def test_any_log_is_watched(data: bytes) -> None:
    """As a log that grows: it may stop the run, with a reason in one line, and nothing else."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        watch = Watch(Never(), Path(file.name), "val_bpb", direction=Direction.MINIMIZE)
        assert watch.requested() is bool(watch.stopped_because)
        watch.finish()
        assert "\n" not in watch.stopped_because
        assert all(math.isfinite(value) for _, value in watch.curve)


@some
@given(HOSTILE)
def test_nothing_that_is_printed_is_obeyed(data: bytes) -> None:
    """Shown in Actions, as a log's lines or inside our own: no workflow command, no escape sequence."""
    err = io.StringIO()
    console = Console(io.StringIO(), err, {}, in_actions=True)
    text = as_text(data)
    console.untrusted(text.splitlines())
    console.info(text)
    console.notice("Kept", text)
    console.warning(text)
    with console.group(text):
        pass
    said = err.getvalue()
    ours = [line for line in obeyed(said) if not re.match(r"::(notice title=Kept|warning|group|endgroup)::", line)]
    assert ours == []
    assert len(obeyed(said)) == 4  # one of each of ours: nothing opened a second line
    assert "\x1b" not in said
    assert "\0" not in said


@quick
@given(HOSTILE)
def test_any_description_stays_in_its_cell(data: bytes) -> None:
    """As a description: one row of five cells that reads back, no formula, and nothing alive in Markdown."""
    text = as_text(data)
    made = described(text)
    table = results.write(made)
    assert [line.count("\t") for line in table.split("\n")[:-1]] == [4] * 4
    assert [e.metric for e in results.read(table, direction=Direction.MINIMIZE).experiments] == [1.0, 0.9, None]
    assert not any(line.split("\t")[4].startswith(("=", "+", "-", "@")) for line in table.split("\n")[2:-1])
    shown = cell(text)
    assert not re.search(r"[<>|`\[\]\n\r\x1b]|@\w|(?<!&)#\d|https?://|www\.", shown)


@slow
@given(HOSTILE)
def test_any_description_does_nothing_in_a_report(data: bytes) -> None:
    """The pull request keeps its table and its size, the page its elements; title and summary are one line and text."""
    text = as_text(data)
    made, plain = described(text, reason=text), described("a change", reason="a reason")
    files = pull_request.Files(summary="s.md", results="r.tsv", chart="c.svg")
    body = pull_request.body(made, files=files, base="main", diffs={})
    assert len(body) < 60_000
    tags = [
        re.findall(r"</?[a-zA-Z][^>]*>|<!--", b)
        for b in (body, pull_request.body(plain, files=files, base="main", diffs={}))
    ]
    assert tags[0] == tags[1]
    assert "\n" not in pull_request.title(made)
    assert not re.search(r"<(?!br)[a-z/!]", re.sub(r"</?(details|summary)>", "", summary(made)))


@settings(slow, max_examples=25)
@given(HOSTILE)
def test_any_description_leaves_the_page_and_the_chart_as_they_are(data: bytes) -> None:
    """The same elements with the same attributes, whatever the text in them."""
    text = as_text(data)
    made, plain = described(text, reason=text), described("a change", reason="a reason")
    pages = [page(h, title=pull_request.title(h), base="main", diffs={}) for h in (made, plain)]
    assert Skeleton(pages[0]).elements == Skeleton(pages[1]).elements
    assert Skeleton(chart(made)).elements == Skeleton(chart(plain)).elements


@quick
@given(HOSTILE)
def test_any_script_is_a_script_or_none(data: bytes) -> None:
    """As the training script of a commit: it parses, or ValueError says that it does not."""
    text = as_text(data)
    try:
        source.fingerprint(text)
    except ValueError:
        return
    source.code_lines(text)


@slow
@given(HOSTILE)
def test_any_script_has_knobs_or_none(data: bytes) -> None:
    """The search looks for what can be changed, and a reviewer for what was, in whatever parses."""
    text = as_text(data)
    tripped("LR = 0.1\n", text)
    try:
        source.fingerprint(text)
    except ValueError:
        return
    find_knobs(text)


LINE = json.dumps(
    {"type": "session", "tag": "nov22", "metric": "val_bpb", "direction": "minimize", "training_script": "train.py"}
).encode()


@quick
@given(HOSTILE, st.integers(0, len(LINE)), st.booleans())
def test_any_journal_is_read_or_refused(data: bytes, at: int, inside: bool) -> None:
    """As a line of the journal, whole or in the middle of a good one: a history, or ValueError with the line's number."""
    line = LINE[:at] + data + LINE[at:] if inside else data
    try:
        journal.parse(LINE + b"\n" + line + b"\n")
    except ValueError as error:
        assert re.match(r"line \d+ is damaged: ", str(error))


@some
@given(HOSTILE)
def test_any_table_is_read_or_refused(data: bytes) -> None:
    """As a results.tsv that somebody gives us: a history, or one clear sentence."""
    try:
        results.read(as_text(data))
        results.read("commit\tval_bpb\tmem_gb\tstatus\tdescription\n" + as_text(data))
    except SettingsError as error:
        assert error.hint


@quick
@given(
    HOSTILE,
    st.sampled_from(["time-budget", "metric", "direction", "tag", "labels", "env", "memory", "metric-pattern", ""]),
)
def test_any_settings_file_is_read_or_refused(data: bytes, name: str) -> None:
    """As autoresearch.toml, or as the value of one of its settings, or of a variable: settings, or one clear sentence."""
    content = data if not name else f"{name} = ".encode() + json.dumps(as_text(data)).encode()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "autoresearch.toml")
        file.write_bytes(content)
        for read in (
            lambda: read_file(file),
            lambda: load(file=file),
            lambda: read_environment(
                {"AUTORESEARCH_METRIC": as_text(data), "AUTORESEARCH_X" + as_text(data)[:20]: "1"}
            ),
            lambda: load(environ={"AUTORESEARCH_" + (name or "tag").upper().replace("-", "_"): as_text(data)}),
        ):
            try:
                read()
            except SettingsError as error:
                said = io.StringIO()
                Console(io.StringIO(), said).error(error.message, error.hint)
                assert said.getvalue().count("\n") <= 2
                assert "Traceback" not in said.getvalue()


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' * 50_000, b"9" * 100_000, b"\0" * 1000]
)
def test_what_is_too_deep_or_too_long_is_refused(data: bytes, tmp_path: Path) -> None:
    """Nesting without end and numbers without end are no crash either."""
    Journal(tmp_path).restore(data + b"\n")
    with pytest.raises(ValueError, match=r"damaged|no session"):
        journal.parse(data + b"\n")
    file = tmp_path / "autoresearch.toml"
    file.write_bytes(b"metric = " + data)
    with pytest.raises(SettingsError):
        read_file(file)
    tripped("", as_text(data))
    metrics.read(as_text(data), "val_bpb")
