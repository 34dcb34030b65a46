"""The pull request's title and text."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ci import __version__
from autoresearch_ci.experiment import Category, Direction, History, Purpose, Session, Status, Verdict
from autoresearch_ci.report.commands import reproduce_commands
from autoresearch_ci.report.failed import failures
from autoresearch_ci.report.kept import diff_lines, steps
from autoresearch_ci.report.links import job_link
from autoresearch_ci.report.provenance import how_it_was_run
from autoresearch_ci.report.pull_request import Files, body, progress_body, progress_title, title, unconfirmed
from autoresearch_ci.report.summary import summary
from autoresearch_ci.tripwires import Kind, Tripwire

from .histories import (
    BASE,
    BEST,
    CONFIRMED,
    FIRST,
    NOT_CONFIRMED,
    experiment,
    history,
    measured,
    measurement,
    noisy,
    recheck,
)

K, D, C = Status.KEEP, Status.DISCARD, Status.CRASH
FILES = Files(summary="reports/autoresearch-summary.md", results="results.tsv", chart="autoresearch.svg")
ROWS = history((1.0, K), (1.2, D), (0.9, K), (None, C), (0.8, K), ended="max-iterations reached")
DIFF = """\
diff --git a/train.py b/train.py
--- a/train.py
+++ b/train.py
@@ -1,2 +1,3 @@
 x
-LR = 1
--- old
+LR = 2
+a
+b
"""
DIFFS = {e.commit: DIFF for e in ROWS.kept}


def on_github(made: History) -> History:
    session = dataclasses.replace(made.session, repository="https://github.com/o/r", settings={"tag": "nov22"})
    return dataclasses.replace(made, session=session)


def text(made: History, base: str = "main") -> str:
    return body(made, files=FILES, base=base, diffs=DIFFS)


def test_titles() -> None:
    """The title has the numbers, says when nothing was kept, and fits GitHub's limit."""
    assert title(ROWS) == "autoresearch/nov22: val_bpb 1 → 0.8 (-20 %), 2 of 4 kept"
    assert "nothing kept of 1 tried" in title(history((1.0, K), (1.1, D)))
    assert len(title(dataclasses.replace(ROWS, session=dataclasses.replace(ROWS.session, metric="m" * 999)))) <= 200


def test_the_links_on_github() -> None:
    """With a repository the chart, the commits and the files are links to it."""
    made = text(on_github(ROWS))
    assert "](https://github.com/o/r/raw/autoresearch/nov22/autoresearch.svg)" in made
    assert f"](https://github.com/o/r/commit/{ROWS.kept[0].commit})" in made
    assert "](https://github.com/o/r/blob/autoresearch/nov22/reports/autoresearch-summary.md)" in made
    assert "git fetch origin refs/autoresearch/nov22/experiments/0001 && git show FETCH_HEAD" in made
    assert "git fetch origin autoresearch/nov22 && git checkout FETCH_HEAD" in made
    assert "| tag | nov22 |" in made


def test_the_links_of_a_local_session() -> None:
    """Without a repository nothing points to the network."""
    made = text(ROWS)
    assert "](autoresearch.svg)" in made
    assert "](autoresearch-summary.md)" in made
    assert "http" not in made
    assert "git show refs/autoresearch/nov22/experiments/0001\n" in made
    assert "AUTORESEARCH_TIME_BUDGET=300 python train.py" in made


def test_reproduced_as_it_was_run() -> None:
    """The command, the variables and the folder are the session's own; a shell takes them as the executor did."""
    session = dataclasses.replace(
        ROWS.session,
        training_script="examples/tiny one/train.py",
        settings={"command": "uv run {training-script} --note 'a > b'", "training-script": "train.py"},
        adjustments={"AUTORESEARCH_DEVICE": "cpu"},
    )
    assert reproduce_commands(session) == (
        "git checkout autoresearch/nov22",
        "cd 'examples/tiny one' && AUTORESEARCH_TIME_BUDGET=300 AUTORESEARCH_DEVICE=cpu uv run train.py --note 'a > b'",
    )


@pytest.mark.parametrize("script", ["train.py", "./train.py", "../train.py", "in.py"])
def test_a_script_at_the_root_needs_no_folder(script: str) -> None:
    """However the setting spells it."""
    session = dataclasses.replace(ROWS.session, settings={"training-script": script})
    assert reproduce_commands(session)[1] == f"AUTORESEARCH_TIME_BUDGET=300 python {script}"


