"""Recommendations for published models, from config.json and headers alone."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from compiler import targets
from compiler.cli import app
from compiler.lmi.images import targets_of_image
from compiler.lmi.instances import instance
from compiler.pipeline.decision import backends, known_releases
from tests import published
from tests.command import Ran, command


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with headers of published models."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("mixtral-8x7b", "llama2-7b", "llama2-70b", "falcon-7b"):
        published.write_headers(name, folder / name)
    return folder


def _ran(models: Path, model: str, *arguments: str | Path) -> Ran:
    return command("recommend", "--model", models / model, *arguments, "--json", cache=models / "cache")


def _found(models: Path, model: str, *arguments: str | Path) -> list[dict[str, Any]]:
    ran = _ran(models, model, *arguments)
    assert ran.code == 0, ran.err
    found: list[dict[str, Any]] = ran.json
    return found


def test_mixtral_on_eight_a100_is_two_copies_at_tp_4(models: Path) -> None:
    (found,) = _found(models, "mixtral-8x7b", "--instance-type", "ml.p4d.24xlarge", "--lmi-version", "0.26")
    engines, files = found["options"]
    assert (engines["backend"], engines["tp"], engines["copies"]) == ("TensorRT-LLM 0.7.1", 4, 2)
    assert [one["tp"] for one in engines["tried"]] == [1, 2, 4, 8]
    assert engines["tried"][0]["result"] == "93.1 GiB a device, 36.0 GiB usable"
    total = engines["weights"] + engines["cache"] + engines["workspace"]
    assert engines["bytes_of_a_rank"] == total <= engines["usable"]
    assert (files["backend"], files["image"]) == ("LMI-Dist", "0.26.0-deepspeed0.12.6-cu121")
    assert "--copies auto" in engines["deploy"]


def test_the_commands_are_ones_that_the_command_line_takes(models: Path) -> None:
    (found,) = _found(models, "llama2-7b", "--instance-type", "ml.g5.12xlarge", "--batch", "4", "--length", "2048")
    group = get_command(app)
    for option in found["options"]:
        for line in (option["build"], option["deploy"]):
            program, name, *arguments = shlex.split(line)
            assert program == "lmi-compile"
            group.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
        planned = [word for word in shlex.split(option["build"])[2:] if word != "s3://BUCKET/STORE"]
        at = planned.index("--output")
        names = planned.index("--name")
        plan = [word for i, word in enumerate(planned) if i not in (at, names, names + 1)]
        ran = command("plan", *plan, "--json", cache=models / "cache")
        assert ran.code == 0, ran.err
        copies = option["copies"]
        assert any(note.startswith(f"{copies} cop") and "ml.g5.12xlarge" in note for note in ran.json["notes"])


def test_without_a_type_the_smallest_that_fit_are_listed(models: Path) -> None:
    found = _found(models, "llama2-7b", "--batch", "1", "--length", "2048")
    names = [one["instance_type"] for one in found]
    assert len({name.split(".")[1] for name in names}) == len(names) == 6
    sizes = [instance(name).devices * instance(name).device_mib for name in names]
    assert sizes == sorted(sizes)
    assert names[:2] == ["ml.g5.xlarge", "ml.g6.xlarge"]
    narrow = _found(models, "llama2-7b", "--batch", "1", "--length", "2048", "--dtype", "bfloat16")
    assert not {"g4dn", "p3"} & {one["instance_type"].split(".")[1] for one in narrow}, "they lack bfloat16"


def test_with_prices_the_cheapest_comes_first(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(json.dumps({"ml.p5.4xlarge": 1.0, "ml.g5.xlarge": 2.0}))
    found = _found(models, "llama2-7b", "--batch", "1", "--length", "2048", "--prices", file)
    assert [(one["instance_type"], one["price"]) for one in found][:2] == [
        ("ml.p5.4xlarge", 1.0), ("ml.g5.xlarge", 2.0)
    ]  # fmt: skip
    assert found[2]["price"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--instance-type", "ml.g5.xlarge"), 4, r"ml\.g5\.xlarge cannot serve this model:\n  .*: tp 1: .* GiB usable"),
        (("--instance-type", "ml.c99.huge"), 2, "no instance type called"),
        (("--instance-type", "ml.g5.48xlarge", "--length", "9999"), 4, "`--max-positions` is 2 to 4096"),
        (("--lmi-version", "0.99"), 2, r"`--lmi-version` is one of 0\.25, 0\.26, .*; found `0\.99`"),
        (("--lmi-version", "new"), 2, "found `new`"),
        (("--prices", "/nowhere.json"), 2, "cannot read /nowhere.json"),
        (("--batch", "0"), 2, "--batch"),
    ],
)
def test_refusals(models: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    ran = _ran(models, "llama2-70b", *arguments)
    assert ran.code == code
    assert re.search(said, ran.error["message"]), ran.error


def test_prices_that_are_none_are_refused(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    for text, said in (("[]", "expected prices"), ('{"ml.g5.xlarge": "x"}', "expected prices"),
                       ('{"ml.g5.xlarge": -1}', "is -1.0"), ('{"ml.g5.nano": 1}', "no instance type")):  # fmt: skip
        file.write_text(text)
        ran = _ran(models, "llama2-7b", "--prices", file)
        assert (ran.code, said in ran.error["message"]) == (2, True), ran.error


@pytest.mark.parametrize("release", [None, *known_releases()])
def test_every_container_of_the_tree_has_an_image_of_its_target(release: tuple[int, int] | None) -> None:
    found = backends(instance("ml.p5.48xlarge"), release)
    assert found
    for one in found:
        served = {"checkpoint", "vllm"} if one.target == "checkpoint" else {one.target}
        assert targets_of_image(one.image)[0] in served
        assert one.target in targets.available()
        assert one.planned


@pytest.mark.parametrize(
    ("name", "dtype", "said"),
    [
        ("ml.g4dn.xlarge", "bfloat16", "bfloat16 needs 8.0"),
        ("ml.p3.2xlarge", "float16", "its image runs on"),
        ("ml.p6-b200.48xlarge", "bfloat16", "which needs CUDA 12.8; its image has 12.5"),
        ("ml.p6-b300.48xlarge", "bfloat16", "which needs CUDA 12.9; its image has 12.8"),
    ],
)
def test_devices_that_a_container_cannot_use_are_rejected_with_the_reason(name: str, dtype: str, said: str) -> None:
    machine = instance(name)
    assert any(said in one.problem(machine, dtype) for one in backends(machine, None))


def test_the_reason_is_that_of_the_container_and_not_of_a_tp_that_cannot_split(models: Path) -> None:
    ran = _ran(models, "falcon-7b", "--instance-type", "ml.g6.12xlarge", "--lmi-version", "0.30", "--batch", "4096")
    assert ran.code == 4
    assert "TensorRT-LLM 0.12.0: target `trtllm` does not support FalconForCausalLM" in ran.error["message"]
    assert re.search(r"LMI-Dist: tp 1: \d+\.\d GiB a device", ran.error["message"]), "71 heads are not split"


def test_processors_and_neuron_cores_have_containers_of_their_own() -> None:
    assert [one.target for one in backends(instance("ml.c7i.8xlarge"), None)] == ["inductor"]
    assert [one.target for one in backends(instance("ml.trn1.32xlarge"), None)] == ["neuron"]
