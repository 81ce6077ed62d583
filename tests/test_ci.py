"""The job definitions in ci/: valid in their formats, and every `lmi-compile` line in them is one that exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import recipes
from compiler.cli import app
from compiler.cli.matrix import _build_options
from compiler.lmi.images import TRTLLM, parse_tag
from compiler.matrix.file import read_builds

ROOT = Path(__file__).parent.parent
CI = ROOT / "ci"
WORKFLOWS = [CI / "checks.yml", *sorted((CI / "github").glob("*.yml"))]
BUILDSPECS = sorted((CI / "codebuild").glob("*.yml"))
DOCKERFILES = sorted((CI / "images").glob("*.Dockerfile"))
TEXTS = [*WORKFLOWS, *BUILDSPECS, *DOCKERFILES, CI / "README.md"]

NEURON_TAG = "0.30.0-neuronx-sdk2.20.1"
"""The newest Neuron image that the documentation of LMI names; its code left djl-serving in 0.35."""

# From the buildspec reference of the AWS CodeBuild user guide, as far as these files use it: no schema is on PyPI.
_COMMANDS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_PHASE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"commands": _COMMANDS, "finally": _COMMANDS, "run-as": {"type": "string"},
                   "on-failure": {"enum": ["ABORT", "CONTINUE"]}},
    "required": ["commands"],
}  # fmt: skip
_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
_PATHS = {"type": "array", "items": {"type": "string"}}
BUILDSPEC = {
    "type": "object",
    "additionalProperties": False,
    "required": ["version", "phases"],
    "properties": {
        "version": {"const": 0.2},
        "env": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"shell": {"enum": ["bash", "/bin/sh"]}, "variables": _STRINGS, "secrets-manager": _STRINGS,
                           "parameter-store": _STRINGS, "exported-variables": _PATHS},
        },
        "phases": {
            "type": "object",
            "additionalProperties": False,
            "properties": dict.fromkeys(("install", "pre_build", "build", "post_build"), _PHASE),
        },
        "reports": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["files", "file-format"],
                "properties": {"files": _PATHS, "file-format": {"enum": ["JUNITXML"]},
                               "base-directory": {"type": "string"}},
            },
        },
        "artifacts": {"type": "object", "required": ["files"], "properties": {"files": _PATHS}},
        "cache": {"type": "object", "additionalProperties": False, "properties": {"paths": _PATHS}},
    },
}  # fmt: skip


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def named(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


@named(WORKFLOWS)
def test_workflows_are_valid_by_the_schema_of_the_format(path: Path) -> None:
    import jsonschema

    schema = json.loads(
        files("check_jsonschema").joinpath("builtin_schemas/vendor/github-workflows.json").read_text("utf-8")
    )
    found = load(path)
    found["on"] = found.pop(True)  # YAML 1.1 reads the key `on` as true
    jsonschema.validate(found, schema)
    del found["jobs"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, schema)


@named(BUILDSPECS)
def test_buildspecs_have_the_documented_keys(path: Path) -> None:
    import jsonschema

    jsonschema.validate(load(path), BUILDSPEC)


def lines(text: str) -> Iterator[str]:
    """Lines of shell, those that end in a backslash joined to the next."""
    yield from re.sub(r"\\\n\s*", " ", text).splitlines()


def commands(text: str) -> Iterator[list[str]]:
    """The words after each `lmi-compile` that begins a command, up to what ends it."""
    for line in lines(text):
        if line.lstrip().startswith("#"):
            continue
        for match in re.finditer(r"(?:^|[\s`&|;(])lmi-compile (?=[a-z-])", line):
            lexer = shlex.shlex(line[match.end() :].replace("`", " ; "), posix=True, punctuation_chars=True)
            lexer.commenters = ""
            words = []
            try:
                for word in lexer:
                    if set(word) <= set("();<>|&"):
                        break
                    words.append(word)
            except ValueError:  # prose with an apostrophe: no command
                continue
            yield words


def parse(words: list[str]) -> None:
    """As the command line would, without running anything. Raises what typer raises for a usage error."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *words = words
        if name not in command.commands:
            raise LookupError(f"No such command {name}")
        command = command.commands[name]
    command.make_context("lmi-compile", words)