def headings(made: str) -> list[str]:
    return [line for line in made.splitlines() if line.startswith("##")]


def test_the_order_of_a_body() -> None:
    """What was gained, the picture, the keeps and how sure they are, what failed, what to do next, how it was run, what to do."""
    assert headings(text(on_github(ROWS))) == [
        "## What was kept",
        "## How sure this is",
        "## What did not work",
        "## Next steps",
        "## How it was run",
        "## How to reproduce",
        "## How to merge",
        "### Decide by comment",
    ]


def test_three_to_five_next_steps_as_in_the_summary() -> None:
    """The same steps, word for word."""
    made = text(ROWS)
    steps_of = made[made.index("## Next steps") : made.index("## How it was run")]
    found = [line for line in steps_of.splitlines() if line.startswith("- ")]
    assert 3 <= len(found) <= 5
    assert "\n".join(found) in summary(ROWS)


def test_how_it_was_run() -> None:
    """On what, behind what wall, when and for how long, from which commit, in which job, with which versions."""
    runs = replace(measurement(BASE, 1.0), conditions={"torch": "2.9.1", "driver": "570.86", "other_load": 0.5})
    made = on_github(
        replace(ROWS, experiments=(replace(ROWS.experiments[0], measurements=(runs,)), *ROWS.experiments[1:]))
    )
    session = replace(
        made.session,
        device="NVIDIA H100",
        executor="container",
        settings={"proposer": "hybrid"},
        run_url="https://github.com/o/r/actions/runs/7",
    )
    assert how_it_was_run(replace(made, session=session)) == [
        ("Machine", "cpu, NVIDIA H100, container"),
        ("Wall", "a fresh container for every run"),
        ("Each run", "300 s of training"),
        (
            "Experiments",
            "4 and the baseline, 2026-11-22 22:00 UTC to 2026-11-22 22:24 UTC, 0.3 h of runs, 15 experiments an hour",
        ),
        ("From", f"[0000000](https://github.com/o/r/commit/{'0' * 40}) of main"),
        ("Proposer", "hybrid"),
        ("Job", "[the job's page](https://github.com/o/r/actions/runs/7)"),
        ("Versions", f"autoresearch-ci {__version__}, torch 2.9.1, driver 570.86"),
    ]
    assert "- **Job:** [the job's page](https://github.com/o/r/actions/runs/7)" in text(replace(made, session=session))
    native = replace(session, executor="native", wall="bubblewrap")
    assert "no container walled them in (bubblewrap)" in dict(how_it_was_run(replace(made, session=native)))["Wall"]


def test_of_a_bare_table_only_what_is_known() -> None:
    """No invented machine, date or job."""
    bare = Session(tag="x", metric="m", direction=Direction.MINIMIZE, training_script="train.py")
    assert how_it_was_run(History(session=bare)) == [("Versions", f"autoresearch-ci {__version__}")]


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "https://x/a b", "https://x/)[y](z", "http://x/\n", "https://x/" + "a" * 400]
)
def test_only_an_address_is_a_link(address: str) -> None:
    """The journal may be anybody's."""
    assert job_link(replace(ROWS.session, run_url=address)) == ""


def test_tripwires_beside_their_commit() -> None:
    """Kinds once each, at most three and how many more; where every script was looked at and is clean, that is said."""
    first, best = ROWS.kept
    wires = {
        first.commit: (),
        best.commit: tuple(
            Tripwire(kind, 3, "x") for kind in (Kind.SEED, Kind.SEED, Kind.CLOCK, Kind.STACK, Kind.CODE, Kind.MORE)
        ),
    }
    made = body(on_github(ROWS), files=FILES, base="main", diffs=DIFFS, tripwires=wires)
    assert f"| 4 | ⚠ [0000000](https://github.com/o/r/commit/{best.commit}) |" in made
    assert "| optimizer | a changed seed, the clock patched, the interpreter's own objects, 1 more |" in made
    assert f"| 2 | [0000000](https://github.com/o/r/commit/{first.commit}) |" in made
    assert "| KNOB 2 → 3 | optimizer |  |" in made
    assert "trips a wire" not in made
    clean = body(ROWS, files=FILES, base="main", diffs=DIFFS, tripwires=dict.fromkeys(wires, ()))
    assert "No kept change trips a wire, and none of its readings is flagged." in clean
    assert "trips a wire" not in text(ROWS)


