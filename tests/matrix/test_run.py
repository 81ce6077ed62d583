"""The matrix with processes of its own, but without a compiler: builds end at what a stand-in for the command does."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.testbed.artifacts import manifest, write
from compiler.matrix import summary
from compiler.matrix.page import page
from compiler.matrix.run import EngineChoice, build, counts, plan
from compiler.matrix.state import MatrixRow, key_of, log_file, look, read_record, tag_of
from compiler.matrix.task import FleetLimits
from compiler.report import Silent
from tests.matrix.programs import Matrix, entry, states


@pytest.fixture
def made(tmp_path: Path) -> Matrix:
    return Matrix(tmp_path)


def test_a_build_that_fails_stops_no_other_and_is_repeated(made: Matrix) -> None:
    entries = [entry(name) for name in ("good", "fails", "killed", "refused", "leaks", "last")]
    engine = EngineChoice(limits=FleetLimits(parallel=3))
    rows = build(entries, made.place, "1", Silent(), engine, jobs=3)
    assert states(rows) == ["built", "failed", "failed", "refused", "failed", "built"]
    assert [(row.step, row.error, row.exit_code) for row in rows[1:5]] == [
        ("build", "it went wrong <&\x1b[1m", 8),
        ("build", "ended by signal 9", 137),
        ("plan", "`tp` 3 cannot split it\nsecond line", 4),
        ("scan", "a token", 4),
    ]
    assert counts(rows) == "2 built, 3 failed, 1 refused"
    made.log.unlink()
    again = build(entries, made.place, "1", Silent(), engine, jobs=3)
    assert states(again) == ["current", "failed", "failed", "refused", "failed", "current"]
    assert [words[0] for words in made.commands() if "good" in words[-1] or "last" in words[-1]] == []


def test_only_what_changed_is_built(made: Matrix) -> None:
    entries = [entry("a"), entry("b")]
    assert states(plan(entries, made.place, "1", Silent())) == ["new", "new"]
    first = build(entries, made.place, "1", Silent())
    assert states(plan(entries, made.place, "1", Silent())) == ["current", "current"]
    assert states(plan([entry("a", tp="2"), entry("b")], made.place, "1", Silent())) == ["changed", "current"]
    assert states(plan(entries, made.place, "2", Silent())) == ["changed", "changed"]
    how = [entry("a", jobs="3", cache="elsewhere"), entry("b", timeout="9")]
    assert states(plan(how, made.place, "1", Silent())) == ["current", "current"]
    made.source.write_text("sha256:newer")
    assert states(plan(entries, made.place, "1", Silent())) == ["changed", "changed"]
    made.source.write_text("sha256:source")
    (made.place.output / "a/manifest.json").unlink()
    assert states(plan(entries, made.place, "1", Silent())) == ["changed", "current"]
    assert read_record(made.place.output, "a") == first[0]


def test_sign_and_push_come_after_scan(made: Matrix) -> None:
    place = replace(made.place, key="key.pem")
    (row,) = build([entry("a")], place, "1", Silent())
    artifact = str(place.output / "a")
    assert made.commands()[1:] == [
        ["build", "--model", "m", "--name", "a", "--output", artifact, "--force", "--json"],
        ["scan", artifact],
        ["sign", artifact, "--key", "key.pem"],
    ]
    assert row.state == "built"


def test_the_store_decides_where_there_is_one(made: Matrix) -> None:
    place = replace(made.place, store=f"file://{made.folder}/store/")
    (row,) = build([entry("a")], place, "1", Silent())
    assert row.key is not None
    address = f"file://{made.folder}/store/a@{tag_of(row.key)}"
    assert [words[0] for words in made.commands()[1:]] == ["build", "push"]  # a push scans
    assert made.commands()[-1] == ["push", str(place.output / "a"), address]
    assert plan([entry("a")], place, "1", Silent()) == [MatrixRow("a", "current", row.key, row.digest)]
    assert states(plan([entry("a")], replace(place, store=f"{made.folder}/other"), "1", Silent())) == ["changed"]


def test_a_real_store_is_asked(made: Matrix) -> None:
    """A folder as a store: nothing there of the tag, then a push."""
    from compiler.registry.push import push

    store = f"file://{made.folder}/store"
    key = key_of(entry("tiny"), "sha256:plan", "sha256:source", "1")
    assert look(entry("tiny"), key, made.place.output, store).state == "new"
    artifact = write(made.folder / "tiny", manifest())
    pushed = push(artifact, f"{store}/tiny@{tag_of(key)}", journal=made.folder / "uploads")
    assert look(entry("tiny"), key, made.place.output, store) == MatrixRow("tiny", "current", key, pushed.digest)


def test_as_many_at_a_time_as_asked(made: Matrix) -> None:
    engine = EngineChoice(limits=FleetLimits(parallel=2))
    build([entry(f"b{i}") for i in range(4)], made.place, "1", Silent(), engine)
    running, most = 0, 0
    for line in sorted((line for line in made.lines() if "--force" in line), key=lambda line: line[0]):
        running += -1 if line[1] == "done" else 1
        most = max(most, running)
    assert most == 2


def test_the_summaries(made: Matrix) -> None:
    rows = build([entry(name) for name in ("good", "fails", "refused")], made.place, "1", Silent())
    rows += [MatrixRow("old", "current", "sha256:k", "sha256:" + "a" * 64)]
    text = summary.text(rows)
    assert "fails    failed" in text
    assert "build: it went wrong" in text
    table = summary.markdown(rows).splitlines()
    assert table[0] == "### lmi-compile matrix"
    assert {line.count("|") - line.count("\\|") for line in table[2:] if line} == {6}
    assert "&lt;&" in summary.markdown(rows)
    root = ET.fromstring(summary.junit(rows, made.place.output))  # noqa: S314 (our own output)
    suite = root.find("testsuite")
    assert suite is not None
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4", "failures": "2", "errors": "0", "skipped": "1"
    }  # fmt: skip
    cases = {case.get("name"): case for case in suite}
    failure = cases["fails"].find("failure")
    assert failure is not None
    assert failure.get("message") == "it went wrong <&?[1m"
    assert failure.get("type") == "exit code 8"
    assert "$ lmi-compile build --model m --name fails" in (failure.text or "")
    assert cases["old"].find("skipped") is not None
    assert list(cases["good"]) == []


def test_a_record_that_is_none_is_no_record(made: Matrix) -> None:
    build([entry("a")], made.place, "1", Silent())
    file = made.place.output / ".matrix/a.json"
    for junk in ("", "[]", '{"name": "a"}'):
        file.write_text(junk)
        assert read_record(made.place.output, "a") is None
        assert states(plan([entry("a")], made.place, "1", Silent())) == ["new"]
    assert log_file(made.place.output, "a").read_text().startswith("$ lmi-compile build --model m")


def test_the_page_has_every_build_the_failures_and_the_cost(made: Matrix) -> None:
    rows = build([entry(name) for name in ("good", "fails")], made.place, "1", Silent())
    rows += [MatrixRow("priced<", "built", seconds=1800.0, attempts=2, instance="ml.g5.2xlarge")]
    text = page(rows, made.place.output, {"ml.g5.2xlarge": 3.0})
    assert "2 built, 1 failed" in text
    assert "cost 1.50 (1 of 3 builds have a price)" in text
    assert "priced&lt;" in text
    assert "it went wrong &lt;&amp;" in text
    assert "$ lmi-compile build --model m --name fails" in text
    assert "prefers-color-scheme:dark" in text  # the colors of all pages
    assert "<script" not in text
    assert "http" not in text  # nothing is loaded