@named(TEXTS)
def test_every_command_line_parses(path: Path) -> None:
    text = path.read_text()
    found = list(commands(text))
    if path.name in ("artifacts.yml", "plan.yml", "build.yml", "promote.yml"):
        assert found
    for words in found:
        if words[0] != "--version" and not (path.suffix == ".md" and len(words) < 3):
            parse(words)


@pytest.mark.parametrize(
    "line",
    ["matrix plan --stoer x", "matrix paln", "promote", "prewarm a", "matrix build --jobs many", "push a b --layout x"],
)
def test_a_command_line_that_does_not_exist_is_noticed(line: str) -> None:
    (words,) = commands(f"- run: lmi-compile {line} >out.json && echo done")
    assert words == line.split()
    with pytest.raises(
        (LookupError, typer.TyperException), match=r"No such|Missing|not a valid|is not one of|Input should be"
    ):
        parse(words)


@named(WORKFLOWS)
def test_no_shell_line_has_values_from_outside_in_its_text(path: Path) -> None:
    """`${{ inputs.x }}` in a script is code of whoever filled it in: values go through variables."""
    scripts = [step["run"] for job in load(path)["jobs"].values() for step in job["steps"] if "run" in step]
    assert scripts
    assert [script for script in scripts if "${{" in script] == []
    assert "pull_request_target" not in path.read_text()


def test_only_the_build_gets_the_signing_key_and_only_comments_may_be_written() -> None:
    jobs = load(CI / "github/artifacts.yml")["jobs"]
    assert [name for name, job in jobs.items() if "secrets." in json.dumps(job)] == ["build"]
    assert [name for name, job in jobs.items() if "permissions" in job] == ["comment"]
    assert jobs["promote"]["environment"] == "production"
    assert jobs["build"]["strategy"]["fail-fast"] is False
    assert all("timeout-minutes" in job for job in jobs.values())


def test_the_matrix_is_one() -> None:
    entries = read_builds(CI / "builds.toml", _build_options())
    assert [entry.name for entry in entries] == [
        "Qwen3-0.6B-inductor-tp1", "Qwen3-0.6B-inductor-tp2", "mixtral-trtllm-tp8"
    ]  # fmt: skip
    for entry in entries:
        parse(["build", *entry.words])
    published = {model for name in recipes.available() for model in recipes.load(name).models.values()}
    assert {entry.option("model") for entry in entries} <= published | {"mistralai/Mixtral-8x7B-Instruct-v0.1"}


@named(DOCKERFILES)
def test_images_begin_with_one_that_exists_and_install_what_is_copied(path: Path) -> None:
    text = path.read_text()
    tags = {image.tag for image in TRTLLM.values() if image.published} | {NEURON_TAG}
    for image in re.findall(r"^ARG IMAGE=.*/djl-inference:(\S+)$", text, re.MULTILINE):
        assert image in tags
        assert parse_tag(image).kind in ("tensorrtllm", "neuronx")
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {word for line in lines(text) if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert {*packages["packages"], "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} <= copied
    assert [name for name in copied if not name.startswith(("--", "/")) and not (ROOT / name).exists()] == []
    assert "--constraint /src/constraints.txt" in text


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.parametrize(
    ("told", "code", "outputs"),
    [
        ('[{"name": "a", "state": "new"}, {"name": "b", "state": "refused"}]', 4, 'code=4\ntodo=["a"]\n'),
        ('[{"name": "a", "state": "current"}]', 0, "code=0\ntodo=[]\n"),
        ("", 2, None),
    ],
)
def test_the_plan_hands_its_builds_on(tmp_path: Path, told: str, code: int, outputs: str | None) -> None:
    """The step of the workflow itself, with a stand-in for the command."""
    (step,) = (s for s in load(CI / "github/artifacts.yml")["jobs"]["plan"]["steps"] if s.get("id") == "plan")
    fake = tmp_path / "lmi-compile"
    fake.write_text(f"#!/usr/bin/env bash\nprintf '%s' '{told}'\nexit {code}\n")
    fake.chmod(0o755)
    out = tmp_path / "out"
    ran = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "STORE": "s3://b/", "GITHUB_OUTPUT": str(out)},
        cwd=tmp_path,
        check=False,
    )
    assert ran.returncode == (0 if outputs is not None else code)
    assert (out.read_text() if out.exists() else None) == outputs