def test_decisions_by_comment() -> None:
    """Only where there is a repository; to be dropped is a commit that no longer matters, else the last kept one."""
    made = text(on_github(ROWS))
    for command in ("continue 20", "verify 5", f"drop {ROWS.kept[-1].label}", "merge squash", "stop"):
        assert f"| <code>/autoresearch {command}</code> |" in made
    assert "Only people with write access" in made
    assert "Decide by comment" not in text(ROWS)
    idle = recheck(Purpose.ABLATE, (BEST, (0.9, 0.91)), ("a" * 40, (0.9, 0.91)), reverted=FIRST)
    named = noisy(CONFIRMED, idle)
    changed = replace(named, experiments=tuple(replace(e, commit=e.commit[::-1]) for e in named.experiments))
    assert f"drop {FIRST[:7]}" in text(on_github(named))
    assert f"drop {BEST[::-1][:7]}" in text(on_github(changed))
    assert "drop" not in text(on_github(history((1.0, K), (1.1, D))))


def test_a_note_is_the_first_thing_seen() -> None:
    """As an alert, in one line, with its command as code; nothing without one."""
    made = body(
        ROWS, files=FILES, base="main", diffs=DIFFS, note="somebody pushed\nhere: `git fetch origin x` @octocat"
    )
    assert made.startswith(
        "> [!IMPORTANT]\n> somebody pushed here: <code>git fetch origin x</code> @\u200boctocat\n\n**val_bpb"
    )
    assert "IMPORTANT" not in text(ROWS)


def test_the_draft_says_that_nothing_is_verified() -> None:
    """Running since when, how it stands, what was kept and tried last; that gains are not verified, and what happens to the text."""
    going = on_github(replace(ROWS, ended=""))
    made = progress_body(going, files=FILES, base="main", diffs=DIFFS)
    assert made.startswith("**This session is running** since 2026-11-22 22:00 UTC, and this pull request is a draft")
    assert "This is how it stood at 2026-11-22 22:24 UTC." in made
    assert "**No gain here is verified yet:**" in made
    assert "This part of the text is replaced then" in made
    assert "| 4 of unlimited: 2 kept, 1 discarded, 1 crashed | 00:24 |" in made
    assert "Comment <code>/autoresearch stop</code>" in made
    assert "xychart-beta" in made
    assert f"| 2 | [0000000](https://github.com/o/r/commit/{ROWS.kept[0].commit}) | 0.9 | +0.1 (10 %) | +3 −2 |" in made
    assert headings(made) == ["## Kept so far", "## Experiments, newest first"]
    assert progress_title(going) == "running: autoresearch/nov22: val_bpb 1 → 0.8 (-20 %), 2 of 4 kept"
    for claim in ("onfirmed", "merge --tag", "raw/"):
        assert claim not in made
    early = progress_body(history(), files=FILES, base="main", diffs={})
    assert "The baseline is being measured." in early


def test_kept_rows() -> None:
    """Every kept commit has its gain on the keep before it, in the good direction, and its changed lines."""
    made = text(ROWS)
    assert "| 2 | 0000000 | 0.9 | +0.1 (10 %) | +3 −2 | KNOB 2 → 3 | optimizer |" in made
    assert "| 4 | 0000000 | 0.8 | +0.1 (11.1 %) | +3 −2 |" in made
    most = history((0.0, K), (2.0, K), direction=Direction.MAXIMIZE)
    assert [(s.gain, s.share) for s in steps(most, {})] == [(2.0, "")]
    assert "| +2 | — |" in body(most, files=FILES, base="main", diffs={})


def test_small_gains_are_named() -> None:
    """A gain near the noise of a run is pointed out."""
    assert "1 of 2 kept changes gained less than 0.1 %" in text(history((1.0, K), (0.9999, K), (0.5, K)))
    assert "gained less" not in text(ROWS)


def test_a_confirmed_gain_is_the_headline() -> None:
    """With its interval and the number of runs, in the title and the first line, beside what the search saw."""
    made = noisy(CONFIRMED)
    assert title(made) == (
        "autoresearch/nov22: val_bpb gain 0.100 (95 % CI 0.083 to 0.117, 3 runs of each), "
        "best single reading 1.01 → 0.9, 2 of 4 kept"
    )
    said = text(made)
    assert said.startswith("**val_bpb: confirmed gain 0.100 (95 % CI 0.083 to 0.117, 3 runs of each)**")
    assert "While searching: 1.01 → 0.9 (-10.9 %), best single reading 0.9; 2 changes kept of 4 tried" in said
    assert "- **Noise of one reading:** standard deviation 0.0094" in said
    assert "One run per experiment" not in said
    assert "| 0.95 | +0.060 ± 0.010 (5.94 %) |" in said
    assert not unconfirmed(made)


