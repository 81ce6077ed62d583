"""Stages of a build as cells of their own: rank files first, the artifact, its proof on another machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler import machine
from compiler.errors import UsageError
from compiler.matrix.file import BuildEntry, read_builds
from compiler.matrix.ledger import Ledger, ledger_uri
from compiler.matrix.run import Destination, EngineChoice, build
from compiler.matrix.stages import stage_cell, stage_key
from compiler.matrix.state import MatrixRow, tag_of
from compiler.matrix.status import Jobs
from compiler.matrix.worker import work
from compiler.report import Silent
from tests.matrix.programs import Matrix, entry, states
from tests.matrix.test_aws import CELL, ROLE

ALL = ["convert", "build", "prove"]


@pytest.fixture
def made(tmp_path: Path) -> Matrix:
    return Matrix(tmp_path)


def staged(name: str, stages: list[str], **fleet: Any) -> BuildEntry:
    return replace(entry(name), fleet=tuple({"stages": stages, **fleet}.items()))


def in_store(made: Matrix) -> Destination:
    return replace(made.place, store=f"file://{made.folder}/store/")


def proof_of(place: Destination, row: MatrixRow) -> dict[str, Any]:
    ledger = Ledger(ledger_uri(place.output, place.store))
    found: dict[str, Any] = json.loads(ledger.store.read(f"proofs/{str(row.key)[7:23]}.json")[0])
    return found


def test_stages_run_one_after_the_other_and_once(made: Matrix) -> None:
    place, entries = in_store(made), [staged("a", ALL)]
    rows = build(entries, place, "1", Silent())
    assert [(row.name, row.state) for row in rows] == [("a.convert", "built"), ("a", "built"), ("a.prove", "built")]
    converted, built, pushed, proved = made.commands()[1:]
    assert converted[-3:] == ["--until", "convert", "--json"]
    assert (built[0], pushed[0]) == ("build", "push")
    assert proved[:2] == ["prewarm", f"file://{made.folder}/store/a@{tag_of(rows[1].key or '')}"]
    proof = proof_of(place, rows[1])
    assert proof["built_on"] == proof["proved_on"] == machine.host()  # one machine, and recorded as such
    assert proof["prewarm"] == {"answer": {"text": "yes"}}
    assert rows[2].digest == rows[1].digest
    made.log.unlink()
    again = build(entries, place, "1", Silent())
    assert [(row.name, row.state) for row in again] == [("a", "current"), ("a.prove", "current")]
    assert [words[:1] for words in made.commands()] == [["build"]]  # the plan
    assert [one.row.name for one in Jobs(place.output, place.store, {}).status(entries)] == [
        "a.convert",
        "a",
        "a.prove",
    ]


def test_an_artifact_that_is_there_is_proved_and_not_converted(made: Matrix) -> None:
    place = in_store(made)
    build([entry("a")], place, "1", Silent())
    made.log.unlink()
    rows = build([staged("a", ALL)], place, "1", Silent())
    assert [(row.name, row.state) for row in rows] == [("a", "current"), ("a.prove", "built")]
    assert [words[0] for words in made.commands()] == ["build", "prewarm"]


def test_without_a_store_the_artifact_is_proved_where_it_is(made: Matrix) -> None:
    rows = build([staged("a", ["build", "prove"])], made.place, "1", Silent())
    assert states(rows) == ["built", "built"]
    artifact = str(made.place.output / "a")
    assert made.commands()[-1][:3] == ["prewarm", artifact, artifact]


def test_after_a_failed_build_nothing_is_proved(made: Matrix) -> None:
    rows = build([staged("fails", ["build", "prove"])], made.place, "1", Silent())
    assert [(row.state, row.step, row.exit_code) for row in rows] == [("failed", "build", 8), ("failed", "wait", 8)]
    assert rows[1].error == "`fails` is failed"
    assert "prewarm" not in [words[0] for words in made.commands()]


def test_a_proof_on_another_machine_is_refused_by_the_one_that_built(made: Matrix) -> None:
    place = in_store(made)
    (built,) = build([entry("a")], place, "1", Silent())
    ledger = Ledger(ledger_uri(place.output, place.store))
    key = stage_key(built.key or "", "prove")
    cell = replace(
        CELL, name="a.prove", stage="prove", artifact="a", artifact_key=built.key or "", key=key, another_host=True,
        ledger=ledger.uri, store=place.store or "", command=made.program,
    )  # fmt: skip
    ledger.write_cell(cell)
    row = work(ledger, cell.token)
    assert (row.state, row.failure, row.exit_code) == ("failed", "host", 4)
    assert machine.host() in row.error
    ledger.write_end(replace(built, host="elsewhere/0123"), built.key or "")
    row = work(ledger, cell.token)
    assert (row.state, row.digest) == ("built", built.digest)
    proof = proof_of(place, built)
    assert (proof["built_on"], proof["proved_on"]) == ("elsewhere/0123", machine.host())


def test_a_proof_on_another_machine_needs_the_record_of_the_first(made: Matrix) -> None:
    place = in_store(made)
    (built,) = build([entry("a")], place, "1", Silent())
    ledger = Ledger(ledger_uri(place.output, place.store))
    ledger.store.delete([f"ends/{str(built.key)[7:23]}.json"])
    cell = replace(CELL, stage="prove", artifact="a", artifact_key=built.key or "", another_host=True)
    cell = replace(cell, ledger=ledger.uri)
    ledger.write_cell(cell)
    row = work(ledger, cell.token)
    assert (row.state, row.failure) == ("failed", "refused")
    assert "no record of the machine that built it" in row.error


def test_stages_have_their_own_resources_and_claims() -> None:
    fleet = {"stages": ALL, "gpus": 4, "instance": "ml.g5.12xlarge", "another-host": True, "image": "gpu:1",
             "convert": {"instance": "ml.m7i.4xlarge", "image": "cpu:1"}}  # fmt: skip
    cell = replace(CELL, options=(("cache", "s3://bucket/cache"),))
    steps = [{"stage": "convert", "memory": 5, "disk": 6}, {"stage": "compile", "memory": 70, "disk": 80}]
    convert, prove = (stage_cell(cell, stage, fleet, steps, shared=False) for stage in ("convert", "prove"))
    assert (convert.image, convert.resources.instance, convert.resources.gpus) == ("cpu:1", "ml.m7i.4xlarge", 0)
    assert (convert.resources.memory, convert.resources.disk) == (5, 6)
    assert (prove.image, prove.resources.instance, prove.resources.gpus) == ("gpu:1", "ml.g5.12xlarge", 4)
    assert (convert.another_host, prove.another_host) == (False, True)
    assert len({cell.key, convert.key, prove.key}) == 3


def test_machines_without_a_common_cache_do_not_convert_for_another(made: Matrix) -> None:
    engine = EngineChoice("sagemaker", options={"sagemaker": {"role": ROLE, "region": "us-east-1"}})
    with pytest.raises(UsageError, match="share no stage cache"):
        build([staged("a", ALL)], in_store(made), "1", Silent(), engine)


def test_wrong_stages_are_told(tmp_path: Path) -> None:
    file = tmp_path / "builds.toml"
    file.write_text(
        '[[build]]\nmodel = "m"\nname = "a"\n[build.fleet]\nstages = ["convert"]\n[build.fleet.prove]\ngpu = 1\n'
        '[[build]]\nmodel = "m"\nname = "b"\n[build.fleet]\nstages = ["build", "prove"]\n'
        '[[build]]\nmodel = "m"\nname = "b.prove"\n'
    )
    with pytest.raises(UsageError) as caught:
        read_builds(file, ["model", "name"])
    assert "`stages`: expected `build` and others of convert, build, prove; found ['convert']" in caught.value.message
    assert "fleet prove: no resource is called `gpu`" in caught.value.message
    assert "two builds are called `b.prove`" in caught.value.message
