"""Definitions for engines that others drive: valid by the schemas of their formats, and complete."""

from __future__ import annotations

import json
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from compiler.cli.matrix import _build_options
from compiler.errors import RefusedError, UsageError
from compiler.matrix.emit import EmitOptions, emit, identifier
from compiler.matrix.file import BuildEntry, read_builds, read_engines
from compiler.matrix.names import FORMATS

BUILDS = """
[fleet]
image = "registry.example/lmi-compile:1"
cpus = 8
[fleet.kubernetes]
namespace = "builds"
service-account = "builder"
[fleet.batch]
queue = "gpu"
definition = "lmi-compile"
[fleet.github]
runs-on = ["self-hosted", "gpu"]
role = "arn:aws:iam::123456789012:role/builder"
[fleet.codebuild]
compute-type = "BUILD_GENERAL1_2XLARGE"
[[build]]
model = "owner/Big"
tp = [4, 8]
quant = "fp8"
[build.fleet]
gpus = 8
memory-gib = 64
disk-gib = 200.5
instance = "ml.p5.48xlarge"
[[build]]
name = "small_one"
model = "owner/small"
revision = 'a "quoted" \\ branch'
text-only = true
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "builds.toml"
    file.write_text(BUILDS)
    return file


@pytest.fixture
def entries(file: Path) -> tuple[BuildEntry, ...]:
    return read_builds(file, _build_options())


@pytest.fixture
def options(file: Path) -> EmitOptions:
    return EmitOptions("s3://bucket/engines/", 3600, 2, read_engines(file))


def test_kubernetes_jobs_are_valid_and_ask_for_what_a_cell_needs(
    entries: tuple[BuildEntry, ...], options: EmitOptions
) -> None:
    import kubernetes_validate

    jobs = list(yaml.safe_load_all(emit(entries, "kubernetes", options)))
    for job in jobs:
        kubernetes_validate.validate(job, "1.36", strict=True)
    assert len(jobs) == len(entries) == 3
    pod = jobs[0]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {
        "cpu": "8", "memory": "65536Mi", "ephemeral-storage": "205312Mi", "nvidia.com/gpu": "8"
    }  # fmt: skip
    assert pod["nodeSelector"] == {"node.kubernetes.io/instance-type": "p5.48xlarge"}
    del jobs[0]["spec"]["template"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(jobs[0], "1.36", strict=True)


def test_an_argo_workflow_is_one_of_its_models(entries: tuple[BuildEntry, ...], options: EmitOptions) -> None:
    from hera.workflows.models import Workflow

    found = yaml.safe_load(emit(entries, "argo", options))
    workflow = Workflow.model_validate(found)
    templates = {template.name: template for template in workflow.spec.templates or []}
    assert {task["template"] for task in found["spec"]["templates"][0]["dag"]["tasks"]} == templates.keys() - {"matrix"}
    known = json.loads(workflow.model_dump_json(exclude_none=True, by_alias=True))
    assert known["spec"]["templates"][1]["container"]["image"] == "registry.example/lmi-compile:1"
    assert _unknown(found, known) == []


def _unknown(written: Any, known: Any, path: str = "") -> list[str]:
    """Keys of a definition that its model dropped."""
    if isinstance(written, list):
        pairs = [(f"{path}/{index}", *pair) for index, pair in enumerate(zip(written, known, strict=True))]
    elif isinstance(written, dict) and isinstance(known, dict):
        pairs = [(f"{path}/{key}", written[key], known[key]) for key in written.keys() & known.keys()]
    else:
        return []
    dropped = [f"{path}/{key}" for key in written.keys() - known.keys()] if isinstance(written, dict) else []
    return dropped + [one for place, a, b in pairs for one in _unknown(a, b, place)]


def test_a_github_workflow_is_valid(entries: tuple[BuildEntry, ...], options: EmitOptions) -> None:
    import jsonschema

    schema = json.loads(
        files("check_jsonschema").joinpath("builtin_schemas/vendor/github-workflows.json").read_text("utf-8")
    )
    text = emit(entries, "github", options)
    assert "'on':" in text or '"on":' in text
    found = yaml.safe_load(text)
    jsonschema.validate(found, schema)
    job = found["jobs"]["build-1"]
    assert [one["name"] for one in job["strategy"]["matrix"]["include"]] == [entry.name for entry in entries]
    assert "${{" not in job["steps"][1]["run"]  # values go through variables
    del found["jobs"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, schema)


def test_a_batch_of_codebuild_has_one_build_a_cell(entries: tuple[BuildEntry, ...], options: EmitOptions) -> None:
    found = yaml.safe_load(emit(entries, "codebuild", options))
    builds = found["batch"]["build-list"]
    assert [build["env"]["variables"]["NAME"] for build in builds] == [entry.name for entry in entries]
    assert all(build["identifier"].replace("_", "").isalnum() for build in builds)
    many = [BuildEntry(f"b{i}", (("model", "m"),)) for i in range(101)]
    with pytest.raises(RefusedError, match="at most 100 builds; found 101"):
        emit(many, "codebuild", options)


def test_a_state_machine_is_valid_and_its_states_are_reached(
    entries: tuple[BuildEntry, ...], options: EmitOptions
) -> None:
    """By the schema of cfn-lint."""
    from cfnlint.api import lint_all

    machine = json.loads(emit(entries, "step-functions", options))

    def faults(machine: Any) -> list[str]:
        properties = {"Definition": machine, "RoleArn": "arn:aws:iam::123456789012:role/builder"}
        template = {"Resources": {"Machine": {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}}}
        return [match.message for match in lint_all(json.dumps(template)) if match.rule.id.startswith("E")]

    assert faults(machine) == []
    items = machine["States"]["Cells"]["Result"]
    assert [item["id"] for item in items] == [identifier(entry.name) for entry in entries]
    assert _unreached(machine) == set()
    assert _unreached(machine["States"]["Build"]["ItemProcessor"]) == set()
    del machine["States"]["Build"]["Next"]
    assert faults(machine) != []


def _unreached(machine: Any) -> set[str]:
    """States that no state leads to, and names without a state."""
    reached: set[str] = {machine["StartAt"]}
    for state in machine["States"].values():
        nexts = [state, *state.get("Choices", []), *state.get("Catch", [])]
        reached |= {one[way] for one in nexts for way in ("Next", "Default") if way in one}
    return reached ^ set(machine["States"])


@pytest.mark.parametrize("form", FORMATS)
def test_the_entry_of_a_cell_is_read_again_as_it_was(
    form: str, entries: tuple[BuildEntry, ...], options: EmitOptions, tmp_path: Path
) -> None:
    text = emit(entries, form, options)
    found = [yaml.safe_load(text)] if form != "kubernetes" else list(yaml.safe_load_all(text))
    again: list[BuildEntry] = []
    for builds in _strings(found, "[[build]]"):
        (tmp_path / "again.toml").write_text(builds)
        again += read_builds(tmp_path / "again.toml", _build_options())
    assert [(entry.name, entry.options) for entry in again] == [(entry.name, entry.options) for entry in entries]


def _strings(value: Any, beginning: str) -> list[str]:
    if isinstance(value, str):
        return [value] if value.startswith(beginning) else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _strings(one, beginning)]


def test_the_line_of_a_cell_runs_in_a_shell(
    entries: tuple[BuildEntry, ...], options: EmitOptions, tmp_path: Path
) -> None:
    from compiler.matrix.emit import SCRIPT, emitted_cell

    program = tmp_path / "lmi-compile"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    cell = emitted_cell(entries[2])
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "BUILDS": cell.builds, "STORE": options.store}
    ran = subprocess.run(
        ["/bin/sh", "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["matrix", "build", "--store", options.store, "--output", "artifacts"]
    assert (tmp_path / "builds.toml").read_text() == cell.builds


def test_what_a_definition_lacks_is_told(entries: tuple[BuildEntry, ...], options: EmitOptions) -> None:
    bare = [BuildEntry("a", (("model", "m"),))]
    with pytest.raises(UsageError, match="needs the image of each build; without: a"):
        emit(bare, "kubernetes", options)
    with pytest.raises(UsageError, match=r"needs `queue` in \[fleet.batch\]"):
        emit(bare, "step-functions", EmitOptions("s3://b/", 60, 0, {}))
    with pytest.raises(UsageError, match="found `nomad`"):
        emit(bare, "nomad", options)


def test_identifiers_are_labels_and_stay_different() -> None:
    names = ["small_one", "small-one", "Small.One", "x" * 120, "x" * 121, "a"]
    found = [identifier(name) for name in names]
    assert len(set(found)) == len(names)
    assert all(len(one) <= 52 and one.replace("-", "").isalnum() and one == one.lower() for one in found)