def test_a_gain_that_was_not_confirmed_is_said_first() -> None:
    """The title and the verdict begin with it, and the pull request is to be a draft."""
    made = noisy(NOT_CONFIRMED)
    assert title(made).startswith("not confirmed: autoresearch/nov22: val_bpb gain 0.002 (95 % CI -0.0")
    assert text(made).startswith("**Not confirmed: val_bpb gain 0.002 (95 % CI -0.0")
    assert "it is not certain that this is an improvement at all." in text(made)
    assert unconfirmed(made)
    failed = noisy(recheck(Purpose.VERIFY, (BASE, (1.0,)), (BEST, (None,))))
    assert title(failed) == "not confirmed: autoresearch/nov22: val_bpb 1.01 → 0.9 (-10.9 %), 2 of 4 kept"
    assert text(failed).startswith("**Not confirmed: val_bpb**: the fresh runs gave no reading of both")
    assert unconfirmed(failed)


def test_without_repeats_nothing_is_claimed() -> None:
    """One run per experiment is said where that is so; a bare table and a session of single runs read as ever."""
    once = dataclasses.replace(ROWS, experiments=(measured(0, (1.0,), K), measured(1, (0.9999,), K)))
    assert "One run per experiment on cpu, 300 s of training each." in text(once)
    assert "1 of 1 kept changes gained less than 0.1 %" in text(once)
    assert "One run per experiment on cpu" in text(ROWS)
    for made in (once, ROWS, noisy()):
        assert not unconfirmed(made)
        assert "confirmed" not in title(made)


def test_nothing_kept() -> None:
    """A session that kept nothing says so and has no table of keeps and no diagram."""
    made = text(history((1.0, K), (1.1, D)))
    assert made.startswith("**Nothing was kept**")
    assert "What was kept" not in made
    assert "mermaid" not in made


def test_odd_histories() -> None:
    """No baseline, a crashed baseline and a keep without a metric have a text too."""
    assert "Nothing was kept" in text(history())
    assert "Nothing was kept" in text(history((None, C)))
    assert "| 1 | 0000000 | — | — |" in text(history((1.0, K), (None, K)))
    timeless = dataclasses.replace(experiment(0, 1.0, K), started_at=None, finished_at=None)
    assert text(History(session=ROWS.session, experiments=(timeless,)))


def test_failures_by_category() -> None:
    """Failures are counted by category; numbers at the end of a discard's reason do not make reasons of their own."""
    made = history((1.0, K), (1.1, D), (1.2, D), (None, C), (1.3, D))
    reasons = ["", "worse by 0.1", "worse by 2e-05", "exit code 1", "no change"]
    changed = tuple(
        dataclasses.replace(
            e, verdict=Verdict(status=e.status, reason=reason), category=Category.TRAINING if n < 4 else Category.OTHER
        )
        for n, (e, reason) in enumerate(zip(made.experiments, reasons, strict=True))
    )
    assert failures(dataclasses.replace(made, experiments=changed)) == [
        (Category.TRAINING, 2, 1, "worse (2×), exit code 1 (1×)"),
        (Category.OTHER, 1, 0, "no change (1×)"),
    ]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("worse by 0.0012, after 1 run against 3", "worse"),
        ("better by 1e-05 only, after 12 runs against 18", "better, but too little"),
        ("better by 0.01, which is not enough to be sure (0.02 is), after 4 runs against 6",
         "better, which is not enough to be sure"),
        ("exit code 1: killed by -9", "exit code 1: killed"),
        ("killed by the memory limit", "killed by the memory limit"),
    ],
)  # fmt: skip
def test_reasons_are_counted_without_their_numbers(reason: str, kind: str) -> None:
    """Discards for the same reason are one reason, however many runs each took."""
    made = experiment(1, 1.1, D, verdict=Verdict(status=D, reason=reason))
    [(_, _, _, top)] = failures(dataclasses.replace(ROWS, experiments=(ROWS.experiments[0], made)))
    assert top == f"{kind} (1×)"


