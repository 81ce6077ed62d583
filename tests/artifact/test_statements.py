"""provenance.json and sbom.cdx.json: valid by their schemas, reproducible, and silent about the machine."""

from __future__ import annotations

import getpass
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from benchmarks.testbed.artifacts import CONTENT, manifest
from compiler.artifact.manifest import Manifest
from compiler.artifact.provenance import NOBODY, provenance
from compiler.artifact.sbom import sbom
from compiler.errors import UsageError

CI = {
    "LMI_COMPILE_BUILDER": "https://github.com/owner/models/.github/workflows/build.yml",
    "SOURCE_DATE_EPOCH": "1764000000",
}
LOCAL = manifest(
    model=manifest().model.model_copy(update={"source": "local", "repo_id": None, "revision": None}),
    toolchain={"torch": "2.13.0+cpu", "tensorrt_llm": "0.12.0", "cxx": "g++ 12.2.0"},
)


def statement(made: Manifest, environment: dict[str, str] | None = None) -> Any:
    return json.loads(provenance(made, "0.1.0", environment or {}))


def bill(made: Manifest, environment: dict[str, str] | None = None) -> Any:
    return json.loads(sbom(made, "0.1.0", environment or {}))


def test_the_statement_names_every_file_the_source_and_the_toolchain() -> None:
    made = statement(manifest())
    assert made["_type"] == "https://in-toto.io/Statement/v1"
    assert made["predicateType"] == "https://slsa.dev/provenance/v1"
    assert [subject["name"] for subject in made["subject"]] == list(CONTENT)
    assert all(re.fullmatch("[0-9a-f]{64}", subject["digest"]["sha256"]) for subject in made["subject"])
    definition = made["predicate"]["buildDefinition"]
    source, *toolchain = definition["resolvedDependencies"]
    assert source["uri"] == "pkg:huggingface/owner/tiny@0123456789abcdef0123456789abcdef01234567"
    assert source["digest"]["gitCommit"] == "0123456789abcdef0123456789abcdef01234567"
    assert [tool["name"] for tool in toolchain] == ["cxx", "torch"]
    command = definition["externalParameters"]["command"]
    assert command[:6] == ["lmi-compile", "build", "--model", "owner/tiny", "--revision", source["digest"]["gitCommit"]]
    assert definition["externalParameters"]["parallel"]["tp"] == 2
    assert made["predicate"]["runDetails"]["builder"]["version"] == {"lmi-compile": "0.1.0"}


def test_the_provenance_has_what_slsa_requires() -> None:
    """Required fields of https://slsa.dev/provenance/v1: buildType, externalParameters, builder.id (an URI each)."""
    predicate = statement(LOCAL)["predicate"]
    assert predicate["buildDefinition"]["buildType"].startswith("urn:")
    assert predicate["buildDefinition"]["externalParameters"]
    assert predicate["runDetails"]["builder"]["id"] == NOBODY
    assert "metadata" not in predicate["runDetails"]


def test_builder_and_time_come_from_variables_alone() -> None:
    run = statement(manifest(), CI)["predicate"]["runDetails"]
    assert run["builder"]["id"] == CI["LMI_COMPILE_BUILDER"]
    assert run["metadata"] == {"startedOn": "2025-11-24T16:00:00Z", "finishedOn": "2025-11-24T16:00:00Z"}
    assert bill(manifest(), CI)["metadata"]["timestamp"] == "2025-11-24T16:00:00Z"
    for wrong in ({"SOURCE_DATE_EPOCH": "yesterday"}, {"SOURCE_DATE_EPOCH": "9" * 20}, {"LMI_COMPILE_BUILDER": "me"}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            statement(manifest(), wrong)


def test_the_same_build_gives_the_same_bytes_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = provenance(LOCAL, "0.1.0", {}) + sbom(LOCAL, "0.1.0", {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOSTNAME", "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert provenance(LOCAL, "0.1.0", {"USER": "x"}) + sbom(LOCAL, "0.1.0", {"USER": "x"}) == before
    text = before.decode()
    told = [socket.gethostname(), str(Path.home()), str(Path.cwd()), f'"{getpass.getuser()}"', "/tmp/", "/home/"]
    assert [word for word in told if word in text] == []


@pytest.mark.parametrize("environment", [{}, CI])
@pytest.mark.parametrize("made", [manifest(), LOCAL], ids=["hub", "local"])
def test_the_bill_is_valid_by_the_official_schema(made: Manifest, environment: dict[str, str]) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = sbom(made, "0.1.0", environment).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    broken = text.replace('"SHA-256"', '"SHA-257"')
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(broken) is not None


def test_the_bill_has_model_toolchain_and_files() -> None:
    components = bill(LOCAL)["components"]
    assert [c["bom-ref"] for c in components][:4] == [
        "model", "toolchain:cxx", "toolchain:tensorrt_llm", "toolchain:torch"
    ]  # fmt: skip
    purls = {c["name"]: c.get("purl") for c in components}
    assert purls["torch"] == "pkg:pypi/torch@2.13.0%2Bcpu"
    assert purls["tensorrt_llm"] == "pkg:pypi/tensorrt-llm@0.12.0"
    assert purls["cxx"] is None
    assert {c["name"] for c in components if c["type"] == "file"} == set(CONTENT)
    model = bill(manifest())["components"][0]
    assert (model["name"], model["purl"]) == (
        "owner/tiny", "pkg:huggingface/owner/tiny@0123456789abcdef0123456789abcdef01234567"
    )  # fmt: skip


def test_the_serial_number_follows_from_the_content() -> None:
    assert bill(LOCAL)["serialNumber"] == bill(LOCAL)["serialNumber"] != bill(manifest())["serialNumber"]