def test_the_diagram_has_no_exponents() -> None:
    """Mermaid reads plain decimals only; a diagram that would be too long is left out."""
    tiny = text(history((3e-7, K), (1e-8, K)))
    assert re.search(r"line \[0\.0000003, 0\.00000001\]", tiny)
    assert "mermaid" not in text(history(*((10.0 ** (300 - n), K) for n in range(40))))


def test_diff_lines() -> None:
    """A removed line that begins with dashes is a removed line, and a file's header is not."""
    kinds = [kind for kind, _ in diff_lines(DIFF + DIFF)]
    assert kinds == ["", "", "", "@", " ", "-", "-", "+", "+", "+"] * 2


@settings(max_examples=6)
@given(st.text(max_size=400), st.sampled_from(["@", "&", "<|>", "`", "a", "文", "😀"]), st.integers(3, 5))
def test_the_body_is_never_too_long(anything: str, often: str, size: int) -> None:
    """However long and odd the descriptions, reasons, settings and names, the body stays below 60,000 characters."""
    nasty = anything + often * 300
    base = ROWS.experiments[0]
    many = tuple(
        dataclasses.replace(
            base, number=n, description=nasty, category=list(Category)[n % 5], metric=1.0 - n / 1e6,
            verdict=Verdict(status=(K, D, C)[n % 3], reason=f"{n}{nasty}"), commit=f"{n:040x}",
        )
        for n in range(200 * size)
    )  # fmt: skip
    pairs = {f"{n}{nasty}": nasty for n in range(100)}
    session = dataclasses.replace(
        on_github(ROWS).session,
        settings=pairs,
        adjustments=pairs,
        metric=nasty,
        device=nasty,
        tag=nasty,
        training_script=nasty,
    )
    bare = text(History(session=session, experiments=many, ended=nasty), base=nasty)
    assert len(bare) < 60_000
    known = noisy(CONFIRMED, recheck(Purpose.MACHINE, (BASE, (1.0,)), (BEST, (0.9,)), note=nasty))
    kept = tuple(dataclasses.replace(e, number=n, description=nasty) for n, e in enumerate(known.experiments * 100))
    history = dataclasses.replace(known, session=session, ended=nasty, experiments=(known.experiments[0], *kept))
    wires = {e.commit: (Tripwire(Kind.CODE, 1, nasty),) * 20 for e in history.kept}
    made = body(history, files=FILES, base=nasty, diffs=DIFFS, tripwires=wires, note=nasty)
    assert "Near misses" in made
    assert "more commits with" in made
    assert len(made) < 60_000
    assert "more in [results.tsv]" in made
    for going in (history, History(session=session, experiments=many)):
        draft = progress_body(going, files=FILES, base=nasty, diffs=DIFFS)
        assert len(draft) < 60_000
        assert len(progress_title(going)) <= 200


@settings(max_examples=20)
@given(st.text(max_size=100))
def test_descriptions_do_nothing(words: str) -> None:
    """A description, a reason or a setting mentions nobody and adds no row."""
    nasty = f"{words} @octocat fixes #1 <img src=x> <!-- autoresearch:end --> | x\n# heading\n```"
    changed = tuple(
        dataclasses.replace(e, description=nasty, verdict=Verdict(status=e.status, reason=nasty))
        for e in ROWS.experiments
    )
    session = dataclasses.replace(on_github(ROWS).session, settings={nasty: nasty})
    made = text(dataclasses.replace(ROWS, session=session, experiments=changed))
    moved = recheck(Purpose.MACHINE, (BASE, (1.0,)), (BEST, (0.9,)), note=nasty)
    missed = tuple(dataclasses.replace(e, description=nasty) for e in noisy().experiments)
    sure = text(dataclasses.replace(noisy(CONFIRMED, moved), experiments=missed))
    draft = progress_body(
        dataclasses.replace(ROWS, experiments=changed, ended=""), files=FILES, base=nasty, diffs=DIFFS
    )
    for shown in (made, sure, draft):
        assert "@octocat" not in shown
        assert "fixes #1" not in shown
        assert "<img" not in shown
        assert "<!--" not in shown
    assert len(made.splitlines()) == len(text(on_github(ROWS)).splitlines())
    harmless = progress_body(dataclasses.replace(ROWS, ended=""), files=FILES, base="main", diffs=DIFFS)
    assert len(draft.splitlines()) == len(harmless.splitlines())
    plain = noisy(CONFIRMED, dataclasses.replace(moved, note="x"))
    assert len(sure.splitlines()) == len(text(plain).splitlines())
